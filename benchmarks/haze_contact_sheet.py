"""Contact sheet of the hazy photographs of a folder, dehazed by every available method.

python benchmarks/haze_contact_sheet.py hazy/ -o sheet.png
python benchmarks/haze_contact_sheet.py hazy/ -o sheet.png --models runs/mmd/best runs/unit/best     # adds trained models
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from latens.data.images import IMAGE_ENDINGS, read_image
from latens.systems.haze.config import CLASSICAL, LEARNED
from latens.systems.haze.predict import Haze, load

HEAD = 16  # rows of a caption


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("contact_sheet.png"))
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="model folders, such as runs/mmd/best")
    parser.add_argument("--width", type=int, default=256, help="width of an image on the sheet, in pixels")
    arguments = parser.parse_args()
    haze = load("haze", device="cpu")
    for folder in arguments.models:
        haze.add(folder)
    methods = [method for method in (*CLASSICAL, *LEARNED) if haze.has(method)]
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    rows = [row(haze, path, methods, arguments.width) for path in paths]
    heads = caption(["input", *methods], arguments.width)
    Image.fromarray(np.concatenate([heads, *rows])).save(arguments.out)
    print(arguments.out)


def row(haze: Haze, path: Path, methods: list[str], width: int) -> np.ndarray:
    """The input and the results of all methods at full size, reduced to one width."""
    image = read_image(path)
    views = [Image.fromarray(image.pixels), *(haze.dehaze(image, method=method) for method in methods)]
    height = round(width * image.pixels.shape[0] / image.pixels.shape[1])
    return np.concatenate([np.asarray(view.convert("RGB").resize((width, height), Image.Resampling.BOX)) for view in views], 1)


def caption(names: list[str], width: int) -> np.ndarray:
    image = Image.new("RGB", (width * len(names), HEAD), "white")
    for index, name in enumerate(names):
        ImageDraw.Draw(image).text((index * width + 4, 2), name, "black")
    return np.asarray(image)


if __name__ == "__main__":
    main()
