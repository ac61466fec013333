"""Write the model folder of a perceptual codec that shares its entropy model with the bundled model it was trained from.

    latens train image_codec --recipe perceptual --init image_codec_context --data PHOTOS -o RUN
    python benchmarks/bundle_perceptual.py RUN/best --base image_codec_context -o FOLDER

Its integers and tables are those of the base; transforms and gains are stored as changes in eight bits, or with
--half in float16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from latens.catalogue import folder_of
from latens.hub import BASE, load_model, load_network, save_model
from latens.int8 import changes, to_int8
from latens.settings import to_dict
from latens.systems.image_codec.config import DISTORTION, ContextHyperpriorConfig
from latens.systems.image_codec.context_hyperprior import FITTED, ContextHyperprior
from latens.systems.image_codec.system import LEARN_ENCODER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("--base", default="image_codec_context", help="name of the bundled model that it was trained from")
    parser.add_argument("--half", action="store_true", help="store float16 instead of eight bits")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    trained, network = load_network(arguments.model, "image_codec", ContextHyperpriorConfig, ContextHyperprior)
    base = load_model(folder_of(arguments.base))
    weights = {name: value.half() for name, value in network.state_dict().items()}
    own = {name: value for name, value in weights.items() if name.startswith(LEARN_ENCODER)}
    shared = [name for name in base.weights if name not in own and not name.startswith(FITTED)]
    differing = [name for name in shared if not torch.equal(weights[name], base.weights[name])]
    if differing:
        parser.error(f"the entropy model is not that of {arguments.base}: {differing[0]} differs")
    described = {
        "system": "image_codec",
        "model": to_dict(network.config),
        "coding": base.config["coding"],
        DISTORTION: trained.config[DISTORTION],
        BASE: {"name": arguments.base, "sha256": base.sha256},
    }
    save_model(arguments.out, described, own if arguments.half else to_int8(changes(own, base.weights)))
    print(load_model(arguments.out).sha256)


if __name__ == "__main__":
    main()
