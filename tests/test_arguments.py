"""Options of a wrong type raise UsageError in every system, never an error of Python, numpy or torch."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import latens
from latens import arguments
from latens.data.images import read_image
from latens.errors import InputError, LatensError, UsageError
from latens.systems.seedlings.predict import checked_sown
from latens.video.compress import compress_clip

WRONG: list[Any] = ["x", "4", [1], {}, np.array([1, 2]), float("nan"), b"4"]
NO_FILES: list[Any] = [None, 5, [1], {}]
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("value", [4, 4.0, np.float32(4), np.int64(4), torch.tensor(4), True * 4])
def test_numbers_of_any_library(value: Any) -> None:
    assert arguments.real(value, "quality") == 4


@pytest.mark.parametrize("value", [4, np.int64(4), torch.tensor(4)])
def test_integers_of_any_library(value: Any) -> None:
    assert arguments.whole(value, "count") == 4


@pytest.mark.parametrize("value", [None, *WRONG])
def test_wrong_numbers_are_named(value: Any) -> None:
    with pytest.raises(UsageError, match="quality"):
        arguments.real(value, "quality")
    with pytest.raises(UsageError, match="count"):
        arguments.whole(value, "count")


@pytest.mark.parametrize("value", [None, 5, "", "a\0b", b"a"])
def test_wrong_paths(value: Any) -> None:
    with pytest.raises(UsageError, match="out"):
        arguments.path(value, "out")


def image_codec() -> list[tuple[str, Callable[[Any], Any], list[Any]]]:
    codec = latens.load("image_codec", device="cpu")
    return [
        ("quality", lambda v: codec.compress(PIXELS, quality=v), WRONG),
        ("bpp", lambda v: codec.compress(PIXELS, bpp=v), WRONG),
        ("psnr", lambda v: codec.compress(PIXELS, psnr=v), WRONG),
        ("length", lambda v: codec.code_length(PIXELS, quality=v), WRONG),
        ("blob", codec.decompress, NO_FILES),
    ]


def amodal() -> list[tuple[str, Callable[[Any], Any], list[Any]]]:
    model = latens.load("amodal", device="cpu")
    cells = latens.load("cells", device="cpu")
    return [
        ("score", lambda v: model.segment(PIXELS, least_score=v), [None, *WRONG]),
        ("pixels", model.segment_pixels, [None, PIXELS / 255, PIXELS[..., 0]]),
        ("pixels of cells", cells.segment_pixels, [None, PIXELS / 255, PIXELS[..., 0]]),
    ]


def haze() -> list[tuple[str, Callable[[Any], Any], list[Any]]]:
    model = latens.load("haze", device="cpu")
    return [
        ("strength", lambda v: model.dehaze(PIXELS, strength=v), [None, *WRONG]),
        ("brightness", lambda v: model.dehaze(PIXELS, keep_brightness=v), [None, *WRONG]),
        ("visibility", lambda v: model.haze(PIXELS, visibility=v), WRONG),
        ("beta", lambda v: model.haze(PIXELS, beta=v), WRONG),
        ("max_depth", lambda v: model.haze(PIXELS, max_depth=v), [None, *WRONG]),
        ("farthest", lambda v: model.depth(PIXELS, max_depth=v), [None, -1, 0, *WRONG]),
        ("airlight", lambda v: model.haze(PIXELS, airlight=v), [None, 1, (1, 1), (2, 2, 2), "abc", (1, 1, float("nan"))]),
        ("depth", lambda v: model.haze(PIXELS, depth=v), [5, [1], {}, "a\0b", np.array("x"), np.zeros((0, 0))]),
        ("format", lambda v: model.haze(PIXELS, depth=PIXELS[..., 0] / 9, depth_format=v), ["kitti", 5]),
        ("method", lambda v: model.haze(PIXELS, method=v), ["x", 5]),
        ("transmission", lambda v: model.remove(PIXELS, transmission=v), [5, [1], PIXELS[..., 0], np.ones((2, 2))]),
        ("clip", lambda v: list(model.dehaze_clip(v)), [None, 5, "a", PIXELS, [5], [PIXELS, PIXELS[:9]]]),
        ("pixels", lambda v: model.dehaze_pixels(v, "dcp"), [None, PIXELS / 255, PIXELS[..., 0]]),
    ]


def parts() -> list[tuple[str, Callable[[Any], Any], list[Any]]]:
    model = latens.load("parts", device="cpu")
    code = model.encode(PIXELS)[0]
    return [
        ("resolution", model.at, [None, 0, 64.5, *WRONG]),
        ("part", lambda v: model.swap(code, code, v), [None, -1, 1.5, *WRONG]),
        ("most", lambda v: model.gallery([PIXELS], most=v), [None, 0, 1.5, *WRONG]),
        ("code", model.decode, [None, 5, [code]]),
        ("codes", lambda v: model.gallery([PIXELS], codes=v), [5, [5], [], [code, code]]),
        ("known", lambda v: model.occurrences(PIXELS, code=v), [5, [code]]),
    ]


def flow() -> list[tuple[str, Callable[[Any], Any], list[Any]]]:
    model = latens.load("flow", device="cpu")
    return [
        ("draws", lambda v: model.density(PIXELS, draws=v), [None, 0, 1.5, *WRONG]),
        ("count", model.sample, [None, -1, 1.5, *WRONG]),
        ("seed", lambda v: model.sample(1, seed=v), [None, -1, 1.5, *WRONG]),
        ("temperature", lambda v: model.sample(1, temperature=v), [None, -1, *WRONG]),
        ("latents", model.inverse, [None, "a", {}, 5]),
        ("steps", lambda v: latens.flow.fit(np.eye(9), steps=v), [None, 0, 1.5, *WRONG]),
        ("fit seed", lambda v: latens.flow.fit(np.eye(9), steps=1, seed=v), [None, -1, *WRONG]),
        ("out", lambda v: latens.flow.fit(np.eye(9), steps=1, out=v), [5, b"a"]),
        ("config", lambda v: latens.flow.fit(np.eye(9), steps=1, config=v), [5, "toy"]),
    ]


def closed_file() -> io.BytesIO:
    stream = io.BytesIO()
    stream.close()
    return stream


def video_codec() -> list[tuple[str, Callable[[Any], Any], list[Any]]]:
    codec = latens.load("video_codec", device="cpu")
    frames = [PIXELS, PIXELS]
    return [
        ("quality", lambda v: codec.compress(frames, quality=v), WRONG),
        ("gain", lambda v: codec.compress(frames, roi="box:0,0,9,9", gain=v), WRONG),
        ("fps", lambda v: codec.compress(frames, fps=v), [0, -1, 10**30, float("inf"), *WRONG]),
        ("frames", codec.compress, [None, 5, b"abc", {}, Image.new("RGB", (8, 8))]),
        ("kbps", lambda v: codec.compress(frames, kbps=v), [0, *WRONG]),
        ("region", lambda v: codec.compress(frames, roi=v), [5, b"a", torch.ones(2, 2), [1, 2]]),
        ("ids", lambda v: codec.compress(frames, roi=np.ones((32, 40), np.uint8), roi_ids=v), [5, 1.5, ["a"]]),
        ("out", lambda v: codec.encode(frames, v), [None, "a", Path("a"), io.StringIO(), closed_file()]),
        ("blob", codec.frames, [*NO_FILES, io.StringIO(), closed_file()]),
        ("start", lambda v: codec.frames(codec.compress(frames), start=v), [None, -1, 1.5]),
    ]


def seedlings() -> list[tuple[str, Callable[[Any], Any], list[Any]]]:
    model = latens.load("seedlings", device="cpu")
    return [
        ("day", lambda v: model.classify(PIXELS, day=v), [1.5, *WRONG]),
        ("sown", lambda v: model.grade(PIXELS, sown=v), ["2024-03-01", 5]),
        ("grid", lambda v: model.grade(PIXELS, grid=v), [None, 5, {"rows": 3}]),
        ("reference", lambda v: model.grade(PIXELS, reference=v), [5, "a"]),
        ("crops", lambda v: model.predict_crops(v, 5), [None, 5, PIXELS, [PIXELS]]),
    ]


@pytest.mark.parametrize(
    "system", [image_codec, amodal, haze, parts, flow, video_codec, seedlings], ids=lambda one: one.__name__
)
def test_every_system_refuses_wrong_options(system: Callable[[], Any], tmp_path: Path) -> None:
    raw = []
    for name, call, values in system():
        for value in values:
            try:
                call(value)
            except LatensError:
                continue
            except Exception as error:
                raw.append(f"{name}={value!r}: {type(error).__name__}: {error}")
            else:
                raw.append(f"{name}={type(value).__name__} was accepted")
    assert not raw, "\n".join(raw)


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("max_time", ["30m", None, float("nan")]),
        ("data", [3, {"a": 1}, b"photos", [3]]),
        ("settings", ["run.steps=1", ["run.steps=1"], {"run.steps": {1}}, {3: "1"}]),
        ("recipe", [3, b"tiny"]),
        ("out", [3, b"run", ""]),
        ("branch", [3]),
        ("threads", ["2", 1.5]),
    ],
)
def test_options_of_functions(option: str, wrong: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train`, `evaluate` and `reproduce`, which all raised errors of Python."""
    monkeypatch.chdir(tmp_path)
    own = {"train": set(), "evaluate": {"max_time", "recipe", "branch"}, "reproduce": {"max_time", "branch"}}
    for value in wrong:
        for name in [name for name, others in own.items() if option not in others]:
            given = {"recipe": "tiny"} if name != "evaluate" and option != "branch" else {}
            with pytest.raises(UsageError, match=option):
                list(getattr(latens, name)("image_codec", **{**given, option: value}))
    for name in own:
        with pytest.raises(UsageError, match=r"system|what"):
            list(getattr(latens, name)(3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("out", [3, b"a", ""]),
        ("save_masks", [3]),
        ("roi", [5, b"a", torch.ones(2, 2)]),
        ("roi_ids", [5, ["a"]]),
        ("quality", [0, *WRONG]),
        ("kbps", [0, *WRONG]),
        ("strength", [0, *WRONG]),
        ("threads", [None, -1, 1.5, *WRONG]),
        ("codec", [5, "mpeg"]),
        ("encoder_options", [5, "preset=slow", [1], {"presets": "slow"}]),
    ],
)
def test_options_of_compress_clip(option: str, wrong: list[Any], tmp_path: Path) -> None:
    for value in wrong:
        given = {"out": tmp_path / "a.mp4", "roi": "box:0,0,9,9", option: value}
        with pytest.raises(UsageError):
            compress_clip([PIXELS], **given)
    assert not list(tmp_path.iterdir())


def test_numbers_and_ids_of_numpy_for_clips(tmp_path: Path) -> None:
    codec, quality = latens.load("video_codec", device="cpu"), cast("float", np.float32(3))
    masks = np.full((32, 40), 3, np.uint8)
    plain = codec.compress([PIXELS], quality=3, roi=masks, roi_ids=frozenset({3}))
    assert codec.compress([PIXELS], quality=quality, roi=masks, roi_ids=[np.int64(3)]) == plain  # type: ignore[list-item]
    assert compress_clip([PIXELS], tmp_path / "a.mp4", quality=quality, roi=masks, roi_ids=[3]).frames == 1


def test_clips_take_frames_of_every_kind() -> None:
    haze = latens.load("haze", device="cpu")
    frames = np.stack([PIXELS, PIXELS[::-1]])
    expected = list(haze.dehaze_clip(iter(frames)))
    channels_first = torch.from_numpy(frames.transpose(0, 3, 1, 2) / 255)
    for given in (frames, frames / 255, channels_first, [Image.fromarray(each) for each in frames]):
        np.testing.assert_array_equal(list(haze.dehaze_clip(given)), expected)


def test_a_path_of_frames_may_be_a_text(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    ((pixels, _),) = latens.load("cells", device="cpu").segment_frames(str(tmp_path / "a.png"))
    assert np.array_equal(pixels, PIXELS)


def test_a_time_of_sowing_is_its_date() -> None:
    assert checked_sown(datetime(2024, 3, 1, 12, 30)) == checked_sown(date(2024, 3, 1)) == date(2024, 3, 1)


def test_one_folder_and_numbers_as_settings(tmp_path: Path) -> None:
    """A single folder was read letter by letter."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    changes = {"run.steps": 1, "data.batch": 1, "model.lambdas": [0.01, 0.02]}
    several: list[Any] = [tmp_path, str(tmp_path), [tmp_path]]
    for number, data in enumerate(several):
        out = tmp_path / f"run{number}"
        assert latens.train("image_codec", recipe="tiny", data=data, settings=changes, out=out, device="cpu").step == 1


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(3, 8, 8).to_sparse(), torch.empty(3, 8, 8, device="meta"), torch.zeros(3, 8, 8, dtype=torch.complex64)],
)
def test_tensors_without_readable_values(tensor: torch.Tensor) -> None:
    with pytest.raises(InputError):
        read_image(tensor)
