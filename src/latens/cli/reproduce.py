"""`latens reproduce`"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import ComputeOptions, Model, Reporter, announce, parse_settings
from latens.errors import UsageError

if TYPE_CHECKING:
    from latens.contract import AnySystem, Artifact, Loaded
    from latens.experiments.lab import Lab

logger = logging.getLogger(__name__)


def reproduce(
    what: Annotated[str, Parameter(help=f"SYSTEM/NAME, or SYSTEM for all; systems: {', '.join(SYSTEMS)}.")],
    /,
    *,
    recipe: Annotated[str, Parameter(help="The scale: tiny, cpu (hours on two cores) or paper.")] = "cpu",
    model: Model | None = None,
    data: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative=(), help="Folders of images, or KIND:PATH."),
    ] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="Folder for the page, JSON and figures.")] = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", help="Change a value of the scale: key=value.")] = None,
    options: ComputeOptions = ComputeOptions(),  # noqa: B008
) -> int:
    """Reproduce a table or figure of the papers: their numbers beside ours.

    Finished runs are kept in OUT (default: reproduce-SYSTEM), so a stopped command continues, and tables share runs.

        latens reproduce image_codec/table5.4.1 --data kodak/ -o tables
        latens reproduce image_codec --recipe tiny --data kodak/
        latens reproduce parts/table1 --data cifar100:data/ -o parts-tables
        latens reproduce amodal/table3 --data simulated:opaque --set seeds=5 -o amodal-tables
    """
    from latens.contract import open_system

    system, _, name = what.partition("/")
    opened = open_system(system)
    reporter = Reporter(options)
    folder = out or Path(f"reproduce-{system}")
    changes = parse_settings(set_ or [])
    status = 0
    for each in [name] if name else list(opened.artifacts):
        artifact = artifact_of(opened, each)
        lab = lab_of(opened, artifact, recipe, changes, model, data or [], folder, options)
        report = artifact.make(lab)
        report.save(folder)
        reporter.result(report.to_dict(), report.table())
        logger.info("written to %s", folder / f"{report.name}.html")
        status = status or report.exit_status
    return status


def artifact_of(system: AnySystem, name: str) -> Artifact[Any, Any]:
    """A table or figure by name. Raises UsageError for an unknown one."""
    if name in system.artifacts:
        return system.artifacts[name]
    close = difflib.get_close_matches(name, system.artifacts, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(system.artifacts) or 'none'}"
    raise UsageError(f"{system.name} has no '{name}'", hint=hint)


def lab_of(
    system: AnySystem,
    artifact: Artifact[Any, Any],
    recipe: str,
    changes: dict[str, str],
    model: str | None,
    data: list[str],
    folder: Path,
    options: ComputeOptions,
) -> Lab[Any, Any]:
    """The laboratory that a table or figure is made in. Raises UsageError for an unknown recipe or setting."""
    from latens.data.source import parse_sources
    from latens.experiments.lab import Lab
    from latens.inference.device import choose_device
    from latens.settings import override

    if recipe not in artifact.scales:
        raise UsageError(f"no recipe '{recipe}'", where="--recipe", hint=f"known: {', '.join(artifact.scales)}")
    device = choose_device(options.device, options.threads)

    def open_model(place: Path | None) -> Loaded:
        loaded: Loaded = system.load(place or model or system.name, device=options.device, threads=options.threads)
        if place is None:
            announce(loaded)
        return loaded

    return Lab(
        build=system.build,
        open_model=open_model,
        sources=parse_sources(data),
        scale=override(artifact.scales[recipe], changes),
        recipe=recipe,
        folder=folder,
        device=str(device),
    )
