"""docs/coverage.md: its names and values are those of the code, and every equation, table and figure of the papers occurs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from latens.papers import PAPERS

PAGE = Path(__file__).parent.parent / "docs/coverage.md"
PACKAGE = re.compile(r"^Package `latens\.systems\.(\w+)`\.", re.MULTILINE)
NAMED = re.compile(r"`([^`]+)`(?: = `([^`]+)`)?")
ARTIFACT = re.compile(r"(\w+)/((?:table|figure)[\w.]+)")
NUMBER = r"(?:[A-D]\.)?\d+(?:\.\d+)*"
EQUATIONS = re.compile(rf"^Eqs?\. ({NUMBER}(?:(?:, | to ){NUMBER})*)")
STATES = ("as printed", "as in ", "as distributed", "slip: ", "differs: ", "chosen", "missing", "derivation")
PLACES = {"", "README", "docstring", "comment", "results", "here"}
OPEN = ("slip", "differs", "chosen", "missing")  # states that need a description


def numbered(prefix: str, last: int) -> set[str]:
    return {f"{prefix}{number}" for number in range(1, last + 1)}


PRINTED: Mapping[str, set[str]] = {
    "amodal": numbered("", 4),
    "haze": numbered("", 13),
    "seedlings": numbered("3.", 7),
    "flow": numbered("4.2.", 3) | numbered("4.3.", 10) | numbered("4.5.", 2) | numbered("B.", 25),
    "image_codec": numbered("5.2.", 3) | numbered("5.3.", 8) | {"5.4.1"},
    "video_codec": numbered("6.3.", 7) | {"D.1"},
    "parts": numbered("", 11),
}
"""Numbers of the equations of each paper or chapter."""


class Row(NamedTuple):
    paper: str
    code: str
    state: str
    described: str


def sections() -> dict[str, list[Row]]:
    """The rows of the page by system."""
    found = {}
    for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        package = PACKAGE.search(part)
        assert package is not None, part.splitlines()[0]
        lines = [line.strip("| ") for line in part.splitlines() if line.startswith("| ") and not line.startswith("| Paper |")]
        rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
        found[package[1]] = [Row(*row, *[""] * (4 - len(row))) for row in rows]
    return found


SECTIONS = sections()


def expanded(numbers: str) -> Iterator[str]:
    """Numbers of "3.1, 3.2" or "B.1 to B.10"."""
    for part in numbers.split(", "):
        first, _, last = part.partition(" to ")
        prefix = first.rpartition(".")[0]
        dot = "." if prefix else ""
        yield from (f"{prefix}{dot}{n}" for n in range(int(first.split(".")[-1]), int((last or first).split(".")[-1]) + 1))


@cache
def resolved(name: str, system: str) -> Any:
    """What a name of the page means: relative to the package of the system or to latens. `f()` is a call without arguments."""
    for home in (f"latens.systems.{system}", "latens"):
        found: Any = importlib.import_module(home)
        for part in name.split("."):
            found = member(found, part.removesuffix("()"))
            if found is None:
                break
            found = found() if part.endswith("()") else found
        else:
            return found
    raise LookupError(name)


def member(of: Any, name: str) -> Any:
    if isinstance(of, ModuleType) and hasattr(of, "__path__") and importlib.util.find_spec(f"{of.__name__}.{name}"):
        return importlib.import_module(f"{of.__name__}.{name}")
    return getattr(of, name, None)


def documented(name: str, system: str) -> bool:
    """True if the function, class or module has a docstring; for a value, that of the recipe, class or module that holds it."""
    name = name.partition("()")[0]
    meant = resolved(name, system)
    if not callable(meant) and not isinstance(meant, ModuleType):
        meant = resolved(name.rpartition(".")[0], system)
    return bool(meant.__doc__)


def test_names_of_the_page_are_resolved_and_unknown_ones_are_not() -> None:
    assert resolved("codes.mmd.mmd", "haze") is importlib.import_module("latens.codes.mmd").mmd
    assert resolved("recipes.paper().optim.lr", "haze") == 1e-4
    for unknown in ("codes.mmd.nmd", "objective.nothing", "recipes.paper().optim.rate"):
        with pytest.raises(LookupError):
            resolved(unknown, "haze")
    assert list(expanded("4, 5, B.9 to B.11")) == ["4", "5", "B.9", "B.10", "B.11"]


def test_every_system_has_a_section() -> None:
    assert set(SECTIONS) == set(PAPERS) == set(PRINTED)


@pytest.mark.parametrize("system", PAPERS)
def test_names_exist_and_values_are_those_of_the_code(system: str) -> None:
    for row in SECTIONS[system]:
        found = NAMED.findall(row.code)
        assert found, row
        for name, value in found:
            artifact = ARTIFACT.fullmatch(name)
            if artifact is not None:
                assert artifact[1] == system
                assert artifact[2] in PAPERS[system].names, row
                continue
            meant = resolved(name, system)
            if value:
                wanted = ast.literal_eval(value)
                assert (dict(meant) if isinstance(wanted, dict) else meant) == wanted, row


@pytest.mark.parametrize("system", PAPERS)
def test_every_equation_table_and_figure_occurs(system: str) -> None:
    rows = SECTIONS[system]
    equations = [number for row in rows if (found := EQUATIONS.match(row.paper)) for number in expanded(found[1])]
    assert set(equations) == PRINTED[system]
    artifacts = [found[2] for row in rows for name, _ in NAMED.findall(row.code) if (found := ARTIFACT.fullmatch(name))]
    assert sorted(artifacts) == sorted(PAPERS[system].names)


@pytest.mark.parametrize("system", PAPERS)
def test_states_are_known_and_differences_are_described(system: str) -> None:
    for row in SECTIONS[system]:
        assert row.state.startswith(STATES), row
        places = set(row.described.split(", "))
        assert places <= PLACES, row
        assert places != {""} or not row.state.startswith(OPEN), row
        if "docstring" in places and not ARTIFACT.search(row.code):
            assert any(documented(name, system) for name, _ in NAMED.findall(row.code)), row
