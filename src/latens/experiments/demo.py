"""The demo page: every system on bundled images, in one HTML file that contains its images."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from latens.inference.page import Page, Section

logger = logging.getLogger(__name__)

PAGE = "index.html"
LEAD = (
    "Vision models with learned latent codes. The bundled models computed everything on this page on this machine. Every "
    "section has the command for images of your own. The page contains its images and needs no network."
)


class DemoReport(NamedTuple):
    """Path of the page, and the time of each section in seconds."""

    page: Path
    seconds: dict[str, float]


def write_demo(out: Path, sections: Sequence[tuple[str, Callable[[Path], Section]]]) -> DemoReport:
    """Make every (name, section) and write `out`/index.html; a section writes its files into `out`/name.

    Links in a section are relative to `out`. Existing files are replaced. Raises the errors of the sections.
    """
    out.mkdir(parents=True, exist_ok=True)
    done: list[Section] = []
    seconds: dict[str, float] = {}
    for name, make in sections:
        started = time.perf_counter()
        logger.info("%s ...", name)
        done.append(make(out / name))
        seconds[name] = round(time.perf_counter() - started, 2)
    page = out / PAGE
    Page("latens", done, LEAD, _footer(seconds)).save(page)
    return DemoReport(page, seconds)


def _footer(seconds: dict[str, float]) -> str:
    import torch

    times = ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items())
    return (
        f"latens {importlib.metadata.version('latens')}, torch {torch.__version__}, Python {platform.python_version()} on "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads. "
        f"Time: {times}. Photographs: scikit-image. Nuclei: 2018 Data Science Bowl (CC0)."
    )
