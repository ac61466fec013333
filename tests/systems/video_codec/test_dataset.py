import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "data"))
from clip_maker import make_clip

from latens.data.clips.reader import open_clip
from latens.data.source import Source
from latens.data.streaming import Streamed
from latens.errors import UnreadableInput, UsageError
from latens.systems.video_codec.clip_files import RUN
from latens.systems.video_codec.config import ClipConfig
from latens.systems.video_codec.dataset import ClipData
from latens.systems.video_codec.synthetic import Cutout, Motion, composite, cut_out, view

SMALL = ClipConfig(crop=64, batch=6, shrink=1.0, held_out=("two",), validation_frames=4, validation_size=(64, 80))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_batches_are_a_function_of_seed_step_and_rank(clips: Callable[..., Path], photographs: Path) -> None:
    sources = [Source("clips", str(clips())), Source("photographs", str(photographs))]
    first, second = (ClipData(sources, SMALL, 3, regions=True) for _ in range(2))
    for name, tensor in first.batch(5, 0).items():
        assert torch.equal(tensor, second.batch(5, 0)[name])
        assert not torch.equal(tensor, second.batch(6, 0)[name])
        assert not torch.equal(tensor, second.batch(5, 1)[name])
    batch = first.batch(5, 0)
    assert batch["frames"].shape == (6, 3, 3, 64, 64)
    assert batch["mask"].shape == (6, 3, 1, 64, 64)
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}


def test_masks_follow_their_object(clips: Callable[..., Path]) -> None:
    data = ClipData([Source("", str(clips()))], replace(SMALL, zoom=1.0), 0, regions=True)
    batch = data.batch(0, 0)
    red = batch["frames"][:, :, :1] > 0.85
    assert torch.equal(red, batch["mask"] > 0)


def test_held_out_and_test_clips_are_not_used_for_training(clips: Callable[..., Path]) -> None:
    folder = clips(("one", "two", "cows"))
    data = ClipData([Source("", str(folder))], SMALL, 0, regions=True)
    assert [clip.name for clip in data.clips] == ["one"]
    assert [clip.name for clip in data.held_out] == ["two"]
    shapes = [batch["frames"].shape for batch in data.validation()]
    assert shapes == [(1, 4, 3, 64, 80)] * 2


def test_noise_replaces_objects(clips: Callable[..., Path]) -> None:
    folder = clips()
    objects, noise = (
        ClipData([Source("", str(folder))], replace(SMALL, masks=masks), 0, regions=True).batch(0, 0)
        for masks in ("objects", "perlin")
    )
    assert not torch.equal(objects["mask"], noise["mask"])


def test_a_damaged_frame_leaves_out_its_clip(clips: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = clips(("one", "three"))
    (folder / "three" / "frames" / "00002.png").write_bytes(b"no image")
    data = ClipData([Source("", str(folder))], SMALL, 0, regions=True)
    assert [clip.name for clip in data.clips] == ["one"]
    assert any("three" in message for message in caplog.messages)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two clip files of 80 frames, one of 2 frames, and one that is damaged."""
    folder = tmp_path / "files"
    (folder / "below").mkdir(parents=True)
    for name, count in (("one.mp4", 80), ("below/two.mkv", 80), ("short.mp4", 2)):
        make_clip(folder / name, times=range(count), size=(96, 72))
    (folder / "damaged.mp4").write_bytes(b"no clip")
    return folder


@pytest.mark.parametrize("kind", ["clips", ""])
def test_clip_files_are_training_clips(kind: str, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ClipData([Source(kind, str(files))], replace(SMALL, composite_share=0.0), 0, regions=True)
    assert [(clip.name, len(clip.frames)) for clip in data.clips] == [("one", RUN), ("one", RUN), ("one", 80 - 2 * RUN)]
    assert [(clip.name, len(clip.frames)) for clip in data.held_out] == [("two", RUN)]
    assert data.batch(0, 0)["frames"].shape == (6, 3, 3, 64, 64)
    with open_clip(files / "one.mp4") as clip:
        frames = [frame.rgb() for frame in clip.frames()]
    assert np.array_equal(np.concatenate([clip.frames for clip in data.clips]), np.stack(frames))
    for name in ("short.mp4", "damaged.mp4"):
        assert sum("left out" in line and name in line for line in caplog.messages) == 1


def test_clip_files_share_the_memory(files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Runs are dropped evenly; without memory for one run of each file, they are read at every step."""
    one_run, sources = RUN * 72 * 96 * 3, [Source("clips", str(files))]
    config = replace(SMALL, held_out=(), never=("short", "damaged"))
    monkeypatch.setenv("LATENS_MEMORY", str(5 * one_run))  # room for two runs per file
    data = ClipData(sources, config, 0, regions=True)
    assert sorted((clip.name, len(clip.frames)) for clip in data.clips) == [
        *[("one", 80 - 2 * RUN), ("one", RUN)], *[("two", 80 - 2 * RUN), ("two", RUN)],
    ]  # fmt: skip
    monkeypatch.setenv("LATENS_MEMORY", str(one_run))
    monkeypatch.setattr("latens.data.streaming.SAMPLE", 1)
    data = ClipData(sources, config, 0, regions=True)
    assert isinstance(data.clips.parts[0], Streamed)  # type: ignore[attr-defined]
    assert sorted((clip.name, len(clip.frames)) for clip in data.clips) == [("one", RUN), ("two", RUN)]
    assert any("every step reads them" in line for line in caplog.messages)


def test_clip_files_among_photographs_are_named(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (96, 72)).save(files / "photo.png")
    data = ClipData([Source("photographs", str(files))], SMALL, 0, regions=True)
    assert (len(data.clips), len(data.photographs)) == (0, 1)
    assert any("4 clip files not read" in line and f"clips:{files}" in line for line in caplog.messages)


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hazy"):
        ClipData([Source("hazy", str(tmp_path))], SMALL, 0, regions=True)
    with pytest.raises(UnreadableInput, match="no training data"):
        ClipData([Source("", str(tmp_path))], SMALL, 0, regions=True)
    with pytest.raises(UnreadableInput, match="not a folder"):
        ClipData([Source("", str(tmp_path / "no"))], SMALL, 0, regions=True)


def test_a_pan_moves_by_its_velocity() -> None:
    source = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    motion = Motion(np.array([39.5, 29.5]), 1.0, 0.0, np.array([2.0, -1.0]), 0.0, 0.0)
    frames = [view(source, motion, frame, 20, outside="black") for frame in range(2)]
    np.testing.assert_array_equal(frames[0], source[20:40, 30:50])
    np.testing.assert_array_equal(frames[1], source[19:39, 32:52])


def test_ids_of_composites_are_exact() -> None:
    """Objects of one color each: where a pixel has the color, it has the id."""
    background = np.zeros((3, 64, 64, 3), np.uint8)
    objects = []
    for color in ((255, 0, 0), (0, 255, 0)):
        masks = np.zeros((3, 40, 40), np.uint8)
        masks[:, 10:30, 5:35] = 255
        cutout = cut_out(np.full((3, 40, 40, 3), color, np.uint8), masks)
        assert isinstance(cutout, Cutout)
        assert cutout.masks.shape == (3, 20, 30)
        objects.append(cutout)
    made = composite(background, objects, np.random.default_rng(0), 0.02)
    assert set(np.unique(made.ids)) == {0, 1, 2}
    assert np.mean((made.frames[..., 0] > 127) == (made.ids == 1)) > 0.98
    assert np.mean((made.frames[..., 1] > 127) == (made.ids == 2)) > 0.98
    assert cut_out(background, np.zeros((3, 64, 64), np.uint8)) is None


def test_regions_come_from_noise_or_from_another_folder(clips: Callable[..., Path], tmp_path: Path) -> None:
    folder = clips()
    other = tmp_path / "masks"
    for name in ("one", "two"):
        (other / name).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(np.full((72, 96), 255, np.uint8)).save(other / name / f"{index:05d}.png")
    config = ClipConfig(crop=64, batch=2, shrink=1.0, photograph_share=0.0, composite_share=0.0)
    sources = [Source("clips", str(folder))]
    own = ClipData(sources, config, 0, regions=True).batch(0, 0)["mask"]
    given = ClipData([*sources, Source("masks", str(other))], config, 0, regions=True).batch(0, 0)["mask"]
    noise = ClipData([*sources, Source("masks", "perlin")], config, 0, regions=True).batch(0, 0)["mask"]
    assert given.min() == 1
    assert not torch.equal(own, noise)
    assert 0 < noise.mean() < 1
    with pytest.raises(UnreadableInput):
        ClipData([*sources, Source("masks", str(tmp_path / "nothing"))], config, 0, regions=True)
