"""Details of photographs at equal file size: the original, two models of the image codec, and AVIF, side by side.

    python benchmarks/codec_details.py KODAK -o details.png

Every detail is 256 x 256. The files of the second model and of AVIF have about the size of the first model's file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.images import read_image
from latens.systems.image_codec.baselines import available, decode, match_size
from latens.systems.image_codec.predict import load

SIDE = 256


class Detail(NamedTuple):
    file: str
    quality: int  # of the first model
    left: int
    top: int


DETAILS = (
    Detail("kodim05.png", 3, 250, 150),
    Detail("kodim20.png", 3, 100, 200),
    Detail("kodim13.png", 3, 300, 250),
    Detail("kodim23.png", 2, 100, 100),
    Detail("kodim15.png", 2, 250, 100),
    Detail("kodim19.png", 2, 250, 300),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the Kodak images")
    parser.add_argument("--models", nargs=2, default=["image_codec_joint", "image_codec_perceptual"])
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    first, second = (load(model) for model in arguments.models)
    (avif,) = available(("AVIF",))
    rows = []
    for detail in DETAILS:
        image = read_image(arguments.folder / detail.file)
        ours = first.compress(image, quality=detail.quality)
        other = second.encode(image, size=len(ours), nearest=True).data
        theirs = match_size(avif, image, len(ours)).data
        print(f"{detail.file}: {len(ours)}, {len(other)}, AVIF {len(theirs)} bytes")
        images = (image.pixels, first.decompress(ours), second.decompress(other), decode(theirs))
        part = np.s_[detail.top : detail.top + SIDE, detail.left : detail.left + SIDE]
        rows.append(np.concatenate([np.asarray(each)[part] for each in images], axis=1))
    Image.fromarray(np.concatenate(rows)).save(arguments.out)


if __name__ == "__main__":
    main()
