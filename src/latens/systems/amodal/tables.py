"""Tables 1 to 3 of Jang et al. 2020 with the paper's numbers, and a table of codebook usage, which is not in the paper."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.codes.vq import usage
from latens.contract import Artifact
from latens.data.source import Source
from latens.errors import InputError
from latens.experiments.report import Report, seeds_of, spread
from latens.inference.page import Table
from latens.shapes import Float
from latens.systems.amodal.batches import mask_crops
from latens.systems.amodal.config import STRIDE
from latens.systems.amodal.dataset import HeldOut
from latens.systems.amodal.experiments import (
    SCALES,
    AmodalLab,
    AmodalScale,
    Comparison,
    Result,
    shared_code,
    trainings,
)
from latens.systems.amodal.model import MaskAutoencoder
from latens.systems.amodal.objective import binary_iou
from latens.systems.amodal.official import official
from latens.systems.amodal.predict import AmodalSegmenter
from latens.systems.amodal.variants import Variant

logger = logging.getLogger(__name__)

EMBRYOS, KINS = "embryo cells, private", "KINS"
NAMES = {"kins": KINS, "cocoa": "COCOA", "d2sa": "D2SA"}  # keywords of published data sets
SIMULATED, DIVERSE = (Source("", "simulated"),), (Source("", "simulated"), Source("simulated", "opaque"))
GROUP = 8  # images per batch of mask crops
CROPS = 32  # mask crops per batch
SEED = 20_112  # of the mask crops


class VariantRow(NamedTuple):
    """A row of a table: the name that is printed, the variant, and the paper's mAP in percent (one run)."""

    name: str
    variant: Variant
    printed: float  # NaN where the paper has no such row


TABLE_1 = (
    VariantRow("Mask R-CNN, FCN", "fcn-plain", 66.5),
    VariantRow("Mask R-CNN, FCN, wider", "fcn-wide", math.nan),
    VariantRow("Mask R-CNN, FCN and dense path", "fcn", math.nan),
    VariantRow("Mask R-CNN, VQ-VAE (ours)", "vq", 68.2),
)
TABLE_2 = (
    VariantRow("Mask R-CNN, FCN and dense path", "fcn", 29.3),
    VariantRow("Mask R-CNN, VQ-VAE (ours)", "vq", 30.3),
    VariantRow("Mask R-CNN + ASN, FCN and dense path", "asn-fcn", 31.1),
    VariantRow("Mask R-CNN + ASN, VQ-VAE (ours)", "asn-vq", 31.5),
)
TABLE_3 = (
    VariantRow("VQ-VAE", "vq-alone", 28.1),
    VariantRow("VQ-VAE + refinement", "vq-refined", 29.8),
    VariantRow("VQ-VAE + refinement + occlusion map", "vq", 30.3),
)

MEASURES: Mapping[str, str] = {
    "AP": "AP",
    "AP50": "AP50",
    "AP, mostly hidden": "AP hidden",
    "AP of visible parts": "AP visible",
    "mean IoU": "IoU",
    "mean IoU of hidden parts": "IoU hidden",
    "order accuracy": "order",
    "count accuracy": "count",
}
"""Measure -> column of the table, in percent."""
COMPARED = ("AP", "AP, mostly hidden", "AP of visible parts", "mean IoU of hidden parts")
TARGET_USED, TARGET_IOU = 0.9, 0.99
LEGEND = (
    "In percent, except parameters and minutes; mean ± deviation over seeds. AP: 0.50:0.95 of whole masks; hidden: of objects "
    "hidden by more than 25 %; IoU: mean over true objects, of whole masks and of hidden parts; order: overlapping pairs in "
    "the right order; count: images with the right number; parameters in millions; minutes of training without the mask code."
)


def table1(lab: AmodalLab) -> Report:
    """Table 1: shape code against the FCN head of Mask R-CNN, also with equal numbers of parameters."""
    pairs: list[tuple[Variant, Variant]] = [("vq", "fcn-plain"), ("vq", "fcn-wide"), ("vq", "fcn")]
    return comparison(lab, "table1", "Shape code against direct regression", TABLE_1, EMBRYOS, pairs)


def table2(lab: AmodalLab) -> Report:
    """Table 2: shape code against direct regression, with and without ASN."""
    pairs: list[tuple[Variant, Variant]] = [("vq", "fcn"), ("asn-vq", "asn-fcn"), ("asn-fcn", "fcn"), ("asn-vq", "vq")]
    return comparison(lab, "table2", "Shape code with and without ASN", TABLE_2, KINS, pairs)


def table3(lab: AmodalLab) -> Report:
    """Table 3: ablation of refinement and occlusion map."""
    pairs: list[tuple[Variant, Variant]] = [("vq-refined", "vq-alone"), ("vq", "vq-refined"), ("vq", "vq-alone")]
    return comparison(lab, "table3", "Refinement and occlusion map", TABLE_3, KINS, pairs)


def comparison(
    lab: AmodalLab,
    name: str,
    title: str,
    rows: Sequence[VariantRow],
    printed_on: str,
    pairs: Sequence[tuple[Variant, Variant]],
) -> Report:
    """Rows with the paper's numbers, and differences of pairs (first minus second), paired by seed, for every data set."""
    blocks: list[Table] = []
    about: list[str] = []
    sets: dict[str, Any] = {}
    for values in data_sets(lab.sources or SIMULATED):
        runs = Comparison(lab, SIMULATED, values=values)
        made = tables_of(runs, rows, printed_on, pairs)
        blocks += made.blocks
        about.append(runs.about(made.results))
        sets[" ".join(map(str, values))] = runs.facts(made.results)
    facts = sets if len(sets) > 1 else next(iter(sets.values()))
    return Report(name=name, title=title, about=" ".join(about), blocks=blocks, facts=facts)


def data_sets(sources: Sequence[Source]) -> list[list[Source]]:
    """Every published data set (`official`) by itself, as their classes differ; all other sources together."""
    others = [source for source in sources if official(source).test is None]
    alone = [[source] for source in sources if official(source).test is not None]
    return [*([others] if others else []), *alone]


class Made(NamedTuple):
    """Two tables of one data set, and the results in them."""

    blocks: list[Table]
    results: list[Result]


def tables_of(runs: Comparison, rows: Sequence[VariantRow], printed_on: str, pairs: Sequence[tuple[Variant, Variant]]) -> Made:
    """Rows and paired differences on one data set. Another published set than the paper's has none of the paper's numbers."""
    named = NAMES.get(runs.values[0].kind, "") if runs.tests else ""
    if named and named != printed_on:
        rows = [row._replace(printed=math.nan) for row in rows]
    start = f"{named}. " if named else ""
    results = runs.results([row.variant for row in rows])
    of = {row.variant: [result for result in results if result.variant == row.variant] for row in rows}
    columns = ["model", "seeds", *MEASURES.values(), "parameters", "minutes", f"paper mAP ({printed_on})"]
    table = Table(columns, [[*measured(row, of[row.variant]), paper(row.printed)] for row in rows], start + LEGEND)
    by_variant = {row.variant: row for row in rows}
    differences = [difference(by_variant[one], by_variant[other], of[one], of[other]) for one, other in pairs]
    columns = ["difference", "seeds", *(MEASURES[key] for key in COMPARED), f"paper mAP ({printed_on})"]
    seeds = seeds_of(runs.scale.seeds)
    caption = f"In percentage points, paired by seed; both runs see the same data in the same order. {seeds}"
    return Made([table, Table(columns, differences, start + caption)], results)


def measured(row: VariantRow, results: Sequence[Result]) -> list[str]:
    """The cells of a row, without the paper's number."""
    cells = [spread(percents(results, name)) for name in MEASURES]
    size = f"{results[0].parameters / 1e6:.2f}" if results else "-"
    return [row.name, str(len(results)), *cells, size, spread([result.seconds / 60 for result in results], ".1f")]


def difference(one: VariantRow, other: VariantRow, ours: Sequence[Result], theirs: Sequence[Result]) -> list[str]:
    """The cells of a difference, over the seeds that both rows have."""
    against = {result.seed: result for result in theirs}
    both = [(result, against[result.seed]) for result in ours if result.seed in against]
    cells = []
    for name in COMPARED:
        gains = [100 * (a.numbers[name] - b.numbers[name]) for a, b in both]
        cells.append(spread([gain for gain in gains if not math.isnan(gain)], "+.2f"))
    return [f"{one.name} - {other.name}", str(len(both)), *cells, paper(one.printed - other.printed, "+.1f")]


def paper(value: float, form: str = ".1f") -> str:
    """A number of the paper, or a dash if there is none."""
    return "-" if math.isnan(value) else f"{value:{form}}"


def percents(results: Sequence[Result], name: str) -> list[float]:
    """One measure of several runs in percent, without undefined (NaN) values."""
    return [100 * result.numbers[name] for result in results if not math.isnan(result.numbers[name])]


def codebook(lab: AmodalLab) -> Report:
    """The mask code from several seeds: codewords in use, perplexity, reconstruction of held-out shapes."""
    scale = codebook_scale(lab.scale)
    runs = Comparison(lab, DIVERSE, scale)
    sizes = runs.base.model.code
    crops = held_out_crops(runs.test, sizes.size)
    found = []
    for seed in range(scale.code_seeds):
        code = lab.open_model(runs.code(seed)).model.code
        assert code is not None
        found.append(code_quality(code, crops))
        logger.info("mask code, seed %d: %.1f %% used, IoU %.4f", seed, 100 * found[-1].used, found[-1].iou)
    rows = [
        [str(s), f"{100 * q.used:.1f}", f"{q.perplexity:.1f}", f"{q.iou:.4f}", f"{q.worst:.4f}"] for s, q in enumerate(found)
    ]
    rows.append([
        "mean", spread([100 * q.used for q in found], ".1f"), spread([q.perplexity for q in found], ".1f"),
        spread([q.iou for q in found], ".4f"), spread([q.worst for q in found], ".4f"),
    ])  # fmt: skip
    passed = sum(quality.used >= TARGET_USED and quality.iou >= TARGET_IOU for quality in found)
    caption = (
        f"{found[0].masks} held-out masks on {sizes.size} x {sizes.size}; {sizes.codewords} codewords on a grid of "
        f"{sizes.grid}. Target: {100 * TARGET_USED:.0f} % used and IoU {TARGET_IOU}, met by {passed} of {len(found)} seeds "
        f"(mean IoU {mean(q.iou for q in found):.4f})."
    )
    table = Table(["seed", "used %", "perplexity", "IoU", "IoU of the worst 1 %"], rows, caption)
    facts = {**runs.facts(), "seeds": [quality._asdict() for quality in found]}
    return Report(name="codebook", title="Codebook usage", about=runs.about(), blocks=[table], facts=facts)


class CodeQuality(NamedTuple):
    used: float  # share of the codewords that are chosen at least once, in [0, 1]
    perplexity: float  # in [1, K]
    iou: float  # mean intersection over union of masks and their reconstructions, on S x S
    worst: float  # first percentile of that IoU
    masks: int


def held_out_crops(samples: HeldOut, size: int) -> Float[Tensor, "N 1 S S"]:
    """Masks of held-out images as mirrored and rotated crops with jittered boxes.

    Raises InputError if the images have no objects.
    """
    rng = np.random.default_rng(SEED)
    found = []
    for start in range(0, len(samples), GROUP):
        group = [samples[number] for number in range(start, min(start + GROUP, len(samples)))]
        if any(len(sample.layers.layer) for sample in group):
            found.append(mask_crops(rng, group, CROPS, size))
    if not found:
        raise InputError("no object in the held-out images")
    return torch.cat(found)


@torch.no_grad()
def code_quality(code: MaskAutoencoder, crops: Float[Tensor, "N 1 S S"]) -> CodeQuality:
    """Codebook usage, perplexity and reconstruction IoU of a mask code on held-out shapes."""
    device = next(code.parameters()).device
    indices, ious = [], []
    for part in crops.split(256):
        target = part.to(device)
        found = code.encode(target)
        indices.append(found.cpu())
        ious.append(binary_iou(code.decode(found), target).cpu())
    used, iou = usage(torch.cat(indices), code.config.codewords), torch.cat(ious)
    return CodeQuality(used.share, used.perplexity, float(iou.mean()), float(iou.quantile(0.01)), len(iou))


def codebook_scale(scale: AmodalScale) -> AmodalScale:
    """The scale of `codebook`: the code is trained at the size of the test images."""
    return replace(scale, size=scale.side - scale.side % STRIDE)


def artifact(make: Callable[[AmodalLab], Report], rows: Sequence[VariantRow]) -> Artifact[AmodalSegmenter, AmodalScale]:
    """A table whose rows are variants; models that are missing are trained first."""
    return Artifact(make, SCALES, partial(trainings, {row.name: row.variant for row in rows}))


TABLES: Mapping[str, Artifact[AmodalSegmenter, AmodalScale]] = MappingProxyType(
    {
        "table1": artifact(table1, TABLE_1),
        "table2": artifact(table2, TABLE_2),
        "table3": artifact(table3, TABLE_3),
        "codebook": Artifact(codebook, SCALES, lambda scale: shared_code(codebook_scale(scale))),
    }
)
