"""Image pairs of the README from a demo report: `latens demo -o REPORT`, then `python benchmarks/readme_images.py REPORT`.

Every WebP file shows a region of two images of the report side by side, both at the same scale.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from PIL import Image

IMAGES = Path(__file__).parent.parent / "docs/images"
HEIGHT, GAP = 240, 6  # pixels
QUALITY = 82  # of WebP


class Pair(NamedTuple):
    """Two files of the report, and the region (left, top, right, bottom) of both in shares of width and height."""

    before: str
    after: str
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


PAIRS = {
    "image_codec": Pair("image_codec/coffee_q1_same_size.jpg", "image_codec/coffee_q1.png", (0.3, 0.3, 0.85, 0.85)),
    "haze": Pair("haze/street1000000_hazy.png", "haze/street1000000_physical.png"),
    "amodal": Pair("amodal/embryo-0.png", "amodal/embryo-0.overlay.png"),
    "seedlings": Pair("seedlings/demo_day7.png", "seedlings/graded/demo_day7.overlay.webp", (0.3, 0.3, 0.6, 0.6)),
}


def panel(path: Path, region: tuple[float, float, float, float]) -> Image.Image:
    """The region of an image at HEIGHT pixels."""
    with Image.open(path) as image:
        width, height = image.size
        left, top, right, bottom = (round(share * size) for share, size in zip(region, (width, height) * 2, strict=True))
        part = image.convert("RGB").crop((left, top, right, bottom))
    return part.resize((round(part.width * HEIGHT / part.height), HEIGHT), Image.Resampling.LANCZOS)


def side_by_side(pair: Pair, report: Path) -> Image.Image:
    before, after = panel(report / pair.before, pair.region), panel(report / pair.after, pair.region)
    sheet = Image.new("RGB", (before.width + GAP + after.width, HEIGHT), "white")
    sheet.paste(before, (0, 0))
    sheet.paste(after, (before.width + GAP, 0))
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    report = parser.parse_args().report
    for name, pair in PAIRS.items():
        path = IMAGES / f"{name}.webp"
        side_by_side(pair, report).save(path, quality=QUALITY, method=6)
        print(f"{path}: {path.stat().st_size} bytes")
