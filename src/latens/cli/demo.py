"""`latens demo`"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from latens.cli.common import ComputeOptions, Force, Reporter

if TYPE_CHECKING:
    from latens.inference.page import Section


def demo(
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the report.")] = Path("demo-report"),
    force: Force = False,
    options: ComputeOptions = ComputeOptions(),  # noqa: B008
) -> None:
    """Run the models of all systems on bundled and simulated images and write one HTML page that needs no network.

    latens demo -o demo-report
    """
    from latens.data.folders import check_request, check_writable, noting_request
    from latens.experiments.demo import PAGE, write_demo

    check_writable(out)
    sections = sections_with_weights(options)
    results = [PAGE, *(name for name, _ in sections)]  # each section has a folder
    check_request(out, "demo", {}, results=results, force=force)
    with noting_request(out, "demo", {}, results=results):
        report = write_demo(out, sections)
    Reporter(options).result({"report": str(report.page), "seconds": report.seconds}, str(report.page))


def sections_with_weights(options: ComputeOptions) -> list[tuple[str, Callable[[Path], Section]]]:
    """The sections of the systems that have a bundled model, in the order of the catalogue."""
    from latens.catalogue import MODELS, SYSTEMS, default_model
    from latens.contract import open_system

    def section_of(name: str) -> Callable[[Path], Section] | None:
        opened = open_system(name)
        make = opened.demo
        if make is None:
            return None
        return lambda folder: make(opened.load(default_model(name), device=options.device, threads=options.threads), folder)

    bundled = {entry.system for entry in MODELS.values()}
    sections = [(name, section_of(name)) for name in SYSTEMS if name in bundled]
    return [(name, section) for name, section in sections if section is not None]
