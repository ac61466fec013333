"""`latens demo`: every system on photographs that are installed with it, in one page that holds all its pictures.

Systems stand above this shelf, so their sections are named by string and imported when the demo runs.
"""

from __future__ import annotations

import importlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Protocol

from latens import catalogue
from latens.inference.report import Page, Section

SECTIONS = (
    "latens.systems.image_codec.demo",
    "latens.systems.amodal.demo",
    "latens.systems.haze.demo",
    "latens.systems.parts.demo",
)
"""Modules with a function `section` (see `DemoSection`), in the order of the page; shown where weights are in the box."""


class DemoSection(Protocol):
    """The function `section` of a system's demo module: does the work, writes its files into `folder`, tells of it.

    Links in the section are relative to the parent of `folder`, where the page is.
    """

    def __call__(self, folder: Path, *, device: str, threads: int | None, progress: Callable[[str], None]) -> Section: ...


class DemoReport(NamedTuple):
    """Where the page is, and how long each section took in seconds."""

    page: Path
    seconds: dict[str, float]


class Photograph(NamedTuple):
    """A photograph that comes with scikit-image, free of rights; stored without loss."""

    name: str
    title: str
    credit: str
    path: Path


def photographs() -> tuple[Photograph, ...]:
    """The photographs all systems may show: inside the wheel of scikit-image, so nothing is downloaded."""
    folder = Path(str(files("skimage"))) / "data"
    return (
        Photograph("coffee", "Cup of coffee", "Rachel Michetti, CC0", folder / "coffee.png"),
        Photograph("chelsea", "Chelsea the cat", "Stéfan van der Walt, CC0", folder / "chelsea.png"),
        Photograph("astronaut", "Eileen Collins", "NASA, public domain", folder / "astronaut.png"),
    )


def write_demo(
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
    sections: Sequence[str] | None = None,
) -> DemoReport:
    """Runs the section of every system that has weights in the box (or of `sections`) and writes `out`/index.html.

    The files of a system go to a folder of its name; what is there is replaced. Raises what the systems raise (ModelMissing,
    DeviceUnavailable, StorageFull, ...).
    """
    tell = progress or (lambda line: None)
    out.mkdir(parents=True, exist_ok=True)
    done: list[Section] = []
    seconds: dict[str, float] = {}
    for module in sections_with_weights() if sections is None else sections:
        system = _system(module)
        run: DemoSection = importlib.import_module(module).section
        started = time.perf_counter()
        tell(f"{system} ...")
        done.append(run(out / system, device=device, threads=threads, progress=tell))
        seconds[system] = round(time.perf_counter() - started, 2)
    page = out / "index.html"
    Page("latens", done, LEAD, _footer(seconds)).save(page)
    return DemoReport(page, seconds)


def sections_with_weights() -> list[str]:
    """The modules of `SECTIONS` whose systems have a model in the catalogue."""
    systems = {entry.system for entry in catalogue.MODELS.values()}
    return [module for module in SECTIONS if _system(module) in systems]


def _system(module: str) -> str:
    return module.split(".")[-2]


LEAD = (
    "Vision models with learned latent codes. Everything on this page was computed just now, on this machine, by the "
    "models in the box; the page holds all its pictures and needs no network."
)


def _footer(seconds: dict[str, float]) -> str:
    import torch

    from latens import __version__

    times = ", ".join(f"{system} {taken:.1f} s" for system, taken in seconds.items())
    return (
        f"latens {__version__}, torch {torch.__version__}, Python {platform.python_version()} on {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads. Time: {times}. "
        "Photographs: scikit-image."
    )
