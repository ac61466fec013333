"""Two controls of the model `cells`, trained on the same crops: a U-Net with three classes and a watershed, and a Mask R-CNN.

    latens train amodal --recipe cells --data labels:dsb2018_nuclei/ negatives:photographs/ -o three \
        --set objective.center=0 --set objective.rays=0 --set objective.overlap=0
    python benchmarks/cells_controls.py train labels:dsb2018_nuclei/ negatives:photographs/ --steps 1200 -o rcnn
    python benchmarks/cells_controls.py measure labels:dsb2018_nuclei/ --three three/best --rcnn rcnn/best

Both see an image at the scale that `cells` estimates. The smallest score of the Mask R-CNN is chosen on validation fields.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from latens.data.instances import Sample, paint
from latens.data.source import Source, parse_source
from latens.data.tensors import to_tensor
from latens.inference.page import Table
from latens.systems.amodal.batches import collate
from latens.systems.amodal.cells.augment import augmented
from latens.systems.amodal.cells.baseline import three_classes
from latens.systems.amodal.cells.batches import CellsData
from latens.systems.amodal.cells.compose import MARGIN, Canvas
from latens.systems.amodal.cells.config import CropConfig
from latens.systems.amodal.cells.fields import FieldImage, contrast_of, of_split, read_fields
from latens.systems.amodal.cells.measure import compare, f1_of, quality_of
from latens.systems.amodal.cells.network import StarNet
from latens.systems.amodal.cells.predict import CellSegmenter
from latens.systems.amodal.cells.training import build_cells
from latens.systems.amodal.config import DetectorConfig, HeadConfig
from latens.systems.amodal.objective import AmodalObjective
from latens.systems.amodal.order import SoftMask
from latens.systems.amodal.pipeline import AmodalRCNN
from latens.systems.amodal.predict import AmodalSegmenter, load
from latens.systems.amodal.recipes import AmodalTraining, cells, cpu_fcn
from latens.training.data import generator
from latens.training.objective import Trainable
from latens.training.run import train

SIDE = 128  # of a training crop and of a window of a test image, pixels at the scale of `cells`
STEP = 64  # between windows
SCORES = (0.3, 0.5, 0.7)
SMALLEST = 16  # pixels of an object that takes part in training
FRAME = 32  # the sides of a network image are multiples of it
Labels = np.ndarray
Method = Callable[[FieldImage], Labels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("--steps", type=int, required=True)
    training.add_argument("-o", dest="out", type=Path, required=True)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("--three", type=Path, required=True)
    measuring.add_argument("--rcnn", type=Path, required=True)
    for each in (training, measuring):
        each.add_argument("data", nargs="+", type=parse_source)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.verb == "train":
        train(build, recipe(given.steps), given.data, given.out)
    else:
        measure(given.data[0], load(given.three), load(given.rcnn))


def recipe(steps: int) -> AmodalTraining:
    """The Mask R-CNN with its own mask head and anchors for nuclei."""
    base = cpu_fcn()
    detector = DetectorConfig(anchors=(8, 16, 32, 64, 128), detections=80)
    model = replace(base.model, classes=("nucleus",), size=SIDE, detector=detector)
    model = replace(model, head=HeadConfig(mask="fcn", occlusion=False, dense=0))
    run = replace(base.run, steps=steps, log_every=25, validate_every=steps, checkpoint_every=100)
    return replace(base, model=model, data=replace(base.data, batch=8), run=run)


class Crops:
    """The crops of `cells` as batches of the Mask R-CNN."""

    def __init__(self, feed: CellsData) -> None:
        self.feed = feed

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.feed.seed, step, rank)
        canvases = [self.feed.draw(rng, self.feed.train) for _ in range(self.feed.config.batch)]
        return collate([sample_of(each, augmented(rng, each.pixels, each.kind)) for each in canvases], (SIDE, SIDE))

    def validation(self) -> list[dict[str, Tensor]]:
        rng = np.random.default_rng(0)
        canvases = [self.feed.draw(rng, self.feed.held_out) for _ in range(32)]
        return [collate([sample_of(each, each.pixels) for each in canvases], (SIDE, SIDE))]


def build(config: AmodalTraining, sources: Sequence[Source]) -> Trainable:
    plan = replace(cells(), data=CropConfig(batch=config.data.batch, crop=SIDE))
    feed = build_cells(plan, sources).data
    assert isinstance(feed, CellsData)
    model = AmodalRCNN(config.model)
    return Trainable(model, AmodalObjective(config.objective, model, 0), Crops(feed))


def sample_of(canvas: Canvas, pixels: np.ndarray) -> Sample:
    """The middle of a canvas with the masks of its objects."""
    side = len(canvas.pixels)
    amodal = np.zeros((len(canvas.things), side, side), dtype=bool)
    for mask, thing in zip(amodal, canvas.things, strict=True):
        mask[thing.top : thing.top + thing.mask.shape[0], thing.left : thing.left + thing.mask.shape[1]] = thing.mask
    middle = (slice(MARGIN, MARGIN + SIDE), slice(MARGIN, MARGIN + SIDE))
    amodal = amodal[(slice(None), *middle)]
    amodal = amodal[amodal.sum((1, 2)) >= SMALLEST]
    return Sample(levels(pixels[middle]), paint(amodal, np.arange(len(amodal))[::-1]))


def levels(pixels: np.ndarray) -> np.ndarray:
    """Normalized pixels as uint8, with room above and below."""
    found: np.ndarray = np.clip(pixels * 180 + 30, 0, 255).astype(np.uint8)
    return found


def measure(source: Source, three: object, rcnn: object) -> None:
    assert isinstance(three, CellSegmenter)
    assert isinstance(rcnn, AmodalSegmenter)
    scales = load("cells")
    assert isinstance(scales, CellSegmenter)
    images = read_fields(source.path)
    validation, test = (of_split(images, split, str(source)) for split in ("validation", "test"))
    at = {score: f1(validation, partial(boxes, rcnn.model, scales, score)) for score in SCORES}
    best = max(at, key=lambda score: at[score])
    methods: dict[str, Method] = {
        "three classes + watershed, trained alone": partial(classes, three.model, scales),
        f"Mask R-CNN, score {best}": partial(boxes, rcnn.model, scales, best),
    }
    rows = []
    for kind in sorted({image.kind for image in test}):
        for name, method in methods.items():
            found = quality_of([compare(i.field, i.labels, method(i)) for i in test if i.kind == kind])
            numbers = (found.f1_50, found.f1_50_deviation, found.f1_70, found.f1_90, found.ap, found.ap_deviation)
            rows.append([kind, name, *(f"{number:.3f}" for number in numbers)])
    print(Table(["test fields", "method", "F1 at IoU .5", "±", ".7", ".9", "AP", "±"], rows, f"validation F1: {at}").text())


def f1(images: Sequence[FieldImage], method: Method) -> float:
    return f1_of([compare(image.field, image.labels, method(image)) for image in images])


def resampled(scales: CellSegmenter, image: FieldImage) -> np.ndarray:
    """Normalized pixels at the scale that `cells` estimates, padded to whole cells of the networks."""
    seen = scales.look(image.pixels)
    pixels = 255 - image.pixels if seen.inverted else image.pixels
    factor = scales.config.diameter / seen.diameter
    size = [max(FRAME, round(length * factor)) for length in pixels.shape[:2]]
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    small = contrast_of(pixels).apply(cv2.resize(pixels, (size[1], size[0]), interpolation=how))
    return small


def classes(model: StarNet, scales: CellSegmenter, image: FieldImage) -> Labels:
    """Foreground and contact of the whole image, and a watershed."""
    small = resampled(scales, image)
    height, width = small.shape[:2]
    padded = np.pad(small, ((0, -height % FRAME), (0, -width % FRAME), (0, 0)), mode="edge")
    with torch.no_grad():
        maps = model(torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)))[None])
    inside, border = (
        (each[0].sigmoid()[:height, :width] * 255).round().byte().numpy() for each in (maps.foreground, maps.contact)
    )
    return three_classes(inside, border, image.labels.shape)


def boxes(model: AmodalRCNN, scales: CellSegmenter, score: float, image: FieldImage) -> Labels:
    """Detections in overlapping windows; a window keeps those whose center is nearest to its own."""
    small = levels(resampled(scales, image))
    height, width = small.shape[:2]
    size = [max(SIDE, -(-(length - SIDE) // STEP) * STEP + SIDE) for length in (height, width)]
    padded = np.pad(small, ((0, size[0] - height), (0, size[1] - width), (0, 0)), mode="edge")
    places, scores, grids = [], [], []
    for top in range(0, size[0] - SIDE + 1, STEP):
        for left in range(0, size[1] - SIDE + 1, STEP):
            window = padded[top : top + SIDE, left : left + SIDE]
            (found,) = model.detect(to_tensor(window[None], channels_last=True))
            moved = found.boxes.float() + torch.tensor([left, top, left, top])
            mine = (found.scores >= score) & central(moved, top, left, size)
            places.append(moved[mine])
            scores.append(found.scores[mine].float())
            grids.append(found.mask[mine].float())
    boxes_, scores_, grids_ = torch.cat(places), torch.cat(scores), torch.cat(grids)
    kept = nms(boxes_, scores_, 0.5)
    labels = np.zeros((size[0], size[1]), dtype=np.int32)
    for number, index in enumerate(kept.tolist(), start=1):
        mask = SoftMask(grids_[index], boxes_[index], (size[0], size[1])).whole() > 0.5
        labels[mask & (labels == 0)] = number
    shape = image.labels.shape
    return cv2.resize(labels[:height, :width], (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)


def central(boxes_: Tensor, top: int, left: int, size: Sequence[int]) -> Tensor:
    """True for boxes whose center lies in the middle of a window, or towards a border of the image that the window touches."""
    margin = (SIDE - STEP) / 2
    inside = torch.ones(len(boxes_), dtype=torch.bool)
    for axis, start, length in ((0, left, size[1]), (1, top, size[0])):
        center = (boxes_[:, axis] + boxes_[:, axis + 2]) / 2
        low = -1.0 if start == 0 else start + margin
        high = length + 1.0 if start + SIDE == length else start + SIDE - margin
        inside &= (center >= low) & (center < high)
    return inside


if __name__ == "__main__":
    main()
