"""Every promise for every system."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .promises import PROMISES
from .workshop import Workshop


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promise(promise: Callable[..., None], workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keep(promise, workshop, monkeypatch, tmp_path)


def keep(promise: Callable[..., None], workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Call a promise with the arguments it names."""
    offered: dict[str, Any] = {"workshop": workshop, "folder": tmp_path, "monkeypatch": monkeypatch}
    promise(**{name: offered[name] for name in inspect.signature(promise).parameters})
