"""Crops, splits, balance, augmentation, calibration and networks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.catalogue import recipe_of
from latens.data.source import Source, parse_sources
from latens.errors import InputError, ModelError, UnreadableInput, UsageError
from latens.systems.seedlings.bootstrap import accuracy_of, majority_of, paired_difference
from latens.systems.seedlings.calibration import (
    Calibration,
    calibration_error,
    cross_entropy,
    fit_temperature,
    prior_shift,
    probabilities,
)
from latens.systems.seedlings.config import CropsConfig, GraderConfig, GradingLossConfig
from latens.systems.seedlings.crops import Crops, load_pack, save_pack, split
from latens.systems.seedlings.dataset import CropBatches, augment, open_crops
from latens.systems.seedlings.evaluate import lot_times
from latens.systems.seedlings.model import normalized
from latens.systems.seedlings.networks import grader
from latens.systems.seedlings.objective import GradingObjective, class_weights
from latens.systems.seedlings.simulator.photograph import photograph
from latens.systems.seedlings.trials import Measured, paired_bootstrap
from latens.training.data import generator


def drawn(trays: int = 10, plants: int = 30, days: tuple[int, ...] = (4, 5)) -> Crops:
    """Noise with labels: 85 % successes."""
    rng = np.random.default_rng(0)
    count = trays * plants * len(days)
    place = np.tile(np.repeat(np.arange(plants), len(days)), trays)
    tray = np.repeat([f"t{i}" for i in range(trays)], plants * len(days))
    label = np.repeat(rng.random(trays * plants) < 0.85, len(days)).astype(np.int64)
    pixels = rng.integers(0, 255, (count, 32, 32, 1), dtype=np.uint8)
    return Crops(pixels, label, np.ones(count, np.int64), np.tile(days, trays * plants), tray, place, np.zeros(count))


@pytest.mark.parametrize("by", ["tray", "plant"])
def test_no_plant_is_in_two_parts(by: str) -> None:
    crops = drawn()
    parts = split(crops, by, 0.6, 0.2)  # type: ignore[arg-type]
    assert sum(map(len, parts.values())) == crops.size
    keys = crops.tray if by == "tray" else crops.plants()
    sides = [set(keys[indices]) for indices in parts.values()]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


def test_the_leaky_split_shares_plants_between_days() -> None:
    """Drawn anew each day, 60 % of one day's test plants train another day's model."""
    crops = drawn(trays=40)
    parts = split(crops, "leaky", 0.6, 0.2)
    plants = crops.plants()
    train = set(plants[parts["train"]][crops.day[parts["train"]] == 4])
    test = plants[parts["test"]][crops.day[parts["test"]] == 5]
    assert np.mean([plant in train for plant in test]) == pytest.approx(0.6, abs=0.1)


def test_oversampling_balances_only_the_training_part() -> None:
    crops = drawn()
    data = CropBatches(crops, CropsConfig(batch=16, days=(4, 5)), seed=0)
    order = data.epoch(0)
    assert np.bincount(crops.label[order]).tolist() == [data.natural.max()] * 2
    assert set(order) == set(data.parts["train"])
    assert not np.array_equal(order, data.epoch(1))
    first, again = data.batch(3, 0), data.batch(3, 0)
    assert torch.equal(first["crops"], again["crops"])
    plain = CropBatches(crops, CropsConfig(batch=16, oversample=False), seed=0)
    assert len(plain.epoch(0)) == len(plain.parts["train"])


def test_augmentation_without_ranges_is_a_symmetry_of_the_square() -> None:
    """Quarter turns and flips keep the multiset of pixels; `zeros` paints mid-gray, `border` does not."""
    crops = normalized(torch.randint(0, 255, (6, 1, 32, 32)))
    config = CropsConfig(shift=0.0, scale=0.0, shear=0.0)
    moved = augment(crops, config, generator(0, 0, 0))
    assert torch.allclose(moved.flatten(1).sort(1).values, crops.flatten(1).sort(1).values, atol=2e-3)
    assert not torch.equal(moved, crops)
    dark = torch.full((40, 1, 32, 32), -0.4)
    for padding, lightest in (("border", -0.4), ("zeros", 0.0)):
        filled = augment(dark, CropsConfig(rotation="any", padding=padding), generator(1, 0, 0))  # type: ignore[arg-type]
        assert float(filled.max()) == pytest.approx(lightest, abs=0.05)


def test_weights_and_divisor_of_eq_3_4() -> None:
    assert class_weights(np.array([15, 85])) == pytest.approx([1, 15 / 85])
    data = CropBatches(drawn(), CropsConfig(oversample=False), seed=0)
    logits, label = torch.zeros(4, 2), torch.tensor([0, 1, 1, 1])
    losses = {}
    for divisor in ("count", "weights"):
        objective = GradingObjective(GradingLossConfig(weighted=True, divisor=divisor), data)
        losses[divisor] = float(objective.grade_loss(logits, label))
    ratio = data.natural.min() / data.natural.max()
    assert losses["weights"] == pytest.approx(np.log(2))
    assert losses["count"] == pytest.approx(np.log(2) * (1 + 3 * ratio) / 4)


def test_prior_correction_restores_natural_priors() -> None:
    """A model without information says one half on balanced data; corrected it says the natural share."""
    shift = prior_shift(np.array([0.145, 0.855]), np.array([0.5, 0.5]))
    assert shift[1] - shift[0] == pytest.approx(1.77, abs=0.01)
    assert probabilities(np.zeros((1, 2)), Calibration(shift, 1.0))[0] == pytest.approx([0.145, 0.855])


def test_the_temperature_is_found() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1.5, 20_000)
    label = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(int)
    sharp = np.stack([np.zeros_like(logit), 3 * logit], 1)
    fitted = fit_temperature(sharp, label, (0.0, 0.0))
    assert fitted.temperature == pytest.approx(3, abs=0.15)
    before, after = probabilities(sharp)[:, 1], probabilities(sharp, fitted)[:, 1]
    assert calibration_error(after, label) < 0.02 < calibration_error(before, label)
    assert cross_entropy(np.array([[0.25, 0.75]]), np.array([1])) == pytest.approx(-np.log(0.75))


def test_sizes_of_the_networks() -> None:
    """Parameters as in Perugachi-Diaz 2024 (4096 inputs, two outputs); the small network stays below 100,000."""
    counts = {"logistic": 2 * 4097, "mlp500": 500 * 4097 + 2 * 501, "mlp1000-500": 1000 * 4097 + 500 * 1001 + 2 * 501}
    for backbone, count in counts.items():
        made = grader(GraderConfig(backbone=backbone), 2)  # type: ignore[arg-type]
        assert sum(p.numel() for p in made.parameters()) == count
    small = grader(GraderConfig(days=(4, 5, 6, 7), seen=True), 2)
    assert sum(p.numel() for p in small.parameters()) < 100_000
    alex = grader(GraderConfig(backbone="alexnet", init="he"), 2)
    found = alex.eval()(normalized(torch.randint(0, 255, (2, 1, 64, 64))), torch.tensor([6, 6]))
    assert found.classes.shape == (2, 2)
    assert found.seen is None


def test_pretrained_weights_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="weights not found"):
        grader(GraderConfig(backbone="alexnet", pretrained=str(tmp_path / "none.pt")), 2)
    path = tmp_path / "wrong.pt"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="do not fit"):
        grader(GraderConfig(backbone="alexnet", pretrained=str(path)), 2)


def test_packs(tmp_path: Path) -> None:
    crops = drawn(2, 5)
    save_pack(crops, tmp_path / "crops.npz")
    assert load_pack(tmp_path / "crops.npz").fingerprint() == crops.fingerprint()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UnreadableInput, match="pack has no array"):
        load_pack(tmp_path / "other.npz")


def test_folders_of_trays_and_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = photograph(3, 0, 6, rows=4, cols=6, preset="easy")
    trays = tmp_path / "trays"
    trays.mkdir()
    Image.fromarray(made.pixels).save(trays / "T_day6.png")
    Image.fromarray(made.pixels).save(trays / "other_day6.png")
    plants = [f"T,{i // 6 + 1},{i % 6 + 1},{grade}" for i, grade in enumerate(made.plants.grade)]
    (trays / "grades.csv").write_text("\n".join(["tray,row,col,grade", *plants[:20]]))
    config = CropsConfig(rows=4, cols=6)
    crops = open_crops([Source("", str(trays))], GraderConfig(), config)
    assert crops.label.tolist() == made.plants.success[:20].astype(int).tolist()
    assert "no table of grades has the tray 'other'" in caplog.text
    for name, value in (("beet", 40), ("maize", 200)):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (50, 40), (value, value, 10)).save(tmp_path / "classes" / name / f"{index}.png")
    source = Source("", str(tmp_path / "classes"))
    colored = open_crops([source], GraderConfig(channels=3), config)
    assert colored.classes == ("beet", "maize")
    assert colored.pixels.shape == (6, 64, 64, 3)
    with pytest.raises(UsageError, match="not a known kind of data"):
        open_crops([Source("hazy", "x")], GraderConfig(), config)
    with pytest.raises(UsageError, match="unknown preset"):
        open_crops([Source("simulated", "harder")], GraderConfig(), config)
    with pytest.raises(InputError, match="no photograph"):
        open_crops([source, Source("labels", str(trays / "grades.csv"))], GraderConfig(), config)
    (tmp_path / "classes" / "beet" / "bad.png").write_text("no image")
    open_crops([source], GraderConfig(channels=3), config)
    assert f"left out: {tmp_path / 'classes' / 'beet' / 'bad.png'}" in caplog.text


def test_photographs_without_a_day_do_not_train_the_input_of_the_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unknown day was read as the first day of the model, and the weights of the other days stayed random."""
    pixels = photograph(3, 0, 6, rows=4, cols=6, preset="easy").pixels
    Image.fromarray(pixels).save(tmp_path / "T_2024-03-07.png")
    (tmp_path / "grades.csv").write_text("tray,row,col,grade\nT,1,1,6\nT,1,2,1\n")
    source, config = Source("", str(tmp_path)), CropsConfig(rows=4, cols=6)
    with pytest.raises(InputError, match="no photograph has a known day"):
        open_crops([source], GraderConfig(days=(4, 5, 6)), config)
    assert open_crops([source], GraderConfig(), config).size == 2
    Image.fromarray(pixels).save(tmp_path / "T_day6.png")
    Image.fromarray(pixels).save(tmp_path / "T_day9.png")
    assert open_crops([source], GraderConfig(days=(4, 5, 6)), config).day.tolist() == [6, 6]
    assert "left out: 2 crops of photographs without a day" in caplog.text
    assert "T_day9.png: day 9 is not one of the days [4, 5, 6, 7]" in caplog.text


def test_the_date_of_sowing_gives_dated_photographs_their_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = photograph(3, 0, 6, rows=4, cols=6, preset="easy").pixels
    for day in (1, 7, 20):
        Image.fromarray(pixels).save(tmp_path / f"T_2024-03-{day:02d}.png")
    (tmp_path / "grades.csv").write_text("tray,row,col,grade\nT,1,1,6\nT,1,2,1\n")
    found = open_crops(
        [Source("", str(tmp_path))], GraderConfig(days=(4, 5, 6)), CropsConfig(rows=4, cols=6, sown="2024-03-01")
    )
    assert found.day.tolist() == [6, 6]
    assert "T_2024-03-01.png: day 0 is not one of the days" in caplog.text
    assert "T_2024-03-20.png: day 19 is not one of the days" in caplog.text
    with pytest.raises(InputError, match="no photograph has a known day"):
        open_crops([Source("", str(tmp_path))], GraderConfig(days=(6,)), CropsConfig(rows=4, cols=6, sown="2024-05-01"))
    assert "T_2024-03-07.png: the date in its name (2024-03-07) is before the date of sowing (2024-05-01)" in caplog.text
    with pytest.raises(UsageError, match="sown: '1 March' is not a date"):
        open_crops([Source("", str(tmp_path))], GraderConfig(days=(6,)), CropsConfig(rows=4, cols=6, sown="1 March"))


def test_too_few_trays_are_refused() -> None:
    crops = drawn(1, 2, (4,))
    with pytest.raises(InputError, match="part has no crops"):
        CropBatches(crops, CropsConfig(days=(4,)), 0)


def test_the_bootstrap_sees_a_difference_and_no_difference() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(1000) < 0.8).astype(np.int64)
    tray = np.repeat(np.arange(20), 50)
    good = np.clip(0.3 + 0.4 * label + 0.2 * rng.standard_normal(1000), 0, 1)
    poor = np.clip(0.45 + 0.1 * label + 0.2 * rng.standard_normal(1000), 0, 1)
    first, second = (Measured(label, tray, one, one) for one in (good, poor))
    found = paired_bootstrap(first, second, "auc")
    assert found.value == pytest.approx(first.auc - second.auc)  # of scikit-learn
    assert 0 < found.low < found.value < found.high
    same = paired_bootstrap(first, first, "auc")
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_only_an_informed_model_beats_the_majority() -> None:
    rng = np.random.default_rng(1)
    label, tray = (rng.random(600) < 0.85).astype(np.int64), np.repeat(np.arange(12), 50)
    informed = np.where(rng.random(600) < 0.95, label, 1 - label).astype(float)
    gain = paired_difference(accuracy_of(informed, label), majority_of(label), tray)
    assert gain.value == pytest.approx((informed == label).mean() - label.mean())
    assert gain.low > 0.02
    constant = paired_difference(accuracy_of(np.ones(600), label), majority_of(label), tray)
    assert tuple(constant) == (0, 0, 0)


def test_times_before_the_first_count_are_not_compared() -> None:
    early, late = [2] * 15 + [4] * 5, [2] * 5 + [3] * 10 + [4] * 5  # the last day without each plant
    tray = np.repeat(["early", "late"], 60)
    day, place = np.tile([3, 4, 5], 40), np.tile(np.repeat(np.arange(20), 3), 2)
    seen = (day > np.repeat([*early, *late], 3)).astype(np.int64)
    crops = Crops(np.zeros((120, 1, 1, 1), np.uint8), seen, seen, day, tray, place, np.zeros(120))
    times, censored = lot_times(crops, seen == 1)
    assert censored == 1
    assert times["MGT"] == times["T50 (Farooq)"] == [0, 0, 0]
    missed = seen == 1
    missed[np.flatnonzero((tray == "late") & (day == 4))] = False  # seen a day later
    wrong, _ = lot_times(crops, missed)
    assert wrong["T50 (Farooq)"][0] > 0.2  # of the tray `late` alone
    assert wrong["MGT"][2] == pytest.approx(10 / 20)


def test_a_pack_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "crops.npz"
    for trays in (2, 3):
        save_pack(drawn(trays, 4, (4,)), path)
        os.utime(path, (trays, trays))
        assert load_pack(path).size == 4 * trays


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="leave a test set"):
        CropsConfig(train_share=0.8, validation_share=0.2)
    with pytest.raises(UsageError, match="1 or 3"):
        GraderConfig(channels=2)
    assert replace(CropsConfig(), batch=8).batch == 8


@pytest.mark.parametrize("others", [[], ["simulated:easy"]])
def test_grades_without_their_photographs_are_refused(others: list[str], tmp_path: Path) -> None:
    """Simulated trays were used instead, without a word."""
    (tmp_path / "grades.csv").write_text("tray,row,col,grade\nT0,1,1,1\n")
    config = recipe_of("seedlings", "tiny")
    with pytest.raises(UsageError, match="grades without the photographs"):
        open_crops(parse_sources([*others, f"labels:{tmp_path / 'grades.csv'}"]), config.model, config.data)
