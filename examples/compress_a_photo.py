"""One photograph at four qualities: size, PSNR, and where the bits go.

python examples/compress_a_photo.py [PHOTO]
"""

import sys

import numpy as np
from skimage import data, metrics

import latens
from latens.data.images import read_image
from latens.systems.image_codec.predict import inspect_stream

photo = read_image(sys.argv[1]).pixels if len(sys.argv) > 1 else data.astronaut()
codec = latens.load("image_codec")
for quality in (1, 3, 5, 8):
    blob = codec.compress(photo, quality=quality)
    decoded = np.asarray(codec.decompress(blob))
    info = inspect_stream(blob)
    psnr = metrics.peak_signal_noise_ratio(photo, decoded)
    print(f"quality {quality}: {info.bytes:6,} bytes, {info.bpp:.3f} bpp, {psnr:.2f} dB, bits {info.bits}")

blob = codec.compress(photo, bpp=0.25)
print(f"asked for 0.25 bpp: {8 * len(blob) / photo[..., 0].size:.4f}")
