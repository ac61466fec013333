"""dehaze and haze on real files: paths, clips, depth by name, exit statuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_maker import make_clip

from latens.catalogue import MODELS
from latens.cli.main import main
from latens.data.clips.reader import open_clip

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, a clip, a broken image, and depth for one image."""
    rng = np.random.default_rng(0)
    place = tmp_path / "in"
    (place / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.jpg"):
        Image.fromarray(rng.integers(90, 256, (40, 60, 3), dtype=np.uint8)).save(place / name)
    make_clip(
        place / "clip.mp4", images=[rng.integers(90, 256, (32, 48, 3), dtype=np.uint8)] * 3, times=range(3), size=(48, 32)
    )
    (place / "broken.png").write_text("no image")
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "a.npy", np.linspace(5, 300, 40)[:, None].repeat(60, 1))
    return place


def test_dehaze_mirrors_a_folder_with_clips(folder: Path, capsys: Capture) -> None:
    out = folder.parent / "out"
    command = ["dehaze", str(folder), "-o", str(out), "--method", "dcp", "--format", "json"]
    assert main(command) == 3
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {Path(r["input"]).name: r["status"] for r in records} == {
        "a.png": "done",
        "b.jpg": "done",
        "clip.mp4": "done",
        "broken.png": "failed",
    }
    assert Image.open(out / "sub" / "b.png").size == (60, 40)
    with open_clip(out / "clip.mp4") as clip:
        assert len(list(clip.frames())) == 3
    assert main(command) == 3
    assert capsys.readouterr().out.count('"skipped"') == 3


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm", ".avi"])
def test_an_incomplete_clip_ends_with_status_4(ending: str, tmp_path: Path, capsys: Capture) -> None:
    """In both verbs that write clips, of every container; the readable frames are written."""
    library = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(ending, "libx264")
    options = {"movflags": "+faststart"} if ending == ".mp4" else {}
    whole = make_clip(tmp_path / f"whole{ending}", times=range(30), library=library, container_options=options)
    (tmp_path / f"cut{ending}").write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    for words in (["dehaze", "--method", "dcp"], ["video", "compress"]):
        for name, status in (("whole", 0), ("cut", 4)):
            out = tmp_path / f"{words[0]}_{name}.mp4"
            assert main([*words, str(tmp_path / f"{name}{ending}"), "-o", str(out), "--format", "json"]) == status
            found = json.loads(capsys.readouterr().out)
            assert bool(found["missing"]) == (name == "cut")
            assert any("the file is incomplete" in note for note in found["notes"]) == (name == "cut")
            with open_clip(out) as clip:
                assert len(list(clip.frames())) == found["frames"]


def test_without_out_the_result_is_next_to_its_input(folder: Path, capsys: Capture) -> None:
    assert main(["dehaze", str(folder / "a.png"), "--method", "bccr"]) == 0
    assert (folder / "a.clear.png").is_file()
    assert main(["dehaze", str(folder / "clip.mp4"), "--method", "dcp"]) == 0
    assert (folder / "clip.clear.mp4").is_file()
    assert "3 frames" in capsys.readouterr().out


def test_learned_methods_without_weights_are_6_before_any_work(folder: Path, capsys: Capture) -> None:
    for method in ("mmd", "unit", "cyclegan", "dehazenet", "physical"):
        if f"haze_{method}" in MODELS:
            continue
        assert main(["dehaze", str(folder), "-o", str(folder.parent / "x"), "--method", method]) == 6
        shown = capsys.readouterr().err
        assert f"no weights for the method {method}" in shown
        assert len(shown.splitlines()) <= 3
    assert not (folder.parent / "x").exists()


def test_haze_with_depth_from_a_folder(folder: Path, capsys: Capture) -> None:
    depth, out = str(folder.parent / "depth"), folder.parent / "foggy.png"
    assert main(["haze", str(folder / "a.png"), "-o", str(out), "--visibility", "60", "--depth", depth]) == 0
    near, far = (np.asarray(Image.open(out))[row].std() for row in (0, -1))
    assert far < 0.2 * near  # the far rows are nearly of the airlight's color
    assert main(["haze", str(folder / "sub" / "b.jpg"), "-o", str(folder.parent / "c.png"), "--depth", depth]) == 2
    assert "no depth map for b.jpg" in capsys.readouterr().err


def test_a_note_says_that_depth_in_a_png_is_relative(folder: Path, capsys: Capture) -> None:
    depth, out = folder.parent / "d.png", folder.parent / "foggy.png"
    Image.fromarray(np.linspace(1, 40_000, 40).astype(np.uint16)[:, None].repeat(60, 1)).save(depth)
    command = ["haze", str(folder / "a.png"), "-o", str(out), "--visibility", "60", "--depth", str(depth), "--max-depth", "90"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "visibility 60 m" in shown
    assert "farthest point at 90 m" in shown
    hazy = np.asarray(Image.open(out)).astype(float)
    near, middle = hazy[1].std(), hazy[20].std()
    assert middle / near == pytest.approx(np.exp(-np.log(20) * 90 * (19 / 39) / 60), abs=0.03)


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["haze", "A", "--visibility", "100", "--beta", "0.1"], 2, "exclude each other"),
        (["haze", "A", "--visibility", "-5"], 2, "visibility"),
        (["haze", "C", "-o", "x.mp4"], 2, "to images, not to clips"),
        (["haze", "A", "--depth", "D", "--depth-format", "inches"], 2, "no depth format 'inches'"),
        (["haze", "A", "--depth", "D", "--airlight", "2", "0", "0"], 2, "0..1"),
        (["haze", "A", "--depth", "A"], 3, "not a depth map"),
        (["haze", "A", "--depth", "D", "--max-depth", "90"], 2, "--max-depth is for relative"),
        (["dehaze", "A", "--method", "magic"], 2, "there is no method 'magic'"),
        (["dehaze", "A", "C", "-o", "x.png"], 2, "several results"),
        (["dehaze", "C", "-o", "-"], 2, "standard output"),
        (["dehaze", "A", "-o", "x.txt"], 2, ".txt"),
    ],
)
def test_impossible_requests_are_refused(words: list[str], status: int, expected: str, folder: Path, capsys: Capture) -> None:
    places = {"A": folder / "a.png", "C": folder / "clip.mp4", "D": folder.parent / "depth" / "a.npy"}
    assert main([str(places.get(word, word)) for word in words]) == status
    shown = capsys.readouterr().err
    assert expected in shown
    assert len(shown.splitlines()) <= 4


def test_predicted_depth_is_saved_and_can_be_given_back(folder: Path, capsys: Capture) -> None:
    a, out = folder / "a.png", folder.parent / "out"
    command = ["haze", str(a), "--visibility", "100", "--max-depth", "60"]
    assert main([*command, "-o", str(out / "first.png"), "--save-depth", str(out)]) == 0
    saved = np.asarray(Image.open(out / "a_depth256.png"))
    assert saved.dtype == np.uint16
    assert saved.shape == (40, 60)
    assert 1 <= saved.min() < saved.max() <= 60 * 256
    assert (
        main(["haze", str(a), "--visibility", "100", "-o", str(out / "again.png"), "--depth", str(out / "a_depth256.png")]) == 0
    )
    first, again = (np.asarray(Image.open(out / name)).astype(int) for name in ("first.png", "again.png"))
    assert abs(first - again).max() <= 1
    kept = (out / "a_depth256.png").read_bytes()
    assert main(["haze", str(a), "--max-depth", "30", "-o", str(out / "third.png"), "--save-depth", str(out)]) != 0
    assert (out / "a_depth256.png").read_bytes() == kept
    assert not (out / "third.png").exists()
    Image.open(a).save(folder / "sub" / "a.png")
    for words in (["--depth", str(out / "a_depth256.png")], ["--max-depth", "300"], [str(folder / "sub" / "a.png")]):
        assert main(["haze", str(a), *words, "-o", str(out), "--save-depth", str(out), "--force"]) == 2


def test_an_image_is_not_its_own_depth_and_depth_maps_are_no_inputs(tmp_path: Path, capsys: Capture) -> None:
    """In a folder of gray images with their depth maps beside them."""
    pixels = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:, ::-1].copy()).save(tmp_path / "a_depth.png")
    Image.fromarray(pixels).save(tmp_path / "b.png")
    out = tmp_path / "out"
    command = ["haze", str(tmp_path), "--depth", str(tmp_path), "--visibility", "60", "-o", str(out)]
    assert main(command) == 3  # b has no depth map
    assert [path.name for path in out.glob("*.png")] == ["a.png"]
    assert "no depth map for b.png" in capsys.readouterr().err


def cityscapes(root: Path) -> Path:
    """The folders of Cityscapes with one image; its disparity is that of depth from 5 m to 300 m."""
    meters = np.linspace(5, 300, 40)[:, None].repeat(60, 1)
    image = np.random.default_rng(0).integers(90, 256, (40, 60, 3), dtype=np.uint8)
    stored = np.rint(2000 * 0.2 / meters * 256 + 1).astype(np.uint16)  # d = (p - 1) / 256
    camera = json.dumps({"intrinsic": {"fx": 2000.0}, "extrinsic": {"baseline": 0.2}}).encode()
    for kind in ("leftImg8bit", "disparity", "camera"):
        (root / kind / "train" / "aachen").mkdir(parents=True)
    Image.fromarray(image).save(root / "leftImg8bit/train/aachen/a_1_leftImg8bit.png")
    Image.fromarray(stored).save(root / "disparity/train/aachen/a_1_disparity.png")
    (root / "camera/train/aachen/a_1_camera.json").write_bytes(camera)
    np.save(root / "meters.npy", 2000 * 0.2 * 256 / (stored.astype(np.float64) - 1))
    return root


def test_cityscapes_disparity_is_depth(tmp_path: Path, capsys: Capture) -> None:
    root = cityscapes(tmp_path)
    image, disparity = (root / kind / "train" / "aachen" for kind in ("leftImg8bit", "disparity"))
    single = ["haze", str(image / "a_1_leftImg8bit.png"), "--visibility", "90", "-o"]
    assert main([*single, str(root / "true.png"), "--depth", str(root / "meters.npy")]) == 0
    form = ["--depth-format", "cityscapes"]
    named = ["--depth", str(disparity / "a_1_disparity.png"), *form]
    cameras: list[list[str]] = [[], ["--camera", "2000,0.2"], ["--camera", str(root / "camera/train")]]
    cameras += [["--camera", str(root / "camera/train/aachen/a_1_camera.json")]]
    for number, camera in enumerate(cameras):
        assert main([*single, str(root / f"{number}.png"), *named, *camera]) == 0
        assert "depth in meters" in capsys.readouterr().out
        assert np.array_equal(np.asarray(Image.open(root / f"{number}.png")), np.asarray(Image.open(root / "true.png")))
    words = ["haze", str(root / "leftImg8bit"), "--visibility", "90", "-o", str(root / "out")]
    assert main([*words, "--depth", str(root / "disparity"), *form]) == 0
    made = root / "out/train/aachen/a_1_leftImg8bit.png"
    assert np.array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(root / "true.png")))


def test_disparity_without_its_camera_is_refused(tmp_path: Path, capsys: Capture) -> None:
    root = cityscapes(tmp_path)
    (root / "camera/train/aachen/a_1_camera.json").unlink()
    image = root / "leftImg8bit/train/aachen/a_1_leftImg8bit.png"
    words = ["haze", str(image), "-o", str(root / "x.png"), "--depth", str(root / "disparity/train/aachen/a_1_disparity.png")]
    for extra, expected in (
        (["--depth-format", "cityscapes"], "--camera FOCAL,BASELINE"),
        (["--depth-format", "cityscapes", "--camera", "0,1"], "above 0"),
        (["--camera", "2000,0.2"], "--depth-format cityscapes"),
        (["--depth-format", "none"], "cityscapes"),
    ):
        assert main([*words, *extra]) == 2
        assert expected in capsys.readouterr().err
    assert main(["haze", str(image), "--camera", "2000,0.2"]) == 2
    assert not (root / "x.png").exists()


def test_a_channel_of_an_exr_file_is_chosen(tmp_path: Path, capsys: Capture) -> None:
    from exr_maker import exr

    Image.fromarray(np.full((2, 2, 3), 200, np.uint8)).save(tmp_path / "a.png")
    far, near = np.full((2, 2), 300, np.float32), np.full((2, 2), 5, np.float32)
    (tmp_path / "a.exr").write_bytes(exr({"A.X": far, "B.X": near}))
    words = ["haze", str(tmp_path / "a.png"), "--visibility", "90", "--depth", str(tmp_path / "a.exr")]
    assert main([*words, "-o", str(tmp_path / "none.png")]) == 3
    assert "--depth-channel A.X" in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "x.png"), "--depth-channel", "C"]) == 3
    assert "its channels are A.X, B.X" in capsys.readouterr().err
    values = []
    for channel in ("A.X", "B.X"):
        assert main([*words, "-o", str(tmp_path / f"{channel}.png"), "--depth-channel", channel]) == 0
        values.append(int(np.asarray(Image.open(tmp_path / f"{channel}.png")).mean()))
    assert values[0] > values[1]  # more haze where it is farther
    np.save(tmp_path / "a.npy", near)
    assert main([*words[:-1], str(tmp_path / "a.npy"), "--depth-channel", "A.X"]) == 2


@pytest.mark.parametrize(("to", "name"), [("webp", "WEBP"), ("tiff", "TIFF"), ("avif", "AVIF"), ("jpg", "JPEG")])
def test_the_format_of_images_is_chosen(folder: Path, capsys: Capture, to: str, name: str) -> None:
    assert main(["dehaze", str(folder / "a.png"), "--method", "dcp", "--to", "png"]) == 0
    assert main(["dehaze", str(folder / "a.png"), "--method", "dcp", "--to", to]) == 0
    with Image.open(folder / "a.clear.png") as lossless, Image.open(folder / f"a.clear.{to}") as made:
        assert made.format == name
        error = np.asarray(lossless).astype(int) - np.asarray(made)
    assert np.abs(error).max() <= (0 if to in ("webp", "tiff") else 24)
    assert main(["dehaze", str(folder / "a.png"), "-o", str(folder / "x.png"), "--method", "dcp", "--to", to]) == 2
    assert f"--to {to} contradicts this name" in capsys.readouterr().err


def test_colors_under_alpha_0_are_kept_in_webp(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    values[:20, :, 3] = 0
    Image.fromarray(values).save(tmp_path / "a.png")
    assert main(["dehaze", str(tmp_path / "a.png"), "--method", "dcp", "--strength", "0", "--to", "webp"]) == 0
    with Image.open(tmp_path / "a.clear.webp") as made:
        np.testing.assert_array_equal(np.asarray(made), values)


def test_clips_have_no_image_format(folder: Path, capsys: Capture) -> None:
    assert main(["dehaze", str(folder / "clip.mp4"), "--method", "dcp", "--to", "webp"]) == 2
    assert "clips become .mp4" in capsys.readouterr().err
    assert main(["dehaze", str(folder / "clip.mp4"), str(folder / "a.png"), "--method", "dcp", "--to", "webp"]) == 0
    assert {path.name for path in folder.glob("*.clear.*")} == {"a.clear.webp", "clip.clear.mp4"}
