"""Write the model folder of a fitted context model that shares all other tensors with the bundled model it was fitted to.

    latens train image_codec --recipe fit_context --init image_codec --data PHOTOS -o RUN
    python benchmarks/bundle_context.py RUN/best --base image_codec --data PHOTOS -o FOLDER

The integers are frozen again on top of those of the base, so that both decode z alike, and the symbols of more photographs are
counted for the tables. The float weights of the context are left out: refinement derives them from the integers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from latens.catalogue import folder_of
from latens.codes.coding import FrozenCoding
from latens.data.source import parse_sources
from latens.hub import BASE, load_model, load_network, save_model
from latens.settings import to_dict
from latens.systems.image_codec.config import ContextHyperpriorConfig, CropConfig
from latens.systems.image_codec.context_export import frozen_context
from latens.systems.image_codec.context_hyperprior import FITTED, ContextHyperprior
from latens.systems.image_codec.dataset import CropData

LEFT_OUT = FITTED[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the fitted model")
    parser.add_argument("--base", default="image_codec", help="name of the bundled model that it was fitted to")
    parser.add_argument("--data", nargs="+", required=True, help="folders of training photographs")
    parser.add_argument("--batches", type=int, default=24, help="batches of 4 crops of 256 x 256 whose symbols are counted")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    _, network = load_network(arguments.model, "image_codec", ContextHyperpriorConfig, ContextHyperprior)
    base = load_model(folder_of(arguments.base))
    differing = [name for name, value in base.weights.items() if not torch.equal(network.state_dict()[name].half(), value)]
    if differing:
        parser.error(f"the model was not fitted to {arguments.base}: {differing[0]} differs")
    frozen = FrozenCoding.from_tensors(base.config["coding"], base.coding, torch.device("cpu"))
    data = CropData(parse_sources(arguments.data), replace(CropConfig(), crop=256, batch=4), seed=1)
    images = [data.batch(step, 0)["image"] for step in range(arguments.batches)]
    coding = frozen_context(network.eval(), images, frozen)
    weights = {name: value.half() for name, value in network.state_dict().items() if name not in base.weights}
    described = {
        "system": "image_codec",
        "model": to_dict(network.config),
        "coding": coding.spec(),
        BASE: {"name": arguments.base, "sha256": base.sha256},
    }
    kept = {name: value for name, value in weights.items() if not name.startswith(LEFT_OUT)}
    save_model(arguments.out, described, kept, own_tensors(coding.tensors(), base.coding))
    print(load_model(arguments.out).sha256)


def own_tensors(tensors: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the base lacks, or has with other values."""
    return {name: value for name, value in tensors.items() if name not in base or not torch.equal(base[name], value)}


if __name__ == "__main__":
    main()
