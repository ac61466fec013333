"""Memory of the codec: tensors of one band of rows, however tall the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from latens.data.images import read_image
from latens.systems.image_codec.bands import Band
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


def test_rows_of_a_latent_come_from_few_bands(own: ImageCodec) -> None:
    symbols = own.quantize(own.latent(tall(4)), 256)
    whole, banded = symbols.y + symbols.parameters.mean, symbols.banded()
    made: list[int] = []

    def counted(band: Band) -> Band:
        made.append(band.top)
        return band

    rows = banded._replace(bands=map(counted, banded.bands)).rows()
    for top, end, bands in ((0, 40, 1), (30, 70, 2), (64, 128, 2), (120, 256, 4), (250, 256, 4)):
        assert torch.equal(rows(top, end), whole[:, :, top:end])
        assert len(made) == bands


def test_no_more_bands_are_decoded_than_threads(own: ImageCodec) -> None:
    """The others wait until their rows are asked for, and take no memory."""
    begun: list[int] = []

    def decode(index: int) -> int:
        begun.append(index)
        return index

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for number, band in enumerate(own._each_band(decode, 5)):
            assert band == number
            assert len(begun) <= band // 2 * 2 + 2
    finally:
        torch.set_num_threads(before)


def test_bands_are_predicted_like_the_whole(own: ImageCodec) -> None:
    z = torch.randint(-9, 10, (1, len(own.coding.medians), 40, 2), generator=torch.Generator().manual_seed(0))
    whole = own.coding.predict(z, 256)
    for rows in ((0, 64), (64, 128), (128, 160), (36, 37)):
        for part, expected in zip(own.coding.predict(z, 256, rows), whole, strict=True):
            assert torch.equal(part, expected[:, :, slice(*rows)])
