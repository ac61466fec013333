"""`latens recipes`"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from latens.cli.common import OutputOptions, Reporter


def recipes(
    system: Annotated[str | None, Parameter(help="List only this system.")] = None,
    /,
    *,
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """List the training recipes.

    `latens train SYSTEM --recipe NAME --show-config` prints all settings of a recipe.

        latens recipes image_codec
    """
    from latens.catalogue import SYSTEMS
    from latens.catalogue import recipes as recipes_of

    reporter = Reporter(options)
    for name in SYSTEMS if system is None else (system,):
        for recipe, make in recipes_of(name).items():
            line = (make.__doc__ or "").strip().split("\n\n")[0]
            line = " ".join(line.split())
            reporter.result({"system": name, "recipe": recipe, "about": line}, f"{name:<12}  {recipe:<16}  {line}")
