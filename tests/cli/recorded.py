"""Input files of the tests of records, and the state of a folder of results."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_maker import make_clip

from latens.cli.main import main


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(25 * seed, 25 * seed + 80, (40, 48, 3), dtype=np.uint8)


def photo(path: Path, seed: int) -> None:
    Image.fromarray(pixels(seed)).save(path)


def clip(path: Path, seed: int) -> None:
    make_clip(path, images=[pixels(seed)[:32]] * 2, times=range(2), size=(48, 32))


def coded(path: Path, seed: int) -> None:
    photo(path.with_name(f".{path.stem}.png"), seed)
    assert main(["compress", str(path.with_name(f".{path.stem}.png")), "-o", str(path), "--force"]) == 0


def coded_clip(path: Path, seed: int) -> None:
    clip(path.with_name(f".{path.stem}.mp4"), seed)
    assert main(["video", "compress", str(path.with_name(f".{path.stem}.mp4")), "-o", str(path), "--force"]) == 0


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of the files that users see."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    summaries = ("index.html", "parts.json", "gallery.png", "swaps.png", "made-with.json", "failures.jsonl")  # of every run
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.name not in summaries}
