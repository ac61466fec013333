"""`latens reproduce`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from latens.catalogue import SYSTEMS
from latens.cli.common import Compute, Model, Voice, parse_settings
from latens.errors import UsageError


def reproduce(
    what: Annotated[str, Parameter(help=f"SYSTEM/NAME, or SYSTEM for all; systems: {', '.join(SYSTEMS)}.")],
    /,
    *,
    recipe: Annotated[str, Parameter(help="The scale: tiny, desk (hours on two cores) or paper.")] = "desk",
    model: Model | None = None,
    data: Annotated[
        list[Path] | None,
        Parameter(consume_multiple=True, negative=(), help="The folder of test pictures, or a data set; for amodal several."),
    ] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="Folder for the page, JSON and figures.")] = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", help="Change a value of the scale: key=value.")] = None,
    options: Compute = Compute(),  # noqa: B008
) -> None:
    """A table or figure of the papers: their numbers beside ours.

    What has been run is kept in OUT (default: reproduce-SYSTEM), so a stopped command goes on, and tables share runs.

        latens reproduce image_codec/table5.4.1 --data kodak/ -o tables
        latens reproduce image_codec --recipe tiny --data kodak/
        latens reproduce parts/table1 --data cifar100:data/ -o parts-tables
        latens reproduce amodal/table3 --data simulated:opaque --set seeds=5 -o amodal-tables
    """
    system, _, name = what.partition("/")
    from latens.catalogue import import_part

    part = import_part(system, "reproduce")
    voice = Voice(options)
    folder = out or Path(f"reproduce-{system}")
    settings = parse_settings(set_ or [])
    names = [name] if name else list(part.NAMES)
    trained_here = [each for each in names if each in getattr(part, "TRAINED_HERE", ())]

    def tell(each: str, found: Any) -> None:
        voice.result(found.to_dict(), found.table())
        voice.say(f"written to {folder / each}.html")

    several = getattr(part, "SEVERAL_SETS", False)
    if data and len(data) > 1 and not several:
        raise UsageError(f"{system} takes one data set", where="--data", hint="run the command once for each")
    one = data[0] if data else None

    if trained_here:
        from latens.inference.device import choose_device

        device = str(choose_device(options.device, options.threads))
        for each in trained_here:
            found = part.train_and_reproduce(
                each, data if several else one, folder, recipe=recipe, settings=settings, progress=voice.say, device=device
            )
            tell(each, found)
    shown = [each for each in names if each not in trained_here]
    if shown:
        loaded = import_part(system, "predict").load(model or system, device=options.device, threads=options.threads)
        voice.heading(loaded)
        for each in shown:
            tell(each, part.reproduce(each, loaded, one, folder, recipe=recipe, settings=settings, progress=voice.say))
