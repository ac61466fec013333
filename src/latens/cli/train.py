"""`latens train`"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from latens.catalogue import SYSTEMS, package_of, recipe_of
from latens.cli.common import ComputeOptions, Reporter, parse_duration, parse_settings
from latens.errors import UsageError

logger = logging.getLogger(__name__)

DEFAULT_RECIPE = "cpu"


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
            help="Folders of training images, or KIND:PATH, as cifar10:DIR for parts, kins:FILE.json,DIR for amodal, "
            "hazy:DIR clear:DIR for haze.",
        ),
    ] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="The run's folder.  [default: runs/SYSTEM]")] = None,
    settings: Annotated[
        list[str] | None,
        Parameter(name="--set", negative=(), help="key=value: change one setting of the recipe; repeat it."),
    ] = None,
    show_config: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="Print every setting with its type and meaning; train nothing."),
    ] = False,
    init: Annotated[
        str | None, Parameter(help="Start from these weights: a name from `latens models`, or a model folder.")
    ] = None,
    max_time: Annotated[str | None, Parameter(help="Stop after 90s, 30m, 2h ...; --resume continues.")] = None,
    resume: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Continue the run in OUT where it stopped, with its settings.")
    ] = False,
    options: ComputeOptions = ComputeOptions(),  # noqa: B008
) -> None:
    """Train a model on your own images.

    Training may be stopped at any time, even by kill -9: the same command with --resume continues to the same weights.
    The best weights are in OUT/best; every --model takes that folder.

        latens train image_codec --recipe cpu --data photos/ -o runs/codec --max-time 2h
        latens train image_codec -o runs/codec --resume
        latens train haze --recipe cpu_mmd --data clear:sunny/ hazy:foggy/
        latens train image_codec --init image_codec --data my-photos/ -o runs/mine --set optim.warmup=1000
        latens train parts --recipe small --show-config
    """
    from latens.settings import override

    package_of(system)  # an unknown name ends here
    folder = out or Path("runs") / system
    if init is not None and resume:
        raise UsageError("--init starts a new run and --resume continues one", hint="give one of them")
    earlier = earlier_run(folder, system, recipe) if resume else None
    config = recipe_of(system, recipe or DEFAULT_RECIPE) if earlier is None else earlier.config
    config = override(config, parse_settings(settings or []))
    reporter = Reporter(options)
    if show_config:
        list_settings(config, reporter)
        return
    seconds = float("inf") if max_time is None else parse_duration(max_time)

    from latens.contract import open_system
    from latens.data.source import parse_sources
    from latens.hub import locate
    from latens.inference.device import choose_device
    from latens.training.run import train as run_training

    device = choose_device(options.device, options.threads)
    logger.info("device %s; %s, recipe %s; run folder %s", device, system, config.recipe, folder)
    result = run_training(
        open_system(system).build,
        config,
        parse_sources(data or (earlier.data if earlier else ())),
        folder,
        max_time=seconds,
        resume=resume,
        init=None if init is None else locate(init),
        device=str(device),
    )
    resumable = "" if result.ended == "finished" else "; --resume continues"
    reporter.result(
        {"run": str(result.folder), "step": result.step, "best": result.best, "ended": result.ended},
        f"{result.folder}: step {result.step}, best validation loss {result.best:.5g}, {result.ended}{resumable}",
    )


def list_settings(config: Any, reporter: Reporter) -> None:
    """Every setting: name, value, type, meaning."""
    from latens.settings_help import listed

    for setting in listed(config):
        value = json.dumps(setting.value)
        text = f"{setting.path} = {value}  ({setting.type})" + (f"  {setting.meaning}" if setting.meaning else "")
        reporter.result({**setting._asdict(), "value": setting.value}, text)


class EarlierRun(NamedTuple):
    """How the run in a folder was started."""

    config: Any
    data: tuple[str, ...]


def earlier_run(folder: Path, system: str, recipe: str | None) -> EarlierRun | None:
    """Settings and data of the run in this folder, so that `--resume` needs none of them again; None for a new folder.

    Raises UsageError for a run of another system or recipe, and for settings that cannot be read.
    """
    from latens.legacy import upgrade_run
    from latens.settings import decode_like

    try:
        plain = upgrade_run(json.loads((folder / "config.json").read_text()))
        environment = json.loads((folder / "environment.json").read_text())
        was, started_with = str(plain["system"]), str(plain["recipe"])
        data = tuple(map(str, environment["data"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"its settings cannot be read ({error})", where=str(folder), hint="start a new run") from error
    if was != system:
        raise UsageError(f"this run trains {was}, not {system}", where=str(folder), hint="name another folder with -o")
    if recipe is not None and recipe != started_with:
        hint = "leave --recipe out, or start a new run with -o"
        raise UsageError(f"this run was started with the recipe {started_with}", where=str(folder), hint=hint)
    config = decode_like(recipe_of(system, started_with), plain, where=str(folder / "config.json"))
    return EarlierRun(config, data)
