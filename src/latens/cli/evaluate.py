"""`latens evaluate`"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import Force, ImageComputeOptions, Model, Reporter, parse_settings

logger = logging.getLogger(__name__)


def evaluate(
    system: Annotated[str, Parameter(help=f"One of: {', '.join(SYSTEMS)}.")],
    /,
    *,
    model: Model | None = None,
    data: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True,
            help="Folders of test images, or KIND:PATH.  [default: bundled data]",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        Parameter(name="--set", help="key=value: change an option of the evaluation, such as border=12; repeatable."),
    ] = None,
    show_config: Annotated[bool, Parameter(show_default=False, help="Print the options with type, value and meaning.")] = False,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="Folder of the page, JSON and journal.")] = None,
    force: Force = False,
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Evaluate a model on held-out images and compare it with its baselines.

    Rates are computed from the bytes of real files. The report goes to OUT (default: evaluation-SYSTEM).

        latens evaluate image_codec --data kodak/ -o kodak-report
        latens evaluate haze --data nyu/ --set border=12
        latens evaluate parts --model runs/parts/best --data cifar100:data/ --set probes=conv1-5,linear
    """
    from latens.cli.train import list_settings
    from latens.launch import evaluate as run_evaluation

    changes = parse_settings(settings or [])
    reporter = Reporter(options)
    if show_config:
        from latens.contract import open_system
        from latens.settings import override

        list_settings(override(open_system(system).evaluation.options, changes), reporter)
        return 0
    folder = out or Path(f"evaluation-{system}")
    report = run_evaluation(
        system,
        model=model,
        data=data or (),
        out=folder,
        settings=changes,
        force=force,
        device=options.device,
        threads=options.threads,
    )
    reporter.result(report.to_dict(), report.table())
    logger.info("written to %s", folder / f"{report.name}.html")
    return report.exit_status
