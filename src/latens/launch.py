"""Training and evaluation by the name of a system, for `latens train` and `latens evaluate`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from latens import arguments
from latens.catalogue import default_model, package_of, recipe_of
from latens.errors import UsageError

if TYPE_CHECKING:
    from latens.contract import Loaded
    from latens.data.source import Source
    from latens.experiments.report import Report
    from latens.progress import OnProgress
    from latens.training.run import RunResult

logger = logging.getLogger(__name__)

DEFAULT_RECIPE = "cpu"
NO_CHANGES: Mapping[str, str] = MappingProxyType({})
SEEN = "the model was trained on images of these data"


class Plan(NamedTuple):
    """A training run to start or to continue."""

    config: Any  # the training configuration
    data: tuple[str, ...]
    init: str | None = None  # folder of the model whose weights the run starts from


def plan_training(
    system: str,
    out: Path,
    *,
    recipe: str | None = None,
    data: Sequence[str | Path] = (),
    settings: Mapping[str, str] = NO_CHANGES,
    resume: bool = False,
    branch: Path | None = None,
    decay: int | None = None,
) -> Plan:
    """Settings and data of a run; `settings` are applied on top.

    They come from a recipe, with `resume` from the run in `out`, and with `branch` from the run in that folder, which the new
    run branches off from. With `decay` a branch takes `decay` steps, and its learning rates fall to zero.

    Raises UsageError for arguments that exclude each other, for unknown names and values, for a folder without a run, for a run
    of another system, recipe or data, and for a trunk without a checkpoint.
    """
    from latens.settings import override

    _check_branch(branch, recipe=recipe, resume=resume, decay=decay)
    package_of(system)  # raises UsageError for an unknown name
    folder = branch or out
    earlier = earlier_run(folder, system, recipe) if resume or branch is not None else None
    config = recipe_of(system, recipe or DEFAULT_RECIPE) if earlier is None else earlier.config
    changed = override(config, settings)
    if earlier is None:
        return Plan(changed, tuple(map(str, data)))
    if data and places_of(data) != places_of(earlier.data):
        hint = f"leave --data out, or start a new run with -o; if the data have moved, edit {folder / 'environment.json'}"
        raise UsageError(f"this run trains on {' '.join(earlier.data) or 'no --data'}", where=str(folder), hint=hint)
    if branch is None:
        return Plan(changed, earlier.data, earlier.init)
    return Plan(changed if decay is None else _decaying(changed, branch, decay), earlier.data)


def _check_branch(branch: Path | None, *, recipe: str | None, resume: bool, decay: int | None) -> None:
    """Raise UsageError for arguments that exclude each other."""
    if branch is None:
        if decay is not None:
            raise UsageError("--decay has no effect without --branch", hint="name the run to branch off from with --branch")
        return
    where = f"--branch {branch}"
    if recipe is not None:
        raise UsageError("--branch and --recipe exclude each other", where=where, hint="leave it out")
    if resume:
        hint = "continue a branch with --resume alone"
        raise UsageError("--branch and --resume exclude each other", where=where, hint=hint)


def _decaying(config: Any, trunk: Path, decay: int) -> Any:
    """The configuration of a branch that takes `decay` steps, in which its learning rates fall to zero."""
    from dataclasses import replace

    from latens.training.run import start_of_branch

    if decay < 1:
        raise UsageError(f"a decay over {decay} steps is not possible", where="--decay", hint="give at least one step")
    steps = start_of_branch(trunk).step + decay
    run, optim = replace(config.run, steps=steps), replace(config.optim, decay_share=decay / steps)
    return replace(config, run=run, optim=optim)


def places_of(data: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Kinds and resolved paths of the values of `--data`."""
    from latens.data.source import parse_sources

    return [(source.kind, os.path.realpath(source.place)) for source in parse_sources(data)]


def located(path: str, began_in: str | None) -> str:
    """A relative path of a run that was started in the folder `began_in`, for a process in another one.

    Where nothing is at that place, as after a move to another machine, it is relative to the current folder, with a line.
    """
    if began_in is None or not path or os.path.isabs(path) or os.path.realpath(began_in) == os.getcwd():
        return path
    there = os.path.join(began_in, path)
    if os.path.exists(there):
        return there
    if os.path.exists(path):
        logger.warning("%s: not at its place when the run was started (%s); taken from the current folder", path, began_in)
    return path


def located_source(word: str, began_in: str | None) -> str:
    """`located` for a value of `--data`, as KIND:PATH,PATH; words that are no paths stay as they are."""
    kind, colon, place = word.partition(":")
    if not colon or os.sep in kind:
        kind, colon, place = "", "", word
    whole = located(place, began_in)  # names may have commas
    parts = place.split(",") if whole == place else [whole]
    return kind + colon + (whole if len(parts) == 1 else ",".join(located(part, began_in) for part in parts))


def earlier_run(folder: Path, system: str, recipe: str | None) -> Plan:
    """Settings and data of the run in `folder`.

    Raises UsageError if there is no run, if it is of another system or recipe, or if its settings cannot be read.
    """
    from latens.legacy import upgrade_run
    from latens.settings import decode_like

    if not (folder / "config.json").is_file():
        what = "this folder holds no run to continue" if folder.is_dir() else "no such folder, so no run to continue"
        raise UsageError(what, where=str(folder), hint="name the folder of the run with -o, or leave --resume out")
    try:
        plain = upgrade_run(json.loads((folder / "config.json").read_text()))
        environment = json.loads((folder / "environment.json").read_text())
        was, started_with = str(plain["system"]), str(plain["recipe"])
        began_in = environment.get("folder")
        data = tuple(located_source(str(word), began_in) for word in environment["data"])
        init = environment.get("init") and located(str(environment["init"]), began_in)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"its settings cannot be read ({error})", where=str(folder), hint="start a new run") from error
    if was != system:
        raise UsageError(f"this run trains {was}, not {system}", where=str(folder), hint="name another folder with -o")
    if recipe is not None and recipe != started_with:
        hint = "leave --recipe out, or start a new run with -o"
        raise UsageError(f"this run was started with the recipe {started_with}", where=str(folder), hint=hint)
    where = str(folder / "config.json")
    return Plan(decode_like(recipe_of(system, started_with, where=where), plain, where=where), data, init)


def train(
    system: str,
    *,
    recipe: str | None = None,
    data: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None,
    settings: Mapping[str, Any] = NO_CHANGES,
    init: str | Path | None = None,
    branch: str | Path | None = None,
    decay: int | None = None,
    max_time: float = float("inf"),
    workers: int = 0,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> RunResult:
    """Train a model of `system`; the run folder is `out` (default: runs/SYSTEM), and its best weights are in out/best.

    `recipe` is a name of `latens recipes` (default "cpu"). `data` are folders or KIND:PATH, one or several. `settings` maps
    dotted names to values, as `--set` does. `init` is a model whose weights a new run starts from. `branch` is the folder of a
    run: the new run starts from its newest checkpoint, with its settings and data. With `decay` it takes `decay` steps, and its
    learning rates fall to zero. `max_time` is in seconds. `workers` processes prepare the batches, 0: one thread. With `resume`
    the run in `out` continues with its own recipe, settings and data; `data`, if given, must be the same. `on_progress` is
    called with the number of steps done and the last losses. Raises UsageError, OutputExists, ModelError, InputError or
    Diverged.
    """
    folder = Path("runs") / arguments.text(system, "system") if out is None else arguments.path(out, "out")
    trunk = None if branch is None else arguments.path(branch, "branch")
    seconds = arguments.real(max_time, "max_time")
    count = arguments.whole(workers, "workers")
    if count < 0:
        raise UsageError(f"{count} workers are not possible", where="--workers", hint="give 0 for one thread, or more")
    plan = plan_training(
        arguments.text(system, "system"),
        folder,
        recipe=None if recipe is None else arguments.text(recipe, "recipe"),
        data=arguments.several(data, "data"),
        settings=arguments.changes(settings, "settings"),
        resume=resume,
        branch=trunk,
        decay=arguments.optional_whole(decay, "decay"),
    )
    if branch is not None and init is not None:
        raise UsageError("--branch and --init exclude each other", hint="a branch has the weights of its trunk")
    if resume and init is not None:
        what = "--init has no effect on a run that is continued"
        raise UsageError(what, where=f"--init {init}", hint="leave it out, or start a new run with -o")

    from latens.contract import open_system
    from latens.data.source import parse_sources
    from latens.hub import locate
    from latens.inference.device import choose_device
    from latens.training.run import train as run_training

    chosen = choose_device(device, threads)
    logger.info("device %s; %s, recipe %s; run folder %s", chosen, system, plan.config.recipe, folder)
    return run_training(
        open_system(system).build,
        plan.config,
        parse_sources(plan.data),
        folder,
        max_time=seconds,
        workers=count,
        resume=resume,
        init=Path(plan.init) if plan.init else None if init is None else locate(init),
        branch=trunk,
        device=str(chosen),
        on_progress=on_progress,
    )


def evaluate(
    system: str,
    *,
    model: str | Path | None = None,
    data: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None,
    settings: Mapping[str, Any] = NO_CHANGES,
    force: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> Report:
    """Evaluate a model on `data` (default: bundled data) and compare it with its baselines.

    The report is saved into `out`, where a stopped evaluation continues; with None nothing is saved. `settings` change the
    options. Raises OutputExists if `out` holds the report of another model, other data or other options, unless `force`.
    """
    from latens.contract import open_system
    from latens.data.folders import check_request, check_writable, noting_request
    from latens.data.notes import collecting_left_out
    from latens.data.source import parse_sources
    from latens.experiments.report import Report
    from latens.inference.device import kept_randomness, plain_torch
    from latens.settings import override, to_dict

    opened = open_system(arguments.text(system, "system"))
    options = override(opened.evaluation.options, arguments.changes(settings, "settings"))
    data = arguments.several(data, "data")
    folder = None if out is None else arguments.path(out, "out")
    if folder is not None:
        check_writable(folder)
    loaded = opened.load(model or default_model(system), device=device, threads=threads)
    announce(loaded)
    request = {"system": system, "model": loaded.model_id, "data": places_of(data), "options": to_dict(options)}
    sources = parse_sources(data)
    seen = [] if model is None else [s for s in _of_training(model, sources) if not opened.evaluation.holds_out(loaded, s)]
    if seen:
        places = ", ".join(source.place for source in seen)
        logger.warning("%s: keep some out of the training to measure what it has learned: %s", SEEN, places)

    def measured() -> Report:
        with plain_torch(), kept_randomness(loaded.device), collecting_left_out() as lines:
            report = opened.evaluation.run(loaded, sources, options, folder).with_failures(lines)
        return replace(report, about=f"{report.about}; {SEEN}") if seen else report

    if folder is None:
        return measured()
    results = [*Report.files(opened.evaluation.name), *opened.evaluation.files]
    check_request(folder, "evaluation", request, results=results, force=force)
    with noting_request(folder, "evaluation", request, results=results):
        report = measured()
        report.save(folder)
    return report


def _of_training(model: str | Path, sources: Sequence[Source]) -> list[Source]:
    """The sources that a model in a run folder was trained on, also a folder in one of plain images."""
    try:
        environment = json.loads((Path(os.path.realpath(model)).parent / "environment.json").read_text())
        trained_on = places_of([located_source(str(word), environment.get("folder")) for word in environment["data"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    folders = {place for kind, place in trained_on if not kind}

    def trained(source: Source) -> bool:
        place = os.path.realpath(source.place)
        within = not source.kind and not folders.isdisjoint(map(str, Path(place).parents))
        return within or (source.kind, place) in trained_on

    return [source for source in sources if trained(source)]


def announce(loaded: Loaded) -> None:
    """Log the first line of a verb: device, precision, model and weight hash."""
    from latens.inference.device import describe

    logger.info(describe(loaded.device, loaded.name, loaded.model_id, loaded.precision))
