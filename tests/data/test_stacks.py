"""Frames of TIFF files and deep images; stacks written page by page."""

from __future__ import annotations

import importlib.util
import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from latens.data.images import LoadedImage, read_image
from latens.data.stack_writer import StackWriter
from latens.data.stacks import count_frames, memory_frame, read_frame, read_frames
from latens.data.stretch import stretch
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput


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


def test_non_finite_values_are_black_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[3, 4], values[5, 6] = np.nan, np.inf
    shown = stretch(values)[..., 0]
    assert shown[3, 4] == shown[5, 6] == 0
    assert shown[19, 19] == 255
    assert caplog.messages == ["2 of 400 values of the image are not finite; they become black"]
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
    writer = StackWriter(target, big=big, pixel_um=(0.5, 0.25))
    names = ["", "one", "a name that is longer than an entry"]
    for page, name in zip(pages, names, strict=False):
        writer.write(page, name)
    assert np.array_equal(tifffile.imread(io.BytesIO(target.getvalue())), pages)
    with tifffile.TiffFile(io.BytesIO(target.getvalue())) as file:
        assert [page.aspage().description for page in file.pages] == names[: len(pages)]
        assert file.pages[1].aspage().get_resolution("CENTIMETER") == (20_000, 40_000)
    with Image.open(target) as image:
        for number, page in enumerate(pages):
            image.seek(number)
            assert np.array_equal(np.asarray(image), page)


def test_a_stack_above_4_gb_is_refused_before_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latens.data.stack_writer.CLASSIC_LIMIT", 300)
    page = np.random.default_rng(0).integers(0, 255, (20, 20)).astype(np.uint8)
    with pytest.raises(LimitExceeded):
        StackWriter(target := io.BytesIO()).write(page)
    assert len(target.getvalue()) == 8
    StackWriter(io.BytesIO(), big=True).write(page)


# --------------------------------------------------------------------------------- channels, planes and pyramid levels

FLAT = np.zeros((8, 9, 3), np.uint16) + np.array([60000, 30000, 10000], np.uint16)
BARS = np.dstack([FLAT[..., 0], np.tile(np.arange(9, dtype=np.uint16) * 8000, (8, 1)), FLAT[..., 2]])


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_planes_are_read_by_every_reader(tmp_path: Path, compression: str | None, order: str) -> None:
    options: dict[str, Any] = {"photometric": "rgb", "compression": compression, "byteorder": order}
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(BARS, 2, 0), planarconfig="separate", **options)
    tifffile.imwrite(tmp_path / "chunky.tif", BARS, planarconfig="contig", **options)
    planar, chunky = (read_image(tmp_path / f"{name}.tif") for name in ("planar", "chunky"))
    assert np.array_equal(planar.pixels, chunky.pixels)
    assert np.abs(planar.pixels.astype(float) - BARS / 257).max() <= 1
    assert planar.notes == chunky.notes == ("16-bit reduced to 8-bit",)
    assert np.array_equal(read_frame(tmp_path / "planar.tif"), stretch(BARS))


def test_zero_is_white_where_the_file_says_so(tmp_path: Path) -> None:
    ramp = np.arange(72).reshape(8, 9)
    expected = 255 - ramp
    for dtype, scale in ((np.uint8, 1), (np.uint16, 257), (np.float32, 1 / 255)):
        path = tmp_path / f"{np.dtype(dtype).name}.tif"
        tifffile.imwrite(path, (ramp * scale).astype(dtype), photometric="miniswhite")
        assert np.array_equal(read_image(path).pixels[..., 0], expected), path.name
        shown = read_frame(path)[..., 0]
        assert np.array_equal(shown, expected if dtype == np.uint8 else stretch(expected)[..., 0]), path.name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "planes"), [(2, False), (2, True), (5, False), (5, True)])
def test_channels_without_a_meaning_are_refused_by_number(tmp_path: Path, dtype: type, channels: int, planes: bool) -> None:
    values: np.ndarray = np.zeros((channels, 8, 9) if planes else (8, 9, channels), dtype)
    config: Any = "separate" if planes else "contig"
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig=config)
    for read in (read_image, read_frame):
        with pytest.raises(InputError, match=rf"{channels} channels \(1, 2") as caught:
            read(tmp_path / "x.tif")
        assert caught.value.where == str(tmp_path / "x.tif")
        assert "--channel" in str(caught.value.hint)


def test_gray_with_alpha_and_colors_with_a_fourth_channel_are_read(tmp_path: Path) -> None:
    values = np.arange(8 * 9 * 2, dtype=np.uint8).reshape(8, 9, 2)
    tifffile.imwrite(tmp_path / "la.tif", values, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])
    loaded = read_image(tmp_path / "la.tif")
    assert loaded.gray
    assert loaded.alpha is not None
    assert np.array_equal(np.dstack([loaded.pixels[..., 0], loaded.alpha]), values)
    assert np.array_equal(read_frame(tmp_path / "la.tif")[..., 0], values[..., 0])
    colors = np.arange(8 * 9 * 4, dtype=np.uint8).reshape(8, 9, 4)
    tifffile.imwrite(tmp_path / "four.tif", colors, photometric="rgb", extrasamples=["unspecified"])
    four = read_image(tmp_path / "four.tif")
    assert np.array_equal(four.pixels, colors[..., :3])
    assert four.notes == ("fourth channel (neither color nor alpha) left out",)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_pyramid_levels_are_no_frames(tmp_path: Path, dtype: type) -> None:
    page: np.ndarray = (np.arange(4096) % 200).reshape(64, 64).astype(dtype)
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(page[::4, ::4], subfiletype=1)  # a thumbnail comes first
        for frame in (page, page.T):
            writer.write(frame)
            writer.write(frame[::2, ::2], subfiletype=1)
    assert count_frames(tmp_path / "x.tif") == 2
    first, second = read_frames(tmp_path / "x.tif")
    assert first.shape == second.shape == (64, 64, 3)
    assert np.array_equal(first, second.swapaxes(0, 1))
    assert np.array_equal(read_frame(tmp_path / "x.tif#2"), second)
    loaded = read_image(tmp_path / "x.tif")
    assert loaded.pixels.shape == (64, 64, 3)
    assert "frame 1 of 2 taken" in loaded.notes or dtype == np.int16  # tifffile reads the last kind


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_stretch_ends_at_numpys_percentiles(dtype: type) -> None:
    values: np.ndarray = np.random.default_rng(0).normal(90, 25, (300, 70)).clip(0, 255).astype(dtype)
    low, high = np.percentile(values.astype(np.float64), (0.1, 99.9))
    expected = np.rint(((values.astype(np.float64) - low) / (high - low)).clip(0, 1) * 255)
    assert (
        np.abs(stretch(values)[..., 0] - expected).max() <= 1
        if dtype == np.float32
        else np.array_equal(stretch(values)[..., 0], expected)
    )


def test_a_large_stretch_needs_little_memory() -> None:
    values = np.zeros((4000, 1000), np.uint16)
    values[::2] = 900
    tracemalloc.start()
    try:
        stretch(values)
        assert tracemalloc.get_traced_memory()[1] < 6 * values.size  # 3 bytes per pixel are the result
    finally:
        tracemalloc.stop()


def test_huge_tiles_of_small_images_are_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    tifffile.imwrite(data, np.zeros((16, 16), np.uint8), tile=(16, 16), compression="zlib")
    blob = bytearray(data.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(blob))) as file:
        for name in ("TileWidth", "TileLength"):
            tag = file.pages.first.tags[name]
            blob[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = (40_000).to_bytes(tag.valuebytecount, "little")
    (tmp_path / "bomb.tif").write_bytes(blob)
    for read in (read_image, read_frame):
        with pytest.raises(LimitExceeded, match="40000 x 40000"):
            read(tmp_path / "bomb.tif")


# ------------------------------------------------------------------------------------------------- files and memory


def in_memory(values: np.ndarray, path: Path) -> list[Any]:
    """The values as every source in memory that can hold them."""
    sources: list[Any] = [values, path.read_bytes()]
    if values.ndim == 2 and values.dtype in (np.uint16, np.int32, np.float32):
        with Image.open(path) as image:
            image.load()
            sources += [Image.fromarray(values), image.copy()]
    return sources


DEEP_KINDS = {
    "12 bits in 16": deep(np.random.default_rng(0), (20, 24)),
    "full range": np.arange(480, dtype=np.uint16).reshape(20, 24) * 130,
    "signed": deep(np.random.default_rng(1), (20, 24)).astype(np.int16) - np.int16(1000),
    "32 bits": deep(np.random.default_rng(1), (20, 24)).astype(np.int32) * 1000,
    "float above 1": deep(np.random.default_rng(2), (20, 24)).astype(np.float32),
    "float below 1": np.random.default_rng(2).random((20, 24), np.float32),
    "double": np.random.default_rng(2).normal(size=(20, 24)),
    "not finite": np.where(np.eye(20, 24) > 0, np.nan, deep(np.random.default_rng(3), (20, 24))).astype(np.float32),
    "16-bit color": deep(np.random.default_rng(4), (20, 24, 3)),
}


@pytest.mark.parametrize("name", DEEP_KINDS)
def test_values_in_memory_are_stretched_like_the_same_values_in_a_file(tmp_path: Path, name: str) -> None:
    values = DEEP_KINDS[name]
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb" if values.ndim == 3 else "minisblack")
    expected = read_frame(tmp_path / "x.tif")
    assert (expected.min(), expected.max()) == (0, 255)
    for source in in_memory(values, tmp_path / "x.tif"):
        assert np.array_equal(memory_frame(source), expected), type(source)


def test_tensors_and_buffers_are_stretched_like_arrays_and_bytes(tmp_path: Path) -> None:
    for values in (deep(np.random.default_rng(0), (20, 24)), deep(np.random.default_rng(0), (20, 24, 3))):
        tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb" if values.ndim == 3 else "minisblack")
        data, signed = (tmp_path / "x.tif").read_bytes(), torch.from_numpy(values.astype(np.int32))
        tensor = signed.permute(2, 0, 1) if values.ndim == 3 else signed
        for source in (bytearray(data), memoryview(data), tensor):
            assert np.array_equal(memory_frame(source), read_frame(tmp_path / "x.tif")), type(source)


@pytest.mark.parametrize("name", DEEP_KINDS)
def test_values_in_memory_are_read_or_refused_like_the_same_values_in_a_file(tmp_path: Path, name: str) -> None:
    values = DEEP_KINDS[name]
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb" if values.ndim == 3 else "minisblack")
    outcomes: list[Any] = []
    for source in [tmp_path / "x.tif", *in_memory(values, tmp_path / "x.tif")]:
        try:
            outcomes.append(read_image(source))
        except InputError as error:
            outcomes.append((error.what, error.hint))
    for outcome in outcomes[1:]:
        if isinstance(outcome, LoadedImage):
            off = outcome.pixels.astype(int) - outcomes[0].pixels
            assert np.abs(off).max() <= (values.ndim == 3)  # Pillow cuts the low byte of 16-bit colors
            assert outcome[2:4] == outcomes[0][2:4]
        else:
            assert outcome == outcomes[0]
    assert isinstance(outcomes[0], LoadedImage) == (name in ("12 bits in 16", "full range", "float below 1", "16-bit color"))


def test_8_bit_values_in_memory_are_unchanged(tmp_path: Path) -> None:
    values = np.arange(40, 60, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(values).save(tmp_path / "x.png")
    for source in (values, values[..., None], Image.fromarray(values), (tmp_path / "x.png").read_bytes()):
        assert np.array_equal(memory_frame(source)[..., 1], values)
    for refused in (np.zeros((4, 5, 2), np.uint16), np.zeros(4), np.zeros((2, 2), np.complex64)):
        with pytest.raises(InputError):
            memory_frame(refused)


def test_a_scale_bar_does_not_take_the_contrast() -> None:
    """A drawn bar of 1.3 % of a 16-bit image; without it the contrast is the same, and bright objects are no bar."""
    values: np.ndarray = np.random.default_rng(0).normal(400, 60, (200, 200)).clip(100, 900).astype(np.uint16)
    barred = values.copy()
    barred[180:190, 100:152] = 65535
    rest = np.ones(values.shape, bool)
    rest[180:190, 100:152] = False
    difference = np.abs(stretch(barred)[rest].astype(int) - stretch(values)[rest])
    assert difference.max() <= 3
    assert (stretch(barred)[~rest] == 255).all()
    binary: np.ndarray = np.where(np.arange(400).reshape(20, 20) % 7 == 0, 65535, 0).astype(np.uint16)
    assert set(np.unique(stretch(binary))) == {0, 255}


@pytest.mark.parametrize("kind", ["uint16", "uint32", "int32", "float32"])
def test_values_of_every_type_are_stretched_alike(kind: str, tmp_path: Path) -> None:
    """Unsigned 32 bits above 2**31, and a drawn scale bar far above the values of the cells."""
    cells = np.random.default_rng(0).integers(100, 250, (60, 80))
    expected = stretch(cells.astype(np.uint8))
    factor = {"uint16": 200, "uint32": 16_000_000, "int32": 8_000_000, "float32": 0.5}[kind]
    tifffile.imwrite(tmp_path / "a.tif", (cells * factor).astype(kind))
    (found,) = read_frames(tmp_path / "a.tif")
    assert np.abs(found.astype(int) - expected).max() <= 1
    barred = cells // 50
    barred[50:55, 10:40] = 250
    tifffile.imwrite(tmp_path / "b.tif", (barred * factor).astype(kind))
    (found,) = read_frames(tmp_path / "b.tif")
    assert np.ptp(found[:40]) == 255


def test_an_empty_stack_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    for read in (count_frames, lambda path: list(read_frames(path))):
        with pytest.raises(UnreadableInput, match="the file is empty"):
            read(tmp_path / "empty.tif")
