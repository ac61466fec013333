"""The record of the amodal system: training, application, evaluation, timing, tables and demo."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latens.contract import Evaluation, Example, System
from latens.data.annotations import to_document
from latens.data.image_output import write_image
from latens.data.instances import Collection, scene_of
from latens.data.source import Source
from latens.data.tensors import to_tensor
from latens.errors import ModelError, UsageError
from latens.experiments.bench import Case
from latens.hub import load_model
from latens.systems.amodal.batches import AmodalData
from latens.systems.amodal.cells.config import StarConfig
from latens.systems.amodal.config import EmbryoConfig
from latens.systems.amodal.dataset import View, common_classes, open_source
from latens.systems.amodal.demo import section
from latens.systems.amodal.evaluate import AmodalEvaluation, evaluate, holds_out
from latens.systems.amodal.graphs import graphs
from latens.systems.amodal.objective import AmodalObjective
from latens.systems.amodal.official import official
from latens.systems.amodal.pipeline import AmodalRCNN
from latens.systems.amodal.predict import NAME, AmodalSegmenter, Segmentation, load
from latens.systems.amodal.pretrained import load_backbone
from latens.systems.amodal.recipes import RECIPES, AmodalTraining, CellsTraining
from latens.systems.amodal.segmenter import Found, Segmenter
from latens.systems.amodal.simulator.embryos import embryo
from latens.systems.amodal.tables import TABLES
from latens.training.objective import Trainable

EXAMPLES, EXAMPLE_SIZE, EXAMPLE_SEED = 12, 96, 20_113
APPLY_SCORE = 0.05  # score threshold of `apply`: low, so that a briefly trained model reports some objects
BENCH_SIZE, BENCH_SEED = 500, 4  # side in pixels and seed of the timed embryo
NUCLEI_SIZE = 512  # side of the timed image of nuclei, pixels


def build(config: AmodalTraining | CellsTraining, sources: Sequence[Source]) -> Trainable:
    """Model, objective and data; without sources, embryos are simulated.

    Raises UsageError for an unknown source and for data sets of different classes, InputError for unusable files, ModelError
    if the mask code of `objective.code_from` or the weights of `objective.backbone_from` do not fit.
    """
    if isinstance(config.model, StarConfig):
        from latens.systems.amodal.cells.training import build_cells

        return build_cells(config, sources)
    data, opened = config.data, []
    view = View(config.model.short_side, data.smallest, data.validation_share, data.test_share, data.rotate)
    for source in map(official, sources or [Source("", "simulated")]):
        opened.append(open_source(source.train, view if source.test is None else view._replace(test_share=0.0)))
    sizes = replace(config.model, classes=common_classes(opened, config.model.classes))
    model = AmodalRCNN(sizes)
    code_steps = config.objective.code_steps
    if model.code is None:
        code_steps = 0
    elif config.objective.code_from:
        load_code(model, Path(config.objective.code_from))
        code_steps = 0
    if config.objective.backbone_from:
        load_backbone(model.backbone, sizes.backbone, Path(config.objective.backbone_from))
    elif sizes.backbone.kind == "resnet50" and sizes.backbone.norm == "frozen":
        hint = "give the weights with --set objective.backbone_from=FILE, or use --set model.backbone.norm=group"
        raise UsageError("a backbone with fixed statistics needs pretrained weights", where="model.backbone.norm", hint=hint)
    objective = AmodalObjective(config.objective, model, code_steps)
    batches = AmodalData(opened, sizes, data, code_steps, config.objective, config.run.seed)
    return Trainable(model, objective, batches)


def load_code(model: AmodalRCNN, folder: Path) -> None:
    """Load the mask code of another amodal model and freeze it. Raises ModelError if its sizes differ."""
    assert model.code is not None
    prefix = "code."
    weights = {
        name.removeprefix(prefix): tensor for name, tensor in load_model(folder).weights.items() if name.startswith(prefix)
    }
    try:
        model.code.load_state_dict(weights)
    except RuntimeError as error:
        what = f"the mask code does not fit ({str(error).splitlines()[-1].strip()})"
        raise ModelError(what, where=str(folder), hint="use the settings model.code.* of that model") from None
    model.code.requires_grad_(False)


def example(folder: Path) -> Example:
    """Simulated embryos as PNG files with one annotation file."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for number in range(EXAMPLES):
        sample = embryo(np.random.default_rng([EXAMPLE_SEED, number]), EmbryoConfig(size=EXAMPLE_SIZE, cells=(2, 4)))
        name = f"embryo-{number}.png"
        write_image(folder / name, Image.fromarray(sample.image))
        scenes.append(scene_of(sample.layers, name))
    document = to_document(Collection(categories=("cell",), scenes=tuple(scenes)))
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    sources = [Source("coco", str(folder / "annotations.json"))]
    inputs = [folder / scene.file for scene in scenes[:3]]
    return Example("image", sources, inputs, bare=[Source("", "simulated")])


def apply(segmenter: Segmenter[Found], path: Path) -> Mapping[str, np.ndarray]:
    """Masks, depth order, classes, scores and shape codes of the objects of an image, or of the first page of a TIFF stack."""
    found = segmenter.segment(path, least_score=APPLY_SCORE)
    codes = {"codes": found.codes} if isinstance(found, Segmentation) and found.codes is not None else {}
    return {**found.layers._asdict(), "scores": found.scores, **codes}


def cases(segmenter: Segmenter[Found]) -> Sequence[Case]:
    """Segmentation of simulated cells, beside Otsu with watershed; of an embryo, beside torchvision's Mask R-CNN."""
    if not isinstance(segmenter, AmodalSegmenter):
        from latens.systems.amodal.cells.baseline import otsu_watershed
        from latens.systems.amodal.cells.simulate import simulated_image

        nuclei = simulated_image(np.random.default_rng(BENCH_SEED), NUCLEI_SIZE)
        size = f"{NUCLEI_SIZE} x {NUCLEI_SIZE}"
        return (
            Case(f"segment, {size}", lambda: segmenter.segment_pixels(nuclei)),
            Case(f"Otsu and watershed, {size}", lambda: otsu_watershed(nuclei, "fluorescent"), peer=True),
        )
    pixels = embryo(np.random.default_rng(BENCH_SEED), EmbryoConfig(size=BENCH_SIZE)).image
    size = f"{BENCH_SIZE} x {BENCH_SIZE}"
    return (
        Case(f"segment, {size}", lambda: segmenter.segment_pixels(pixels)),
        Case(f"torchvision Mask R-CNN, ResNet-50, {size}", _mask_rcnn(pixels, segmenter.device), peer=True),
    )


def _mask_rcnn(pixels: np.ndarray, device: torch.device) -> Callable[[], object]:
    """Torchvision's model with random weights, without resizing to 800 pixels; built at the first call."""

    @functools.cache
    def model() -> torch.nn.Module:
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        side = max(pixels.shape[:2])
        made = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, min_size=side, max_size=side)
        return made.to(device).eval()

    image = to_tensor(pixels)[0].to(device)

    @torch.no_grad()
    def act() -> object:
        return model()([image])

    return act


SYSTEM = System[AmodalTraining | CellsTraining, Any](
    name=NAME,
    title="Amodal segmentation of overlapping objects",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(
        options=AmodalEvaluation(),
        run=evaluate,
        quick=AmodalEvaluation(images=3, size=64),
        name="report",
        files=("image-*.png",),
        holds_out=holds_out,
    ),
    cases=cases,
    artifacts=TABLES,
    graphs=graphs,
    demo=section,
)
