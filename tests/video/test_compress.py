"""`compress_clip`: sharp regions, requested sizes, refusal of settings without effect, no partial output."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_maker import make_clip

from latens.data.clips.color import to_rgb
from latens.data.regions.masks import Weights
from latens.errors import InputError, OutputExists, UsageError
from latens.video.blocks import BLOCK, LEVELS, block_levels, rectangles
from latens.video.compress import compress_clip

SIZE = (192, 128)
BOX = "box:64,32,128,96"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving noise, which costs many bits everywhere."""
    rng = np.random.default_rng(0)
    texture = rng.integers(30, 220, (SIZE[1] // 2, SIZE[0] // 2, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    images = [np.roll(texture, (number, 3 * number), axis=(0, 1)) for number in range(10)]
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    make_clip(path, size=SIZE, times=range(10), images=images, sound="aac")
    return path


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [to_rgb(frame).astype(float) for frame in container.decode(video=0)]


def errors(path: Path, original: Path) -> tuple[float, float]:
    """Mean squared error inside the box and outside."""
    difference = np.stack(frames(path)) - np.stack(frames(original))
    inside = np.zeros((SIZE[1], SIZE[0]), bool)
    inside[32:96, 64:128] = True
    return float((difference[:, inside] ** 2).mean()), float((difference[:, ~inside] ** 2).mean())


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_the_region_is_sharper_than_the_background(codec: str, clip: Path, tmp_path: Path) -> None:
    plain = compress_clip(clip, tmp_path / "plain.mp4", codec=codec, threads=1)  # type: ignore[arg-type]
    done = compress_clip(clip, tmp_path / "roi.mp4", codec=codec, roi=BOX, threads=1)  # type: ignore[arg-type]
    assert done.bytes < 0.85 * plain.bytes
    assert done.region == pytest.approx(64 * 64 / (SIZE[0] * SIZE[1]), abs=1e-4)
    inside, outside = errors(tmp_path / "roi.mp4", clip)
    assert outside > 1.5 * errors(tmp_path / "plain.mp4", clip)[1]
    compress_clip(clip, tmp_path / "equal.mp4", codec=codec, size=round(done.bytes * 1.01), threads=1)  # type: ignore[arg-type]
    assert inside < 0.9 * errors(tmp_path / "equal.mp4", clip)[0]
    with av.open(str(done.path)) as container:
        assert len(container.streams.audio) == 1
    stronger = compress_clip(clip, tmp_path / "more.mp4", codec=codec, roi=BOX, strength=1.0, threads=1)  # type: ignore[arg-type]
    assert stronger.bytes < done.bytes


@pytest.mark.parametrize(
    ("codec", "options"),
    [("h264", {"aq-mode": "0"}), ("h264", {"preset": "ultrafast"}),
     ("h265", {"x265-params": "log-level=none:aq-mode=0:cutree=0"})],
)  # fmt: skip
def test_settings_that_ignore_regions_are_refused(codec: str, options: dict[str, str], clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ignores regions"):
        compress_clip(clip, tmp_path / "a.mp4", codec=codec, roi=BOX, encoder_options=options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_sizes_are_reached_and_never_exceeded(codec: str, clip: Path, tmp_path: Path) -> None:
    done = compress_clip(clip, tmp_path / "a.mp4", codec=codec, roi=BOX, size=14_000, threads=1)  # type: ignore[arg-type]
    assert 0.97 * 14_000 <= done.bytes <= 14_000
    assert done.path.stat().st_size == done.bytes
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_rates_and_unreachable_sizes(clip: Path, tmp_path: Path) -> None:
    done = compress_clip(clip, tmp_path / "a.mp4", kbps=400, threads=1)
    assert 0.97 * 400 <= done.kbps <= 400.5
    with pytest.raises(UsageError, match="at the coarsest"):
        compress_clip(clip, tmp_path / "b.mp4", size=900, threads=1)
    fine = compress_clip(clip, tmp_path / "c.mp4", size=50_000_000, threads=1)
    assert any("no finer setting" in note for note in fine.notes)
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "c.mp4"}


def test_no_overwriting_and_no_partial_output(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(OutputExists):
        compress_clip(clip, tmp_path / "a.mp4")
    with pytest.raises(InputError, match="3 masks for 10 frames"):
        compress_clip(clip, tmp_path / "a.mp4", roi=np.ones((3, SIZE[1], SIZE[0]), bool), force=True)
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    "options",
    [{"quality": 3, "size": 100}, {"quality": 9}, {"track": True}, {"strength": 0.5}, {"roi": BOX, "strength": 2.0},
     {"roi": "box:900,0,950,10"}, {"codec": "vp8"}],
)  # fmt: skip
def test_contradictions_are_refused(options: dict[str, object], clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        compress_clip(clip, tmp_path / "a.mp4", **options)  # type: ignore[arg-type]


def test_tracking_saves_masks_and_runs_once_for_a_size(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latens.data.regions.track import TrackedRegion, Tracker

    calls = []
    follow = Tracker.next

    def counted(self: Tracker, pixels: np.ndarray) -> TrackedRegion:
        calls.append(1)
        return follow(self, pixels)

    monkeypatch.setattr(Tracker, "next", counted)
    done = compress_clip(clip, tmp_path / "a.mp4", roi=BOX, track=True, size=15_000, save_masks=tmp_path / "masks", threads=1)
    assert done.trials > 1
    assert len(calls) <= 10
    assert len(list((tmp_path / "masks").glob("*.png"))) == 10


def test_notes_are_logged_once_and_not_for_every_trial(clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((SIZE[1] // 2, SIZE[0] // 2), 255, np.uint8))
    for out in ("a.mp4", "b.mp4"):
        caplog.clear()
        assert compress_clip(clip, tmp_path / out, roi=tmp_path / "mask.png", size=15_000, threads=1).trials > 1
        notes = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert sum("scaled to 192 x 128" in note for note in notes) == 1
        assert len(set(notes)) == len(notes)


def test_rectangles_cover_every_block_once() -> None:
    rng = np.random.default_rng(1)
    weights: Weights = (rng.random((100, 150)) > 0.997).astype(np.uint8) * rng.integers(1, 256, (100, 150)).astype(np.uint8)
    levels = block_levels(weights)
    covered = np.zeros_like(levels)
    for x, y, width, height, level in rectangles(weights):
        covered[y // BLOCK : (y + height) // BLOCK, x // BLOCK : (x + width) // BLOCK] += level
    assert np.array_equal(covered, levels)
    assert levels.max() <= LEVELS
    heaviest = np.pad(weights, ((0, 12), (0, 10))).reshape(7, 16, 10, 16).max(axis=(1, 3))
    assert np.array_equal(levels, np.ceil(heaviest / 255 * LEVELS))
