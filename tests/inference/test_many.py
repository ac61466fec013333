"""Lazy results for many inputs, and results in the type of the input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.given_type import as_given
from latens.data.images import read_image
from latens.errors import LatensError, UnreadableInput, UsageError
from latens.inference.many import many
from latens.systems.haze.predict import load
from latens.systems.image_codec.predict import ImageCodec

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_inputs_are_read_one_at_a_time(codec: ImageCodec) -> None:
    read: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for number in range(3):
            read.append(number)
            yield PIXELS

    made = codec.compress_many(images(), quality=2)
    assert read == []
    first = next(made)
    assert (first, read) == (codec.compress(PIXELS, quality=2), [0])
    assert [image.size for image in codec.decompress_many([first, *made])] == [(32, 24)] * 3


def test_an_input_that_cannot_be_used_ends_or_is_left_out(codec: ImageCodec, tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput):
        list(codec.compress_many([tmp_path / "none.png", PIXELS]))
    failed: list[tuple[Any, LatensError]] = []
    made = list(codec.compress_many([tmp_path / "none.png", PIXELS], on_error=lambda one, error: failed.append((one, error))))
    assert [(one, type(error)) for one, error in failed] == [(tmp_path / "none.png", UnreadableInput)]
    assert len(made) == 1
    with pytest.raises(UsageError, match="out of range"):  # wrong for every input
        list(codec.compress_many([PIXELS], quality=99, on_error=lambda one, error: None))
    with pytest.raises(UsageError, match="one input"):
        many(codec.compress, "photo.jpg", None, {})


ONE: list[Any] = [PIXELS, PIXELS[..., 0], np.dstack([PIXELS, PIXELS[..., :1]]), torch.from_numpy(PIXELS).permute(2, 0, 1)]


@pytest.mark.parametrize("one", [*ONE, Image.fromarray(PIXELS), Path("photo.jpg")], ids=lambda one: type(one).__name__)
def test_one_image_is_not_taken_for_its_rows(one: Any) -> None:
    with pytest.raises(UsageError, match="one input, not several"):
        many(lambda image: image.shape, one, None, {})


@pytest.mark.parametrize("several", [np.stack([PIXELS] * 2), np.stack([PIXELS[..., 0]] * 2), torch.zeros(2, 3, 24, 32)])
def test_arrays_of_several_images(several: Any) -> None:
    assert list(many(lambda image: tuple(image.shape), several, None, {})) == [tuple(several.shape[1:])] * 2


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS[..., 0],
        PIXELS[..., :1],
        np.dstack([PIXELS, PIXELS[..., :1]]),
        np.dstack([PIXELS, np.full((24, 32), 255, np.uint8)]),  # opaque
        PIXELS.astype(np.uint16) * 257,
        (PIXELS / 255).astype(np.float32),
        PIXELS[..., 0] > 99,
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_and_tensors_keep_shape_and_type(array: np.ndarray) -> None:
    haze = load("haze", device="cpu")
    made = haze.dehaze(array, method="dcp", strength=0)
    assert (made.shape, made.dtype) == (array.shape, np.uint8 if array.dtype == np.bool_ else array.dtype)
    np.testing.assert_allclose(made, array * np.uint8(255) if array.dtype == np.bool_ else array, atol=1e-6)
    if array.dtype != np.uint16:
        tensor = torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
        for given in (tensor, tensor[None]):
            result = haze.dehaze(given, method="dcp", strength=0)
            assert result.shape == given.shape
            assert result.dtype == (torch.uint8 if given.dtype == torch.bool else given.dtype)


def test_results_above_the_range_of_int16_end_at_its_largest_value() -> None:
    bright = Image.fromarray(np.full((4, 4), 200, np.uint8))
    dark = np.full((4, 4), 20000, np.int16)
    assert as_given(bright, dark).tolist() == np.full((4, 4), 32767).tolist()
    assert as_given(bright, torch.from_numpy(dark)).tolist() == np.full((4, 4), 32767).tolist()
    assert as_given(bright, dark.astype(np.int32)).tolist() == np.full((4, 4), 200 * 257).tolist()


@pytest.mark.parametrize(("name", "container"), [("PNG", "PNG"), ("WEBP", "WEBP"), ("TIFF", "TIFF"), ("GIF", "PNG")])
def test_bytes_give_a_file_in_their_container(name: str, container: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, name, **({"lossless": True} if name == "WEBP" else {}))
    made = as_given(Image.fromarray(PIXELS), stream.getvalue())
    with Image.open(io.BytesIO(made)) as image:
        assert image.format == container
    np.testing.assert_array_equal(read_image(made).pixels, PIXELS)


def test_paths_and_pil_images_give_pil_images(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), image):
        assert isinstance(as_given(image, source), Image.Image)
