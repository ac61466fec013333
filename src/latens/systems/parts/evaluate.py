"""What a model of this system is worth on pictures it has not seen: parts in use, reconstruction, probes, known parts.

Without data it is measured on simulated scenes whose parts are known. A finished probe is kept in probes.jsonl, so that an
evaluation that was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latens.data.files import write_atomic
from latens.errors import UsageError
from latens.experiments.journal import Journal
from latens.inference.page import Block, Page, Section, Table
from latens.systems.parts.dataset import first_few, readable
from latens.systems.parts.discovery import Discovery, discover
from latens.systems.parts.measure import PartStatistics
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.predict import Parts
from latens.systems.parts.probes import (
    PROBES,
    ProbeConfig,
    ProbeResult,
    Splits,
    check_labels,
    decisive,
    fingerprint,
    run_probe,
    split_sets,
)
from latens.systems.parts.quality import Quality, reconstruction_quality
from latens.systems.parts.simulate import KINDS, simulate_scenes
from latens.systems.parts.sources import PictureSet, open_set

__all__ = ["PROBES", "EvaluationReport", "evaluate"]

QUICK = ("linear", "knn")  # probes that are run when none is named
MOST_PICTURES = 2000  # for statistics and reconstruction
SCENES, SCENE_KINDS = 200, 4
LOG = "probes.jsonl"


@dataclass(frozen=True)
class EvaluationReport:
    """All that was measured; what does not apply is None or empty."""

    model: str
    model_id: str
    data: str
    pictures: int
    statistics: PartStatistics | None
    quality: Quality | None
    probes: tuple[ProbeResult, ...]
    chance: float | None  # percent: accuracy of always naming the commonest class
    discovery: Discovery | None

    exit_status = 0

    def blocks(self) -> list[Block]:
        found: list[Block] = []
        if self.quality is not None:
            found.append(self.quality.table())
        if self.probes:
            rows = [[p.probe, f"{p.test:.2f}", f"{p.top5:.2f}", f"{p.validation:.2f}", p.chosen] for p in self.probes]
            rows.append(["commonest class", f"{self.chance:.2f}", "-", "-", "-"])
            caption = "Accuracy in percent; what is chosen is chosen on a validation split of the training pictures."
            found.append(Table(["probe", "test top-1", "test top-5", "validation top-1", "chosen"], rows, caption))
        if self.statistics is not None:
            found.append(_statistics_table(self.statistics))
        if self.discovery is not None:
            found.append(discovery_table(self.discovery))
        return found

    def table(self) -> str:
        """Everything for a terminal."""
        heading = f"{self.model}, weights {self.model_id[:12]}, {self.pictures} pictures of {self.data}"
        return "\n\n".join([heading, *(block.text() for block in self.blocks() if isinstance(block, Table))])

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "model_id": self.model_id,
            "data": self.data,
            "pictures": self.pictures,
            "statistics": self.statistics and self.statistics.to_dict(),
            "quality": self.quality and self.quality._asdict(),
            "probes": [probe._asdict() for probe in self.probes],
            "commonest_class": self.chance,
            "discovery": self.discovery
            and {
                "iou": self.discovery.iou,
                "purity": self.discovery.purity,
                "matches": [m._asdict() for m in self.discovery.matches],
            },
        }

    def save(self, folder: Path) -> None:
        """Writes evaluation.json, table.txt and index.html."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "evaluation.json", (json.dumps(self.to_dict(), indent=2) + "\n").encode())
        write_atomic(folder / "table.txt", (self.table() + "\n").encode())
        lead = f"{self.model}, weights {self.model_id[:12]}, {self.pictures} pictures of {self.data}"
        Page("Evaluation of a parts model", [Section("Measured", self.blocks())], lead).save(folder / "index.html")


def evaluate(
    parts: Parts,
    data: Path | None = None,
    out: Path | None = None,
    *,
    probes: Sequence[str] | None = None,
    schedule: ProbeConfig | None = None,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Measures a model on the test split of `data`; probes learn on its training split.

    `probes` are names of `PROBES`; by default the quick ones where pictures have labels. Raises UsageError for unknown names
    and for probes without data, InputError for probes without labels.
    """
    tell = _once(progress or (lambda line: None))
    for name in probes or ():
        if name not in PROBES:
            raise UsageError(f"no probe '{name}'", where="--probe", hint=f"known: {', '.join(PROBES)}")
    if data is None:
        if probes:
            raise UsageError("probes need labelled pictures", where="--probe", hint="name a data set with --data")
        report = _simulated(parts)
    else:
        report = _measured(parts, str(data), out, probes, schedule or ProbeConfig(), tell)
    if out is not None:
        report.save(out)
    return report


def _once(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Says no line twice: the same pictures are read for several purposes."""
    said: set[str] = set()

    def new(line: str) -> None:
        if line not in said:
            said.add(line)
            tell(line)

    return new


def _simulated(parts: Parts) -> EvaluationReport:
    tuning, scored = (simulate_scenes(SCENES, size=parts.config.size, kinds=SCENE_KINDS, seed=seed) for seed in (1, 2))
    found = discover(parts.model, tuning, scored)
    statistics = parts.statistics(list(scored.images)) if isinstance(parts.model, PatchVAE) else None
    name = f"simulated scenes ({', '.join(KINDS[:SCENE_KINDS])})"
    return EvaluationReport(parts.name, parts.model_id, name, SCENES, statistics, None, (), None, found)


def _measured(
    parts: Parts, data: str, out: Path | None, probes: Sequence[str] | None, schedule: ProbeConfig, tell: Callable[[str], None]
) -> EvaluationReport:
    train, test = open_set(data, "train"), open_set(data, "test")
    if probes:
        check_labels(train, test)
    shown = test.subset(first_few(test, MOST_PICTURES))
    squares = readable(shown, parts.config.size, tell)
    statistics = quality = None
    if isinstance(parts.model, PatchVAE):
        statistics = parts.statistics(list(squares.pixels(np.arange(len(squares)))))
        tell(f"{statistics.active} of {parts.config.parts} parts active")
    if isinstance(parts.model, PatchVAE | BetaVAE):
        quality = reconstruction_quality(parts.model, squares)
        tell(f"reconstruction: PSNR {quality.psnr:.2f} dB")
    labelled = len(train.classes) > 1
    names = probes if probes is not None else (QUICK if labelled else ())
    results = run_probes(parts, train, test, names, schedule, None if out is None else out / LOG, tell) if names else []
    chance = None
    if results:
        chance = 100 * float((test.labels == np.bincount(train.labels).argmax()).mean())
    return EvaluationReport(parts.name, parts.model_id, test.name, len(test), statistics, quality, tuple(results), chance, None)


def run_probes(
    parts: Parts,
    train: PictureSet,
    test: PictureSet,
    names: Sequence[str],
    schedule: ProbeConfig,
    log: Path | None,
    tell: Callable[[str], None],
) -> list[ProbeResult]:
    """The probes one after the other; those the journal knows for these weights, pictures and schedule are not run again."""
    splits: Splits | None = None  # made, which reads every picture, when the first probe is run
    pictures = [fingerprint(train), fingerprint(test)]
    journal, results = Journal(log), []
    for name in names:
        key = [parts.model_id, *pictures, name, decisive(name, schedule)]
        known = next((record["result"] for record in journal.read() if record.get("key") == key), None)
        if known is None:
            splits = splits or split_sets(train, test, parts.config.size, schedule.validation_share, tell)
            known = list(run_probe(name, parts.model.encoder, splits, schedule, progress=tell))
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
            journal.append([{"key": key, "result": known}])
        results.append(ProbeResult(*known))
        tell(f"{name}: test {results[-1].test:.2f} %")
    return results


def _statistics_table(s: PartStatistics) -> Table:
    rows = [
        [str(n), f"{100 * s.share[n]:.1f}", f"{100 * s.occupancy[n]:.2f}", f"{s.kl_app[n]:.3f}", f"{s.kl_occ[n]:.3f}"]
        for n in sorted(range(len(s.share)), key=lambda n: -s.share[n])
    ]
    caption = (
        f"{s.active} of {len(s.share)} parts active; {sum(s.occupancy):.2f} parts expected at a cell; KL in nats a picture."
    )
    return Table(["part", "% of pictures", "% of cells", "KL appearance", "KL occurrence"], rows, caption)


def discovery_table(found: Discovery) -> Table:
    """Known kinds and the parts that cover them."""
    rows = [[KINDS[m.kind], str(m.part), f"{m.iou:.3f}", f"{m.purity:.3f}"] for m in found.matches]
    caption = f"Mean IoU {found.iou:.3f}, mean purity {found.purity:.3f}; thresholds chosen on other scenes."
    return Table(["motif", "part", "IoU", "purity"], rows, caption)
