"""Memory of the codec: tensors of one band of rows, however tall the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from latens.data.images import read_image
from latens.systems.image_codec.format import BAND_ROWS, read_coded_image
from latens.systems.image_codec.predict import ImageCodec, load

WIDTH = 64  # pixels
BAND = 16 * BAND_ROWS  # image rows of a band
HALO = 1.5  # rows of the hyper-latent around a band are predicted, too


def tall(bands: int) -> np.ndarray:
    rows, columns = np.mgrid[: BAND * bands, :WIDTH]
    return np.stack([128 + 90 * np.sin((rows + k * columns) / 19) for k in (1, 2, 3)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def own(codec_folder: Any) -> ImageCodec:
    return load(codec_folder, device="cpu", threads=1)


def test_an_encoder_holds_one_band(own: ImageCodec, largest_tensor: Any) -> None:
    peaks = []
    for bands in (1, 3):
        image = read_image(tall(bands))
        quantized = own.quantized(own.latent(image.pixels), 256, image.pixels.shape)
        with largest_tensor() as made:
            own.write(image, quantized)
        peaks.append(made.bytes)
    assert peaks[0] <= peaks[1] <= HALO * peaks[0]


def test_a_decoder_keeps_32_bits_per_symbol(own: ImageCodec, largest_tensor: Any) -> None:
    coded = read_coded_image(own.compress(tall(8), quality=1))
    with largest_tensor() as made:
        symbols, _ = own.decode_symbols(coded, partial=False)
    assert made.bytes == 4 * symbols.y.numel()


def test_bands_are_predicted_like_the_whole(own: ImageCodec) -> None:
    z = torch.randint(-9, 10, (1, len(own.coding.medians), 40, 2), generator=torch.Generator().manual_seed(0))
    whole = own.coding.predict(z, 256)
    for rows in ((0, 64), (64, 128), (128, 160), (36, 37)):
        for part, expected in zip(own.coding.predict(z, 256, rows), whole, strict=True):
            assert torch.equal(part, expected[:, :, slice(*rows)])
