"""Statistics, networks, validation and export of graders, against numpy and by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.paper_values import filled, waves
from torch import Tensor, nn

from latens.systems.seedlings.calibration import Calibration, calibration_error, fit_temperature, prior_shift, probabilities
from latens.systems.seedlings.config import GraderConfig, GradingLossConfig
from latens.systems.seedlings.crops import UNKNOWN, Crops
from latens.systems.seedlings.model import Graded, Grader, SmallNetwork, one_hot, outlier_score, perceptron, statistics
from latens.systems.seedlings.networks import grader
from latens.systems.seedlings.objective import (
    KNOWN_CROPS,
    MIN_OF_A_DAY,
    GradingObjective,
    class_weights,
    groups_of,
    predict,
    rates,
    spread_between,
)

# --------------------------------------------------------------------------------------------------------- statistics


def crops_of(count: int, channels: int = 3, size: int = 8) -> Tensor:
    return 0.5 * waves(count, channels, size, size) * torch.linspace(0.3, 1, count)[:, None, None, None]


def by_numpy(crop: np.ndarray) -> list[float]:
    """Quantiles, mean, deviation, center against the whole, logarithm of the mean differences, and range over the colors."""
    gray = crop.mean(0)
    quantiles = [float(np.quantile(gray, rank)) for rank in (0.05, 0.25, 0.5, 0.75, 0.95)]
    down, right = np.abs(np.diff(gray, axis=0)).mean(), np.abs(np.diff(gray, axis=1)).mean()
    center = gray[2:6, 2:6].mean() - gray.mean()
    color = (crop.max(0) - crop.min(0)).mean()
    return [*quantiles, gray.mean(), gray.std(ddof=1), center, math.log(down + right + 1e-3), color]


def test_the_ten_statistics_of_a_crop() -> None:
    crops = crops_of(3)
    crops[1] = 0.25  # a plain crop has no texture
    found = statistics(crops)
    assert found.shape == (3, 10)
    for one, crop in zip(found, crops, strict=True):
        assert one.tolist() == pytest.approx(by_numpy(crop.double().numpy()), rel=1e-4, abs=1e-6)
    assert float(found[1, 8]) == pytest.approx(math.log(1e-3), abs=1e-4)


def test_the_outlier_score_is_a_relative_squared_distance() -> None:
    crops = crops_of(4)
    found = statistics(crops)
    made = Grader(GraderConfig(backbone="logistic"), 2, nn.Flatten(), 3 * 64)
    assert (float(made.known_mean.abs().sum()), float(made.known_limit)) == (0, 1e9)
    assert torch.equal(made.known_inverse, torch.eye(10))
    inverse = torch.diag(torch.arange(1.0, 11.0))
    inverse[0, 1] = 2.0
    made.load_state_dict(
        {**made.state_dict(), "known_mean": found[0], "known_inverse": inverse, "known_limit": torch.tensor(4.0)}
    )
    off = (found - found[0]).double().numpy()
    expected = [float(o @ inverse.double().numpy() @ o) / 4 for o in off]
    assert outlier_score(made, crops).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert expected[3] > 0.01


# ----------------------------------------------------------------------------------------------------------- networks


def test_layers_of_the_networks() -> None:
    """Section 3.3.2: logistic regression is one linear map, perceptrons have ReLUs after every hidden layer."""
    layers = [str(layer) for layer in perceptron(12, (5, 3))]
    assert layers == [
        "Flatten(start_dim=1, end_dim=-1)", "Linear(in_features=12, out_features=5, bias=True)", "ReLU()",
        "Linear(in_features=5, out_features=3, bias=True)", "ReLU()",
    ]  # fmt: skip
    assert [str(layer) for layer in perceptron(12, ())] == layers[:1]
    shapes = [tuple(part.weight.shape) for part in SmallNetwork(3, 4).modules() if isinstance(part, nn.Conv2d)]
    assert shapes == [(4, 3, 5, 5), (6, 4, 3, 3), (12, 6, 3, 3), (16, 12, 3, 3)]
    strides = [part.stride for part in SmallNetwork(3, 4).modules() if isinstance(part, nn.Conv2d)]
    assert strides == [(2, 2), (1, 1), (1, 1), (1, 1)]
    assert SmallNetwork(3, 5).features == 40
    assert [part.bias for part in SmallNetwork(1, 2).modules() if isinstance(part, nn.Conv2d)] == [None] * 4


def test_the_small_network_by_its_layers() -> None:
    """Stride 2, two poolings of 2, ReLU after normalization, then mean and maximum over the positions."""
    network = filled(SmallNetwork(1, 4))
    x = waves(2, 1, 16, 16)
    by_hand = x
    for name, stride, pool in (("stem", 2, 1), ("second", 1, 2), ("third", 1, 2), ("fourth", 1, 1)):
        layer, norm, _ = getattr(network, name)
        padding = layer.weight.shape[2] // 2
        by_hand = nn.functional.conv2d(by_hand, layer.weight, None, stride, padding)
        by_hand = by_hand / math.sqrt(1 + norm.eps) * norm.weight[:, None, None] + norm.bias[:, None, None]
        by_hand = nn.functional.max_pool2d(by_hand.clamp(min=0), pool)
    expected = torch.cat([by_hand.mean((2, 3)), by_hand.amax((2, 3))], dim=1)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_heads_of_the_graders() -> None:
    """`small` has a hidden layer of 32 with dropout, the networks of the thesis one linear layer; the day is one-hot."""
    day = torch.tensor([4, 9])
    for backbone, hidden in (("small", True), ("logistic", False)):
        config = GraderConfig(backbone=backbone, size=32, days=(4, 6, 8), seen=True, dropout=0.25, width=2)  # type: ignore[arg-type]
        made = filled(grader(config, 3))
        x = waves(2, 1, 32, 32)
        features = torch.cat([made.body(x), torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])], dim=1)
        if hidden:
            assert made.hidden is not None
            assert made.hidden.out_features == 32
            features = made.hidden(features).clamp(min=0)
        found = made(x, day)
        torch.testing.assert_close(found.classes, features @ made.classes.weight.T + made.classes.bias, rtol=1e-4, atol=1e-5)
        assert made.seen is not None
        torch.testing.assert_close(found.seen, features @ made.seen.weight.T + made.seen.bias, rtol=1e-4, atol=1e-5)
        assert found.classes.shape == (2, 3)
        assert made.drop.p == (0.25 if hidden else 0.0)
        assert made.days == (4, 6, 8)
    torch.manual_seed(0)
    small = grader(GraderConfig(width=2, size=32, dropout=0.5), 2).train()
    assert not torch.equal(small(waves(2, 1, 32, 32), day).classes, small(waves(2, 1, 32, 32), day).classes)
    assert small.seen is None
    assert small(waves(2, 1, 32, 32), day).seen is None
    assert one_hot(torch.tensor([1, 5, 6]), (2, 7)).tolist() == [[1, 0], [0, 1], [0, 1]]


# --------------------------------------------------------------------------------------------------- validation, export


class Known(nn.Module):
    """Logits from the crops: the first pixel is the logit of success, the second that of emergence."""

    def __init__(self, seen: bool = True) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, crops: Tensor, day: Tensor) -> Graded:
        zero = torch.zeros(len(crops))
        success, emerged = crops[:, 0, 0, 0], crops[:, 0, 0, 1]
        return Graded(torch.stack([zero, success], 1), torch.stack([zero, emerged], 1) if self.seen else None)


SUCCESS, EMERGED = [2.0, -1.0, 0.5, -0.25], [3.0, 1.0, -2.0, 0.5]
LABELS, SEEN = [1, 0, 0, 1], [1, 0, UNKNOWN, 1]


def batches(day: int = 5) -> list[dict[str, Tensor]]:
    crops = torch.zeros(4, 1, 2, 2)
    crops[:, 0, 0, 0], crops[:, 0, 0, 1] = torch.tensor(SUCCESS), torch.tensor(EMERGED)
    whole = {"crops": crops, "day": torch.full((4,), day), "label": torch.tensor(LABELS), "seen": torch.tensor(SEEN)}
    return [{name: tensor[part] for name, tensor in whole.items()} for part in (slice(0, 3), slice(3, 4))]


def costs(logits: list[float], labels: list[int]) -> float:
    """Mean cross-entropy of binary logits."""
    return float(np.mean([math.log1p(math.exp(-v if label else v)) for v, label in zip(logits, labels, strict=True)]))


def objective_of(**changes: Any) -> GradingObjective:
    data = SimpleNamespace(natural=np.array([20, 80]), trained=np.array([80, 80]))
    return GradingObjective(GradingLossConfig(**changes), data)  # type: ignore[arg-type]


def test_validation_with_emergence() -> None:
    """The priors move the logits of success by log 4; crops of unknown emergence count for success only."""
    numbers = objective_of(seen_weight=3).validate(Known(), batches())
    moved = [v + math.log(4) for v in SUCCESS]
    known = costs([3.0, 1.0, 0.5], [1, 0, 1])
    expected = {
        "loss": costs(moved, LABELS) + 3 * known, "accuracy": 2 / 4, "loss_as_trained": costs(SUCCESS, LABELS),
        "seen_accuracy": 2 / 3,
    }  # fmt: skip
    assert numbers == pytest.approx(expected, rel=1e-6)
    assert objective_of(seen_weight=0).validate(Known(), batches()).keys() == {"loss", "accuracy", "loss_as_trained"}
    assert objective_of().validate(Known(seen=False), batches())["loss"] == pytest.approx(costs(moved, LABELS))
    unknown = [{**batch, "seen": torch.full_like(batch["seen"], UNKNOWN)} for batch in batches()]
    assert objective_of().validate(Known(), unknown)["loss"] == pytest.approx(costs(moved, LABELS))
    raw = objective_of(select="raw", seen_weight=0).validate(Known(), batches())
    assert raw["loss"] == raw["loss_as_trained"]
    assert objective_of().images(Known(), batches()) == {}


def test_predictions_are_joined_in_order() -> None:
    classes, seen = predict(Known(), batches())
    assert classes.dtype == np.float64
    np.testing.assert_allclose(classes[:, 1], SUCCESS)
    assert seen is not None
    np.testing.assert_allclose(seen[:, 1], EMERGED)
    assert predict(Known(seen=False), batches())[1] is None


def test_shifts_of_weighted_losses() -> None:
    """Weights of Eq. 3.4 act like other training priors; classes without crops have weight 1 and no shift."""
    assert class_weights(np.array([20, 0, 80])) == pytest.approx([1, 1, 0.25])
    weighted = objective_of(weighted=True)
    assert weighted.weights == pytest.approx([1, 0.25])
    expected = prior_shift(np.array([0.2, 0.8]), np.array([0.8, 0.2]))  # 80 x 1 and 80 x 1/4
    assert weighted.shift == pytest.approx(expected)
    assert expected == pytest.approx((-2 * math.log(4), 0.0))
    assert prior_shift(np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.25, 0.25])) == pytest.approx(
        (-math.log(2), 0.0, -math.log(2))
    )


def test_groups_are_days_with_enough_crops() -> None:
    day = np.repeat([7, 4, -1, 5], [MIN_OF_A_DAY, MIN_OF_A_DAY - 1, MIN_OF_A_DAY, MIN_OF_A_DAY + 1])
    found = groups_of(day)
    assert [(name, int(mask.sum())) for name, mask in found] == [("all", 400), ("5", 101), ("7", 100)]
    assert (day[found[1][1]] == 5).all()


def test_rates_by_hand() -> None:
    called = np.array([True, True, False, False, True, False, True])
    success = np.array([True, True, True, False, False, False, True])
    tray = np.array(["a", "a", "b", "b", "c", "c", "d"])
    found = rates(called, success, tray)
    assert {name: found[name] for name in ("kept", "successes", "rejected", "failures", "trays")} == {
        "kept": 3, "successes": 4, "rejected": 2, "failures": 3, "trays": 4,
    }  # fmt: skip
    assert found["kept_spread"] == spread_between(np.array([True, True, False, True]), np.array(["a", "a", "b", "d"]))
    assert found["rejected_spread"] == 0.0  # two trays only


def test_spread_between_trays_by_hand() -> None:
    """Shares 1, 1/2 and 0 of 4, 2 and 6 crops: 5/12 in all; the excess over the binomial variance by its expected value."""
    right = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], bool)
    tray = np.repeat(["x", "y", "z"], [4, 2, 6])
    share = 5 / 12
    between = 4 * (1 - share) ** 2 + 2 * (0.5 - share) ** 2 + 6 * share**2
    expected = (between - 2 * share * (1 - share)) / (12 - (16 + 4 + 36) / 12)
    assert spread_between(right, tray) == pytest.approx(math.sqrt(expected))
    assert spread_between(np.tile([True, False], 6), np.repeat(["x", "y", "z"], 4)) == 0.0  # less than binomial
    assert spread_between(right[:6], tray[:6]) == 0.0


class Data:
    """Training and validation crops of known statistics, areas and emergence."""

    def __init__(self, seen: list[int], area: list[float], classes: tuple[str, ...] = ("failure", "success")) -> None:
        count = len(seen)
        self.crops = Crops(
            np.zeros((count, 2, 2, 1), np.uint8), np.zeros(count, int), np.array(seen), np.full(count, 5),
            np.array([f"t{i}" for i in range(count)]), np.arange(count), np.array(area), classes,
        )  # fmt: skip
        self.parts = {"train": np.arange(count), "validation": np.arange(4)}
        self.natural, self.trained = np.array([20, 80]), np.array([80, 80])
        self.asked: list[int] = []

    def tensors(self, indices: np.ndarray) -> dict[str, Tensor]:
        self.asked = indices.tolist()
        torch.manual_seed(0)
        return {"crops": 0.2 * torch.randn(KNOWN_CROPS * 2 + 3, 1, 8, 8)[torch.as_tensor(indices)]}


def grading(data: Data) -> GradingObjective:
    return GradingObjective(GradingLossConfig(), data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "area", "threshold"),
    [
        ([0, 1, 0, 1, 1], [5.0, 30.0, 10.0, 50.0, 20.0], 15.0),  # separable between 10 and 20
        ([0, 1, 0, 1, 1, 1], [5.0, 7.0, 10.0, 20.0, 30.0, 50.0], 6.0),  # one error there and at 15: the first
        ([1, 0], [1.0, 9.0], 1.0),  # every threshold has one error: the first of them
        ([UNKNOWN, 0, 1], [99.0, 2.0, 6.0], 4.0),
        ([1, 1], [1.0, 2.0], 20.0),
        ([UNKNOWN, UNKNOWN], [1.0, 2.0], 20.0),
    ],
)
def test_the_area_that_separates_emerged_plants(seen: list[int], area: list[float], threshold: float) -> None:
    assert grading(Data(seen, area)).area_threshold == pytest.approx(threshold)


def test_statistics_of_the_training_crops() -> None:
    """Every third of 4003 crops, at most 2000 of them: mean, inverse covariance and the 99.5 % quantile of the distance."""
    data = Data([1] * (2 * KNOWN_CROPS + 3), [1.0] * (2 * KNOWN_CROPS + 3))
    known = grading(data).known
    assert data.asked == list(range(0, 4003, 3))
    found = statistics(data.tensors(np.arange(0, 4003, 3))["crops"]).double().numpy()
    inverse = np.linalg.inv(np.cov(found, rowvar=False) + 1e-5 * np.eye(10))
    off = found - found.mean(0)
    distance = np.einsum("nf,fg,ng->n", off, inverse, off)
    np.testing.assert_allclose(known["known_mean"].numpy(), found.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(known["known_inverse"].numpy(), inverse, rtol=1e-3, atol=1e-2)
    assert float(known["known_limit"]) == pytest.approx(np.quantile(distance, 0.995), rel=1e-3)


def test_export_by_hand() -> None:
    data = Data([0, 1, 1, UNKNOWN], [1.0, 2.0, 3.0, 4.0])
    data.tensors = lambda indices: {"crops": crops_of(4, 1)}  # type: ignore[method-assign]
    objective = grading(data)
    made = objective.export(Known(), batches(day=-1))  # type: ignore[arg-type]
    unweighted = GradingObjective(GradingLossConfig(seen_weight=0), data)  # type: ignore[arg-type]
    assert "seen" not in unweighted.export(Known(), batches(day=-1)).config  # type: ignore[arg-type]
    logits = np.stack([np.zeros(4), SUCCESS], 1)
    fitted = fit_temperature(logits, np.array(LABELS), objective.shift)
    assert made.config["classes"] == ["failure", "success"]
    assert made.config["calibration"] == {"all": {"shift": list(objective.shift), "temperature": fitted.temperature}}
    called = probabilities(logits, fitted)[:, 1] >= 0.5
    success = np.array(LABELS) == 1
    assert made.config["rates"] == {"all": rates(called, success, data.crops.tray[:4])}
    emerged = fit_temperature(np.stack([np.zeros(3), [3.0, 1.0, 0.5]], 1), np.array([1, 0, 1]), (0.0, 0.0))
    assert made.config["seen"] == {"shift": [0.0, 0.0], "temperature": emerged.temperature}
    assert made.config["area_threshold"] == 1.5
    assert made.config["trained"] == {"natural": [20, 80], "epoch": [80, 80]}
    assert set(made.weights) == {"known_mean", "known_inverse", "known_limit"}
    other = grading(Data([0, 1, 1, 1], [1.0, 2.0, 3.0, 4.0], ("a", "b")))
    found = other.export(Known(seen=False), batches()).config  # type: ignore[arg-type]
    assert (found["rates"], found["classes"], "seen" in found) == ({}, ["a", "b"], False)


def test_the_search_of_the_temperature_and_the_calibration_error() -> None:
    """For logits of 2 that are right in 3 of 4 cases the temperature is 2 / log 3; it stays within its limits."""
    logits = np.stack([np.zeros(4), np.full(4, 2.0)], 1)
    assert fit_temperature(logits, np.array([1, 1, 1, 0]), (0.0, 0.0)).temperature == pytest.approx(2 / math.log(3), rel=1e-4)
    assert fit_temperature(logits, np.array([1, 1, 1, 1]), (0.0, 0.0)).temperature == pytest.approx(0.3, rel=1e-4)
    assert fit_temperature(logits, np.array([0, 0, 0, 0]), (0.0, 0.0)).temperature == pytest.approx(10, rel=1e-4)
    moved = probabilities(np.array([[0.0, 1.0]]), Calibration((1.0, 0.0), 1.0))
    assert moved[0].tolist() == pytest.approx([0.5, 0.5])
    assert probabilities(np.zeros((1, 2), np.float32)).dtype == np.float64
    chances, labels = np.linspace(0.05, 0.95, 20)[::-1].copy(), np.zeros(20, int)
    labels[:8] = 1
    pairs = chances.reshape(10, 2).mean(1), labels.reshape(10, 2).mean(1)
    assert calibration_error(chances, labels) == pytest.approx(float(np.abs(pairs[0] - pairs[1]).mean()))
    assert calibration_error(np.array([0.25, 0.5]), np.array([0, 1])) == pytest.approx((0.25 + 0.5) / 2)
