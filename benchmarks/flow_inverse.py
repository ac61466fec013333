"""Largest reconstruction error and evaluations of a block for the inverse of an image flow, over many images.

    python benchmarks/flow_inverse.py --data test_600.npz cifar10/ tiny_imagenet32/ --images 10000

Images come from the test splits in the order given, then from the training splits. Lines appear as images are done; the last one
counts them all. Float32, one thread; the error is that of the dequantized values in [0, 1].
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch

import latens
from latens.codes.logdet import Series
from latens.data.labeled import open_labeled
from latens.data.source import parse_source
from latens.systems.flow.config import ImageFlow
from latens.systems.flow.dataset import read_squares
from latens.systems.flow.model import INVERSE_ERROR, Flow

BATCH, EVERY = 50, 500


def images(places: list[str], config: ImageFlow, most: int) -> Iterator[tuple[str, np.ndarray]]:
    """Batches (B, C, S, S) uint8 with the name of their set."""
    left = most
    for split in ("test", "train"):
        for place in places:
            found = open_labeled(parse_source(place), split).first_few(left) if left else None  # type: ignore[arg-type]
            if found is None:
                return
            pixels, _ = read_squares(found, config.size, config.channels)
            left -= len(pixels)
            for start in range(0, len(pixels), BATCH):
                yield f"{found.name}, {split}", pixels[start : start + BATCH]


@torch.no_grad()
def reconstruct(flow: Flow, pixels: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray, bool, np.ndarray]:
    """Largest error of every image, evaluations (blocks, B), whether all converged, and which images keep their 8 bits."""
    x = (torch.from_numpy(pixels).float() + 0.5) / 256
    back = flow.inverse(flow(x, Series(1)).latent, error=error)
    solved = [step.last for step in flow.residual_maps() if step.last is not None]
    same = ((back * 256).floor() == torch.from_numpy(pixels)).flatten(1).all(1)
    counts = torch.stack([one.evaluations for one in solved])
    return (back - x).abs().flatten(1).amax(1).numpy(), counts.numpy(), all(bool(s.converged.all()) for s in solved), same.numpy()


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
    errors: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    kept, converged, sets = 0, True, {}
    started = time.process_time()
    for name, pixels in images(arguments.data, config, arguments.images):
        error, evaluations, all_converged, same = reconstruct(flow, pixels, arguments.error)
        errors.append(error)
        counts.append(evaluations)
        kept, converged = kept + int(same.sum()), converged and all_converged
        sets[name] = sets.get(name, 0) + len(pixels)
        if sum(map(len, errors)) % EVERY == 0:
            report(errors, counts, kept, converged, time.process_time() - started)
    report(errors, counts, kept, converged, time.process_time() - started)
    print(", ".join(f"{count} of {name}" for name, count in sets.items()))
    names = [name for name, step in zip(flow.names, flow.steps, strict=True) if hasattr(step, "branch")]
    for name, block in zip(names, np.concatenate(counts, axis=1), strict=True):
        print(f"  {name:20} evaluations: mean {block.mean():.2f}, most {block.max()}")


def report(errors: list[np.ndarray], counts: list[np.ndarray], kept: int, converged: bool, seconds: float) -> None:
    largest, evaluations = np.concatenate(errors), np.concatenate(counts, axis=1)
    count = len(largest)
    print(
        f"{count} images: largest error {largest.max():.2e}, {int((largest >= 1e-5).sum())} images at 1e-5 or more; evaluations of "
        f"a block: mean {evaluations.mean():.2f}, most {evaluations.max()}; {kept} images keep their 8 bits; "
        f"{'all solved' if converged else 'NOT all solved'}; {1e3 * seconds / count:.1f} ms CPU an image",
        flush=True,
    )


if __name__ == "__main__":
    main()
