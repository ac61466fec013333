"""Photographs that are installed with scikit-image: public domain or CC0, losslessly stored; nothing is downloaded."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple


class Photograph(NamedTuple):
    name: str
    title: str
    credit: str
    path: Path


def photographs() -> tuple[Photograph, ...]:
    """The photographs that demos, benchmarks and evaluations without data use."""
    folder = Path(str(files("skimage"))) / "data"
    return (
        Photograph("coffee", "Cup of coffee", "Rachel Michetti, CC0", folder / "coffee.png"),
        Photograph("chelsea", "Chelsea the cat", "Stéfan van der Walt, CC0", folder / "chelsea.png"),
        Photograph("astronaut", "Eileen Collins", "NASA, public domain", folder / "astronaut.png"),
    )
