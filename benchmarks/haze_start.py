"""Write a model folder that recipe `cpu_fine` can start from: a model of recipe `cpu`, for images of about half the size.

    latens train haze --recipe cpu --data nyu/ kitti/ --set data.border=12 -o runs/haze
    python benchmarks/haze_start.py runs/haze/best -o start
    latens train haze --recipe cpu_fine --init start --data nyu_depth/ nyu_depth_small/ kitti/ camvid:camvid/train/ -o runs/fine

`cpu` folds 4 x 4 pixels of images with 240 rows into the samples of the first layer, `cpu_fine` 2 x 2 pixels of images with 128
rows. The layers between the first and the last see 60 and 64 rows of the same scene and keep their weights. The kernels of the
first layer are reduced to half of their size, and the last one predicts the means of its former samples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.hub import load_network, save_model
from latens.settings import to_dict
from latens.systems.haze.config import PhysicalConfig
from latens.systems.haze.objective import half_weights
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.recipes import cpu_fine

FIRST = ("encoders.of_hazy.1.weight", "encoders.of_clear.1.weight")
LAST = ("depth_head.1.weight", "depth_head.1.bias")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    _, trained = load_network(arguments.model, "haze", PhysicalConfig, PhysicalHaze)
    config = cpu_fine().model
    assert isinstance(config, PhysicalConfig)
    if (trained.config.fold, trained.config.channels) != (4, config.channels):
        parser.error(f"{arguments.model} is not a model of recipe cpu")
    start = PhysicalHaze(config)
    weights = {name: value.float() for name, value in trained.state_dict().items()}
    for name in FIRST:
        weights[name] = finer(weights[name])
    for name in LAST:
        weights[name] = merged(weights[name])
    start.load_state_dict(weights)
    save_model(arguments.out, {"system": "haze", "model": to_dict(config)}, half_weights(start))


def finer(weight: Tensor) -> Tensor:
    """Kernels (n, 48, 3, 3) of blocks of 4 x 4 pixels as kernels (n, 12, 3, 3) of blocks of 2 x 2, for half the image size."""
    count = weight.shape[0]
    pixels = weight.view(count, 3, 4, 4, 3, 3).permute(0, 1, 4, 2, 5, 3).reshape(count, 3, 12, 12)
    small = F.interpolate(pixels, (6, 6), mode="area") * 4  # the sum of the weights stays
    return small.view(count, 3, 3, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(count, 12, 3, 3)


def merged(values: Tensor) -> Tensor:
    """Weights or biases of 4 x 4 samples as those of 2 x 2, each the mean of four."""
    return values.view(2, 2, 2, 2, *values.shape[1:]).mean((1, 3)).reshape(4, *values.shape[1:])


if __name__ == "__main__":
    with torch.no_grad():
        main()
