"""Photographs reduced to a number of pixels, for a set with little history of compression.

    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    for file in lomiri-wallpapers-*.deb; do dpkg-deb -x $file wallpapers; done
    python benchmarks/reduced_photos.py wallpapers/ -o large --leave-out analog Fossa Infinite Painting umang

JPEG files of photographs are reduced by Lanczos to 2 megapixels and saved as PNG. Files that are less than three times as large
are left out: JPEG quantized frequencies that the result would keep. Other files, drawings in these packages, are left out, too.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from PIL import Image, ImageOps

LEAST = 3.0  # pixels of a file over those of the result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megapixels", type=float, default=2.0)
    parser.add_argument(
        "--leave-out", nargs="*", default=[], help="starts of the names of files to leave out, such as drawings"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.folder.rglob("*.jpg")):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        factor = math.sqrt(image.width * image.height / (arguments.megapixels * 1e6))
        if path.is_symlink() or path.name.startswith(tuple(arguments.leave_out)) or factor**2 < LEAST:
            print(f"left out: {path.name}, {image.width} x {image.height}")
            continue
        size = round(image.width / factor), round(image.height / factor)
        image.resize(size, Image.Resampling.LANCZOS).save(arguments.out / f"{path.stem}.png")
        print(f"{path.stem}.png: {image.width} x {image.height} to {size[0]} x {size[1]}")


if __name__ == "__main__":
    main()
