"""Parts of the figures and claims of chapter 6: street images, choice of objects, differences at equal rate, claims."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.image_output import write_image
from latens.data.source import Source
from latens.errors import InputError, ModelMissing, UnreadableInput, UsageError
from latens.experiments.lab import ExperimentRunner
from latens.hub import load_model, save_model
from latens.settings import to_dict
from latens.systems.video_codec.artifacts import ARTIFACTS
from latens.systems.video_codec.claims import Claim, at_least, at_most, within
from latens.systems.video_codec.compare import difference_at_equal_rate
from latens.systems.video_codec.config import ClipConfig, LatentScaling, ScaleSpaceFlowConfig
from latens.systems.video_codec.dataset import ClipData
from latens.systems.video_codec.measure import RegionClip
from latens.systems.video_codec.objects import OBJECTS, VISIBLE, SelectionGain, gains_table, pairs_of
from latens.systems.video_codec.streets import CLASSES, KIND, LABELS, street_clips
from latens.systems.video_codec.study import SCALES, SCALING, SCALING_STREETS, VARIANTS, Study, VideoLab, VideoScale, training
from latens.systems.video_codec.system import SYSTEM
from latens.systems.video_codec.visualization import colored_labels, outlined

from .makers import config


def street(folder: Path, name: str = "a", height: int = 72, width: int = 100) -> Source:
    """An image whose gray level is twenty times its label, for training and for measurement."""
    rows, columns = np.mgrid[:height, :width]
    labels = np.select([rows > height // 2, columns > width // 2], [3, 8], 1).astype(np.uint8)
    for part in ("train", "val"):
        write_image(folder / part / f"{name}.png", Image.fromarray(np.repeat(20 * labels[..., None], 3, axis=2)))
        write_image(folder / part / f"{name}{LABELS}", Image.fromarray(labels))
    return Source(KIND, str(folder))


def test_labels_of_a_street_move_with_its_pixels(tmp_path: Path) -> None:
    (found,) = street_clips(street(tmp_path), "val", 5)
    assert found.frames.shape == (5, 72, 72, 3)
    similar = np.abs(found.frames[..., 0].astype(int) - 20 * found.labels) <= 10
    assert similar.mean() > 0.95  # except at smooth edges between classes
    assert (found.labels[0] != found.labels[-1]).any()
    assert set(np.unique(found.labels)) == {1, 3, 8}
    assert np.array_equal(found.region(), (found.labels == 3) | (found.labels == 8))
    assert np.array_equal(found.region(["building"]), found.labels == 1)


def test_a_street_without_labels_of_its_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="label maps"):
        street_clips(Source(KIND, str(tmp_path)), "val", 2)
    source = street(tmp_path)
    write_image(tmp_path / "val" / f"a{LABELS}", Image.fromarray(np.zeros((10, 10), np.uint8)))
    with pytest.raises(InputError, match="label map of shape"):
        street_clips(source, "val", 2)


def test_training_clips_of_streets_have_their_region(tmp_path: Path) -> None:
    config = ClipConfig(crop=64, batch=2, shrink=1.0, zoom=1.0)
    batch = ClipData([street(tmp_path)], config, 0, regions=True).batch(0, 0)
    gray, mask = 255 * batch["frames"][:, :, 0], batch["mask"][:, :, 0] > 0
    assert ((gray > 40) == mask).float().mean() > 0.95


def test_both_objects_of_a_pair_are_visible_in_every_frame() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :96]
    disk = np.hypot(rows - 48, columns - 40) < 20
    clips = [RegionClip(name, rng.integers(0, 255, (4, 96, 96, 3)).astype(np.uint8), np.stack([disk] * 4)) for name in "abc"]
    pairs = pairs_of(clips)
    assert [pair.names for pair in pairs] == [("a", "b"), ("b", "c"), ("c", "a")]
    for pair in pairs:
        assert pair.covered >= VISIBLE
        first, second = (pair.chosen(number).masks for number in OBJECTS)
        assert not (first & second).any()
        assert np.array_equal(first | second, pair.clip.masks)
    with pytest.raises(InputError, match="no object"):
        pairs_of([clips[0], clips[1]._replace(masks=np.zeros_like(clips[1].masks))])


def test_differences_are_taken_at_equal_rate_and_within_limits() -> None:
    anchor = ([0.1, 0.2, 0.4, 0.8], [20.0, 23.0, 26.0, 29.0])
    assert difference_at_equal_rate(([0.05, 0.1, 0.2, 0.4], anchor[1]), anchor) == pytest.approx(3)
    above = ([0.1, 0.2, 0.4, 0.8], [20.0, 23.0, 27.0, 31.0])  # difference 0 up to 0.2, then 1 and 2
    assert difference_at_equal_rate(above, anchor, within=(0.0, 0.2)) == pytest.approx(0)
    assert difference_at_equal_rate(above, anchor, within=(0.4, 1.0)) == pytest.approx(1.5)
    assert difference_at_equal_rate(([1.0, 2.0], [1.0, 2.0]), anchor) is None
    assert difference_at_equal_rate(above, anchor, within=(0.9, 1.0)) is None


def test_the_table_of_gains_has_means_and_rates() -> None:
    points = {True: [(0.1, 30.0), (0.2, 33.0)], False: [(0.1, 24.0), (0.4, 30.0)]}
    table = gains_table([SelectionGain("a and b", "a", 0.1, 7.5, points), SelectionGain("a and b", "b", 0.2, 4.5, points)])
    assert [row[-1] for row in table.rows] == ["+7.50", "+4.50", "+6.00 (+4.50 to +7.50)"]
    assert table.rows[0][3:5] == ["0.100 to 0.200", "0.100 to 0.400"]


def test_the_mean_confirms_a_claim_and_clips_are_counted() -> None:
    values = {"a": -80.0, "b": -65.0, "c": -66.0}
    assert Claim("x", "-69.3", "%", at_most(-69.3), values).verdict() == "confirmed; 1 of 3"
    assert Claim("x", "5", "dB", at_least(5), values).verdict() == "not confirmed; 0 of 3"
    assert Claim("x", "comparable", "%", within(70), values).cells()[2:] == [
        "-70.33", "-80.00 to -65.00", "%", "within ±70", "not confirmed; 2 of 3"
    ]  # fmt: skip
    assert Claim("x", "comparable", "%", within(10), {}).verdict() == "undecided: the curves do not overlap"


def test_the_outline_of_a_region_excludes_the_edge_of_the_frame() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:, 4:] = True
    drawn = np.asarray(outlined(np.zeros((8, 8, 3), np.uint8), mask).any(-1))
    assert drawn[:, 4].all()
    assert drawn.sum() == 8


def test_every_class_has_its_own_color() -> None:
    colors = colored_labels(np.arange(12, dtype=np.uint8)[None], len(CLASSES))[0]
    assert len(np.unique(colors, axis=0)) == 12
    assert not colors[11].any()  # void


def laboratory(folder: Path, sources: list[Source], start: str = "") -> VideoLab:
    return ExperimentRunner(
        build=SYSTEM.build,
        open_model=lambda place: SYSTEM.load(place or "video_codec", device="cpu"),
        sources=sources,
        scale=replace(SCALES["tiny"], start=start),
        recipe="tiny",
        folder=folder,
        device="cpu",
    )


def study(folder: Path, sources: list[Source], start: str = "") -> Study:
    return Study(laboratory(folder, sources, start))


def test_streets_and_clips_are_separate_data(tmp_path: Path) -> None:
    sources = list(SYSTEM.example(tmp_path).test_sources)
    found = study(tmp_path, sources)
    assert found.sources(VARIANTS[SCALING]) == sources[:1]
    assert found.sources(VARIANTS[SCALING_STREETS]) == sources[1:]
    assert [clip.name for clip in found.clips] == ["one"]
    assert len(found.streets) == 1
    assert study(tmp_path, sources[:1]).streets == []
    with pytest.raises(UsageError, match="clips of objects"):
        study(tmp_path, sources[1:])


def test_figures_on_streets_without_streets_report_it(tmp_path: Path) -> None:
    sources = list(SYSTEM.example(tmp_path).test_sources)
    report = ARTIFACTS["figure6.4.4"].make(laboratory(tmp_path, sources[:1]))
    assert "substitute" in report.title
    assert report.exit_status != 0
    assert f"{KIND}:DIR" in report.failures[0]
    assert not (tmp_path / "runs").exists()  # no training was started


def test_methods_start_from_a_named_model(tmp_path: Path) -> None:
    for kind in ("plain", "scaling"):
        save_model(tmp_path / kind, {"system": "video_codec", "model": to_dict(config(kind))}, {})
    found = study(tmp_path, [], str(tmp_path / "plain"))
    assert found.start() == tmp_path / "plain"
    assert f"from the plain model {load_model(tmp_path / 'plain').sha256[:12]}" in found.about()
    assert "from one plain model" in study(tmp_path, []).about()
    with pytest.raises(UsageError, match="plain scale-space flow"):
        study(tmp_path, [], str(tmp_path / "scaling")).start()
    with pytest.raises(ModelMissing):
        study(tmp_path, [], "vidio_codec").start()


def test_latent_scaling_at_paper_scale_is_trained_without_amplifiers() -> None:
    for scale, share in ((SCALES["tiny"], 0.5), (SCALES["paper"], 0.0)):
        model = training(scale, VARIANTS[SCALING]).model
        assert isinstance(model, ScaleSpaceFlowConfig)
        assert isinstance(model.method, LatentScaling)
        assert (model.method.amplified_share, model.method.gamma) == (share, 30.0)


def test_short_trainings_have_a_short_warm_up() -> None:
    long, short = (training(VideoScale(steps=steps), VARIANTS[SCALING]) for steps in (0, 15))
    assert (long.run.steps, long.run.validate_every, long.optim.warmup) == (500, 250, 20)
    assert (short.run.steps, short.run.validate_every, short.optim.warmup) == (15, 15, 3)
