"""Benchmark of the image codec: its steps, and ordinary encoders at the same file size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image

from latens.data.images import Pixels, read_image
from latens.data.samples import photographs
from latens.experiments.bench import Case
from latens.systems.image_codec.baselines import available, decode, match_size
from latens.systems.image_codec.format import QUALITY_STEPS
from latens.systems.image_codec.predict import ImageCodec

BENCH_SIZE = (768, 512)  # width and height in pixels, as in Kodak


def cases(codec: ImageCodec) -> Sequence[Case]:
    """Compression, decompression and each of their steps on a photograph, beside JPEG, WebP and AVIF files of the same size."""
    quality = codec.default_quality
    pixels, coding, steps = bench_photograph(BENCH_SIZE), codec.coding, round(quality * QUALITY_STEPS)
    blob, latent = codec.compress(pixels, quality=quality), codec.latent(pixels)
    symbols = codec.quantize(latent, steps)
    level = symbols.parameters.level
    coded_y, coded_z = coding.encode_band(symbols.y, level), coding.encode_z(symbols.z)
    prediction = coding.predict(symbols.z, steps)
    rows, columns = symbols.z.shape[2:]
    pixels_m = pixels.shape[0] * pixels.shape[1] / 1e6
    symbols_m = (symbols.y.numel() + symbols.z.numel()) / 1e6

    def encode_symbols() -> object:
        return coding.encode_z(symbols.z), coding.encode_band(symbols.y, level)

    def decode_symbols() -> object:
        return coding.decode_z(coded_z, rows, columns), coding.decode_band(coded_y, prediction, "band")

    actions: dict[str, tuple[Callable[[], object], float, str]] = {
        "compress": (lambda: codec.compress(pixels, quality=quality), pixels_m, "Mpx"),
        "  analysis": (lambda: codec.latent(pixels), pixels_m, "Mpx"),
        "  hyperprior and rounding": (lambda: codec.quantize(latent, steps), pixels_m, "Mpx"),
        "    integer hyper-synthesis": (lambda: coding.predict(symbols.z, steps), pixels_m, "Mpx"),
        "  entropy encoding": (encode_symbols, symbols_m, "Msym"),
        "decompress": (lambda: codec.decompress(blob), pixels_m, "Mpx"),
        "  entropy decoding and context": (decode_symbols, symbols_m, "Msym"),
        "  synthesis": (lambda: codec.reconstruct(symbols, pixels.shape), pixels_m, "Mpx"),
    }
    bits = {"compress": 8e-6 * len(blob) / pixels_m}
    own = [Case(name, *rest, bits.get(name)) for name, rest in actions.items()]
    return [*own, *peers(pixels, len(blob))]


def peers(pixels: Pixels, size: int) -> list[Case]:
    """Encoding and decoding by the encoders of Pillow, at the quality whose file has about `size` bytes."""
    image, count = read_image(pixels), pixels.shape[0] * pixels.shape[1]
    found = []
    for encoder in available():
        quality, data = match_size(encoder, image, size)
        bits = 8 * len(data) / count
        found.append(Case(f"{encoder.name} encode", partial(encoder.encode, image, quality), count / 1e6, "Mpx", bits, True))
        found.append(Case(f"{encoder.name} decode", partial(decode, data), count / 1e6, "Mpx", None, True))
    return found


def bench_photograph(size: tuple[int, int]) -> Pixels:
    """A bundled photograph resized to width x height, uint8 (H, W, 3)."""
    image = Image.fromarray(read_image(photographs()[0].path).pixels)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
