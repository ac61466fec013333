"""Write the folder of an image codec in less space; it decodes the files of the model to the same pixels.

    python benchmarks/shrink_codec.py image_codec --int8 hyper_analysis. hyper_synthesis. -o FOLDER
    python benchmarks/shrink_codec.py image_codec_joint --without analysis. hyper_analysis. -o DECODER

The synthesis, the gains and the integers of the entropy coder stay as they are, and so does the id of the model. Weights of the
encoder and the float hyper-synthesis, which only refinement and training use, may be stored in eight bits or left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from latens.catalogue import folder_of
from latens.hub import BASE, CODING, HASHES, SAME_FILES, WEIGHTS, WITHOUT, load_model, read_config, save_model
from latens.int8 import to_int8

NOT_DECODING = ("analysis.", "hyper_analysis.", "hyper_synthesis.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of the model")
    parser.add_argument("--int8", nargs="+", default=[], choices=NOT_DECODING, help="modules to store in eight bits")
    parser.add_argument("--without", nargs="+", default=[], choices=NOT_DECODING, help="modules to leave out")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    folder = folder_of(arguments.model)
    model_id = load_model(folder).sha256
    config = read_config(folder)
    weights, coding = (tensors_of(folder, config["files"][kind]) for kind in (WEIGHTS, CODING))
    eight_bits, left_out = tuple(arguments.int8), tuple(arguments.without)
    smaller = to_int8({name: value for name, value in weights.items() if name.startswith(eight_bits)})
    kept = {name: value for name, value in weights.items() if not name.startswith((*eight_bits, *left_out))}
    described = {name: value for name, value in config.items() if name not in ("files", HASHES)} | {SAME_FILES: model_id}
    if BASE in config:
        described[BASE] = {**config[BASE], WITHOUT: [*config[BASE].get(WITHOUT, ()), *left_out]}
    save_model(arguments.out, described, kept | smaller, coding)
    print(load_model(arguments.out).sha256, sum(file.stat().st_size for file in arguments.out.glob("*.safetensors")))


def tensors_of(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """Tensors of some files as they are stored."""
    return {name: tensor for file in names for name, tensor in load_file(folder / file).items()}


if __name__ == "__main__":
    main()
