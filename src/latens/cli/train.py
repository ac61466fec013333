"""`latens train`"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import ImageComputeOptions, Reporter, parse_settings
from latens.durations import parse_duration
from latens.launch import plan_training
from latens.launch import train as run_training


def train(
    system: Annotated[str, Parameter(help=f"One of: {', '.join(SYSTEMS)}.")],
    /,
    *,
    recipe: Annotated[str | None, Parameter(help="A name from `latens recipes SYSTEM`.  [default: cpu]")] = None,
    data: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True,
            negative=(),
            help="Folders of training images, or KIND:PATH, as reduced:DIR for image_codec, cifar10:DIR for parts, "
            "moons (points; ./moons: a folder) or "
            "mnist:DIR for flow, "
            "kins:FILE.json,DIR for amodal, hazy:DIR clear:DIR for haze, labels:grades.csv for seedlings.",
        ),
    ] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="Run folder.  [default: runs/SYSTEM]")] = None,
    settings: Annotated[
        list[str] | None,
        Parameter(name="--set", help="key=value: change one setting of the recipe; repeat it."),
    ] = None,
    show_config: Annotated[
        bool,
        Parameter(show_default=False, help="Print every setting with its type and meaning; train nothing."),
    ] = False,
    init: Annotated[
        str | None, Parameter(help="Weights that a new run starts from: a name from `latens models`, or a model folder.")
    ] = None,
    branch: Annotated[
        Path | None, Parameter(help="Start a new run from the newest checkpoint of this run, with its settings and data.")
    ] = None,
    decay: Annotated[
        int | None,
        Parameter(help="With --branch: train for so many more steps, over which the learning rates fall to zero."),
    ] = None,
    workers: Annotated[
        int, Parameter(help="Processes that decode the next batches, for data that do not fit into memory; 0: one thread.")
    ] = 0,
    max_time: Annotated[str | None, Parameter(help="Stop after 90s, 30m, 2h ...; --resume continues.")] = None,
    resume: Annotated[
        bool, Parameter(show_default=False, help="Continue the run in OUT where it stopped, with its settings.")
    ] = False,
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> None:
    """Train a model on your own images.

    Training may be stopped at any time, even by kill -9; the same command with --resume continues to the same weights.
    The best weights are in OUT/best; pass that folder to --model. On several GPUs start it with
    torchrun --nproc-per-node N -m latens train ...

        latens train image_codec --recipe cpu --data photos/ -o runs/codec --max-time 2h
        latens train image_codec -o runs/codec --resume
        latens train haze --recipe cpu_mmd --data clear:sunny/ hazy:foggy/
        latens train image_codec --init image_codec --data my-photos/ -o runs/mine --set optim.warmup=1000
        latens train image_codec --branch runs/codec --decay 2000 -o runs/result
        latens train parts --recipe small --show-config
    """
    folder = out or Path("runs") / system
    changes = parse_settings(settings or [])
    reporter = Reporter(options)
    first = os.environ.get("RANK", "0") == "0"  # torchrun starts several processes, and one of them reports
    if not first:
        logging.getLogger("latens").setLevel(logging.ERROR)
    seconds = float("inf") if max_time is None else parse_duration(max_time)
    plan = plan_training(
        system, folder, recipe=recipe, data=data or (), settings=changes, resume=resume, branch=branch, decay=decay
    )
    if show_config:
        list_settings(plan.config, reporter)
        return
    with reporter.progress(plan.config.run.steps, "training") as show:
        result = run_training(
            system,
            recipe=recipe,
            data=data or (),
            out=folder,
            settings=changes,
            init=init,
            branch=branch,
            decay=decay,
            max_time=seconds,
            workers=workers,
            resume=resume,
            device=options.device,
            threads=options.threads,
            on_progress=show,
        )
    if not first:
        return
    resumable = "" if result.ended == "finished" else "; --resume continues"
    best = "validated by the first process" if result.best is None else f"best validation loss {result.best:.5g}"
    reporter.result(
        {"run": str(result.folder), "step": result.step, "best": result.best, "ended": result.ended},
        f"{result.folder}: step {result.step}, {best}, {result.ended}{resumable}",
    )


def list_settings(config: Any, reporter: Reporter) -> None:
    """Every setting: name, value, type, meaning."""
    from latens.settings_help import listed

    for setting in listed(config):
        value = json.dumps(setting.value)
        text = f"{setting.path} = {value}  ({setting.type})" + (f"  {setting.meaning}" if setting.meaning else "")
        reporter.result({**setting._asdict(), "value": setting.value}, text)
