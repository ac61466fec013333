"""`latens bench`"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.catalogue import SYSTEMS, default_model
from latens.cli.common import ComputeOptions, Model, Reporter
from latens.launch import announce


def bench(
    system: Annotated[str, Parameter(help=f"One of: {', '.join(SYSTEMS)}.")],
    /,
    *,
    model: Model | None = None,
    repeats: Annotated[int, Parameter(validator=Number(gte=1, lte=10_000), help="Runs of each case.")] = 7,
    options: ComputeOptions = ComputeOptions(),  # noqa: B008
) -> None:
    """Measure speed and peak memory on this machine, case by case, on bundled images.

    latens bench image_codec --threads 2
    """
    from latens.contract import open_system
    from latens.experiments.bench import bench as measure
    from latens.inference.device import describe

    opened = open_system(system)
    loaded = opened.load(model or default_model(system), device=options.device, threads=options.threads)
    announce(loaded)
    about = describe(loaded.device, loaded.name, loaded.model_id, loaded.precision)
    report = measure(opened.cases(loaded), about, loaded.device, repeats=repeats)
    Reporter(options).result(report.to_dict(), report.table())
