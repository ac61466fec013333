from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.depth import read_depth
from latens.data.image_output import WRITTEN, check_ending, to_pil, write_image
from latens.data.images import IMAGE_ENDINGS, read_image
from latens.errors import InputError, StorageFull, UsageError
from latens.systems.flow.table import read_table

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLORS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)
NOISE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- arrays and tensors


def test_arrays() -> None:
    assert np.array_equal(read_image(COLORS).pixels, COLORS)
    for gray in (RAMP, RAMP[..., None]):
        image = read_image(gray)
        assert image.gray
        assert np.array_equal(image.pixels, np.stack([RAMP] * 3, axis=-1))
    with_alpha = read_image(np.dstack([COLORS, RAMP]))
    assert with_alpha.alpha is not None
    assert np.array_equal(with_alpha.alpha, RAMP)
    assert read_image(RAMP > 127).pixels[..., 0].tolist() == np.where(RAMP > 127, 255, 0).tolist()
    assert np.array_equal(read_image(COLORS[:, ::-1]).pixels, COLORS[:, ::-1])


def test_subclasses_of_arrays() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        assert np.array_equal(read_image(np.asmatrix(RAMP)).pixels[..., 0], RAMP)
    assert np.array_equal(read_image(np.ma.masked_array(COLORS)).pixels, COLORS)
    masked = np.ma.masked_greater(RAMP, 9)
    for read in (read_image, read_depth, read_table):
        with pytest.raises(InputError, match="masked"):
            read(masked)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_are_rounded(dtype: type[np.floating[Any]]) -> None:
    assert np.array_equal(read_image((COLORS / 255).astype(dtype)).pixels, COLORS)
    slack = np.array([[-1e-6, 1 + 1e-6]], dtype=np.float64)
    assert read_image(slack).pixels[..., 0].tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("array", "what", "fix"),
    [
        (np.full((2, 2), 2.0), "not in 0..1", "divide by 255"),
        (np.full((2, 2), -0.1), "not in 0..1", "np.clip"),
        (np.full((2, 2), np.nan), "not finite", "nan_to_num"),
        (np.full((2, 2), np.inf), "not finite", "nan_to_num"),
        (np.zeros((3, 8, 9), np.uint8), "not one image", "transpose(1, 2, 0)"),
        (np.zeros((1, 8, 9, 3), np.uint8), "not one image", "array[0]"),
        (np.zeros((8, 9, 2), np.uint8), "not one image", "(H, W, 3)"),
        (np.zeros(5, np.uint8), "not one image", "(H, W, 3)"),
        (np.zeros((2, 2), np.int64), "int64", "astype(np.uint8)"),
        (np.zeros((2, 2), np.complex64), "complex64", "astype(np.uint8)"),
        (np.zeros((2, 2), object), "object", "astype(np.uint8)"),
    ],
)
def test_arrays_that_are_not_images(array: np.ndarray, what: str, fix: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read_image(array)
    assert fix in str(caught.value.hint)


def test_empty_arrays_are_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        read_image(np.zeros((0, 5, 3), np.uint8))


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x[None],
        lambda x: x.float() / 255,
        lambda x: (x.double() / 255).requires_grad_(),
        lambda x: (x.float() / 255).to(memory_format=torch.preserve_format).flip(2).flip(2),
    ],
)
def test_tensors(convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
    image = read_image(convert(torch.from_numpy(COLORS).permute(2, 0, 1)))
    assert np.array_equal(image.pixels, COLORS)
    assert not image.gray


def test_tensors_of_one_and_four_channels_and_half_precision() -> None:
    gray = read_image(torch.from_numpy(RAMP)[None])
    assert gray.gray
    assert np.array_equal(gray.pixels, read_image(torch.from_numpy(RAMP)).pixels)
    four = read_image(torch.from_numpy(np.dstack([COLORS, RAMP])).permute(2, 0, 1))
    assert four.alpha is not None
    assert np.array_equal(four.alpha, RAMP)
    assert read_image(torch.ones(1, 2, 2, dtype=torch.bfloat16)).pixels.min() == 255


@pytest.mark.parametrize(
    ("shape", "fix"), [((8, 9, 3), "permute(2, 0, 1)"), ((2, 3, 8, 9), "(C, H, W)"), ((2, 8, 9), "(C, H, W)")]
)
def test_tensors_that_are_not_images(shape: tuple[int, ...], fix: str) -> None:
    with pytest.raises(InputError, match="not one image") as caught:
        read_image(torch.zeros(shape))
    assert fix in str(caught.value.hint)


def test_other_objects_are_refused() -> None:
    with pytest.raises(InputError, match="list"):
        read_image([[1, 2], [3, 4]])  # type: ignore[arg-type]


def test_reading_a_file_does_not_load_torch(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "x.png")
    script = (
        f"import sys; from latens.data.images import IMAGE_ENDINGS, read_image; read_image({str(tmp_path / 'x.png')!r});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# ---------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(("alpha", "gray", "mode"), [(0, 0, "RGB"), (1, 0, "RGBA"), (0, 1, "L"), (1, 1, "LA")])
def test_to_pil_and_back(alpha: int, gray: int, mode: str) -> None:
    pixels = np.stack([RAMP] * 3, axis=-1) if gray else COLORS
    image = to_pil(pixels, RAMP.T if alpha else None, bool(gray))
    assert image.mode == mode
    loaded = read_image(image)
    assert np.array_equal(loaded.pixels, pixels)
    assert (loaded.alpha is not None, loaded.gray) == (bool(alpha), bool(gray))


@pytest.mark.parametrize("ending", [".png", ".PNG", ".webp", ".tif", ".bmp", ".ppm"])
def test_lossless_writing(tmp_path: Path, ending: str) -> None:
    write_image(tmp_path / f"x{ending}", to_pil(COLORS))
    assert np.array_equal(read_image(tmp_path / f"x{ending}").pixels, COLORS)
    assert os.listdir(tmp_path) == [f"x{ending}"]


def test_writing_a_jpeg(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(NOISE).resize((4, 3)).resize((64, 48)))
    write_image(tmp_path / "x.jpg", to_pil(smooth))
    assert (tmp_path / "x.jpg").read_bytes()[:2] == b"\xff\xd8"
    error = read_image(tmp_path / "x.jpg").pixels.astype(int) - smooth
    assert np.abs(error).mean() < 2


HOLD_ALPHA = {".png", ".webp", ".tif", ".tiff", ".avif"}


@pytest.mark.parametrize("ending", sorted(WRITTEN))
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_written_or_refused_in_every_format(tmp_path: Path, ending: str, mode: str) -> None:
    image = to_pil(COLORS, RAMP) if mode == "RGBA" else to_pil(COLORS, RAMP, gray=True)
    if mode == "P":
        image = to_pil(COLORS).quantize(256)
        image.info["transparency"] = bytes(range(256))
    path = tmp_path / f"x{ending}"
    if ending in HOLD_ALPHA:
        write_image(path, image)
        alpha = read_image(path).alpha
        assert alpha is not None
        assert np.abs(alpha.astype(int) - np.asarray(image.convert("RGBA"))[..., 3]).max() <= (8 if ending == ".avif" else 0)
    else:
        with pytest.raises(UsageError, match="cannot hold this image") as caught:
            write_image(path, image)
        assert ".png" in str(caught.value.hint)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", sorted(IMAGE_ENDINGS))
@pytest.mark.parametrize("gray", [False, True])
def test_gray_and_colors_are_written_or_refused_in_every_format(tmp_path: Path, ending: str, gray: bool) -> None:
    path, image = tmp_path / f"x{ending}", to_pil(COLORS, gray=gray)
    if ending in (".gif", ".pbm") or (ending == ".pgm" and not gray):
        with pytest.raises(UsageError, match=r"(at most 256 colors|black and white only|it has colors)") as caught:
            write_image(path, image)
        assert ".png" in str(caught.value.hint)
        assert os.listdir(tmp_path) == []
        return
    write_image(path, image)
    loaded = read_image(path)
    lossy = ending in (".avif", ".jfif", ".jpe", ".jpeg", ".jpg")
    assert np.abs(loaded.pixels.astype(int) - np.asarray(image.convert("RGB"))).max() <= (40 if lossy else 0)


@pytest.mark.parametrize("name", ["x", "x.txt", "x.pdf", "x.eps", "x.gif", "x.PBM"])
def test_unknown_endings(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape("cannot be written as")):
        check_ending(Path(name))


def test_a_full_disk_while_writing_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageFull):
            write_image(tmp_path / "x.png", to_pil(COLORS))
    assert os.listdir(tmp_path) == []
