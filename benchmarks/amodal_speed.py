"""Images per second and memory of the amodal segmenter compared with torchvision's Mask R-CNN with ResNet-50.

    python benchmarks/amodal_speed.py --threads 2 [--model NAME|FOLDER] [--size 500] [--repeats 15]

Both read the same PNG of a simulated embryo and return binary masks at its size. Ours also completes hidden parts and predicts
the depth order. Torchvision's weights are random, so it returns its maximum number of objects, which is set to ours (30 instead
of 100); its input is the image at its own size instead of 800 pixels. Each side runs in its own process, in alternation, so
that other load on the machine affects both, and ratios are computed per pair. Peak memory is that of the process during
segmentation, including libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from serving import Answer, Server, forget_peak, memory, serve, timed

SIDES = ("latens", "torchvision")
SEED = 4  # seed of the embryo
WARM_UP = 2  # rounds that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="amodal")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve({"segment": worker(arguments.serve, arguments), "memory": lambda: memory()})
        return
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "embryo.png"
        write_embryo(image, arguments.size)
        load = os.getloadavg()
        answers = alternate(arguments, str(image))
    for record in summary(answers):
        print(json.dumps(record))
    print(
        json.dumps({"threads": arguments.threads, "size": arguments.size, "load_before": [round(value, 2) for value in load]})
    )


def write_embryo(path: Path, size: int) -> None:
    import numpy as np
    from PIL import Image

    from latens.systems.amodal.config import EmbryoConfig
    from latens.systems.amodal.simulator.embryos import embryo

    Image.fromarray(embryo(np.random.default_rng(SEED), EmbryoConfig(size=size)).image).save(path)


def alternate(arguments: argparse.Namespace, image: str) -> dict[str, list[Answer]]:
    """Answers of both sides per round, in alternating order."""
    command = [sys.executable, __file__, "--model", arguments.model, "--threads", str(arguments.threads)]
    servers = {side: Server([*command, "--size", str(arguments.size), "--serve", side], arguments.threads) for side in SIDES}
    answers: dict[str, list[Answer]] = {side: [] for side in SIDES}
    for turn in range(WARM_UP + arguments.repeats):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            answer = servers[side].ask("segment", path=image, first=turn == 0)
            if turn >= WARM_UP:
                answers[side].append(answer)
    for side, server in servers.items():
        answers[side][-1] |= server.ask("memory")
        server.close()
    return answers


def summary(answers: dict[str, list[Answer]]) -> list[dict[str, Any]]:
    """One record per side, and the ratios of the pairs (above 1: ours is faster)."""
    records: list[dict[str, Any]] = []
    for side, turns in answers.items():
        seconds = [turn["wall"] for turn in turns]
        records.append({
            "side": side,
            "images_per_second": round(1 / median(seconds), 3),
            "fastest": round(1 / min(seconds), 3),
            "cpu_seconds": round(median(turn["cpu"] for turn in turns), 3),
            "objects": turns[0]["objects"],
            "peak_mib": round(turns[-1]["peak"]),
        })  # fmt: skip
    for name, key in (("faster", "wall"), ("less_cpu", "cpu")):
        pairs = zip(answers["latens"], answers["torchvision"], strict=True)
        ratios = [theirs[key] / ours[key] for ours, theirs in pairs]
        records.append({name: round(median(ratios), 2), "least": round(min(ratios), 2), "most": round(max(ratios), 2)})
    return records


def worker(side: str, arguments: argparse.Namespace) -> Callable[..., Answer]:
    """Handler of one round: from an image file to masks."""
    segment = ours(arguments) if side == "latens" else torchvisions(arguments)

    def act(path: str, first: bool) -> Answer:
        if first:
            forget_peak()  # excludes the memory of loading
        objects, times = timed(lambda: segment(path))
        return {**times, "objects": objects}

    return act


def ours(arguments: argparse.Namespace) -> Callable[[str], int]:
    from latens.errors import LatensError
    from latens.systems.amodal.predict import load

    try:
        segmenter = load(arguments.model, device="cpu", threads=arguments.threads)
    except LatensError as error:
        raise SystemExit(f"{error}") from None
    return lambda path: len(segmenter.segment(Path(path)))


def torchvisions(arguments: argparse.Namespace) -> Callable[[str], int]:
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    from latens.systems.amodal.config import DetectorConfig

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    side = arguments.size
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=2,
        min_size=side,
        max_size=side,
        box_detections_per_img=DetectorConfig().detections,
    ).eval()

    @torch.inference_mode()
    def segment(path: str) -> int:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        (found,) = model([torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255)])
        return len(found["masks"][:, 0].numpy() > 0.5)

    return segment


if __name__ == "__main__":
    main()
