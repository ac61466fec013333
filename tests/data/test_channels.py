"""--channel: one channel of images with several, in every verb that refuses them otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from latens.cli.common import ImageOptions
from latens.cli.main import VERBS, main
from latens.data.channels import chosen_channel, current_channel, index_of, pick
from latens.data.images import read_image
from latens.data.planes import read_planes
from latens.data.stacks import count_frames, read_frame, read_frames
from latens.data.stretch import stretch
from latens.errors import InputError, UnreadableInput, UsageError

Capture = pytest.CaptureFixture[str]
WITH_IMAGES = ("compress", "segment", "convert", "dehaze", "haze", "parts", "density", "grade", "train", "evaluate")


def stains(folder: Path, dtype: str, channels: int, *, planar: bool) -> tuple[Path, np.ndarray]:
    """An OME-TIFF of one page with several channels named DAPI, GFP, ..., and its values (H, W, channels)."""
    values = np.random.default_rng(0).integers(0, 250, (24, 30, channels)).astype(dtype)
    names = ("DAPI", "GFP", "RFP", "Cy5", "BF")[:channels]
    listed = "".join(f'<Channel ID="Channel:0:{n}" Name="{name}"/>' for n, name in enumerate(names))
    xml = f'<OME><Image><Pixels DimensionOrder="XYCZT" SizeC="{channels}">{listed}</Pixels></Image></OME>'
    path = folder / f"{dtype}{channels}{planar}.tif"
    stored = np.moveaxis(values, 2, 0) if planar else values
    config = "separate" if planar else "contig"
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=config, description=xml, metadata=None)
    return path, values


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_each_channel_by_number_and_name(tmp_path: Path, dtype: str, channels: int, planar: bool) -> None:
    path, values = stains(tmp_path, dtype, channels, planar=planar)
    with pytest.raises(InputError, match=r"\(1 \(DAPI\), 2 \(GFP\)") as caught:
        read_frame(path)
    assert "--channel" in str(caught.value.hint)
    for number, name in enumerate(("DAPI", "gfp", "RFP", "Cy5", "BF")[:channels]):
        wanted = values[..., number] if dtype == "uint8" else stretch(values[..., number])[..., 0]
        for channel in (str(number + 1), name):
            with chosen_channel(channel):
                (frame,) = read_frames(path)
                assert np.array_equal(frame[..., 0], wanted)
                assert np.array_equal(frame[..., 0], frame[..., 2])
                assert count_frames(path) == 1
                if dtype == "uint8":
                    assert np.array_equal(read_image(path).pixels, frame)
    assert [plane.c for plane in read_planes(path)] == [None]
    with chosen_channel("GFP"):
        assert [plane.c for plane in read_planes(path)] == [2]
    with chosen_channel("DIC"), pytest.raises(InputError, match="no channel DIC") as caught:
        read_frame(path)
    assert "1 (DAPI), 2 (GFP)" in str(caught.value.hint)
    assert current_channel() is None


def test_colors_and_gray_of_other_formats(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with chosen_channel(2):
        for name in ("a.png", "a.tif"):
            assert np.array_equal(read_frame(tmp_path / name), np.repeat(pixels[..., 1:2], 3, axis=2))
        loaded = read_image(tmp_path / "a.png")
        assert loaded.gray
        assert "channel 2 taken" in loaded.notes
        with pytest.raises(InputError, match="no channel 2"):
            read_frame(tmp_path / "gray.png")
    with chosen_channel(1):
        assert np.array_equal(read_frame(tmp_path / "gray.png")[..., 0], pixels[..., 0])


def test_without_tifffile_channels_of_a_tiff_name_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = stains(tmp_path, "uint8", 2, planar=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for read in (read_image, read_frame):
        with chosen_channel(1), pytest.raises(UnreadableInput, match="another package") as caught:
            read(path)
        assert "micro" in str(caught.value.hint)


def test_names_and_numbers() -> None:
    assert index_of("2", 3) == 1
    assert index_of("2", 3, ("405", "2", "x")) == 1  # a name comes first
    assert index_of("405", 3, ("405", "488", "x")) == 0
    for channel in ("0", "4", "x", "1.5"):
        with pytest.raises(InputError):
            index_of(channel, 3, ("a", "b", "b"))
    with pytest.raises(InputError):
        index_of("b", 3, ("a", "b", "b"))  # ambiguous
    assert pick(np.ones((2, 3)), "1").shape == (2, 3)
    for bad in ("", "0", "-1"):
        with pytest.raises(UsageError), chosen_channel(bad):
            pass


@pytest.mark.parametrize("verb", WITH_IMAGES)
def test_every_verb_with_images_has_the_option(verb: str) -> None:
    import importlib
    import inspect

    module, _, function = next(each.target for each in VERBS if each.name == verb).partition(":")
    options = inspect.signature(getattr(importlib.import_module(module), function)).parameters["options"]
    assert isinstance(options.default, ImageOptions)


def test_verbs_refuse_and_read_channels(tmp_path: Path, capsys: Capture) -> None:
    path, _ = stains(tmp_path, "uint16", 2, planar=False)
    commands = (["compress"], ["segment"], ["dehaze", "--method", "dcp"], ["parts"], ["haze"], ["density"])
    for number, (verb, *rest) in enumerate(commands):
        place = str(tmp_path / f"out{number}") + (".csv" if verb == "density" else "")
        words = [verb, str(path), *rest, "-o", place]
        assert main(words) == 3, verb
        assert "--channel" in capsys.readouterr().err
        assert main([*words, "--channel", "GFP"]) == 0, verb
    assert main(["compress", str(path), "-o", str(tmp_path / "x.ltn"), "--channel", "7"]) == 3
    assert main(["compress", str(path), "-o", str(tmp_path / "x.ltn"), "--channel", "0"]) == 2


def test_results_of_two_channels_do_not_mix(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "in").mkdir()
    stains(tmp_path / "in", "uint8", 2, planar=True)
    words = ["dehaze", str(tmp_path / "in"), "--method", "dcp", "-o", str(tmp_path / "out"), "--channel"]
    assert main([*words, "1"]) == 0
    assert main([*words, "2"]) == 2
    assert "channel was 1 and is 2" in capsys.readouterr().err


@pytest.mark.parametrize("axes", ["CYX", "CZYX", "ZCYX", "TCYX", "TZCYX"])
@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_pages_that_are_channels(axes: str, kind: str, tmp_path: Path) -> None:
    """Microscopes store each channel as pages: --channel takes these pages, in stacks and in verbs of one image."""
    order = axes if kind == "ome" else "".join(axis for axis in "TZCYX" if axis in axes)  # the only one of ImageJ
    sizes = {"C": 2, "Z": 3, "T": 2, "Y": 12, "X": 14}
    values = np.random.default_rng(0).integers(0, 250, [sizes[axis] for axis in order], dtype=np.uint8)
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    named = {"axes": order, **({"Channel": {"Name": ["DAPI", "GFP"]}} if kind == "ome" else {})}
    tifffile.imwrite(path, values, metadata=named, ome=kind == "ome", imagej=kind == "imagej")
    wanted = np.take(values, 1, order.index("C")).reshape(-1, 12, 14)
    assert count_frames(path) == 2 * len(wanted)
    for channel in ("2", "gfp") if kind == "ome" else ("2",):
        with chosen_channel(channel):
            frames = list(read_frames(path))
            assert np.array_equal([frame[..., 0] for frame in frames], wanted)
            assert count_frames(path) == len(wanted)
            assert [plane.c for plane in read_planes(path)] == [2] * len(wanted)
            assert np.array_equal(read_image(path).pixels[..., 0], wanted[0])
            assert np.array_equal(read_frame(path)[..., 0], wanted[0])
    with chosen_channel("3"), pytest.raises(InputError, match="no channel 3"):
        list(read_frames(path))
    with chosen_channel("3"), pytest.raises(InputError, match="no channel 3"):
        read_image(path)
