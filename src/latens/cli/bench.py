"""`latens bench`"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import Compute, Model, Voice


def bench(
    system: Annotated[str, Parameter(help=f"One of: {', '.join(SYSTEMS)}.")],
    /,
    *,
    model: Model | None = None,
    options: Compute = Compute(),  # noqa: B008
) -> None:
    """Speed and peak memory on this machine: every part apart, on a photograph that comes with latens.

    latens bench image_codec --threads 2
    """
    from latens.catalogue import import_part

    part = import_part(system, "bench")
    loaded = import_part(system, "predict").load(model or system, device=options.device, threads=options.threads)
    voice = Voice(options)
    voice.heading(loaded)
    report = part.run(loaded)
    voice.result(report.to_dict(), report.table())
