"""Tables and figures of the four papers that a computation can answer, and the records of their reproductions.

Drawings and tables of settings are not listed. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from latens.catalogue import SYSTEMS
from latens.errors import UsageError, did_you_mean

RECORDS = Path(__file__).parent / "records"
EVERYTHING = "all"  # the tables and figures of all systems


class Paper(NamedTuple):
    """A paper or a chapter: its data, and the names of its tables and figures for `latens reproduce SYSTEM/NAME`."""

    source: str  # author and year, with the chapter
    data: str  # what the published numbers were measured on, and whether it can be had
    names: tuple[str, ...]


class Listed(NamedTuple):
    """A table or figure with the record of its largest reproduction; None without one."""

    system: str
    name: str
    paper: Paper
    record: Mapping[str, Any] | None

    @property
    def state(self) -> str:
        """The scale and the data of the record."""
        if self.record is None:
            return "not reproduced yet"
        data = ", ".join(self.record["data"]) or "bundled data"
        return f"{self.record['recipe']} scale, {data}, {self.record['date']}"


def _numbered(kind: str, prefix: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{kind}{prefix}{number}" for number in numbers)


PAPERS: Mapping[str, Paper] = MappingProxyType(
    {
        "image_codec": Paper(
            "Perugachi-Diaz 2024, chapter 5 and appendix C",
            "Kodak and Tecnick images, and single-rate models of other authors; both sets are public",
            (
                *_numbered("table", "5.4.", 1, 2, 3),
                *_numbered("figure", "5.3.", 1, 2),
                *_numbered("figure", "5.4.", 1, 2, 3, 4),
                *_numbered("figure", "C.", 1, 2, 3, 4),
            ),
        ),
        "amodal": Paper(
            "Jang et al. 2020",
            "Embryo images that are private (Table 1), and KINS, which is public for research",
            _numbered("table", "", 1, 2, 3),
        ),
        "haze": Paper(
            "Li et al. 2019",
            "2,000 images of ApolloScape, public for research, whose choice is not published; photographs without a source",
            ("table1", *_numbered("figure", "", 2, 3, 4, 5)),
        ),
        "parts": Paper(
            "Gupta et al. 2020",
            "CIFAR-100, MIT Indoor-67, Places205 and ImageNet, which are public for research",
            (*_numbered("table", "", *range(1, 8)), *_numbered("figure", "", 1, 3, 4, 5)),
        ),
        "video_codec": Paper(
            "Perugachi-Diaz 2024, chapter 6 and appendix D",
            "DAVIS and Cityscapes, which are public, and a model trained on Vimeo-90k for a million steps",
            (
                "tableD.1",
                "figure6.1.1",
                *_numbered("figure", "6.4.", *range(1, 6)),
                *_numbered("figure", "D.", *range(1, 10)),
            ),
        ),
        "flow": Paper(
            "Perugachi-Diaz 2024, chapter 4 and appendix B",
            "Toy densities, CIFAR-10 and ImageNet32, which are public",
            (
                *_numbered("table", "4.4.", *range(1, 6)),
                *_numbered("table", "4.5.", 1, 2),
                *_numbered("table", "B.", *range(1, 5)),
                "figure4.3.1",
                *_numbered("figure", "4.4.", 1, 2),
                "figure4.5.1",
                *_numbered("figure", "B.", *range(1, 5)),
            ),
        ),
        "seedlings": Paper(
            "Perugachi-Diaz 2024, chapter 3 and appendix A",
            "Photographs of cabbage seedlings, which are private",
            (
                *_numbered("table", "3.", 1, 4, 5, 6),
                "figure3.1",
                *_numbered("figure", "3.", *range(3, 9)),
                "figureA.1",
            ),
        ),
    }
)
"""By system, in the order of the catalogue."""


def listed(what: str | None = None) -> Iterator[Listed]:
    """All tables and figures, those of "SYSTEM", or only "SYSTEM/NAME". Raises UsageError for an unknown system or name."""
    system, _, name = (what or "").partition("/")
    if system and system not in PAPERS:
        raise UsageError(f"there is no system '{system}'", hint=did_you_mean(system, SYSTEMS, f"known: {', '.join(SYSTEMS)}"))
    if name and name not in PAPERS[system].names:
        hint = did_you_mean(name, PAPERS[system].names, f"all names: latens reproduce --list {system}")
        raise UsageError(f"the paper of {system} has no '{name}'", hint=hint)
    for each in (system,) if system else PAPERS:
        paper = PAPERS[each]
        yield from (Listed(each, one, paper, read_record(each, one)) for one in paper.names if name in ("", one))


def read_record(system: str, name: str) -> Mapping[str, Any] | None:
    """The record of a reproduction that ships with the package: command, recipe, data, date, commit and report."""
    try:
        found: Mapping[str, Any] = json.loads((RECORDS / system / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found
