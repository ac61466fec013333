"""Images of the README from a demo report: `latens demo -o REPORT`, then `python benchmarks/readme_images.py REPORT`.

Every WebP file shows the same region of images of the report side by side, all panels in one shape.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

IMAGES = Path(__file__).parent.parent / "docs/images"
WIDTH, HEIGHT, GAP = 372, 300, 6  # pixels
QUALITY = 84  # of WebP
WHOLE = (0.0, 0.0, 1.0, 1.0)


class Row(NamedTuple):
    """Files of the report, and the region (left, top, right, bottom) of all of them in shares of width and height."""

    files: Sequence[str]
    region: tuple[float, float, float, float] = WHOLE


ROWS = {
    "image_codec": Row(("image_codec/coffee_q1_same_size.jpg", "image_codec/coffee_q1.png"), (0.25, 0.15, 0.9, 0.95)),
    "haze": Row(("haze/street1000000_hazy.png", "haze/street1000000_physical.png"), (0.1, 0.05, 0.95, 1.0)),
    "amodal": Row(("amodal/fluorescent.png", "amodal/fluorescent.overlay.png"), (0.2, 0.2, 1.0, 0.84)),
    "parts": Row(("parts/coffee.png", "parts/coffee_painted.png"), (0.1, 0.0, 0.95, 1.0)),
    "video": Row(("video_codec/plain.png", "video_codec/region.png"), (0.1, 0.22, 0.62, 0.62)),
    "seedlings": Row(("seedlings/demo_day7.png", "seedlings/graded/demo_day7.overlay.webp"), (0.28, 0.25, 0.68, 0.65)),
}


def panel(path: Path, region: tuple[float, float, float, float]) -> Image.Image:
    """The region of an image, cut to the shape of a panel and resized."""
    with Image.open(path) as image:
        width, height = image.size
        left, top, right, bottom = (round(share * size) for share, size in zip(region, (width, height) * 2, strict=True))
        part = image.convert("RGB").crop((left, top, right, bottom))
    return ImageOps.fit(part, (WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def side_by_side(row: Row, report: Path) -> Image.Image:
    """The panels from left to right; the gaps are transparent, for pages in dark mode."""
    panels = [panel(report / file, row.region) for file in row.files]
    sheet = Image.new("RGBA", (sum(one.width for one in panels) + GAP * (len(panels) - 1), HEIGHT))
    left = 0
    for one in panels:
        sheet.paste(one, (left, 0))
        left += one.width + GAP
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    report = parser.parse_args().report
    for name, row in ROWS.items():
        path = IMAGES / f"{name}.webp"
        side_by_side(row, report).save(path, quality=QUALITY, method=6)
        print(f"{path}: {path.stat().st_size} bytes")
