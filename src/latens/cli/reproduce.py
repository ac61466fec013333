"""`latens reproduce`"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import ComputeOptions, Force, Model, Reporter, parse_settings

logger = logging.getLogger(__name__)


def reproduce(
    what: Annotated[
        str, Parameter(help=f"SYSTEM/NAME, or SYSTEM for all of its tables and figures; systems: {', '.join(SYSTEMS)}.")
    ],
    /,
    *,
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

    Finished runs are kept in OUT (default: reproduce-SYSTEM): a stopped command continues, and tables share runs.

        latens reproduce image_codec/table5.4.1 --data kodak/ -o tables
        latens reproduce image_codec --recipe tiny --data kodak/
        latens reproduce parts/table1 --data cifar100:data/ -o parts-tables
        latens reproduce amodal/table3 --data simulated:opaque --set seeds=5 -o amodal-tables
    """
    from latens.launch import reproduce as make

    reporter = Reporter(options)
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
        logger.info("written to %s", folder / f"{report.name}.html")
        status = status or report.exit_status
    return status
