"""Write the folder of an image codec with context without its encoder; it decodes the files of the model to the same pixels.

    python benchmarks/decoder_only.py image_codec_joint -o FOLDER

The other weights and the integers of the entropy coder stay as they are, and so does the id of the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from latens.catalogue import folder_of
from latens.hub import BASE, CODING, HASHES, SAME_FILES, WEIGHTS, WITHOUT, load_model, read_config, save_model
from latens.systems.image_codec.context_model import ENCODER
from latens.systems.image_codec.predict import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of the model")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    folder = folder_of(arguments.model)
    whole, config = load_model(folder), read_config(folder)
    weights, coding = (tensors_of(folder, config["files"][kind]) for kind in (WEIGHTS, CODING))
    kept = {name: value for name, value in weights.items() if not name.startswith(ENCODER)}
    described = {name: value for name, value in config.items() if name not in ("files", HASHES)} | {SAME_FILES: whole.sha256}
    if BASE in config:
        described[BASE] = {**config[BASE], WITHOUT: [*config[BASE].get(WITHOUT, ()), *ENCODER]}
    save_model(arguments.out, described, kept, coding)
    codec, found = load(arguments.out, device="cpu"), load_model(arguments.out)
    assert codec.model_id == whole.sha256
    assert all(torch.equal(found.coding[name], value) for name, value in whole.coding.items())
    assert all(torch.equal(found.weights[name], value) for name, value in whole.weights.items() if not name.startswith(ENCODER))
    print(codec, sum(file.stat().st_size for file in arguments.out.glob("*.safetensors")))


def tensors_of(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """Tensors of some files as they are stored."""
    return {name: tensor for file in names for name, tensor in load_file(folder / file).items()}


if __name__ == "__main__":
    main()
