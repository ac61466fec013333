"""Conversion between pixels and tensors."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.image_output import png_bytes, webp_bytes
from latens.data.splits import place_of
from latens.data.tensors import pad_to_multiple, to_pixels, to_tensor

PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


@pytest.mark.parametrize("channels_last", [False, True])
def test_pixel_round_trip(channels_last: bool) -> None:
    tensor = to_tensor(PIXELS, channels_last=channels_last)
    assert tensor.shape == (1, 3, 5, 7)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert tensor.is_contiguous(memory_format=layout)
    np.testing.assert_array_equal(to_pixels(tensor[0]), PIXELS)
    assert to_tensor(PIXELS[None].repeat(2, 0)).shape == (2, 3, 5, 7)
    assert to_tensor(PIXELS[:, ::-1]).shape == (1, 3, 5, 7)  # negative strides


def test_values_are_clamped() -> None:
    assert to_pixels(torch.tensor([-1.0, 2.0, 0.5]).reshape(3, 1, 1)).tolist() == [[[0, 255, 128]]]


def test_padding_repeats_the_last_row_and_column() -> None:
    padded = pad_to_multiple(to_tensor(PIXELS), 4)
    assert padded.shape == (1, 3, 8, 8)
    assert torch.equal(padded[..., :5, 7], padded[..., :5, 6])
    assert torch.equal(pad_to_multiple(padded, 4), padded)


def test_encoded_files_contain_the_pixels() -> None:
    for data in (png_bytes(PIXELS), png_bytes(PIXELS, optimize=True), webp_bytes(PIXELS)):
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), PIXELS)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert len(webp_bytes(noise, quality=10)) < len(webp_bytes(noise))


def test_split_hashes_are_uniform_and_stable() -> None:
    places = [place_of(f"{number}.png") for number in range(2000)]
    assert 0.47 < float(np.mean(places)) < 0.53
    assert place_of("a.png") == 0x7F071235 / 2**32  # sha256sum: splits of released models depend on it
