"""Write the model folder of a codec whose transforms, entropy model and context were trained together from a bundled model.

The model card of image_codec_joint has the commands of the training.

    python benchmarks/bundle_joint.py HARD/best --base image_codec --data PHOTOS -o FOLDER

Weights are stored as changes in eight bits from those of the base, and the entropy model as integers only. The integers and
tables are computed from the stored weights, and the symbols of more photographs are counted than in training.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from latens.catalogue import folder_of
from latens.data.source import parse_sources
from latens.hub import BASE, WITHOUT, load_model, load_network, save_model
from latens.int8 import changed, changes, from_int8, to_int8
from latens.settings import to_dict
from latens.systems.image_codec.config import ContextHyperpriorConfig, CropConfig
from latens.systems.image_codec.context_export import frozen_context
from latens.systems.image_codec.context_hyperprior import ContextHyperprior
from latens.systems.image_codec.dataset import CropData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("--base", default="image_codec", help="name of the bundled model whose changes are stored")
    parser.add_argument("--data", nargs="+", required=True, help="folders of training photographs")
    parser.add_argument("--batches", type=int, default=48, help="batches of 4 crops of 256 x 256 whose symbols are counted")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    _, network = load_network(arguments.model, "image_codec", ContextHyperpriorConfig, ContextHyperprior)
    base = load_model(folder_of(arguments.base))
    trained = {name: value.half() for name, value in network.state_dict().items()}
    own = {name: value for name, value in trained.items() if not name.startswith(ContextHyperprior.as_integers)}
    stored = to_int8(changes(own, base.weights))
    network.load_state_dict(trained | changed(from_int8(stored), base.weights))
    data = CropData(parse_sources(arguments.data), replace(CropConfig(), crop=256, batch=4), seed=1)
    images = [data.batch(step, 0)["image"] for step in range(arguments.batches)]
    coding = frozen_context(network.eval(), images)
    described = {
        "system": "image_codec",
        "model": to_dict(network.config),
        "coding": coding.spec(),
        BASE: {"name": arguments.base, "sha256": base.sha256, WITHOUT: list(ContextHyperprior.as_integers)},
    }
    save_model(arguments.out, described, stored, coding.tensors())
    print(load_model(arguments.out).sha256)


if __name__ == "__main__":
    main()
