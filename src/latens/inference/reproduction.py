"""A table or figure of a paper as it was reproduced: for a terminal, as JSON, and as one page with its pictures."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

from latens.data.files import write_atomic
from latens.errors import UsageError
from latens.inference.report import Block, Figure, Page, Section, Table
from latens.training.config import override

Scale = TypeVar("Scale")


@dataclass(frozen=True)
class Reproduction:
    """What `latens reproduce` prints and writes."""

    name: str
    setting: str  # data, models and scale, in a sentence
    facts: Mapping[str, Any]  # the same for machines
    blocks: tuple[Block, ...]

    def table(self) -> str:
        """For a terminal: the tables, and of figures the titles and captions."""
        shown = [block.text() for block in self.blocks if isinstance(block, Table)]
        figures = [block for block in self.blocks if isinstance(block, Figure)]
        shown += [": ".join(filter(None, (figure.title, figure.caption))) for figure in figures]
        return "\n\n".join([f"{self.name}: {self.setting}", *shown])

    def to_dict(self) -> dict[str, Any]:
        found = [
            {"caption": block.caption, "columns": list(block.columns), "rows": [list(row) for row in block.rows]}
            for block in self.blocks
            if isinstance(block, Table)
        ]
        return {"name": self.name, "setting": self.setting, **self.facts, "tables": found}

    def save(self, out: Path) -> None:
        """NAME.html, NAME.json and the figures as NAME.png, NAME-2.png, ..."""
        Page(self.name, [Section(self.name, list(self.blocks))], lead=self.setting).save(out / f"{self.name}.html")
        write_atomic(out / f"{self.name}.json", json.dumps(self.to_dict(), indent=2).encode())
        images = [block.image for block in self.blocks if isinstance(block, Figure)]
        for number, image in enumerate(images, start=1):
            write_atomic(out / f"{self.name}{f'-{number}' if number > 1 else ''}.png", image)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean ± standard deviation over seeds, in the unit of the values; the bare number of a single seed, - of none."""
    if not values:
        return "-"
    return format(mean(values), form) + (f" ± {stdev(values):{form.lstrip('+')}}" if len(values) > 1 else "")


def scale_of(
    system: str, name: str, names: Collection[str], recipe: str, scales: Mapping[str, Scale], settings: Mapping[str, str]
) -> Scale:
    """The scale of a recipe with `settings` changed. Raises UsageError for a name, recipe or setting that is not known."""
    if name not in names:
        raise UsageError(f"{system} has no '{name}'", hint=f"there are {', '.join(names)}")
    if recipe not in scales:
        raise UsageError(f"no recipe '{recipe}'", where="--recipe", hint=f"known: {', '.join(scales)}")
    return override(scales[recipe], dict(settings))
