"""Evaluation on held-out images: parts in use, reconstruction, probes; without data, part IoU on simulated scenes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.data.labeled import LabeledImages, has_test_split, open_labeled
from latens.data.source import Source, one_source
from latens.data.squares import Squares, readable
from latens.errors import UsageError, counted
from latens.experiments.journal import Journal
from latens.experiments.probes import Probe, ProbeConfig, ProbeResult, cache_key, check_labels, run_probe, split_sets
from latens.experiments.report import Report
from latens.inference.page import Block, Table
from latens.metrics.image import mean_db, psnr, ssim
from latens.settings import Count, settings
from latens.shapes import Float
from latens.systems.parts.discovery import Discovery, discover
from latens.systems.parts.model import VAE, BetaVAE, PatchVAE
from latens.systems.parts.predict import Parts
from latens.systems.parts.simulator import KINDS, simulate_scenes
from latens.systems.parts.statistics import PartStatistics

logger = logging.getLogger(__name__)

NAME, JOURNAL = "evaluation", "probes.jsonl"
QUICK: tuple[Probe, ...] = ("linear", "knn")
SCENE_KINDS = 4

Features = Callable[[Tensor], Tensor]  # (B, 3, S, S) in [0, 1] -> (B, F)


@settings
class PartsEvaluation:
    """Options of an evaluation."""

    probes: tuple[Probe, ...] | None = (
        None  # probes on labeled images, e.g. "linear,knn"; default: linear and knn if there are labels
    )
    schedule: ProbeConfig = field(default_factory=ProbeConfig)  # schedule of the probes
    images: Count = 2000  # largest number of test images for statistics and reconstruction, chosen by name
    scenes: Count = 200  # number of simulated scenes, used without --data


@dataclass(frozen=True)
class Measured:
    """All measurements; those that do not apply are None or empty."""

    data: str
    images: int
    statistics: PartStatistics | None = None
    quality: ReconstructionQuality | None = None
    probes: tuple[ProbeResult, ...] = ()
    chance: float | None = None  # percent: accuracy of always predicting the most frequent class
    discovery: Discovery | None = None
    left_out: tuple[str, ...] = ()


def evaluate(parts: Parts, sources: Sequence[Source], options: PartsEvaluation, folder: Path | None) -> Report:
    """Evaluate a model on the test split of one data set; probes are trained on its training split.

    Finished probes are stored in `folder`/probes.jsonl, so that an interrupted evaluation continues. Raises UsageError for
    several data sets and for probes without data, InputError for probes without labels.
    """
    source = one_source(sources)
    if source is not None:
        return _report(parts, _measure(parts, source, options, folder))
    if options.probes:
        raise UsageError("probes need labeled images", where="--set probes", hint="name a data set with --data")
    return _report(parts, _simulated(parts, options.scenes))


def holds_out(parts: Parts, source: Source) -> bool:
    """True if `evaluate` measures only images of this source that are in no training."""
    return has_test_split(source)


def _simulated(parts: Parts, count: int) -> Measured:
    tuning, scored = (simulate_scenes(count, size=parts.config.size, kinds=SCENE_KINDS, seed=seed) for seed in (1, 2))
    found = discover(parts, tuning, scored)
    statistics = parts.statistics(list(scored.images)) if isinstance(parts.model, PatchVAE) else None
    return Measured(f"simulated scenes ({', '.join(KINDS[:SCENE_KINDS])})", count, statistics, discovery=found)


def _measure(parts: Parts, source: Source, options: PartsEvaluation, folder: Path | None) -> Measured:
    train, test = open_labeled(source, "train"), open_labeled(source, "test")
    if options.probes:
        check_labels(train, test)
    squares, left_out = readable(test.first_few(options.images).distinct(), parts.config.size)
    warn_left_out(left_out)
    statistics = quality = chance = None
    if isinstance(parts.model, PatchVAE):
        statistics = parts.statistics(list(squares.pixels(np.arange(len(squares)))))
        logger.info("%d of %d parts active", statistics.active, len(statistics.share))
    if isinstance(parts.model, PatchVAE | BetaVAE):
        quality = reconstruction_quality(parts.model, squares)
        logger.info("reconstruction: PSNR %.2f dB", quality.psnr)
    probes = options.probes if options.probes is not None else (QUICK if len(train.classes) > 1 else ())
    results: tuple[ProbeResult, ...] = ()
    if probes:
        results, more = _probe(parts, train, test, probes, options.schedule, None if folder is None else folder / JOURNAL)
        warn_left_out(line for line in more if line not in left_out)
        left_out = tuple(dict.fromkeys([*left_out, *more]))
        chance = 100 * float((test.labels == np.bincount(train.labels).argmax()).mean())
    return Measured(test.name, len(test), statistics, quality, results, chance, left_out=left_out)


def warn_left_out(lines: Iterable[str]) -> None:
    """Warn of images that cannot be read."""
    for line in lines:
        logger.warning("left out: %s", line)


def _probe(
    parts: Parts, train: LabeledImages, test: LabeledImages, probes: Sequence[Probe], schedule: ProbeConfig, path: Path | None
) -> tuple[tuple[ProbeResult, ...], tuple[str, ...]]:
    """Results of probes, reused from the journal for equal weights, images and schedule; and the unreadable images."""
    images = [train.fingerprint(), test.fingerprint()]
    splits = functools.cache(lambda: split_sets(train, test, parts.config.size, schedule.validation_share))  # reads every image

    def measure(probe: Probe) -> list[Any]:
        return [list(run_probe(probe, parts.model.encoder, splits(), schedule)), list(splits().left_out)]

    journal, results = Journal(path), []
    left_out: dict[str, None] = {}
    for probe in probes:
        key = {"model": parts.model_id, "images": images, "probe": probe, "schedule": cache_key(probe, schedule)}
        result, lines = journal.once(key, functools.partial(measure, probe))
        results.append(ProbeResult(*result))
        left_out |= dict.fromkeys(lines)
        logger.info("%s: test %.2f %%", probe, results[-1].test)
    return tuple(results), tuple(left_out)


# ------------------------------------------------------------------------------------------------------------- report


def _report(parts: Parts, found: Measured) -> Report:
    s, q, d = found.statistics, found.quality, found.discovery
    facts = {
        "model": parts.name,
        "model_id": parts.model_id,
        "data": found.data,
        "images": found.images,
        "statistics": s and s.to_dict(),
        "quality": q and q._asdict(),
        "probes": [probe._asdict() for probe in found.probes],
        "most_frequent_class": found.chance,
        "discovery": d and {"iou": d.iou, "purity": d.purity, "matches": [match._asdict() for match in d.matches]},
    }
    rows = [{"measure": "probe", **probe._asdict()} for probe in found.probes]
    rows += [{"measure": "part", **row} for row in (s.rows() if s else [])]
    rows += [{"measure": "motif", **match._asdict()} for match in (d.matches if d else [])]
    return Report(
        name=NAME,
        title="Evaluation of a parts model",
        about=f"{parts.name}, weights {parts.model_id[:12]}, {counted(found.images, 'image')} of {found.data}",
        blocks=_blocks(found),
        facts=facts,
        rows=rows,
        failures=found.left_out,
    )


def _blocks(found: Measured) -> list[Block]:
    blocks: list[Block] = []
    if found.quality is not None:
        blocks.append(found.quality.table())
    if found.probes:
        rows = [[p.probe, f"{p.test:.2f}", f"{p.top5:.2f}", f"{p.validation:.2f}", p.chosen] for p in found.probes]
        rows.append(["most frequent class", f"{found.chance:.2f}", "-", "-", "-"])
        caption = "Accuracy in percent; hyperparameters are chosen on a validation split of the training images."
        blocks.append(Table(["probe", "test top-1", "test top-5", "validation top-1", "chosen"], rows, caption))
    if found.statistics is not None:
        s = found.statistics
        cells = [
            [
                f"{r['part']}",
                f"{100 * r['share']:.1f}",
                f"{100 * r['occupancy']:.2f}",
                f"{r['kl_app']:.3f}",
                f"{r['kl_occ']:.3f}",
            ]
            for r in s.rows()
        ]
        caption = (
            f"{s.active} of {len(s.share)} parts active; {sum(s.occupancy):.2f} parts expected per cell; KL in nats per image."
        )
        blocks.append(Table(["part", "% of images", "% of cells", "KL appearance", "KL occurrence"], cells, caption))
    if found.discovery is not None:
        d = found.discovery
        matched = [[KINDS[m.kind], str(m.part), f"{m.iou:.3f}", f"{m.purity:.3f}"] for m in d.matches]
        caption = f"Mean IoU {d.iou:.3f}, mean purity {d.purity:.3f}; thresholds chosen on other scenes."
        blocks.append(Table(["motif", "part", "IoU", "purity"], matched, caption))
    return blocks


# ----------------------------------------------------------------------------------------------------- reconstruction


class ReconstructionQuality(NamedTuple):
    """Means over images. PSNR is for pixels in [0, 1]: 12.9 dB above that for pixels divided by the deviation of ImageNet."""

    psnr: float
    ssim: float
    frechet: float | None  # None without a feature network
    mean_psnr: float  # baseline: the mean color of every image

    def table(self) -> Table:
        distance = "-" if self.frechet is None else f"{self.frechet:.3f}"
        rows = [["model", f"{self.psnr:.2f}", f"{self.ssim:.3f}", distance], ["mean color", f"{self.mean_psnr:.2f}", "-", "-"]]
        return Table(["reconstruction", "PSNR dB", "SSIM", "FID"], rows, "Reconstructions without noise in the code.")


@torch.no_grad()
def reconstruction_quality(model: VAE, squares: Squares, features: Features | None = None) -> ReconstructionQuality:
    """Compare images with their `mean_image`. `features` computes the features for the Frechet distance (Table 7)."""
    device = next(model.parameters()).device
    peaks, similarities, flat = [], [], []
    spaces: tuple[list[Tensor], list[Tensor]] = ([], [])
    for batch in squares.batches(64):
        found = model.mean_image(batch.to(device)).image.clamp(0, 1).cpu()
        for original, made in zip(_bytes(batch), _bytes(found), strict=True):
            peaks.append(psnr(original, made))
            similarities.append(ssim(original, made))
            mean = np.rint(original.mean((0, 1), keepdims=True)).astype(np.uint8)
            flat.append(psnr(original, np.broadcast_to(mean, original.shape).copy()))
        if features is not None:
            for space, images in zip(spaces, (batch, found), strict=True):
                space.append(features(images.to(device)).float().flatten(1).cpu())
    distance = None
    if features is not None:
        distance = frechet_distance(*(torch.cat(space).double().numpy() for space in spaces))
    known = [value for value in similarities if value is not None]
    return ReconstructionQuality(mean_db(peaks), float(np.mean(known)) if known else float("nan"), distance, mean_db(flat))


def frechet_distance(a: Float[np.ndarray, "n F"], b: Float[np.ndarray, "m F"]) -> float:
    """Squared Frechet distance of Gaussians fitted to features (Heusel et al. 2017): |mean|^2 + tr(A + B - 2 (A B)^(1/2)).

    Raises ValueError for fewer than two rows.
    """
    from scipy.linalg import sqrtm

    if min(len(a), len(b)) < 2:
        raise ValueError(f"the Frechet distance needs at least two images on each side, got {len(a)} and {len(b)}")
    first, second = (np.atleast_2d(np.cov(x.T)) for x in (a, b))
    root = np.trace(sqrtm(first @ second)).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * root)


def _bytes(images: Tensor) -> np.ndarray:
    pixels: np.ndarray = images.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels
