"""`latens evaluate`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import Compute, Model, Voice, parse_settings
from latens.errors import UsageError


def evaluate(
    system: Annotated[str, Parameter(help=f"One of: {', '.join(SYSTEMS)}.")],
    /,
    *,
    model: Model | None = None,
    data: Annotated[
        Path | None, Parameter(help="The folder of test pictures, or a data set.  [default: what comes with latens]")
    ] = None,
    probe: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative=(), help="parts only: conv1, conv1-3, conv1-5, linear or knn; several too."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        Parameter(
            name="--set", negative=(), help="haze only: key=value changes how scenes are shown, as border=12; repeat it."
        ),
    ] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="Folder for table, plot and JSON.")] = None,
    options: Compute = Compute(),  # noqa: B008
) -> int:
    """Measure a model on pictures it has not seen, beside what it competes with.

    Rates are counted from the bytes of real files. Table, plot and JSON go to OUT (default: evaluation-SYSTEM).

        latens evaluate image_codec --data kodak/ -o kodak-report
        latens evaluate haze --data nyu/ --set border=12
        latens evaluate parts --model runs/parts/best --data cifar100:data/ --probe conv1-5 linear
    """
    from latens.catalogue import import_part

    part = import_part(system, "evaluate")
    if probe and not hasattr(part, "PROBES"):
        raise UsageError(f"{system} has no probes", where="--probe", hint="leave it out")
    if settings and not hasattr(part, "protocol_with"):
        raise UsageError(f"the evaluation of {system} has no settings", where="--set", hint="leave it out")
    choice: dict[str, Any] = {"probes": probe} if probe else {}
    if settings:
        choice["protocol"] = part.protocol_with(parse_settings(settings), data)
    loaded = import_part(system, "predict").load(model or system, device=options.device, threads=options.threads)
    voice = Voice(options)
    voice.heading(loaded)
    folder = out or Path(f"evaluation-{system}")
    report = part.evaluate(loaded, data, folder, progress=voice.say, **choice)
    voice.result(report.to_dict(), report.table())
    voice.say(f"written to {folder}")
    return int(report.exit_status)
