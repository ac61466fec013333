"""`latens demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from latens.cli.common import Compute, Voice


def demo(
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the report; it is written anew.")] = Path(
        "demo-report"
    ),
    options: Compute = Compute(),  # noqa: B008
) -> None:
    """See it work: bundled photographs through the bundled models, in one HTML page that needs no network.

    latens demo -o demo-report
    """
    from latens.inference.demo import write_demo

    voice = Voice(options)
    report = write_demo(out, device=options.device, threads=options.threads, progress=voice.say)
    voice.result({"report": str(report.page), "seconds": report.seconds}, str(report.page))
