"""CPU time and final accuracy of the fine-tuning probes of parts in float32 and in bfloat16, in alternation.

    python benchmarks/parts_probe.py PACKS --threads 1

PACKS is a labeled data set in a form that `latens train parts --data` accepts; the encoder is the untrained one of the paper.
"""

from __future__ import annotations

import argparse
import time
from typing import Literal

import numpy as np
import torch

from latens.data.labeled import open_labeled
from latens.data.source import parse_source
from latens.experiments.probes import FROZEN, PROBES, ProbeConfig, run_probe, split_sets
from latens.inference.page import Table
from latens.systems.parts.model import resnet_encoder

SIZE, BLOCKS = 32, 2
PRECISIONS: tuple[Literal["no", "bf16"], ...] = ("no", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=parse_source)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    encoder = resnet_encoder(BLOCKS)
    share = ProbeConfig().validation_share
    splits = split_sets(open_labeled(given.data, "train"), open_labeled(given.data, "test"), SIZE, share)
    for split in splits.all:
        split.squares.pixels(np.arange(len(split.labels)))  # decoded once, outside of the timed code
    rows = []
    for name in (probe for probe in PROBES if probe in FROZEN):
        for precision in PRECISIONS:
            started = time.process_time()
            found = run_probe(name, encoder, splits, ProbeConfig(epochs=given.epochs, precision=precision))
            spent = time.process_time() - started
            rows.append([name, precision, f"{spent:.1f}", f"{found.test:.2f}", f"{found.validation:.2f}"])
    columns = ["probe", "precision", "CPU s", "test %", "validation %"]
    print(Table(columns, rows, f"{given.epochs} epochs, {given.threads} threads; frozen stages included.").text())


if __name__ == "__main__":
    main()
