"""Invertible DenseNets. `latens.flow.fit(table)` fits a density to a table of numbers. Importing this module loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latens.systems.flow.build import fit

__all__ = ["fit"]


def __getattr__(name: str) -> Any:
    if name == "fit":
        from latens.systems.flow.build import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
