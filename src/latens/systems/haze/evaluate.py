"""Evaluation on scenes with depth (Li et al. 2019, Table 1): every method, trivial baselines, references with known depth.

`protocol` defines scenes, haze and rows. PSNR and SSIM are computed on 8-bit RGB.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from latens.catalogue import MODELS
from latens.data.duplicates import Distinct, digest_of_files
from latens.data.notes import left_out
from latens.data.source import Source, one_source
from latens.errors import InputError, LatensError, UsageError, counted
from latens.experiments.journal import Journal, digest
from latens.experiments.lab import JOURNAL
from latens.experiments.report import Report
from latens.experiments.trainings import training_of
from latens.inference.page import Table
from latens.metrics.image import mean_db
from latens.settings import to_dict
from latens.systems.haze.config import LEARNED
from latens.systems.haze.predict import MAX_DEPTH, Haze
from latens.systems.haze.protocol import AS_DEHAZE, DEHAZE, SYNTHESIS, HazeRow, Protocol, rows_of
from latens.systems.haze.scenes import DEPTH_KINDS, HELD_OUT_SEED, Scene, cropped, find_scenes, load_scene, reduced, simulated

logger = logging.getLogger(__name__)

STREETS = 8  # number of simulated streets when no folder is given
PAPER = {  # Table 1: SSIM and PSNR of synthesis, then of removal; on ApolloScape, resolution and depth scale not stated
    "unit": (0.8524, 24.5181, 0.8255, 21.1384),
    "cyclegan": (0.8858, 25.1917, 0.8432, 22.6649),
    "dcp, full size": (None, None, 0.8338, 18.2011),
    "bccr": (None, None, 0.8234, 18.4564),
    "dehazenet": (None, None, 0.8832, 20.2258),
    "mmd": (0.9271, 27.3772, 0.8801, 23.6779),
}


SUPERVISION: Mapping[str, str] = MappingProxyType(
    {
        "unit": "unpaired crops",
        "cyclegan": "unpaired crops",
        "mmd": "unpaired crops",
        "dehazenet": "supervised: t of every patch",
        "physical": "supervised: clear image, depth and haze of every crop",
    }
)
"""What each method is trained on: a table has rows with and without supervision."""


class Measured(NamedTuple):
    """Rows of an evaluation, with its data and protocol."""

    source: str
    protocol: Protocol
    rows: tuple[HazeRow, ...]
    missing: tuple[str, ...]  # methods without weights on this machine
    failures: tuple[str, ...]

    def means(self) -> dict[tuple[str, str], tuple[float, float | None, float]]:
        """(task, method) -> mean PSNR in dB, mean SSIM, standard deviation of PSNR over scenes and draws."""
        found: dict[tuple[str, str], tuple[float, float | None, float]] = {}
        for key in dict.fromkeys((row.task, row.method) for row in self.rows):
            rows = [row for row in self.rows if (row.task, row.method) == key]
            values = [min(row.psnr, 100.0) for row in rows]
            similar = [row.ssim for row in rows if row.ssim is not None]
            found[key] = (mean_db(values), float(np.mean(similar)) if similar else None, float(np.std(values)))
        return found

    def tables(self, trainings: Mapping[str, str]) -> list[Table]:
        """A table for removal and one for synthesis, with the paper's numbers and the training of every row."""
        tables = []
        for task, offset in ((DEHAZE, 2), (SYNTHESIS, 0)):
            rows = []
            for (own_task, method), (decibel, similarity, spread) in self.means().items():
                if own_task == task:
                    printed = PAPER.get(method, (None,) * 4)[offset : offset + 2]
                    ours = [f"{decibel:.2f}", f"{spread:.2f}", "-" if similarity is None else f"{similarity:.4f}"]
                    theirs = [("-" if v is None else f"{v:g}") for v in (printed[1], printed[0])]
                    rows.append([method, *ours, *theirs, trainings.get(method.removesuffix(AS_DEHAZE), "-")])
            columns = [task, "PSNR dB", "± over images", "SSIM", "paper's PSNR", "paper's SSIM", "training"]
            tables.append(Table(columns, rows))
        return tables

    def setting(self) -> str:
        """Description of data and protocol."""
        scenes = len({row.scene for row in self.rows})
        depth = f"d / {self.protocol.max_depth:g} m" if self.protocol.max_depth else "d / 99.9 % quantile of each scene"
        without = f" Not evaluated, because there are no weights: {', '.join(self.missing)}." if self.missing else ""
        border = f"a border of {self.protocol.border} pixels removed, " if self.protocol.border else ""
        return (
            f"{counted(scenes, 'scene')} of {self.source}, "
            f"{counted(self.protocol.draws, 'draw')} each (A ~ U[0.8, 1]^3, beta ~ U[0.8, 1.6]), "
            f"{depth}, {border}short side {self.protocol.side} pixels. The paper's numbers are for ApolloScape, with an "
            f"unstated depth scale.{without}"
        )

    def facts(self) -> dict[str, Any]:
        """Means and protocol as JSON-able values."""
        means = [
            {"task": task, "method": method, "psnr": decibel, "ssim": similarity, "psnr_deviation": spread}
            for (task, method), (decibel, similarity, spread) in self.means().items()
        ]
        protocol = to_dict(self.protocol)
        return {"source": self.source, "protocol": protocol, "means": means, "without_weights": list(self.missing)}


def evaluate(haze: Haze, sources: Sequence[Source], options: Protocol, folder: Path | None) -> Report:
    """Evaluate all methods on a folder of held-out scenes with depth, or on simulated streets.

    Raises UnreadableInput for a folder without such scenes, InputError when none can be used, UsageError for several folders.
    """
    found = measure(haze, folder_of_scenes(one_source(sources)), options, folder)
    made = report("table1", found, trainings_of(haze))
    about = f"{haze.name}, weights {haze.model_id[:12]}. {made.about}"
    return replace(made, about=about, facts={"model": haze.name, "model_id": haze.model_id, **made.facts})


def trainings_of(haze: Haze) -> dict[str, str]:
    """The model of every learned method: that of the loaded folder, or a bundled one with its training data."""
    entries = {kind: MODELS[f"haze_{kind}"] for kind in LEARNED if f"haze_{kind}" in MODELS}
    found = {
        kind: f"bundled {training_of(entry.folder)}; {entry.trained_on.partition(';')[0]}" for kind, entry in entries.items()
    }
    found |= dict.fromkeys(haze.given, f"model {haze.name}, weights {haze.model_id[:12]}")
    return {kind: f"{text}; {SUPERVISION[kind]}" for kind, text in found.items()}


def folder_of_scenes(source: Source | None) -> Path | None:
    """The folder of a source, None for simulated streets. Raises UsageError for a source of images without depth."""
    if source is not None and source.kind not in DEPTH_KINDS:
        hint = "give a folder, rgbd:FOLDER or apollo:FOLDER"
        raise UsageError(f"'{source}' is not a source of scenes with depth", where="--data", hint=hint)
    return None if source is None else source.path


def report(name: str, found: Measured, trainings: Mapping[str, str]) -> Report:
    """The report of an evaluation; `trainings` tells how every learned method was trained."""
    return Report(
        name=name,
        title="Haze removal and synthesis",
        about=found.setting(),
        blocks=found.tables(trainings),
        facts={**found.facts(), "training": dict(trainings)},
        rows=[row._asdict() for row in found.rows],
        failures=found.failures,
    )


def measure(haze: Haze, data: Path | None, protocol: Protocol, folder: Path | None = None) -> Measured:
    """Rows of all available methods on the scenes of a folder or on simulated streets.

    Rows of finished scenes are stored in `folder`. A later call with the same weights, protocol and files skips these scenes.
    """
    protocol = streets_protocol(protocol, data)
    learned = [kind for kind in LEARNED if haze.has(kind)]
    weights = {kind: haze.hash_of(kind) for kind in learned}
    journal = Journal(None if folder is None else folder / JOURNAL)
    known = {record["key"]: record["rows"] for record in journal.read() if record.keys() == {"key", "rows"}}
    rows: list[HazeRow] = []
    failures: list[str] = []
    for index, candidate in enumerate(candidates(data, protocol)):
        key = digest({"scene": candidate.identity, "index": index, "protocol": protocol, "weights": weights})
        if key not in known:
            try:
                scene = candidate.load()
            except LatensError as error:
                failures.append(left_out(error, candidate.name))
                continue
            known[key] = [list(row) for row in rows_of(haze, learned, scene, index, protocol)]
            journal.append([{"key": key, "rows": known[key]}])
        rows += [HazeRow(*row) for row in known[key]]
        logger.info("%d: %s", index + 1, candidate.name)
    if not rows:
        raise InputError("no scene could be used", where=str(data), hint=failures[0] if failures else None)
    source = "simulated streets" if data is None else data.name
    missing = tuple(kind for kind in LEARNED if kind not in learned)
    return Measured(source, protocol, tuple(rows), missing, tuple(failures))


class Candidate(NamedTuple):
    """A test scene: its key in the journal, and a function that reads or simulates it."""

    name: str
    identity: list[Any]
    load: Callable[[], Scene]


def streets_protocol(protocol: Protocol, data: Path | None) -> Protocol:
    """The protocol with the depth range of simulated streets, if they are the data and no range is set."""
    return replace(protocol, max_depth=MAX_DEPTH) if data is None and not protocol.max_depth else protocol


def candidates(data: Path | None, protocol: Protocol) -> Iterator[Candidate]:
    """The test scenes of a folder, evenly spaced and each once, or simulated streets."""
    if data is None:
        for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + (protocol.scenes or STREETS)):
            yield Candidate(f"street{seed}", ["street", seed], partial(_street, seed, protocol))
        return
    paths = find_scenes(data)
    if protocol.scenes and len(paths) > protocol.scenes:
        paths = [paths[round(i)] for i in np.linspace(0, len(paths) - 1, protocol.scenes)]
    seen = Distinct()
    for path in paths:
        if not seen.is_new(digest_of_files(path.image, path.depth), path.name):
            continue
        load = partial(load_scene, path, side=protocol.side, border=protocol.border)
        yield Candidate(path.name, [path.name, *_state(path.image), *_state(path.depth)], load)


def _street(seed: int, protocol: Protocol) -> Scene:
    return reduced(cropped(next(simulated([seed])), protocol.border), protocol.side)


def _state(path: Path) -> tuple[str, int, int]:
    """Path, size and modification time; an edited file is evaluated again."""
    try:
        status = path.stat()
    except OSError:  # reading it reports the error
        return str(path), 0, 0
    return str(path.resolve()), status.st_size, status.st_mtime_ns
