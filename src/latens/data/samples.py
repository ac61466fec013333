"""Sample images: photographs that are installed with scikit-image, and random images of two classes.

The photographs are public domain or CC0 and losslessly stored; nothing is downloaded.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps


class Photograph(NamedTuple):
    name: str
    title: str
    credit: str
    path: Path


def photographs() -> tuple[Photograph, ...]:
    """Photographs for demos, benchmarks and evaluations without data."""
    folder = Path(str(files("skimage"))) / "data"
    return (
        Photograph("coffee", "Cup of coffee", "Rachel Michetti, CC0", folder / "coffee.png"),
        Photograph("chelsea", "Chelsea the cat", "Stéfan van der Walt, CC0", folder / "chelsea.png"),
        Photograph("astronaut", "Eileen Collins", "NASA, public domain", folder / "astronaut.png"),
    )


def write_two_classes(folder: Path, count: int, size: tuple[int, int], seed: int) -> list[Path]:
    """Write blurred random PNG images in warm and cold colors into `folder`/warm and `folder`/cold, and return their paths.

    `size` is (width, height) in pixels. The classes alternate and are easy to distinguish.
    """
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        kind, tint = ("warm", (1.0, 0.7, 0.4)) if number % 2 else ("cold", (0.4, 0.7, 1.0))
        noise = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        blurred = ImageOps.autocontrast(noise.filter(ImageFilter.GaussianBlur(2)))
        path = folder / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(np.asarray(blurred) * np.array(tint)).astype(np.uint8)).save(path)
        paths.append(path)
    return paths
