"""The amodal segmenter as a system: what everything else knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from latens.contract import Evaluation, Example, System
from latens.data.images import write_image
from latens.data.source import Source
from latens.data.tensors import to_tensor
from latens.experiments.bench import Case
from latens.systems.amodal.artifacts import ARTIFACTS
from latens.systems.amodal.build import build
from latens.systems.amodal.config import EmbryoConfig
from latens.systems.amodal.demo import section
from latens.systems.amodal.evaluate import AmodalEvaluation, evaluate
from latens.systems.amodal.predict import AmodalSegmenter, load
from latens.systems.amodal.recipes import RECIPES, AmodalTraining
from latens.systems.amodal.simulator.embryos import embryo

BENCH_SIZE = 500  # pixels
BENCH_SEED = 4  # of the embryo that is segmented


def example(folder: Path) -> Example:
    """Simulated embryos to train on, and one as a file to segment."""
    from PIL import Image

    path = folder / "embryo.png"
    sample = embryo(np.random.default_rng(BENCH_SEED), EmbryoConfig(size=96))
    write_image(path, Image.fromarray(sample.image))
    return Example("image", [Source("", "simulated")], [path], [Source("", "simulated")])


def apply(segmenter: AmodalSegmenter, path: Path) -> Mapping[str, np.ndarray]:
    """Masks, order, scores and codewords of every object with a score of at least 0.05."""
    found = segmenter.segment(path, least_score=0.05)
    arrays = {
        "scores": found.scores,
        "amodal": found.layers.amodal,
        "visible": found.layers.visible,
        "layer": found.layers.layer,
    }
    return arrays if found.codes is None else {**arrays, "codes": found.codes}


def cases(segmenter: AmodalSegmenter) -> Sequence[Case]:
    """A simulated embryo end to end (pixels to masks, order and occlusion), next to torchvision's Mask R-CNN."""
    pixels = embryo(np.random.default_rng(BENCH_SEED), EmbryoConfig(size=BENCH_SIZE)).image
    return [
        Case("segment", lambda: segmenter.segment_pixels(pixels)),
        Case("torchvision Mask R-CNN, ResNet-50", _torchvision(pixels, segmenter.device)),
    ]


def _torchvision(pixels: np.ndarray, device: torch.device) -> Callable[[], object]:
    """The usual model with random weights, on the same image at its own size (no resizing to 800)."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    side = max(pixels.shape[:2])
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, min_size=side, max_size=side)
    model = model.to(device).eval()
    image = to_tensor(pixels)[0].to(device)

    @torch.no_grad()
    def act() -> object:
        return model([image])

    return act


SYSTEM = System[AmodalTraining, AmodalSegmenter](
    name="amodal",
    title="Whole outlines of overlapping cells",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(options=AmodalEvaluation(), run=evaluate, quick=AmodalEvaluation(images=3, size=64)),
    cases=cases,
    artifacts=ARTIFACTS,
    demo=section,
)
