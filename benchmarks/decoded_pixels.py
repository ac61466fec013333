"""Pixels of the same files decoded in bfloat16 and in float32: largest difference in gray levels, and PSNR between the two.

The latents of a file are the same on all machines; the transforms round differently.

python benchmarks/decoded_pixels.py KODAK [--qualities 1 4 8] [--images 24]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import latens
from latens.data.images import IMAGE_ENDINGS
from latens.data.inputs import files_under
from latens.metrics.image import psnr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--qualities", type=float, nargs="+", default=[1, 4, 8])
    parser.add_argument("--images", type=int, default=24)
    given = parser.parse_args()
    codec = latens.load("image_codec", device="cpu")
    paths = files_under(given.folder, IMAGE_ENDINGS)[: given.images]
    print("| quality | largest difference | pixels that differ | lowest PSNR | mean PSNR |\n|---|---|---|---|---|")
    for quality in given.qualities:
        levels, shares, ratios = [], [], []
        for path in paths:
            blob = codec.compress(path, quality=quality)
            decoded = []
            for precision in ("bfloat16", "float32"):
                codec.precision = precision
                decoded.append(np.asarray(codec.decompress(blob)).astype(int))
            difference = np.abs(decoded[0] - decoded[1])
            levels.append(int(difference.max()))
            shares.append(float((difference > 0).any(-1).mean()))
            ratios.append(psnr(*(pixels.astype(np.uint8) for pixels in decoded)))
        row = (f"{max(levels)} levels", f"{100 * np.mean(shares):.0f} %", f"{min(ratios):.1f} dB", f"{np.mean(ratios):.1f} dB")
        print(f"| {quality:g} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
