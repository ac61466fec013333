"""Frames of TIFF files and deep images; stacks written page by page."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from latens.data.stacks import StackWriter, count_frames, read_frame, read_frames, stretch
from latens.errors import LatensError, LimitExceeded, UnreadableInput


def test_frames_of_a_stack(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pages = [rng.integers(1000, 3000, (10, 12)).astype(np.uint16) for _ in range(3)]
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "s.tif", save_all=True, append_images=images[1:])
    frames = list(read_frames(tmp_path / "s.tif"))
    assert [frame.shape for frame in frames] == [(10, 12, 3)] * 3
    assert all(frame.min() == 0 and frame.max() == 255 for frame in frames)  # stretched, not black
    assert np.corrcoef(frames[1][..., 0].ravel(), pages[1].ravel())[0, 1] > 0.999
    Image.fromarray(np.full((5, 6, 3), 9, dtype=np.uint8)).save(tmp_path / "one.png")
    assert [frame.shape for frame in read_frames(tmp_path / "one.png")] == [(5, 6, 3)]


def test_8_bit_pages_are_unchanged(tmp_path: Path) -> None:
    page = np.arange(120, dtype=np.uint8).reshape(10, 12)
    Image.fromarray(page).save(tmp_path / "s.tif", save_all=True, append_images=[Image.fromarray(page + 1)])
    first, second = read_frames(tmp_path / "s.tif")
    assert np.array_equal(first[..., 0], page)
    assert np.array_equal(second[..., 1], page + 1)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(b"II*\x00 damaged")
    for name in ("x.tif", "none.tif"):
        with pytest.raises(LatensError):
            list(read_frames(tmp_path / name))
        with pytest.raises(LatensError):
            count_frames(tmp_path / name)


def deep(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a 12-bit camera, a small part of the 16-bit range."""
    return rng.integers(400, 2900, shape).astype(np.uint16)


def test_16_bit_images_are_equal_in_all_formats(tmp_path: Path) -> None:
    values = deep(np.random.default_rng(0), (20, 24))
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "big-endian.tif", values.astype(">u2"), byteorder=">")
    tifffile.imwrite(tmp_path / "color.tif", np.dstack([values] * 3), photometric="rgb")
    tifffile.imwrite(tmp_path / "float.tif", values.astype(np.float32))
    tifffile.imwrite(tmp_path / "double.tif", values.astype(np.float64) / 7)
    tifffile.imwrite(tmp_path / "signed.tif", values.astype(np.int16) - np.int16(1000))
    for path in sorted(tmp_path.iterdir()):
        assert np.abs(read_frame(path).astype(int) - stretch(values)).max() <= 1, path.name
        assert count_frames(path) == 1


def test_color_and_planar_pages(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 10, 12, 3)).astype(np.uint8)
    alpha = np.full((10, 12, 1), 200, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", pixels, photometric="rgb")
    tifffile.imwrite(tmp_path / "rgba.tif", np.dstack([pixels[0], alpha]), photometric="rgb", extrasamples=["unassalpha"])
    planar = np.moveaxis(pixels[0], 2, 0)
    tifffile.imwrite(tmp_path / "planar.tif", planar, photometric="rgb", planarconfig="separate")
    assert np.array_equal(np.stack(list(read_frames(tmp_path / "stack.tif"))), pixels)
    for name in ("rgba.tif", "planar.tif"):
        assert np.array_equal(read_frame(tmp_path / name), pixels[0]), name


def test_non_finite_values_are_black() -> None:
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[3, 4], values[5, 6] = np.nan, np.inf
    shown = stretch(values)[..., 0]
    assert shown[3, 4] == shown[5, 6] == 0
    assert shown[19, 19] == 255
    assert not stretch(np.full((3, 3), np.nan)).any()


def imagej_above_4_gb(path: Path, values: np.ndarray) -> None:
    """A stack above 4 GB in the layout of Fiji: one directory, and all pages after the pixels of the first one."""
    tifffile.imwrite(
        path, values[0], imagej=False, metadata=None, description=f"ImageJ=1.54f\nimages={len(values)}\nslices=3\n"
    )
    with open(path, "ab") as file:
        file.write(values[1:].tobytes())


def test_unlisted_pages_are_read_or_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = deep(np.random.default_rng(0), (3, 20, 24))
    imagej_above_4_gb(tmp_path / "s.tif", values)
    assert count_frames(tmp_path / "s.tif") == 3
    frames = list(read_frames(tmp_path / "s.tif"))
    assert all(np.array_equal(frame, stretch(page)) for frame, page in zip(frames, values, strict=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnreadableInput, match="lists only one"):
        list(read_frames(tmp_path / "s.tif"))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("shape", [(3, 7, 9), (2, 6, 5, 3)])
def test_other_readers_read_written_stacks(shape: tuple[int, ...], big: bool) -> None:
    pages = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    target = io.BytesIO()
    writer = StackWriter(target, big=big)
    for page in pages:
        writer.write(page)
    assert np.array_equal(tifffile.imread(io.BytesIO(target.getvalue())), pages)
    with Image.open(target) as image:
        for number, page in enumerate(pages):
            image.seek(number)
            assert np.array_equal(np.asarray(image), page)


def test_a_stack_above_4_gb_is_refused_before_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latens.data.stacks.CLASSIC_LIMIT", 300)
    page = np.random.default_rng(0).integers(0, 255, (20, 20)).astype(np.uint8)
    with pytest.raises(LimitExceeded):
        StackWriter(target := io.BytesIO()).write(page)
    assert len(target.getvalue()) == 8
    StackWriter(io.BytesIO(), big=True).write(page)
