"""`latens bench`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from latens import __version__
from latens.catalogue import SYSTEMS, default_model
from latens.cli.common import ComputeOptions, Model, Reporter
from latens.errors import UsageError
from latens.launch import announce


def bench(
    system: Annotated[str | None, Parameter(help=f"One of: {', '.join(SYSTEMS)}; all of them if left out.")] = None,
    /,
    *,
    model: Model | None = None,
    repeats: Annotated[int, Parameter(validator=Number(gte=1, lte=10_000), help="Runs of each case.")] = 7,
    history: Annotated[
        Path | None,
        Parameter(name=["--out", "-o"], help="File of earlier reports, one JSON line each; this one is appended."),
    ] = None,
    options: ComputeOptions = ComputeOptions(),  # noqa: B008
) -> None:
    """Measure time, memory and bits on this machine, case by case, on bundled images, beside other methods for the same task.

    Every case runs once to warm up and then --repeats times; without SYSTEM this takes several minutes.

        latens bench image_codec --threads 2
        latens bench -o history.jsonl
    """
    from latens.contract import open_system
    from latens.experiments.bench import append_history, check_history
    from latens.experiments.bench import bench as measure
    from latens.inference.device import describe
    from latens.inference.memory import tune_allocator

    if system is None and model is not None:
        raise UsageError("a model is of one system", where="--model", hint="name the system, or leave --model out")
    if history is not None:
        check_history(history)
    tune_allocator()  # as the verbs do
    reporter = Reporter(options)
    for name in SYSTEMS if system is None else (system,):
        opened = open_system(name)
        loaded = opened.load(model or default_model(name), device=options.device, threads=options.threads)
        announce(loaded)
        about = f"{opened.title}: {describe(loaded.device, loaded.name, loaded.model_id, loaded.precision)}"
        cases = opened.cases(loaded)
        with reporter.progress(len(cases) * (repeats + 1), name) as show:
            report = measure(cases, about, loaded.device, repeats=repeats, on_call=show)
        reporter.result({"system": name, **report.to_dict()}, report.table())
        if history is not None:
            append_history(history, name, report, version=__version__)
