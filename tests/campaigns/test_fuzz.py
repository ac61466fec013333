"""Files of any name, ending, kind and damage, with any options: every verb ends with a documented status and a clear error."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from latens.data.files import MAX_NAME

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from exr_maker import exr

from .faults import NONE, Fault, run
from .verbs import coded_clip, is_temporary

STATUSES = {0, 2, 3, 4, 5, 6, 75}  # of docs/design: success, usage, input, partial, limits and disk, model, try again
STOPPED = {"kill": {137}, "interrupt": {130}}

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F"]
FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]
ENDINGS = [*".png .jpg .JPG .jpe .tif .tiff .webp .bmp .gif .ppm .ltn .json .mp4 .csv".split(), ""]
STEMS = [*"a -o --force a.b ä é * [1] ? %s {0} $HOME a\\b ~".split(), "a b", "\n", "\x1b[31m", "'", '"']

FILE, MODEL = "@file", "@model"  # in options: the first file; a model folder with a damaged file
VERBS: dict[str, list[list[str]]] = {  # every verb with its options, one of which is drawn
    "compress": [
        [],
        ["--quality", "1"],
        ["--quality", "8"],
        ["--psnr", "30"],
        ["--strip"],
        ["--refine", "2"],
        ["--quality", "nan"],
        ["--model", MODEL],
    ],
    "decompress": [[], ["--partial"]],
    "inspect": [[]],
    "segment": [[], ["--score", "0"], ["--score", "1"], ["--score", "nan"]],
    "dehaze": [[], ["--method", "dark-channel"], ["--method", "none"]],
    "haze": [
        [],
        ["--visibility", "50"],
        ["--visibility", "0"],
        ["--visibility", "inf"],
        ["--save-depth", "depths"],
        ["--depth", "in"],
        ["--depth", FILE],
        ["--depth", FILE, "--depth-format", "kitti"],
        ["--depth", FILE, "--depth-channel", "Z"],
    ],
    "parts": [[], ["--teach", "in"], ["--names", "in"], ["--find", "sky", "--names", FILE]],
    "int8": [[]],
    "import": [[]],
    "evaluate seedlings": [["--data", FILE]],
    "evaluate parts": [["--data", "in"], ["--data", FILE]],
    "density": [[], ["--draws", "1"], ["--draws", "0"]],
    "density pack": [[]],
    "density unpack": [[]],
    "grade": [["--rows", "2", "--cols", "2"], ["--rows", "0", "--cols", "2"], []],
    "convert": [["--to", "coco"], ["--to", "labelme"], ["--to", "labels"]],
    "video compress": [[], ["--roi", "box:0,0,9,9"], ["--roi", "box:nan,0,9,9"], ["--size", "0"], ["--quality", "3"]],
    "video decompress": [[]],
}
SOURCES = ["coco:", "labelme:", "labels:", "kins:", ""]
OUT = {"density": "scores.csv", "density pack": "all.ltp", "convert": "out.json"}


@st.composite
def encoded_images(draw: st.DrawFn) -> bytes:
    """An image file of any mode and format, or a TIFF stack of frames or channels."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    mode = draw(st.sampled_from(MODES))
    pixels = Image.fromarray(
        np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )
    try:
        image = pixels.convert(mode) if mode not in ("I;16", "PA", "F", "I") else pixels.convert("L").convert(mode)
    except ValueError:  # no such conversion
        image = pixels
    more = [image] * draw(st.integers(0, 2))
    stream = io.BytesIO()
    try:
        options = {"save_all": True, "append_images": more} if more else {}
        image.save(stream, draw(st.sampled_from(FORMATS)), **options)
    except (OSError, KeyError, TypeError, ValueError):  # no such mode in this format
        stream = io.BytesIO()
        pixels.save(stream, "PNG")
    return stream.getvalue()


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A file, whole or with changed, missing or additional bytes."""
    data = bytearray(draw(whole))
    match draw(st.sampled_from(["whole", "whole", "flip", "cut", "zeros", "tail", "noise", "empty"])):
        case "flip":
            for _ in range(draw(st.integers(1, 4))):
                data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        case "cut":
            del data[draw(st.integers(0, len(data) - 1)) :]
        case "zeros":
            start = draw(st.integers(0, len(data) - 1))
            data[start : start + 64] = bytes(len(data[start : start + 64]))
        case "tail":
            data += draw(st.binary(min_size=1, max_size=64))
        case "noise":
            data = bytearray(draw(st.binary(max_size=200)))
        case "empty":
            data.clear()
    return bytes(data)


names = st.builds(
    lambda stem, ending: os.fsdecode(os.fsencode(stem + ending)[-MAX_NAME:]),
    st.sampled_from([*STEMS, os.fsdecode(b"\xff\xfe"), "n" * 251])
    | st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(ENDINGS),
).filter(lambda name: name not in (".", ".."))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A whole file of every other kind: .ltn, .ltv, .mp4, annotations, an archive, a table."""
    from latens.cli.main import main

    folder = tmp_path_factory.mktemp("samples")
    coded_clip(folder)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(folder / "in" / "a.png")
    quiet = ["--format", "quiet"]
    assert main(["compress", f"{folder}/in/a.png", "-o", f"{folder}/a.ltn", *quiet]) == 0
    assert main(["segment", f"{folder}/in/a.png", "-o", f"{folder}/a.json", *quiet]) == 0
    assert main(["convert", f"coco:{folder}/a.json,{folder}/in", "--to", "labelme", "-o", f"{folder}/labelme", *quiet]) == 0
    assert main(["density", "pack", f"{folder}/in/a.png", "-o", f"{folder}/a.ltp", *quiet]) == 0
    depth = np.linspace(5, 90, 24 * 30, dtype=np.float32).reshape(24, 30)
    np.save(folder / "a.npy", depth)
    np.savez(folder / "a.npz", pixels=np.zeros((4, 24, 24, 3), np.uint8), labels=np.arange(4))
    (folder / "a.exr").write_bytes(exr({"Z": depth}))
    kinds = (".ltn", ".ltv", ".mp4", ".json", ".ltp", ".csv", ".tif", ".npy", ".npz", ".exr")
    kept = [path for path in folder.rglob("*") if path.suffix in kinds]
    return [path.read_bytes() for path in sorted(kept)]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_with_any_file(
    verb: str,
    samples: list[bytes],
    codec_folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = float(request.config.getoption("--campaign-seconds"))
    chosen = f"{request.config.getoption('--campaign-seed')}{verb}"
    work = tmp_path / "work"
    files = st.lists(st.tuples(names, damaged(encoded_images() | st.sampled_from(samples))), min_size=1, max_size=3)
    # A full or broken disk may stay so; a user who presses Ctrl-C at every later call is none.
    calls = st.integers(0, 40)
    stops = st.builds(Fault, st.sampled_from(["kill", "interrupt"]), calls, st.just(False))
    faults = st.just(NONE) | stops | st.builds(Fault, st.sampled_from(["ENOSPC", "EIO"]), calls, st.booleans())
    parts = sorted(path.name for path in codec_folder.iterdir())
    models = st.sampled_from(parts).flatmap(
        lambda name: st.tuples(st.just(name), damaged(st.just((codec_folder / name).read_bytes())))
    )

    @seed(chosen)
    @settings(max_examples=max(3, int(6 * seconds)), deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        files,
        st.sampled_from(VERBS[verb]),
        st.sampled_from(["folder", "file", "beside"]),
        st.sampled_from(SOURCES),
        faults,
        models,
    )
    def fuzz(
        files: list[tuple[str, bytes]], options: list[str], how: str, source: str, fault: Fault, model: tuple[str, bytes]
    ) -> None:
        shutil.rmtree(work, ignore_errors=True)
        (work / "in").mkdir(parents=True)
        monkeypatch.chdir(work)
        given_files = dict(files)
        for name, data in given_files.items():
            (work / "in" / name).write_bytes(data)
        if MODEL in options:
            shutil.copytree(codec_folder, work / "model")
            (work / "model" / model[0]).write_bytes(model[1])
        words = words_of(verb, next(iter(given_files)), how, source, options)
        done = run(words, work, tmp_path / "log", fault)
        assert done.status in STATUSES | STOPPED.get(fault.kind, set()), (
            words,
            fault,
            done.status,
            done.messages,
        )
        assert "internal error" not in done.messages, (words, fault, done.messages)
        for name, data in given_files.items():
            assert (work / "in" / name).read_bytes() == data, (words, fault, f"{name!r} was changed")
        if fault.kind in ("none", "interrupt"):
            left = [path.name for path in work.rglob("*") if is_temporary(path.name)]
            assert not left, (words, left)

    fuzz()


def words_of(verb: str, name: str, how: str, source: str, options: list[str]) -> list[str]:
    """A command line for the folder `in` or one of its files."""
    place = "in" if how == "folder" else f"in/{name}"
    if verb == "convert":
        place = source + place
    replaced = {FILE: f"in/{name}", MODEL: "model"}
    given_options = [replaced.get(option, option) for option in options]
    if verb.startswith("evaluate"):
        return [*verb.split(), *given_options, "-o", "out"]
    words = [*verb.split(), place, *given_options]
    if verb == "inspect" or (how == "beside" and verb not in ("grade", "density", "density pack", "density unpack", "convert")):
        return words
    return [*words, "-o", OUT.get(verb, "out")]
