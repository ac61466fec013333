"""GIF palettes as images and as clips; MP4 clips whose edit list leaves frames out, as phones and editors trim them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from clip_maker import make_clip

from latens.cli.main import main
from latens.data.clips.gif import with_delays
from latens.data.clips.reader import open_clip
from latens.data.images import read_image

TRIMMED = {"avoid_negative_ts": "disabled"}  # FFmpeg writes an edit list that skips frames before time 0
RNG = np.random.default_rng(0)
INDICES = RNG.integers(0, 16, (20, 30)).astype(np.uint8)
PALETTES = RNG.integers(0, 256, (2, 16, 3)).astype(np.uint8)


def paletted(number: int) -> Image.Image:
    image = Image.fromarray(INDICES, "P")
    image.putpalette(PALETTES[number].ravel().tolist())
    return image


def test_colors_of_palettes_are_exact(tmp_path: Path) -> None:
    paletted(0).save(tmp_path / "a.gif")
    paletted(0).save(tmp_path / "interlaced.gif", interlace=1)
    for name in ("a.gif", "interlaced.gif"):
        found = read_image(tmp_path / name)
        assert np.array_equal(found.pixels, PALETTES[0][INDICES])
        assert found.alpha is None


def test_the_transparent_color_of_a_gif_is_alpha(tmp_path: Path) -> None:
    paletted(0).save(tmp_path / "a.gif", transparency=3)
    found = read_image(tmp_path / "a.gif")
    assert found.alpha is not None
    assert np.array_equal(found.alpha == 0, INDICES == 3)
    assert np.array_equal(found.pixels[INDICES != 3], PALETTES[0][INDICES][INDICES != 3])


def test_frames_with_palettes_of_their_own(tmp_path: Path) -> None:
    paletted(0).save(tmp_path / "a.gif", save_all=True, append_images=[paletted(1)], duration=100)
    found = read_image(tmp_path / "a.gif")
    assert np.array_equal(found.pixels, PALETTES[0][INDICES])
    assert "frame 1 of 2 taken" in found.notes
    with open_clip(tmp_path / "a.gif") as clip:
        frames = [frame.rgb() for frame in clip.frames()]
    assert len(frames) == 2
    for number, frame in enumerate(frames):
        assert np.array_equal(frame, PALETTES[number][INDICES])


def test_an_edit_list_hides_frames_without_damage(tmp_path: Path) -> None:
    """Ten frames are stored, three of them before time 0."""
    make_clip(tmp_path / "a.mp4", times=range(-3, 7), container_options=TRIMMED)
    assert b"elst" in (tmp_path / "a.mp4").read_bytes()
    with open_clip(tmp_path / "a.mp4") as clip:
        frames = list(clip.frames())
        assert [float(frame.time) for frame in frames] == pytest.approx([n / 25 for n in range(7)])
        assert (clip.damaged, clip.missing, clip.notes) == (0, 0, [])
    blue = [frame.rgb()[-20:, -20:, 2].mean() for frame in frames]  # ten times the number of the frame
    assert np.abs(np.array(blue) - np.arange(30, 100, 10)).max() < 5


@pytest.mark.parametrize("words", [["dehaze", "--method", "dcp"], ["video", "compress"]])
def test_verbs_write_only_the_shown_frames_and_notice_a_cut(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_clip(tmp_path / "a.mp4", times=range(-3, 30), container_options=TRIMMED | {"movflags": "+faststart"})
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    for name, status in (("a", 0), ("cut", 4)):
        out = tmp_path / f"{name}.out.mp4"
        assert main([*words, str(tmp_path / f"{name}.mp4"), "-o", str(out), "--format", "json"]) == status
        found = json.loads(capsys.readouterr().out)
        assert (found["frames"] == 30, found["missing"] > 0) == (name == "a", name == "cut")
        with open_clip(out) as clip:
            assert len(list(clip.frames())) == found["frames"]


def test_frames_without_a_delay_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pillow writes no delay without a duration, and FFmpeg takes such frames for one."""
    frames = [Image.fromarray(np.roll(INDICES, number, 1), "P") for number in range(4)]
    for frame in frames:
        frame.putpalette(PALETTES[0].ravel().tolist())
    found = {}
    saved: dict[str, dict[str, Any]] = {"no.gif": {}, "zero.gif": {"duration": 0}, "given.gif": {"duration": 100}}
    for name, settings in saved.items():
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **settings)
        with open_clip(tmp_path / name) as clip:
            found[name] = [(frame.rgb(), frame.time) for frame in clip.frames()]
            assert clip.notes == ([] if name == "given.gif" else ["frames without a delay are shown for 0.1 s each"])
    for read in found.values():
        assert [time for _, time in read] == [time for _, time in found["given.gif"]]
        for number, (pixels, _) in enumerate(read):
            assert np.array_equal(pixels, PALETTES[0][np.roll(INDICES, number, 1)])
    data = (tmp_path / "no.gif").read_bytes()
    for end in range(13, len(data), 37):
        assert with_delays(data[:end]).endswith(data[end - 1 : end])


@pytest.mark.parametrize("settings", [{}, {"duration": 100}])
def test_a_cut_within_a_frame_is_noticed(settings: dict[str, Any], tmp_path: Path) -> None:
    """FFmpeg decodes the first lines of the last frame without an error. A file that lacks only its last byte is whole."""
    first, *others = [paletted(number % 2) for number in range(3)]
    first.save(tmp_path / "whole.gif", save_all=True, append_images=others, **settings)
    data = (tmp_path / "whole.gif").read_bytes()
    for cut, damaged in ((0, 0), (1, 0), (2, 1), (60, 1)):
        (tmp_path / "a.gif").write_bytes(data[: len(data) - cut])
        with open_clip(tmp_path / "a.gif") as clip:
            list(clip.frames())
        assert clip.damaged == damaged
    assert main(["dehaze", "--method", "dcp", str(tmp_path / "a.gif"), "-o", str(tmp_path / "b.mp4")]) == 4
