"""Write the model folder of a codec with residual transforms, trained from random weights together with its entropy model.

training/README.md has the commands of the training.

    python benchmarks/bundle_residual.py RUN/best --data PHOTOS -o FOLDER

Weights are stored in eight bits, and the entropy model as integers only. The two layers of the synthesis that read the latent
stay in float16: its channels differ in size, and eight bits have one scale for each output (docs/notes/image_codec.md). The
integers and tables are computed from the stored weights, and the symbols of more photographs are counted than in training.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from latens.data.source import parse_sources
from latens.hub import load_model, save_model
from latens.int8 import from_int8, to_int8
from latens.settings import to_dict
from latens.systems.image_codec.config import CropConfig
from latens.systems.image_codec.context_export import frozen_context
from latens.systems.image_codec.context_model import ContextCodec
from latens.systems.image_codec.dataset import CropData
from latens.systems.image_codec.predict import load

IN_FLOAT16 = ("synthesis.linear.", "synthesis.deep.0.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("--data", nargs="+", required=True, help="folders of training photographs")
    parser.add_argument("--batches", type=int, default=48, help="batches of 4 crops of 256 x 256 whose symbols are counted")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    network = load(arguments.model, device="cpu").model
    if not isinstance(network, ContextCodec):
        parser.error(f"{arguments.model} is not a codec with residual transforms")
    trained = {name: value.half() for name, value in network.state_dict().items()}
    own = {name: value for name, value in trained.items() if not name.startswith(network.as_integers)}
    exact = {name: value for name, value in own.items() if name.startswith(IN_FLOAT16)}
    stored = exact | to_int8({name: value for name, value in own.items() if name not in exact})
    network.load_state_dict(trained | from_int8(stored))
    data = CropData(parse_sources(arguments.data), replace(CropConfig(), crop=256, batch=4), seed=1)
    images = [data.batch(step, 0)["image"] for step in range(arguments.batches)]
    coding = frozen_context(network.eval(), images)
    described = {"system": "image_codec", "model": to_dict(network.config), "coding": coding.spec()}
    save_model(arguments.out, described, stored, coding.tensors())
    print(load_model(arguments.out).sha256)


if __name__ == "__main__":
    main()
