"""Table 1 of 002 on any scenes with depth: every method both ways, between what doing nothing gives and what the truth gives.

Haze is made by 002, section 4.1.1, with d in [0, 1] of each scene's own reach. PSNR and SSIM are of 8-bit RGB pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from latens.data.depth import relative_depth
from latens.data.files import write_atomic
from latens.errors import InputError, LatensError, UsageError
from latens.inference.page import Page, Section, Table
from latens.metrics.image import mean_db, psnr, ssim
from latens.systems.haze import methods
from latens.systems.haze.baselines.dark_channel import GENTLE, DarkChannelConfig, dark_channel_prior
from latens.systems.haze.config import LEARNED, TRANSLATORS
from latens.systems.haze.dataset import pictures
from latens.systems.haze.formation import (
    MEAN_AIRLIGHT,
    MEAN_BETA,
    Weather,
    add_haze,
    draw_weather,
    remove_haze,
    transmission,
)
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.predict import REACH, Haze, to_pixels
from latens.systems.haze.scenes import HELD_OUT_SEED, Scene, find_scenes, load_scene, simulated
from latens.training.config import override

DEHAZE, SYNTHESIS = "haze removal", "haze synthesis"
DRAW_SEED = 4110  # stream of the weathers that scenes are shown in
PAPER = {  # Table 1 of 002: SSIM and PSNR of synthesis, then of removal; ApolloScape, resolution and depth scale not stated
    "unit": (0.8524, 24.5181, 0.8255, 21.1384),
    "cyclegan": (0.8858, 25.1917, 0.8432, 22.6649),
    "dcp": (None, None, 0.8338, 18.2011),
    "bccr": (None, None, 0.8234, 18.4564),
    "dehazenet": (None, None, 0.8832, 20.2258),
    "mmd": (0.9271, 27.3772, 0.8801, 23.6779),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How scenes are shown. `reach` 0: relative depth by each scene's own reach."""

    side: int = 240  # scenes are reduced to this short side
    draws: int = 3  # weathers per scene
    scenes: int = 0  # at most so many, evenly spread; 0: all
    border: int = 0  # pixels cut off every side (12 removes the white frame of NYU)
    reach: float = 0.0
    simulated: int = 8  # streets, where no folder is given


class Row(NamedTuple):
    task: str
    method: str
    scene: str
    draw: int
    psnr: float
    ssim: float | None


class Shown(NamedTuple):
    """A scene under one weather, as tensors of a batch of one."""

    hazy: Tensor
    clear: Tensor
    depth: Tensor
    weather: Weather


@dataclass(frozen=True)
class EvaluationReport:
    model: str
    model_id: str
    protocol: Protocol
    source: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...]  # methods without weights here
    failures: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        return InputError.exit_status if self.failures else 0

    def means(self) -> dict[tuple[str, str], tuple[float, float | None, float]]:
        """Of every task and method: PSNR in dB, SSIM, and the standard deviation of PSNR over scenes and draws."""
        found: dict[tuple[str, str], tuple[float, float | None, float]] = {}
        for key in dict.fromkeys((row.task, row.method) for row in self.rows):
            rows = [row for row in self.rows if (row.task, row.method) == key]
            values = [min(row.psnr, 100.0) for row in rows]
            similar = [row.ssim for row in rows if row.ssim is not None]
            found[key] = (mean_db(values), float(np.mean(similar)) if similar else None, float(np.std(values)))
        return found

    def tables(self) -> list[Table]:
        """One for removal and one for synthesis, the paper's number beside ours."""
        tables = []
        for task, offset in ((DEHAZE, 2), (SYNTHESIS, 0)):
            rows = []
            for (own_task, method), (decibel, similarity, spread) in self.means().items():
                if own_task == task:
                    printed = PAPER.get(method, (None,) * 4)[offset : offset + 2]
                    ours = [f"{decibel:.2f}", f"{spread:.2f}", "-" if similarity is None else f"{similarity:.4f}"]
                    rows.append([method, *ours, *(("-" if v is None else f"{v:g}") for v in (printed[1], printed[0]))])
            columns = [task, "PSNR dB", "± over pictures", "SSIM", "paper's PSNR", "paper's SSIM"]
            tables.append(Table(columns, rows, self.setting() if task == SYNTHESIS else ""))
        return tables

    def setting(self) -> str:
        scenes = len({row.scene for row in self.rows})
        depth = f"d / {self.protocol.reach:g} m" if self.protocol.reach else "d / its own 99.9 % quantile"
        without = f" Without weights here: {', '.join(self.missing)}." if self.missing else ""
        border = f"{self.protocol.border} pixels cut off every side, " if self.protocol.border else ""
        return (
            f"{scenes} scenes of {self.source}, {self.protocol.draws} weathers each (A ~ U[0.8, 1]^3, beta ~ U[0.8, 1.6]), "
            f"{depth}, {border}short side {self.protocol.side} pixels. The paper's numbers are of ApolloScape, with a "
            f"scale that it does not state.{without}"
        )

    def table(self) -> str:
        """Everything for a terminal."""
        parts = [f"{self.model}, weights {self.model_id[:12]}", *(table.text() for table in self.tables())]
        return "\n\n".join([*parts, *(f"left out: {failure}" for failure in self.failures)])

    def to_dict(self) -> dict[str, Any]:
        """Means and how they came about; the rows themselves are in rows.jsonl."""
        means = [
            {"task": task, "method": method, "psnr": decibel, "ssim": similarity, "psnr_deviation": spread}
            for (task, method), (decibel, similarity, spread) in self.means().items()
        ]
        facts = {"model": self.model, "model_id": self.model_id, "source": self.source, "protocol": asdict(self.protocol)}
        return {**facts, "means": means, "without_weights": list(self.missing), "left_out": list(self.failures)}

    def save(self, out: Path) -> None:
        """Writes the page, the means and the rows into a folder."""
        Page("Haze: Table 1", [Section("Table 1", self.tables())], self.setting()).save(out / "table1.html")
        write_atomic(out / "table1.json", json.dumps(self.to_dict(), indent=2).encode())
        write_atomic(out / "rows.jsonl", "".join(json.dumps(row._asdict()) + "\n" for row in self.rows).encode())


def evaluate(
    haze: Haze,
    data: Path | None = None,
    out: Path | None = None,
    *,
    protocol: Protocol | None = None,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """All methods that can run here, on the scenes with depth of a folder that no model has seen, or on simulated streets.

    Raises UnreadableInput where the folder holds no such scene, InputError where none can be used.
    """
    protocol = protocol or protocol_with({}, data)
    tell = progress or (lambda line: None)
    learned = [kind for kind in LEARNED if haze.has(kind)]
    rows: list[Row] = []
    failures: list[str] = []
    for index, found in enumerate(_scenes(data, protocol)):
        if isinstance(found, str):
            failures.append(found)
            continue
        for draw in range(protocol.draws):
            shown = show(found, index, draw, protocol)
            rows += [
                Row(task, method, found.name, draw, psnr(made, wanted), ssim(made, wanted))
                for task, method, made, wanted in _results(haze, learned, shown)
            ]
        tell(f"{index + 1}: {found.name}")
    if not rows:
        raise InputError("none of the scenes can be used", where=str(data), hint=failures[0] if failures else None)
    source = "simulated streets" if data is None else data.name
    missing = tuple(kind for kind in LEARNED if kind not in learned)
    report = EvaluationReport(haze.name, haze.model_id, protocol, source, tuple(rows), missing, tuple(failures))
    if out is not None:
        report.save(out)
    return report


def protocol_with(settings: dict[str, str], data: Path | None) -> Protocol:
    """The usual protocol for these scenes with `settings` changed. Raises UsageError for a setting that is not known."""
    protocol = override(Protocol(reach=0.0 if data else REACH), settings)
    if protocol.draws < 1 or any(value < 0 for value in asdict(protocol).values()):
        raise UsageError("a setting is too small", where="--set", hint="draws is 1 or more, the others 0 or more")
    return protocol


def _scenes(data: Path | None, protocol: Protocol) -> Iterator[Scene | str]:
    """Scenes, or why one is left out."""
    if data is None:
        yield from simulated(range(HELD_OUT_SEED, HELD_OUT_SEED + protocol.simulated))
        return
    paths = find_scenes(data)
    if protocol.scenes and len(paths) > protocol.scenes:
        paths = [paths[round(i)] for i in np.linspace(0, len(paths) - 1, protocol.scenes)]
    for path in paths:
        try:
            yield load_scene(path, side=protocol.side, border=protocol.border)
        except LatensError as error:
            yield f"{path.name}: {error.what}"


def show(scene: Scene, index: int, draw: int, protocol: Protocol) -> Shown:
    """The scene under its weather of that draw, rounded to 8 bits."""
    weather = draw_weather(np.random.default_rng([DRAW_SEED, index, draw]), 1)
    depth = torch.from_numpy(relative_depth(scene.depth, protocol.reach or None))[None, None]
    clear = pictures([scene.image])
    hazy = add_haze(clear, transmission(depth, weather.beta), weather.airlight).mul(255).round().div(255)
    return Shown(hazy, clear, depth, weather)


@torch.no_grad()
def _results(haze: Haze, learned: Sequence[str], shown: Shown) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Task, method, what it made and what was wanted."""
    wanted = {DEHAZE: to_pixels(shown.clear), SYNTHESIS: to_pixels(shown.hazy)}
    for task, rows in ((DEHAZE, removal_rows(haze, learned, shown)), (SYNTHESIS, synthesis_rows(haze, learned, shown))):
        for method, made in rows:
            yield task, method, to_pixels(made), wanted[task]


def removal_rows(haze: Haze, learned: Sequence[str], shown: Shown) -> Iterator[tuple[str, Tensor]]:
    """Floor, methods, ceilings."""
    hazy = shown.hazy
    yield "do nothing", hazy
    yield "dcp", dark_channel_prior(hazy, DarkChannelConfig()).clear(hazy)
    yield "dcp, gentle", dark_channel_prior(hazy, GENTLE).clear(hazy)
    yield "bccr", haze.clear(hazy, "bccr")
    for kind in learned:
        yield kind, haze.clear(hazy.to(haze.device), kind).cpu()
    mean = torch.full((1, 3), MEAN_AIRLIGHT)
    mean_t = transmission(shown.depth, torch.full((1,), MEAN_BETA))
    true_t = transmission(shown.depth, shown.weather.beta)
    yield "true depth, mean haze", remove_haze(hazy, mean_t, mean)
    yield "true depth and airlight, mean beta", remove_haze(hazy, mean_t, shown.weather.airlight)
    yield "true transmission and airlight", remove_haze(hazy, true_t, shown.weather.airlight, floor=0.01)


def synthesis_rows(haze: Haze, learned: Sequence[str], shown: Shown) -> Iterator[tuple[str, Tensor]]:
    """The same for synthesis; airlight and beta are random, so that true depth with mean haze is as good as it gets."""
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
