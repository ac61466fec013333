"""Depth files of all formats in meters, and errors for files that are not depth maps."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from exr_maker import exr

from latens.data.depth import (
    FORMATS,
    Camera,
    DepthFormat,
    cityscapes_format,
    default_format,
    format_of,
    measured_depth,
    read_camera,
    read_depth,
    relative_depth,
    to_depth,
)
from latens.data.depth_holes import fill_holes
from latens.data.exr import read_exr
from latens.errors import InputError, LatensError, UnreadableInput, UsageError


def png(path: Path, values: list[list[int]], dtype: type = np.uint16) -> Path:
    Image.fromarray(np.array(values, dtype=dtype)).save(path)
    return path


def test_apolloscape_sky_and_holes(tmp_path: Path) -> None:
    path = png(tmp_path / "d.png", [[0, 2000], [4000, 65535]])
    depth = read_depth(path, FORMATS["apolloscape"])
    assert depth[0, 1] == pytest.approx(10)
    assert depth[1, 0] == pytest.approx(20)
    assert np.isinf(depth[1, 1])
    assert depth[0, 0] == pytest.approx(15)  # the mean of what the block measured
    assert np.isfinite(read_depth(path, DepthFormat(scale=1 / 200))).all()  # sky is an argument


def test_cityscapes_disparity(tmp_path: Path) -> None:
    (tmp_path / "camera.json").write_text(json.dumps({"intrinsic": {"fx": 2000.0}, "extrinsic": {"baseline": 0.2}}))
    form = cityscapes_format(read_camera(tmp_path / "camera.json"))
    depth = to_depth(np.array([[0, 1, 257, 2561]], np.uint16), form)
    assert np.isnan(depth[0, 0])
    assert np.isinf(depth[0, 1])
    assert depth[0, 2:].tolist() == pytest.approx([400.0, 40.0])  # fx * baseline / pixels
    (tmp_path / "camera.json").write_text("{}")
    with pytest.raises(UnreadableInput, match="camera"):
        read_camera(tmp_path / "camera.json")
    assert cityscapes_format(Camera(1, 1)).disparity


@pytest.mark.parametrize(("name", "stored", "meters"), [("kitti", 2560, 10), ("nyu", 2500, 2.5), ("nyu8", 255, 10)])
def test_scales(name: str, stored: int, meters: float, tmp_path: Path) -> None:
    path = png(tmp_path / "d.png", [[stored, stored]], np.uint8 if stored < 256 else np.uint16)
    assert read_depth(path, format_of(name)).tolist() == [pytest.approx([meters] * 2)]


def test_npy_and_arrays(tmp_path: Path) -> None:
    values = np.array([[1.5, np.inf], [3.0, 4.0]], np.float32)
    np.save(tmp_path / "d.npy", values)
    assert np.array_equal(read_depth(tmp_path / "d.npy"), values)
    assert np.array_equal(read_depth(values[..., None]), values)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(UsageError, match="kiti"):
        format_of("kiti")


@pytest.mark.parametrize(
    ("values", "form", "words"),
    [
        (np.full((2, 2), np.nan), DepthFormat(hole=None), "NaN"),
        (np.array([[1.0, np.nan]]), DepthFormat(), "NaN"),
        (np.zeros((2, 2)), DepthFormat(), "empty"),
        (np.full((2, 2), np.nan), DepthFormat(hole=math.nan), "empty"),
        (np.full((2, 2), np.inf), DepthFormat(), "empty"),
        (np.array([[1.0, -1.0]]), DepthFormat(), "negative"),
        (np.ones((2, 2, 3)), DepthFormat(), "not a depth map"),
        (np.ones((0, 2)), DepthFormat(), "not a depth map"),
        (np.ones((2, 3)), DepthFormat(), "3 x 2, its image 2 x 2"),
    ],
)
def test_invalid_depth_is_refused(values: np.ndarray, form: DepthFormat, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_depth(values, form, size=(2, 2) if values.shape == (2, 3) else None)


@pytest.mark.parametrize("name", ["d.png", "d.npy", "d.exr"])
@pytest.mark.parametrize("content", [b"", b"not an image", b"\x76\x2f\x31\x01\x02\x00\x00\x00abc"])
def test_damaged_files_raise_unreadable_input(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LatensError, match=name):
        read_depth(tmp_path / name)
    with pytest.raises(UnreadableInput):
        read_depth(tmp_path / "missing.png")


def test_a_color_image_is_not_a_depth_map(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    with pytest.raises(InputError, match="mode RGB"):
        read_depth(tmp_path / "c.png")


def test_holes_are_filled_from_their_surroundings() -> None:
    depth = np.full((16, 16), 10, np.float32)
    depth[:, 8:] = 50
    depth[3:5, 3:5], depth[10, 14] = np.nan, np.nan
    filled = fill_holes(depth)
    assert filled[3:5, 3:5] == pytest.approx(10)
    assert filled[10, 14] == pytest.approx(50)
    kept = np.isfinite(depth)
    assert np.array_equal(filled[kept], depth[kept])


def test_holes_in_the_sky_are_sky_and_sparse_depth_is_filled() -> None:
    depth = np.full((16, 16), np.inf, np.float32)
    depth[2, 2], depth[8:] = np.nan, 5
    assert np.isinf(fill_holes(depth)[2, 2])
    sparse = np.full((33, 45), np.nan, np.float32)
    sparse[5::11, 7::13] = 20
    assert fill_holes(sparse) == pytest.approx(20)


def test_relative_depth_lies_between_0_and_1() -> None:
    depth = np.linspace(0, 200, 1001, dtype=np.float32)[None].repeat(2, 0)
    depth[1, -1] = np.inf
    relative = relative_depth(depth)
    assert relative.min() == 0
    assert relative[1, -1] == 1
    assert relative[0, 500] == pytest.approx(0.5, abs=0.002)
    assert relative_depth(depth, max_depth=400)[0, 500] == pytest.approx(0.25)
    with pytest.raises(InputError, match="sky"):
        relative_depth(np.full((2, 2), np.inf, np.float32))


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    found = np.random.default_rng(0).random((37, 23)).astype(np.float32) * 100
    found[10:30] = np.arange(23) // 7
    return found


@pytest.mark.parametrize("kind", ["none", "rle", "zips", "zip"])
@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_exr_files_written_from_the_specification(kind: str, dtype: str, values: np.ndarray, tmp_path: Path) -> None:
    stored = values.astype(dtype)
    (tmp_path / "d.exr").write_bytes(exr({"Y": stored}, kind))
    assert np.array_equal(read_depth(tmp_path / "d.exr", DepthFormat(hole=None)), stored.astype(np.float32))


def test_exr_of_several_channels_and_of_other_kinds(values: np.ndarray) -> None:
    half = values.astype("<f2")
    assert np.array_equal(read_exr(exr({"A": half, "Z": values, "R": half}, top=5)), values)  # depth is in Z
    with pytest.raises(InputError, match="PIZ"):
        read_exr(exr({"Y": values}, "piz"))


@pytest.mark.parametrize("name", ["ViewLayer.Depth.Z", "Depth.V", "depth", "Foo.depth.Y"])
def test_depth_among_the_channels_of_a_renderer(name: str, values: np.ndarray) -> None:
    other = np.zeros_like(values)
    planes = {"ViewLayer.Combined.R": other, "ViewLayer.Normal.Z": other, name: values}
    assert np.array_equal(read_exr(exr(planes)), values)


@pytest.mark.parametrize("names", [("R", "G", "B"), ("A.X", "B.Y"), ("One.Depth.Z", "Two.Depth.Z")])
def test_channels_that_do_not_tell_are_listed(names: tuple[str, ...], values: np.ndarray) -> None:
    with pytest.raises(InputError, match=names[0]):
        read_exr(exr(dict.fromkeys(names, values)))
    assert np.array_equal(read_exr(exr({names[0]: values})), values)  # the only channel


@pytest.mark.parametrize(("values", "hint"), [([[900, 1500]], "nyu"), ([[0.2, 0.9]], "relative"), ([[2.0, 80.0]], None)])
def test_numbers_that_are_hardly_meters_are_told(
    values: list[list[float]], hint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    read_depth(np.array(values))
    assert (hint is None) == (not caplog.messages)
    assert hint is None or f"--depth-format {hint}" in caplog.messages[0]


def test_inverse_depth_is_relative_and_nearer_where_larger() -> None:
    depth = relative_depth(read_depth(np.array([[1.0, 2.0, 4.0, 0.0]]), format_of("inverse")))
    assert depth[0, :3] == pytest.approx([1, 0.5, 0.25], rel=0.01)  # relative to the 99.9 % quantile
    assert depth[0, 3] == 1  # sky


def test_every_truncation_and_flip_of_an_exr_is_reported(values: np.ndarray) -> None:
    data = exr({"Y": values.astype("<f2")})
    for length in range(0, len(data) - 1, 61):
        with pytest.raises(LatensError):
            read_exr(data[:length])
    rng = np.random.default_rng(0)
    met = 0
    for position in rng.integers(0, len(data), 200):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        try:
            read_exr(bytes(damaged))
        except LatensError:
            met += 1
    assert met > 100  # zlib notices damage to what it packed


def test_default_formats(tmp_path: Path) -> None:
    whole = png(tmp_path / "street_depth.png", [[10, 200]], np.uint8)
    lidar = png(tmp_path / "street_depth256.png", [[256, 512]])
    Image.fromarray(np.array([[1.5, 2.5]], np.float32)).save(tmp_path / "d.tiff")
    png(tmp_path / "whole.tiff", [[256, 512]])
    np.save(tmp_path / "d.npy", np.ones((1, 2)))
    assert default_format(whole) == default_format(tmp_path / "whole.tiff") == FORMATS["relative"]
    assert default_format(lidar) == FORMATS["kitti"]
    for metric in (tmp_path / "d.npy", tmp_path / "d.exr", tmp_path / "d.tiff", np.ones((1, 2))):
        assert default_format(metric) == FORMATS["meters"]
    assert default_format(tmp_path / "missing.png").relative  # reading it says what is wrong


def test_nan_and_zero_are_holes_with_a_nan_format() -> None:
    values = np.array([[5.0, np.nan], [0.0, 5.0]])
    assert read_depth(values, FORMATS["meters_nan"]).tolist() == [[5, 5], [5, 5]]


def test_a_jpeg_is_refused_as_a_depth_map(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "d.jpg")
    with pytest.raises(UnreadableInput, match="known format") as caught:
        read_depth(tmp_path / "d.jpg")
    assert "BytesIO" not in str(caught.value)


def test_depth_as_networks_and_renderers_write_it(tmp_path: Path) -> None:
    """(1, H, W) of networks, TIFF of floats of 16 and 64 bits, PFM with its rows from the bottom."""
    depth = np.linspace(2, 90, 12 * 10, dtype=np.float32).reshape(12, 10)
    np.save(tmp_path / "a.npy", depth[None])
    tifffile.imwrite(tmp_path / "b.tif", depth.astype(np.float16))
    tifffile.imwrite(tmp_path / "c.tif", depth.astype(np.float64))
    (tmp_path / "d.pfm").write_bytes(b"Pf\n10 12\n-1.0\n" + depth[::-1].astype("<f4").tobytes())
    for name, tolerance in (("a.npy", 0), ("b.tif", 0.05), ("c.tif", 1e-5), ("d.pfm", 0)):
        assert default_format(tmp_path / name) == FORMATS["meters"], name
        found = measured_depth(tmp_path / name)
        np.testing.assert_allclose(found, depth, atol=tolerance, err_msg=name)
    (tmp_path / "e.tif").write_bytes((tmp_path / "b.tif").read_bytes()[:-20])
    with pytest.raises(UnreadableInput):
        measured_depth(tmp_path / "e.tif")
