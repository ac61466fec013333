"""`latens train`"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import Compute, Voice, parse_duration, parse_settings
from latens.errors import UsageError


def train(
    system: Annotated[str, Parameter(help=f"One of: {', '.join(SYSTEMS)}.")],
    /,
    *,
    recipe: Annotated[str | None, Parameter(help="tiny, desk, gpu or paper.  [default: desk]")] = None,
    data: Annotated[
        list[Path] | None,
        Parameter(
            consume_multiple=True, negative=(), help="Folders of training pictures; for parts and amodal also NAME:PATH."
        ),
    ] = None,
    hazy: Annotated[
        Path | None, Parameter(help="haze: folder of real hazy pictures, with --clear for real clear ones.")
    ] = None,
    clear: Annotated[
        Path | None, Parameter(help="haze: folder of real clear pictures; they need not be of the same scenes.")
    ] = None,
    rgbd: Annotated[Path | None, Parameter(help="haze: folder of pictures with depth; the same as --data.")] = None,
    apollo: Annotated[Path | None, Parameter(help="haze: folder of ApolloScape; the same as --data.")] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="The run's folder.  [default: runs/SYSTEM]")] = None,
    settings: Annotated[
        list[str] | None,
        Parameter(name="--set", negative=(), help="key=value: change one setting of the recipe; repeat it."),
    ] = None,
    init: Annotated[
        str | None, Parameter(help="Start from these weights: a name from `latens models`, or a model folder.")
    ] = None,
    max_time: Annotated[str | None, Parameter(help="Stop after 90s, 30m, 2h ...; --resume goes on.")] = None,
    resume: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Go on where the run in OUT stopped, with its settings.")
    ] = False,
    options: Compute = Compute(),  # noqa: B008
) -> None:
    """Train a model on your own pictures.

    It may be stopped at any time, even by kill -9: the same command with --resume goes on to the same weights.
    The best weights are in OUT/best; every --model takes that folder.

        latens train image_codec --recipe desk --data photos/ -o runs/codec --max-time 2h
        latens train image_codec -o runs/codec --resume
        latens train haze --recipe desk_mmd --clear sunny/ --hazy foggy/
        latens train image_codec --init image_codec --data my-photos/ -o runs/mine --set optim.warmup=1000
    """
    if system not in SYSTEMS:
        raise UsageError(f"there is no system {system!r}", hint=f"systems: {', '.join(SYSTEMS)}")
    run_dir = out or Path("runs") / system
    data = [*(data or []), *haze_sources(system, hazy=hazy, clear=clear, rgbd=rgbd, apollo=apollo)] or None
    overrides = parse_settings(settings or [])
    seconds = None if max_time is None else parse_duration(max_time)
    if resume:
        earlier = earlier_run(run_dir, system)
        recipe = recipe or earlier.recipe
        data = data or earlier.data
        overrides = {**earlier.settings, **overrides} if recipe == earlier.recipe else overrides
    if init is not None and resume:
        raise UsageError("--init starts a new run and --resume goes on with one", hint="give one of them")
    voice = Voice(options)

    from latens.hub import locate
    from latens.inference.device import choose_device
    from latens.training.run import train as run_training

    device = choose_device(options.device, options.threads)
    voice.say(f"device {device}; {system}, recipe {recipe or 'desk'}; run folder {run_dir}")
    result = run_training(
        system,
        recipe=recipe or "desk",
        data=data or [],
        run_dir=run_dir,
        overrides=overrides,
        max_time=seconds,
        resume=resume,
        init=None if init is None else locate(init),
        device=str(device),
    )
    going_on = "" if result.ended == "finished" else "; --resume goes on"
    voice.result(
        {"run": str(result.folder), "step": result.step, "best": result.best, "ended": result.ended},
        f"{result.folder}: step {result.step}, best validation loss {result.best:.5g}, {result.ended}{going_on}",
    )


def haze_sources(system: str, *, hazy: Path | None, clear: Path | None, rgbd: Path | None, apollo: Path | None) -> list[Path]:
    """What these options add to --data. Raises UsageError for another system, and for one kind of real pictures alone."""
    if system != "haze" and any(path is not None for path in (hazy, clear, rgbd, apollo)):
        raise UsageError("--hazy, --clear, --rgbd and --apollo are for haze", hint="name training pictures with --data")
    if (hazy is None) != (clear is None):
        raise UsageError("--hazy and --clear belong together", hint="give both folders")
    scenes = [path for path in (rgbd, apollo) if path is not None]
    return scenes if hazy is None else [*scenes, Path(f"hazy:{hazy}"), Path(f"clear:{clear}")]


class EarlierRun(NamedTuple):
    """What a run folder says of how it was started."""

    recipe: str | None = None
    data: list[Path] | None = None
    settings: Mapping[str, str] = MappingProxyType({})


def earlier_run(run_dir: Path, system: str) -> EarlierRun:
    """Recipe, data and settings of the run in this folder, so that `--resume` needs none of them again."""
    try:
        config = json.loads((run_dir / "config.json").read_text())
        environment = json.loads((run_dir / "environment.json").read_text())
        was = config.pop("system")
        recipe = config.pop("recipe")
        data = [Path(path) for path in environment["data"]]
    except FileNotFoundError:
        return EarlierRun()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"its settings cannot be read ({error})", where=str(run_dir), hint="start a new run") from error
    if was != system:
        raise UsageError(f"this run trains {was}, not {system}", where=str(run_dir), hint="name another folder with -o")
    return EarlierRun(recipe, data, flat(config))


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as the settings that `--set` takes."""
    settings: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            settings |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            settings[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return settings
