"""Largest reconstruction error, and evaluations per block, of the inverse of an image flow over many images.

    python benchmarks/flow_inverse.py --data test_600.npz cifar10_test_2k.npz folder/ --images 10000

Packs and folders are used completely, in the given order; of named sets (cifar10:PATH) the test split is used. The script
prints a line at intervals; the last one covers all images. float32, one thread; errors refer to dequantized values in [0, 1].
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

import latens
from latens.codes.bijector import ResidualMap
from latens.codes.logdet import Series
from latens.data.labeled import open_labeled
from latens.data.source import parse_source
from latens.systems.flow.config import ImageFlow
from latens.systems.flow.dataset import read_squares
from latens.systems.flow.model import INVERSE_ERROR, Flow

BATCH, EVERY = 50, 250


def images(places: list[str], config: ImageFlow, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Batches (B, C, S, S) uint8 with the name of their set."""
    left = count
    for place in places:
        if left > 0:
            found = open_labeled(parse_source(place), "test", hold_out=False).first_few(left)
            pixels, _ = read_squares(found, config.size, config.channels)
            left -= len(pixels)
            for start in range(0, len(pixels), BATCH):
                yield found.name, pixels[start : start + BATCH]


class Reconstruction(NamedTuple):
    """Results of one batch."""

    errors: np.ndarray  # (B,) largest error of every image
    evaluations: np.ndarray  # (blocks, B)
    kept: np.ndarray  # (B,) bool: all 8-bit values are restored
    solved: np.ndarray  # (B,) bool: every block converged


@torch.no_grad()
def reconstruct(flow: Flow, pixels: np.ndarray, error: float) -> Reconstruction:
    x = (torch.from_numpy(pixels).float() + 0.5) / 256
    back = flow.inverse(flow(x, Series(1)).latent, error=error)
    blocks = [step.last for step in flow.residual_maps() if step.last is not None]
    kept = ((back * 256).floor() == torch.from_numpy(pixels)).flatten(1).all(1)
    solved = torch.stack([one.converged for one in blocks]).all(0)
    evaluations = torch.stack([one.evaluations for one in blocks])
    return Reconstruction((back - x).abs().flatten(1).amax(1).numpy(), evaluations.numpy(), kept.numpy(), solved.numpy())


def report(found: list[Reconstruction], seconds: float) -> None:
    """Print one line about all images so far."""
    errors = np.concatenate([one.errors for one in found])
    evaluations = np.concatenate([one.evaluations for one in found], axis=1)
    kept, solved = sum(int(one.kept.sum()) for one in found), sum(int(one.solved.sum()) for one in found)
    print(
        f"{len(errors)} images: largest error {errors.max():.2e}, {int((errors >= 1e-5).sum())} at 1e-5 or more, "
        f"{solved} solved, {kept} with equal 8-bit values; evaluations of a block: mean {evaluations.mean():.2f}, "
        f"most {evaluations.max()}; {1e3 * seconds / len(errors):.1f} ms CPU per image",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="flow")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--error", type=float, default=INVERSE_ERROR)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    density = latens.load(arguments.model)
    flow, config = density.model, density.config
    assert isinstance(config, ImageFlow)
    found: list[Reconstruction] = []
    sets: Counter[str] = Counter()
    started = time.process_time()
    for name, pixels in images(arguments.data, config, arguments.images):
        found.append(reconstruct(flow, pixels, arguments.error))
        sets[name] += len(pixels)
        if sets.total() % EVERY == 0:
            report(found, time.process_time() - started)
    report(found, time.process_time() - started)
    print(", ".join(f"{count} of {name}" for name, count in sets.items()))
    names = [name for name, step in zip(flow.names, flow.steps, strict=True) if isinstance(step, ResidualMap)]
    for name, block in zip(names, np.concatenate([one.evaluations for one in found], axis=1), strict=True):
        print(f"  {name:20} evaluations: mean {block.mean():.2f}, most {block.max()}")


if __name__ == "__main__":
    main()
