"""Evaluation on scenes with depth (Table 1 of 002): removal and synthesis by every method, trivial baselines, upper bounds.

Haze is added as in 002, section 4.1.1, with depth relative to the largest of each scene. PSNR and SSIM are those of 8-bit RGB.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from latens.data.depth import relative_depth
from latens.data.images import Pixels
from latens.data.notes import left_out
from latens.data.source import Source, one_source
from latens.data.tensors import to_pixels, to_tensor
from latens.errors import InputError, LatensError, UsageError, counted
from latens.experiments.journal import Journal, digest
from latens.experiments.lab import JOURNAL
from latens.experiments.report import Report
from latens.inference.page import Table
from latens.metrics.image import mean_db, psnr, ssim
from latens.settings import Count, Natural, NonNegative, settings, to_dict
from latens.systems.haze import methods
from latens.systems.haze.baselines.dark_channel import GENTLE, DarkChannelConfig, blocks_of
from latens.systems.haze.config import LEARNED, TRANSLATORS
from latens.systems.haze.formation import (
    MEAN_AIRLIGHT,
    MEAN_BETA,
    HazeParameters,
    add_haze,
    draw_haze_parameters,
    remove_haze,
    transmission,
)
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.predict import MAX_DEPTH, Haze
from latens.systems.haze.scenes import DEPTH_KINDS, HELD_OUT_SEED, Scene, cropped, find_scenes, load_scene, reduced, simulated

logger = logging.getLogger(__name__)

DEHAZE, SYNTHESIS = "haze removal", "haze synthesis"
STREETS = 8  # number of simulated streets when no folder is given
DRAW_SEED = 4110  # seed of the haze parameters
PAPER = {  # Table 1 of 002: SSIM and PSNR of synthesis, then of removal; ApolloScape, resolution and depth scale not stated
    "unit": (0.8524, 24.5181, 0.8255, 21.1384),
    "cyclegan": (0.8858, 25.1917, 0.8432, 22.6649),
    "dcp, full size": (None, None, 0.8338, 18.2011),
    "bccr": (None, None, 0.8234, 18.4564),
    "dehazenet": (None, None, 0.8832, 20.2258),
    "mmd": (0.9271, 27.3772, 0.8801, 23.6779),
}


@settings
class Protocol:
    """The evaluation protocol: size, haze and number of the test scenes."""

    side: Count = 240  # pixels; scenes are reduced to this short side
    draws: Count = 3  # draws of airlight and beta per scene
    scenes: Natural = 0  # largest number of scenes, evenly spread over the folder; 0: all, or 8 simulated streets
    border: Natural = 0  # pixels cropped from every side (12 removes the white frame of NYU)
    max_depth: NonNegative = (
        0.0  # meters at which relative depth is 1; 0: the largest depth of each scene (120 for simulated streets)
    )


class Row(NamedTuple):
    task: str
    method: str
    scene: str
    draw: int
    psnr: float
    ssim: float | None


class Shown(NamedTuple):
    """A scene with haze of one draw, as tensors of a batch of one."""

    hazy: Tensor
    clear: Tensor
    depth: Tensor
    parameters: HazeParameters


class Measured(NamedTuple):
    """The rows of an evaluation and its circumstances."""

    source: str
    protocol: Protocol
    rows: tuple[Row, ...]
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

    def tables(self) -> list[Table]:
        """A table for removal and one for synthesis, with the paper's numbers."""
        tables = []
        for task, offset in ((DEHAZE, 2), (SYNTHESIS, 0)):
            rows = []
            for (own_task, method), (decibel, similarity, spread) in self.means().items():
                if own_task == task:
                    printed = PAPER.get(method, (None,) * 4)[offset : offset + 2]
                    ours = [f"{decibel:.2f}", f"{spread:.2f}", "-" if similarity is None else f"{similarity:.4f}"]
                    rows.append([method, *ours, *(("-" if v is None else f"{v:g}") for v in (printed[1], printed[0]))])
            columns = [task, "PSNR dB", "± over images", "SSIM", "paper's PSNR", "paper's SSIM"]
            tables.append(Table(columns, rows))
        return tables

    def setting(self) -> str:
        """A sentence on data and protocol."""
        scenes = len({row.scene for row in self.rows})
        depth = f"d / {self.protocol.max_depth:g} m" if self.protocol.max_depth else "d / its own 99.9 % quantile"
        without = f" Without weights here: {', '.join(self.missing)}." if self.missing else ""
        border = f"{self.protocol.border} pixels cut off every side, " if self.protocol.border else ""
        return (
            f"{counted(scenes, 'scene')} of {self.source}, "
            f"{counted(self.protocol.draws, 'draw')} each (A ~ U[0.8, 1]^3, beta ~ U[0.8, 1.6]), "
            f"{depth}, {border}short side {self.protocol.side} pixels. The paper's numbers are of ApolloScape, with a "
            f"scale that it does not state.{without}"
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
    return report("table1", haze, found)


def folder_of_scenes(source: Source | None) -> Path | None:
    """The folder of a source, None for simulated streets. Raises UsageError for a source of images without depth."""
    if source is not None and source.kind not in DEPTH_KINDS:
        hint = "give a folder, rgbd:FOLDER or apollo:FOLDER"
        raise UsageError(f"'{source}' names no scenes with depth", where="--data", hint=hint)
    return None if source is None else source.path


def report(name: str, haze: Haze, found: Measured) -> Report:
    """The report of an evaluation."""
    return Report(
        name=name,
        title="Haze removal and synthesis",
        about=f"{haze.name}, weights {haze.model_id[:12]}. {found.setting()}",
        blocks=found.tables(),
        facts={"model": haze.name, "model_id": haze.model_id, **found.facts()},
        rows=[row._asdict() for row in found.rows],
        failures=found.failures,
    )


def measure(haze: Haze, data: Path | None, protocol: Protocol, folder: Path | None = None) -> Measured:
    """Rows of all available methods on the scenes of a folder or on simulated streets.

    Rows of finished scenes are kept in `folder`. A later call with the same weights, protocol and files measures only the rest.
    """
    if data is None and not protocol.max_depth:
        protocol = replace(protocol, max_depth=MAX_DEPTH)
    learned = [kind for kind in LEARNED if haze.has(kind)]
    weights = {kind: haze.hash_of(kind) for kind in learned}
    journal = Journal(None if folder is None else folder / JOURNAL)
    known = {record["key"]: record["rows"] for record in journal.read() if record.keys() == {"key", "rows"}}
    rows: list[Row] = []
    failures: list[str] = []
    for index, candidate in enumerate(_candidates(data, protocol)):
        key = digest({"scene": candidate.identity, "index": index, "protocol": protocol, "weights": weights})
        if key not in known:
            try:
                scene = candidate.load()
            except LatensError as error:
                failures.append(left_out(error, candidate.name))
                continue
            known[key] = [list(row) for row in rows_of(haze, learned, scene, index, protocol)]
            journal.append([{"key": key, "rows": known[key]}])
        rows += [Row(*row) for row in known[key]]
        logger.info("%d: %s", index + 1, candidate.name)
    if not rows:
        raise InputError("none of the scenes can be used", where=str(data), hint=failures[0] if failures else None)
    source = "simulated streets" if data is None else data.name
    missing = tuple(kind for kind in LEARNED if kind not in learned)
    return Measured(source, protocol, tuple(rows), missing, tuple(failures))


class Candidate(NamedTuple):
    """A test scene: its key in the journal, and a function that reads or simulates it."""

    name: str
    identity: list[Any]
    load: Callable[[], Scene]


def _candidates(data: Path | None, protocol: Protocol) -> Iterator[Candidate]:
    if data is None:
        for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + (protocol.scenes or STREETS)):
            yield Candidate(f"street{seed}", ["street", seed], partial(_street, seed, protocol))
        return
    paths = find_scenes(data)
    if protocol.scenes and len(paths) > protocol.scenes:
        paths = [paths[round(i)] for i in np.linspace(0, len(paths) - 1, protocol.scenes)]
    for path in paths:
        load = partial(load_scene, path, side=protocol.side, border=protocol.border)
        yield Candidate(path.name, [path.name, *_state(path.image), *_state(path.depth)], load)


def _street(seed: int, protocol: Protocol) -> Scene:
    return reduced(cropped(next(simulated([seed])), protocol.border), protocol.side)


def _state(path: Path) -> tuple[str, int, int]:
    """Path, size and modification time, so that an edited file is measured again."""
    try:
        status = path.stat()
    except OSError:  # reading it reports the error
        return str(path), 0, 0
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def rows_of(haze: Haze, learned: Sequence[str], scene: Scene, index: int, protocol: Protocol) -> list[Row]:
    """Rows of every method for every draw of a scene."""
    return [
        Row(task, method, scene.name, draw, psnr(made, wanted), ssim(made, wanted))
        for draw in range(protocol.draws)
        for task, method, made, wanted in _results(haze, learned, show(scene, index, draw, protocol))
    ]


def show(scene: Scene, index: int, draw: int, protocol: Protocol) -> Shown:
    """The scene with haze of one draw, rounded to 8 bits."""
    parameters = draw_haze_parameters(np.random.default_rng([DRAW_SEED, index, draw]), 1)
    depth = torch.from_numpy(relative_depth(scene.depth, protocol.max_depth or None))[None, None]
    clear = to_tensor(scene.image)
    hazy = add_haze(clear, transmission(depth, parameters.beta), parameters.airlight).mul(255).round().div(255)
    return Shown(hazy, clear, depth, parameters)


@torch.no_grad()
def _results(haze: Haze, learned: Sequence[str], shown: Shown) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yields (task, method, output, target)."""
    wanted = {DEHAZE: to_pixels(shown.clear[0]), SYNTHESIS: to_pixels(shown.hazy[0])}
    for method, made in removal_rows(haze, learned, shown):
        yield DEHAZE, method, made, wanted[DEHAZE]
    for method, tensor in synthesis_rows(haze, learned, shown):
        yield SYNTHESIS, method, to_pixels(tensor[0]), wanted[SYNTHESIS]


def removal_rows(haze: Haze, learned: Sequence[str], shown: Shown) -> Iterator[tuple[str, Pixels]]:
    """Yield (method, dehazed image): the hazy image itself, methods as in `latens dehaze`, baselines, upper bounds."""
    hazy, pixels = shown.hazy, to_pixels(shown.hazy[0])
    yield "do nothing", pixels
    yield "dcp", haze.dehaze_pixels(pixels, "dcp")
    for name, config in (("dcp, full size", DarkChannelConfig()), ("dcp, gentle", GENTLE)):
        coarse = methods.dark_channel(blocks_of(hazy, config.shrink), config)
        yield name, to_pixels(methods.refine(coarse, hazy).clear(hazy)[0])
    for method in ("bccr", *learned):
        yield method, haze.dehaze_pixels(pixels, method)
    mean = torch.full((1, 3), MEAN_AIRLIGHT)
    mean_t = transmission(shown.depth, torch.full((1,), MEAN_BETA))
    true_t = transmission(shown.depth, shown.parameters.beta)
    yield "true depth, mean haze", to_pixels(remove_haze(hazy, mean_t, mean)[0])
    yield "true depth and airlight, mean beta", to_pixels(remove_haze(hazy, mean_t, shown.parameters.airlight)[0])
    yield "true transmission and airlight", to_pixels(remove_haze(hazy, true_t, shown.parameters.airlight, floor=0.01)[0])


def synthesis_rows(haze: Haze, learned: Sequence[str], shown: Shown) -> Iterator[tuple[str, Tensor]]:
    """Yield (method, hazy image). Airlight and beta are random, so true depth with mean haze is the upper bound."""
    clear = shown.clear
    mean, beta = torch.full((1, 3), MEAN_AIRLIGHT), torch.full((1,), MEAN_BETA)
    yield "do nothing", clear
    height = clear.shape[2]
    ramp = torch.linspace(1, 0, height)[None, None, :, None].expand_as(shown.depth)
    yield "ramp for depth, mean haze", add_haze(clear, transmission(ramp, beta), mean)
    for kind in learned:
        moved = clear.to(haze.device)
        if kind in TRANSLATORS:
            yield kind, haze.translate(moved, kind, "hazy").cpu()
        elif kind == "physical":
            depth = methods.physical_depth(moved, cast(PhysicalHaze, haze.model(kind))).cpu()
            yield kind, add_haze(clear, transmission(depth, beta), mean)
    yield "true depth, mean haze", add_haze(clear, transmission(shown.depth, beta), mean)
