"""Evaluation of a model of this system on held-out images: parts in use, reconstruction, probes, known parts.

Without data it is measured on simulated scenes whose parts are known. A finished probe is kept in probes.jsonl, so that a
stopped evaluation continues.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latens.data.labeled import LabeledSet, open_set
from latens.data.source import Source
from latens.data.squares import first_few, readable
from latens.errors import UsageError
from latens.experiments.journal import Journal
from latens.experiments.probes import (
    Probe,
    ProbeConfig,
    ProbeResult,
    Splits,
    cache_key,
    check_labels,
    fingerprint,
    run_probe,
    split_sets,
)
from latens.experiments.report import Report
from latens.inference.page import Block, Table
from latens.settings import Count, settings, to_dict
from latens.systems.parts.discovery import Discovery, discover
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.predict import Parts
from latens.systems.parts.reconstruction import reconstruction_quality
from latens.systems.parts.simulator.motifs import KINDS, simulate_scenes
from latens.systems.parts.statistics import PartStatistics

logger = logging.getLogger(__name__)

QUICK: tuple[Probe, ...] = ("linear", "knn")  # probes that are run when none is named
MAX_IMAGES = 2000  # for statistics and reconstruction
SCENE_KINDS = 4
LOG = "probes.jsonl"


@settings
class PartsEvaluation:
    """What of a model is measured."""

    probes: tuple[Probe, ...] = ()  # on labeled images; empty: linear and knn
    epochs: Count = 90  # of the fine-tuning probes
    scenes: Count = 200  # simulated ones, where no data is given


def evaluate(parts: Parts, sources: Sequence[Source], options: PartsEvaluation, folder: Path | None) -> Report:
    """Measures a model on the test split of a data set; probes learn on its training split.

    Raises UsageError for probes without data and for several data sets, InputError for probes without labels.
    """
    if len(sources) > 1:
        raise UsageError("one data set is needed", where="--data", hint="run the command once for each")
    if sources:
        return _measured(parts, str(sources[0]), options, folder)
    if options.probes:
        raise UsageError("probes need labeled images", where="--set probes", hint="name a data set with --data")
    return _simulated(parts, options)


def _simulated(parts: Parts, options: PartsEvaluation) -> Report:
    size = parts.config.size
    tuning, scored = (simulate_scenes(options.scenes, size=size, kinds=SCENE_KINDS, seed=seed) for seed in (1, 2))
    found = discover(parts.model, tuning, scored)
    blocks: list[Block] = []
    facts: dict[str, Any] = {}
    if isinstance(parts.model, PatchVAE):
        statistics = parts.statistics(list(scored.images))
        blocks.append(_statistics_table(statistics))
        facts["statistics"] = statistics.to_dict()
    blocks.append(discovery_table(found))
    matches = [match._asdict() for match in found.matches]
    facts["discovery"] = {"iou": found.iou, "purity": found.purity, "matches": matches}
    name = f"simulated scenes ({', '.join(KINDS[:SCENE_KINDS])})"
    return _report(
        parts, f"{options.scenes} images of {name}", blocks, {"data": name, "images": options.scenes, **facts}, options
    )


def _measured(parts: Parts, data: str, options: PartsEvaluation, folder: Path | None) -> Report:
    train, test = open_set(data, "train"), open_set(data, "test")
    if options.probes:
        check_labels(train, test)
    squares = readable(test.subset(first_few(test, MAX_IMAGES)), parts.config.size)
    blocks: list[Block] = []
    facts: dict[str, Any] = {"data": test.name, "images": len(test)}
    if isinstance(parts.model, PatchVAE | BetaVAE):
        quality = reconstruction_quality(parts.model, squares)
        logger.info("reconstruction: PSNR %.2f dB", quality.psnr)
        blocks.append(quality.table())
        facts["quality"] = quality._asdict()
    names = options.probes or (QUICK if len(train.classes) > 1 else ())
    schedule = ProbeConfig(epochs=options.epochs)
    results = run_probes(parts, train, test, names, schedule, None if folder is None else folder / LOG) if names else []
    if results:
        chance = 100 * float((test.labels == np.bincount(train.labels).argmax()).mean())
        blocks.append(probe_table(results, chance))
        facts |= {"probes": [probe._asdict() for probe in results], "commonest_class": chance}
    if isinstance(parts.model, PatchVAE):
        statistics = parts.statistics(list(squares.pixels(np.arange(len(squares)))))
        logger.info("%d of %d parts active", statistics.active, parts.config.parts)
        blocks.append(_statistics_table(statistics))
        facts["statistics"] = statistics.to_dict()
    return _report(parts, f"{len(test)} images of {test.name}", blocks, facts, options)


def _report(parts: Parts, what: str, blocks: Sequence[Block], facts: dict[str, Any], options: PartsEvaluation) -> Report:
    about = f"{parts.name}, weights {parts.model_id[:12]}, {what}"
    facts = {"model": parts.name, "model_id": parts.model_id, "options": to_dict(options), **facts}
    return Report(name="evaluation", title="Parts", about=about, blocks=blocks, facts=facts)


def run_probes(
    parts: Parts,
    train: LabeledSet,
    test: LabeledSet,
    names: Sequence[Probe],
    schedule: ProbeConfig,
    log: Path | None,
) -> list[ProbeResult]:
    """The probes one after the other; those the journal knows for these weights, images and schedule are not run again."""
    splits: Splits | None = None  # made, which reads every image, when the first probe is run
    images = [fingerprint(train), fingerprint(test)]
    journal, results = Journal(log), []
    for name in names:
        key = [parts.model_id, *images, name, cache_key(name, schedule)]
        known = next((record["result"] for record in journal.read() if record.get("key") == key), None)
        if known is None:
            splits = splits or split_sets(train, test, parts.config.size, schedule.validation_share)
            known = list(run_probe(name, parts.model.encoder, splits, schedule))
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
            journal.append([{"key": key, "result": known}])
        results.append(ProbeResult(*known))
        logger.info("%s: test %.2f %%", name, results[-1].test)
    return results


def probe_table(results: Sequence[ProbeResult], chance: float) -> Table:
    """Accuracies of the probes; `chance` is that of always naming the commonest class."""
    rows = [[p.probe, f"{p.test:.2f}", f"{p.top5:.2f}", f"{p.validation:.2f}", p.chosen] for p in results]
    rows.append(["commonest class", f"{chance:.2f}", "-", "-", "-"])
    caption = "Accuracy in percent; the choice is made on a validation split of the training images."
    return Table(["probe", "test top-1", "test top-5", "validation top-1", "chosen"], rows, caption)


def _statistics_table(s: PartStatistics) -> Table:
    rows = [
        [str(n), f"{100 * s.share[n]:.1f}", f"{100 * s.occupancy[n]:.2f}", f"{s.kl_app[n]:.3f}", f"{s.kl_occ[n]:.3f}"]
        for n in sorted(range(len(s.share)), key=lambda n: -s.share[n])
    ]
    caption = (
        f"{s.active} of {len(s.share)} parts active; {sum(s.occupancy):.2f} parts expected at a cell; KL in nats an image."
    )
    return Table(["part", "% of images", "% of cells", "KL appearance", "KL occurrence"], rows, caption)


def discovery_table(found: Discovery) -> Table:
    """Known kinds and the parts that cover them."""
    rows = [[KINDS[m.kind], str(m.part), f"{m.iou:.3f}", f"{m.purity:.3f}"] for m in found.matches]
    caption = f"Mean IoU {found.iou:.3f}, mean purity {found.purity:.3f}; thresholds chosen on other scenes."
    return Table(["motif", "part", "IoU", "purity"], rows, caption)
