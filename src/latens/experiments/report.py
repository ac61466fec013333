"""The report of an evaluation or of a reproduced table or figure, as text, JSON and an HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from latens.data.files import write_atomic
from latens.errors import InputError, counted
from latens.inference.page import Block, Figure, Gallery, Page, Part, Section, Table


@dataclass(frozen=True, kw_only=True)
class Report:
    """Tables and figures for people, measurements for machines, and the settings of both."""

    name: str  # of its files: NAME.html, NAME.json, ...
    title: str
    about: str  # data, model, scale and seeds, in a sentence
    blocks: Sequence[Block] = ()  # tables and figures
    parts: Sequence[Part] = ()  # more blocks, under headings
    facts: Mapping[str, Any] = field(default_factory=dict)  # settings and summary, JSON-able
    rows: Sequence[Mapping[str, Any]] = ()  # single measurements, JSON-able
    failures: Sequence[str] = ()  # inputs that were left out, and why

    def __repr__(self) -> str:
        return f"Report({self.name}: {self.title}, {counted(len(self.rows), 'row')}, {counted(len(self.failures), 'failure')})"

    @property
    def exit_status(self) -> int:
        """0, or the status of InputError if an input was left out."""
        return InputError.exit_status if self.failures else 0

    def with_failures(self, lines: Sequence[str]) -> Report:
        """The report with further inputs that were left out."""
        return replace(self, failures=tuple(dict.fromkeys([*self.failures, *lines])))

    def table(self) -> str:
        """Text for a terminal: the tables, and titles and captions of figures."""
        blocks = [*self.blocks, *(block for part in self.parts for block in part.blocks)]
        shown = [text for block in blocks if (text := _text(block))]
        left_out = [f"left out: {failure}" for failure in self.failures]
        return "\n\n".join([f"{self.title}: {self.about}", *shown, *left_out])

    def to_dict(self) -> dict[str, Any]:
        """Facts and tables; the single measurements are in the file NAME-rows.jsonl. NaN becomes None."""
        tables = [
            {"caption": block.caption, "columns": list(block.columns), "rows": [list(row) for row in block.rows]}
            for block in [*self.blocks, *(block for part in self.parts for block in part.blocks)]
            if isinstance(block, Table)
        ]
        plain = {"name": self.name, "title": self.title, "about": self.about, **self.facts, "tables": tables}
        return {**_finite(plain), "failures": list(self.failures)}

    @staticmethod
    def files(name: str) -> list[str]:
        """Names and patterns of all files that `save` may write for a report of this name."""
        return [f"{name}.html", f"{name}.json", f"{name}-rows.jsonl", f"{name}.png", f"{name}-[0-9]*.png"]

    def save(self, folder: Path) -> None:
        """Write NAME.html, NAME.json, NAME-rows.jsonl (if there are rows), and the figures as NAME.png, NAME-2.png, ..."""
        folder.mkdir(parents=True, exist_ok=True)
        page = Page(self.title, [Section(self.title, list(self.blocks), list(self.parts))], lead=self.about)
        page.save(folder / f"{self.name}.html")
        write_atomic(folder / f"{self.name}.json", (json.dumps(self.to_dict(), indent=2) + "\n").encode())
        if self.rows:
            lines = "".join(json.dumps(_finite(dict(row))) + "\n" for row in self.rows)
            write_atomic(folder / f"{self.name}-rows.jsonl", lines.encode())
        images = [block.image for block in self.blocks if isinstance(block, Figure) and block.image]
        for number, image in enumerate(images, start=1):
            write_atomic(folder / f"{self.name}{f'-{number}' if number > 1 else ''}.png", image)


def _text(block: Block) -> str:
    if isinstance(block, Table):
        return block.text()
    if isinstance(block, Figure):
        return ": ".join(filter(None, (block.title, block.caption)))
    if isinstance(block, Gallery):
        return "\n".join(filter(None, (_text(figure) for figure in block.figures)))
    return ""


def _finite(value: Any) -> Any:
    """The value with NaN and infinities replaced by None, as JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean ± standard deviation over seeds, in the unit of the values; the number itself for a single seed, "-" for none."""
    if not values:
        return "-"
    return format(mean(values), form) + (f" ± {stdev(values):{form.lstrip('+')}}" if len(values) > 1 else "")


def paired(first: Sequence[float], second: Sequence[float], form: str = "+.2f") -> str:
    """`spread` of the differences of two rows, first minus second, paired by seed."""
    return spread([a - b for a, b in zip(first, second, strict=True)], form)


def seeds_of(count: int) -> str:
    """Sentence of a caption on the number of seeds."""
    return "One seed, which shows no order." if count == 1 else f"Mean ± deviation over {count} seeds."
