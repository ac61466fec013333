"""Linear probe of `Parts.embed`, next to HOG: the first 10,000 training images and all test images of a labeled set.

    python benchmarks/parts_embed.py cifar10/ --threads 1

The penalty is chosen on a fifth of the training images, drawn once. Then all of them are fitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from latens.data.labeled import open_labeled
from latens.data.source import parse_source
from latens.inference.page import Table
from latens.systems.parts.predict import load
from latens.systems.parts.system import hog

TRAINING, CHOOSING = 10_000, 2_000  # images; those that choose the penalty
PENALTIES = (3e-2, 1e-2, 3e-3, 1e-3)  # of half of the squared weights, next to the mean cross-entropy
ITERATIONS = 300
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=parse_source)
    parser.add_argument("--model", default="parts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=TRAINING)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    parts = load(given.model)
    train, test = (open_labeled(given.data, split) for split in ("train", "test"))
    train = train.subset(range(min(given.images, len(train))))
    pixels = [[one.read(index) for index in range(len(one))] for one in (train, test)]
    labels = [one.labels for one in (train, test)]
    methods: dict[str, Callable[[Sequence[Any]], np.ndarray]] = {
        "embed": parts.embed,
        'embed, pooling="moments"': lambda images: parts.embed(images, pooling="moments"),
        "HOG": lambda images: np.stack([hog(image) for image in images]),
    }
    rows = []
    for name, method in methods.items():
        features, unseen = (method(images).astype(np.float32) for images in pixels)
        penalty, chosen, accuracy = probe(features, labels[0], unseen, labels[1])
        rows.append([name, str(features.shape[1]), f"{penalty:g}", f"{chosen:.2f}", f"{accuracy:.2f}"])
    caption = f"{len(pixels[0])} training images, {len(pixels[1])} test images of {train.name}"
    print(Table(["features", "numbers", "penalty", "chosen at %", "test %"], rows, caption).text())


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, answers: np.ndarray) -> tuple[float, float, float]:
    """Penalty, accuracy on the images that chose it, accuracy on the test images; in percent."""
    order = np.random.default_rng(SEED).permutation(len(train))
    count = len(train) * CHOOSING // TRAINING
    held_out, kept = order[:count], order[count:]
    found = {penalty: accuracy(train[kept], labels[kept], train[held_out], labels[held_out], penalty) for penalty in PENALTIES}
    penalty = max(found, key=lambda each: found[each])
    return penalty, found[penalty], accuracy(train, labels, test, answers, penalty)


def accuracy(x: np.ndarray, y: np.ndarray, unseen: np.ndarray, answers: np.ndarray, penalty: float) -> float:
    """A multinomial logistic regression on standardized features."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    model = LogisticRegression(C=1 / (penalty * len(x)), max_iter=ITERATIONS).fit((x - mean) / deviation, y)
    return 100 * float((model.predict((unseen - mean) / deviation) == answers).mean())


if __name__ == "__main__":
    main()
