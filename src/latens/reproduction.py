"""Reproduction of tables and figures by name, for `latens reproduce`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from latens import arguments
from latens.catalogue import SYSTEMS
from latens.errors import UsageError, did_you_mean
from latens.launch import DEFAULT_RECIPE, NO_CHANGES, announce, places_of
from latens.papers import EVERYTHING

if TYPE_CHECKING:
    from latens.contract import AnySystem, Artifact, Loaded
    from latens.experiments.lab import ExperimentRunner
    from latens.experiments.report import Report

EXAMPLE = "example"  # folder of the data that a system writes for `reproduce all`


def reproduce(
    what: str,
    *,
    recipe: str = DEFAULT_RECIPE,
    model: str | Path | None = None,
    data: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None,
    settings: Mapping[str, Any] = NO_CHANGES,
    force: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> Iterator[Report]:
    """Yield tables and figures of a paper: "SYSTEM/NAME", all of "SYSTEM", or "all" of all systems. Each is saved into `out`.

    `out` is reproduce-SYSTEM or reproduce-all by default. Finished runs and measurements are kept there, so a stopped
    reproduction continues. `settings` change the scale. "all" has only the recipe "tiny": every system works on data that it
    writes, in its folder in `out`. The fact `request` of a report holds the arguments. Raises UsageError for unknown names and
    under `torchrun`, OutputExists if `out` holds the report of another request, unless `force`.
    """
    _refuse_torchrun()
    system = arguments.text(what, "what").partition("/")[0]
    folder = Path(f"reproduce-{system}") if out is None else arguments.path(out, "out")
    data, settings = arguments.several(data, "data"), arguments.changes(settings, "settings")
    if what != EVERYTHING:
        wanted = _Request(what, arguments.text(recipe, "recipe"), model, data, settings)
        yield from _reproduced(wanted, folder, force=force, device=device, threads=threads)
        return
    _check_everything(recipe, model, data, settings)
    for system in SYSTEMS:
        example = example_data(system, folder / system / EXAMPLE)
        wanted = _Request(system, recipe, None, tuple(example), {})
        yield from _reproduced(wanted, folder / system, force=force, device=device, threads=threads)


def _refuse_torchrun() -> None:
    """Raise UsageError in a process that `torchrun` started beside others: they would train one row together and hang."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        hint = "start the command several times with one --out: the processes share the rows; `latens train` takes torchrun"
        raise UsageError("a reproduction cannot run under torchrun with several processes", where="torchrun", hint=hint)


class _Request(NamedTuple):
    """What to reproduce, from what."""

    what: str
    recipe: str
    model: str | Path | None
    data: tuple[str, ...]
    settings: dict[str, str]


def _check_everything(recipe: str, model: object, data: Sequence[object], settings: Mapping[str, str]) -> None:
    """Raise UsageError for arguments that systems cannot share."""
    if recipe != "tiny":
        hint = "add --recipe tiny, or name a system: its larger scales need data of one kind"
        raise UsageError(f"the recipe '{recipe}' is not possible for all systems at once", where="--recipe", hint=hint)
    for name, given in (("--model", model), ("--data", data), ("--set", settings)):
        if given:
            raise UsageError(f"{name} is of one system", where=name, hint="leave it out, or name a system")


def example_data(system: str, folder: Path) -> list[str]:
    """Write the small data set of a system into `folder`, and return it as values of `--data`."""
    from latens.contract import open_system

    folder.mkdir(parents=True, exist_ok=True)
    example = open_system(system).example(folder)
    return [str(source) for source in example.test_sources]


def _reproduced(wanted: _Request, folder: Path, *, force: bool, device: str, threads: int | None) -> Iterator[Report]:
    from latens.contract import open_system
    from latens.data.folders import MADE_WITH, check_request, check_writable, noting_request
    from latens.data.notes import collecting_left_out
    from latens.experiments.lab import JOURNAL
    from latens.experiments.report import Report
    from latens.experiments.trainings import with_trainings
    from latens.inference.device import choose_device, kept_randomness, plain_torch
    from latens.settings import override, to_dict

    system, names = _names_of(wanted.what)
    opened = open_system(system)
    check_writable(folder)
    artifacts = {each: _artifact_of(opened, each) for each in names or opened.artifacts}
    scales: dict[str, Any] = {}
    requests: dict[str, Any] = {}
    for each, artifact in artifacts.items():
        if wanted.recipe not in artifact.scales:
            hint = f"known: {', '.join(artifact.scales)}"
            raise UsageError(f"no recipe '{wanted.recipe}'", where="--recipe", hint=hint)
        scales[each] = override(artifact.scales[wanted.recipe], wanted.settings)
        requests[each] = {
            "system": system,
            "model": str(wanted.model or system),
            "data": places_of(wanted.data),
            "scale": to_dict(scales[each]),
        }
        known = os.path.lexists(folder / MADE_WITH)
        files = [*Report.files(each), *([] if known else [JOURNAL])]  # tables share the journal
        check_request(folder, each, requests[each], results=files, force=force)
    open_model = _opener(opened, wanted.model, device, threads)
    for each, artifact in artifacts.items():
        noting = noting_request(folder, each, requests[each], results=[*Report.files(each), JOURNAL])
        with noting, plain_torch(), kept_randomness(choose_device(device, threads)), collecting_left_out() as lines:
            lab = _lab_of(opened, open_model, wanted, scales[each], folder, device, threads)
            made = with_trainings(artifact.make(lab), artifact.trainings(scales[each]))
            request = {**wanted._asdict(), "what": f"{system}/{each}", "model": wanted.model and str(wanted.model)}
            report = replace(made, facts={**made.facts, "system": system, "request": request}).with_failures(lines)
            report.save(folder)
        yield report


def _names_of(what: str) -> tuple[str, list[str]]:
    """The system and the name in "SYSTEM/NAME". The list is empty for "SYSTEM" alone. Raises UsageError for "SYSTEM/"."""
    system, slash, name = what.partition("/")
    if slash and not name:
        hint = f"name a table or figure: latens reproduce --list {system}"
        raise UsageError("there is no name after the /", where=what, hint=hint)
    return system, [name] if name else []


def _artifact_of(system: AnySystem, name: str) -> Artifact[Any, Any]:
    if name in system.artifacts:
        return system.artifacts[name]
    hint = did_you_mean(name, system.artifacts, f"all names: latens reproduce --list {system.name}")
    raise UsageError(f"{system.name} has no '{name}'", hint=hint)


def _opener(system: AnySystem, model: str | Path | None, device: str, threads: int | None) -> Callable[[Path | None], Loaded]:
    """A function that loads a model folder, or with None the user's model, once for all tables and figures."""
    from functools import cache

    @cache
    def users_model() -> Loaded:
        loaded: Loaded = system.load(model or system.name, device=device, threads=threads)
        announce(loaded)
        return loaded

    def open_model(place: Path | None) -> Loaded:
        if place is None:
            return users_model()
        trained: Loaded = system.load(place, device=device, threads=threads)
        return trained

    return open_model


def _lab_of(
    system: AnySystem,
    open_model: Callable[[Path | None], Loaded],
    wanted: _Request,
    scale: Any,
    folder: Path,
    device: str,
    threads: int | None,
) -> ExperimentRunner[Any, Any]:
    from latens.data.source import parse_sources
    from latens.experiments.lab import ExperimentRunner
    from latens.inference.device import choose_device

    return ExperimentRunner(
        build=system.build,
        open_model=open_model,
        sources=parse_sources(wanted.data),
        scale=scale,
        recipe=wanted.recipe,
        folder=folder,
        device=str(choose_device(device, threads)),
    )
