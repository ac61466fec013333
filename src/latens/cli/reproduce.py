"""`latens reproduce`"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import ComputeOptions, Force, Model, Reporter, parse_settings
from latens.errors import UsageError
from latens.papers import EVERYTHING
from latens.papers import listed as find_listed

logger = logging.getLogger(__name__)


def reproduce(
    what: Annotated[
        str,
        Parameter(help=f"SYSTEM/NAME, SYSTEM for all of its tables and figures, or all; systems: {', '.join(SYSTEMS)}."),
    ] = EVERYTHING,
    /,
    *,
    listed: Annotated[bool, Parameter(name="--list", help="List the tables and figures with their state, and end.")] = False,
    recipe: Annotated[str, Parameter(help="Scale: tiny, cpu (hours on two cores) or paper.")] = "cpu",
    model: Model | None = None,
    data: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, help="Folders of images, or KIND:PATH."),
    ] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="Folder of pages, JSON and figures.")] = None,
    settings: Annotated[
        list[str] | None, Parameter(name="--set", help="key=value: change a setting of the scale; repeatable.")
    ] = None,
    force: Force = False,
    options: ComputeOptions = ComputeOptions(),  # noqa: B008
) -> int:
    """Reproduce a table or figure of a paper and compare its numbers with ours.

    Finished runs are kept in OUT (default: reproduce-SYSTEM): a stopped command continues, and tables share runs. The list
    shows the largest reproduction whose record ships with the package. At the scale tiny, all systems can be reproduced by one
    command, on data that they write.

        latens reproduce --list
        latens reproduce --list haze
        latens reproduce all --recipe tiny
        latens reproduce image_codec/table5.4.1 --data kodak/ -o tables
        latens reproduce image_codec --recipe tiny --data kodak/
        latens reproduce parts/table1 --data cifar100:data/ -o parts-tables
        latens reproduce amodal/table3 --data simulated:opaque --set seeds=5 -o amodal-tables
    """
    reporter = Reporter(options)
    if listed:
        return _show(reporter, None if what == EVERYTHING else what)
    from latens.reproduction import reproduce as make

    if os.environ.get("RANK", "0") != "0":  # `make` refuses torchrun, with the message of its first process
        return UsageError.exit_status
    folder = out or Path(f"reproduce-{what.partition('/')[0]}")
    status = 0
    for report in make(
        what,
        recipe=recipe,
        model=model,
        data=data or (),
        out=folder,
        settings=parse_settings(settings or []),
        force=force,
        device=options.device,
        threads=options.threads,
    ):
        reporter.result(report.to_dict(), report.table())
        place = folder / report.facts["system"] if what == EVERYTHING else folder
        logger.info("written to %s", place / f"{report.name}.html")
        status = status or report.exit_status
    return status


def _show(reporter: Reporter, system: str | None) -> int:
    """List tables and figures; in text, those of one paper are below its name and data."""
    paper = None
    for item in find_listed(system):
        heading = "" if item.paper is paper else f"\n{item.paper.source} ({item.system})\n  data: {item.paper.data}\n"
        line = f"  {item.system}/{item.name}".ljust(28)
        plain = {"system": item.system, "name": item.name, "paper": item.paper.source, "paper_data": item.paper.data}
        record = item.record or {}
        kept = {key: record.get(key) for key in ("title", "recipe", "data", "date", "commit", "command")}
        text = "; ".join(filter(None, (item.state, record.get("title"))))
        reporter.result({**plain, "state": item.state, **kept}, f"{heading}{line}{text}")
        paper = item.paper
    return 0
