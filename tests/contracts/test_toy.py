"""A toy system, added by one folder and one line, keeps all promises: a Gaussian fitted to a table of numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from latens import catalogue
from latens.contract import open_system

from .promises import PROMISES
from .test_systems import keep
from .workshop import Workshop

TOY = Path(__file__).with_name("toy")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOY.parent))
        patch.setattr(catalogue, "SYSTEMS", MappingProxyType({**catalogue.SYSTEMS, "toy": "toy"}))  # the one line
        yield Workshop(open_system("toy"), tmp_path_factory.mktemp("toy"))
    for name in [name for name in sys.modules if name == "toy" or name.startswith("toy.")]:
        del sys.modules[name]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_toy(promise: object, toy: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert callable(promise)
    keep(promise, toy, monkeypatch, tmp_path)


def test_a_system_needs_few_lines_before_its_first_equation() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in TOY.glob("*.py"))
    assert lines <= 450
