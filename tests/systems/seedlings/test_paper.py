"""Perugachi-Diaz 2024, chapter 3: a total of the losses by hand, the protocol of the searches, and all constants."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.paper_values import OURS, flat, typed
from torch import Tensor, nn

from latens.systems.seedlings import calibration, chapter_tables, objective, trials
from latens.systems.seedlings.calibration import Calibration, cross_entropy, probabilities
from latens.systems.seedlings.config import DAYS, GraderConfig, GradingLossConfig
from latens.systems.seedlings.crops import UNKNOWN, split
from latens.systems.seedlings.dataset import CropBatches
from latens.systems.seedlings.model import Graded, normalized
from latens.systems.seedlings.networks import grader
from latens.systems.seedlings.objective import GradingObjective
from latens.systems.seedlings.recipes import paper
from latens.systems.seedlings.tables import SUCCESSES
from latens.systems.seedlings.trials import PAPER as RATES
from latens.systems.seedlings.trials import SCALES, Variant
from latens.training.objective import ONE_OPTIMIZER
from latens.training.optim import build_optimizers

from .test_training import drawn

# ------------------------------------------------------------------------------------------------------------ totals

LN2, SURE, UNSURE = math.log(2), math.log(4 / 3), math.log(4)  # probabilities 1/2, 3/4 and 1/4
LABEL = torch.tensor([0, 1, 1])
BATCH = {
    "crops": torch.zeros(3, 1, 2, 2),
    "day": torch.tensor([7, 7, 7]),
    "label": LABEL,
    "seen": torch.tensor([1, 0, UNKNOWN]),
}


class FixedGrader(nn.Module):
    """Probability of success 3/4, 3/4 and 1/2; of emergence 3/4."""

    def __init__(self, seen: bool) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, crops: Tensor, day: Tensor) -> Graded:
        classes = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [0.0, 0.0]])
        return Graded(classes, torch.tensor([[0.0, math.log(3)]] * 3) if self.seen else None)


def objective_of(config: GradingLossConfig, natural: tuple[int, int] = (20, 80)) -> GradingObjective:
    data = SimpleNamespace(natural=np.array(natural), trained=np.array([max(natural)] * 2))
    return GradingObjective(config, data)  # type: ignore[arg-type]


def loss_of(config: GradingLossConfig, *, seen: bool = False) -> float:
    (step,) = objective_of(config)(FixedGrader(seen), BATCH, 0)
    return float(step.loss)


def test_the_total_of_eq_3_3() -> None:
    assert loss_of(paper().objective) == pytest.approx((UNSURE + SURE + LN2) / 3, rel=1e-6)


def test_the_total_of_eq_3_4() -> None:
    """Weight 1 of failures and 20 / 80 of successes; divided by the number of crops, or by the weights."""
    weighted = UNSURE + 0.25 * (SURE + LN2)
    assert loss_of(GradingLossConfig(weighted=True)) == pytest.approx(weighted / 3, rel=1e-6)
    assert loss_of(GradingLossConfig(weighted=True, divisor="weights")) == pytest.approx(weighted / 1.5, rel=1e-6)


def test_the_total_with_emergence() -> None:
    """Ours: cross-entropy of emergence over the crops of which it is known."""
    expected = (UNSURE + SURE + LN2) / 3 + 5 * (SURE + UNSURE) / 2
    assert loss_of(GradingLossConfig(seen_weight=5), seen=True) == pytest.approx(expected, rel=1e-6)


def test_the_validation_loss() -> None:
    """As trained on balanced classes for the thesis; ours corrects the priors: 20 and 80 of 100 instead of one half each."""
    raw = objective_of(paper().objective).validate(FixedGrader(False), [BATCH])
    assert raw["loss"] == raw["loss_as_trained"] == pytest.approx((UNSURE + SURE + LN2) / 3, rel=1e-6)
    found = objective_of(GradingLossConfig()).validate(FixedGrader(False), [BATCH])
    odds = [4 * 3, 4 * 3, 4]  # of success
    expected = (math.log(1 + odds[0]) + math.log(1 + 1 / odds[1]) + math.log(1 + 1 / odds[2])) / 3
    assert found["loss"] == pytest.approx(expected, rel=1e-6)
    assert found["accuracy"] == pytest.approx(2 / 3)
    chances = probabilities(np.array([[0.0, math.log(3)]]), Calibration((0.0, 0.0), 2.0))
    assert chances[0, 1] == pytest.approx(math.sqrt(3) / (1 + math.sqrt(3)))
    assert cross_entropy(np.array([[0.25, 0.75]]), np.array([1])) == pytest.approx(SURE)


def test_weight_decay_of_eq_3_5() -> None:
    """w <- w - eta (gradient + lambda w), without momentum (Eqs. 3.5 and 3.6)."""
    layer = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.fill_(2.0)
    (optimizer,) = build_optimizers(nn.Sequential(layer), ONE_OPTIMIZER, paper().optim).values()
    expected = 2.0
    for _ in range(2):
        layer.weight.grad = torch.full((1, 1), 3.0, dtype=torch.double)
        optimizer.step()
        expected -= 1e-4 * (3 + 1e-5 * expected)
    assert float(layer.weight.detach()) == pytest.approx(expected, rel=1e-12)


# ----------------------------------------------------------------------------------------------------------- protocol


def test_settings_are_chosen_by_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search of Tables 3.3 and 3.4 takes the lowest validation loss; better values of training and test are not chosen."""
    asked: list[tuple[float, float]] = []

    def trained(lab: object, backbone: str, day: int, seed: int, variant: Variant) -> Path:
        asked.append((variant.lr, variant.decay))
        folder = tmp_path / f"{variant.lr:g}-{variant.decay:g}"
        folder.mkdir(exist_ok=True)
        best = {1e-2: 0.5, 1e-3: 0.3, 1e-4: 0.4}[variant.lr] + {1e-3: 0.02, 1e-5: 0.1, 1e-7: 0.05}[variant.decay]
        lines: list[dict[str, Any]] = [{"kind": "train", "step": 1, "loss": 0.001 * variant.lr}]
        lines += [{"kind": "test", "step": 1, "loss": variant.decay}, {"kind": "validation", "step": 1, "loss": best + 1}]
        lines += [{"kind": "validation", "step": 2, "loss": best, "loss_as_trained": 0.0}]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return folder / "best"

    monkeypatch.setattr(chapter_tables, "trained", trained)
    lab = SimpleNamespace(scale=SCALES["paper"], sources=[], recipe="paper")
    losses, decays = chapter_tables.search(lab, "alexnet")  # type: ignore[arg-type]
    assert losses == pytest.approx({1e-2: 0.6, 1e-3: 0.4, 1e-4: 0.5})
    assert decays == pytest.approx({1e-3: 0.32, 1e-5: 0.4, 1e-7: 0.35})
    assert asked[3:] == [(1e-3, 1e-3), (1e-3, 1e-5), (1e-3, 1e-7)]  # at the best learning rate
    report = chapter_tables.table34(lab)  # type: ignore[arg-type]
    (table,) = report.blocks
    rows = {row[0]: row[1:] for row in table.rows}  # type: ignore[union-attr]
    assert rows["AlexNet"] == ["0.001", "0.001", "0.0001", "1e-05"]


def test_training_never_sees_the_test_part() -> None:
    crops = drawn(trays=10, plants=6)
    data = CropBatches(crops, paper().data, seed=0)
    test = set(split(crops, "leaky", 0.6, 0.2)["test"].tolist())
    assert len(test) == pytest.approx(0.2 * crops.size, abs=2)
    seen = {index for epoch in range(3) for index in data.epoch(epoch).tolist()}
    held = set(data.parts["validation"].tolist())
    assert not test & (seen | held)
    assert not seen & held
    validated = torch.cat([batch["crops"] for batch in data.validation()])
    torch.testing.assert_close(validated, normalized(data.pixels[torch.tensor(sorted(held))]))


# ---------------------------------------------------------------------------------------------------------- constants

PAPER = {
    "system": ("seedlings", "this system"),
    "recipe": ("paper", "this recipe"),
    "model.backbone": ("alexnet", "section 3.4.3"),
    "model.size": (64, "section 3.3.1"),
    "model.channels": (1, "section 3.3.1: gray"),
    "model.days": ((), "section 3.3: one model per day"),
    "model.seen": (False, OURS),
    "model.width": (16, OURS),
    "model.dropout": (0.1, OURS),
    "model.init": ("torch", "section 3.3.3: PyTorch"),
    "model.pretrained": ("", "section 3.3.2: ImageNet weights, given by the user"),
    "data.batch": (128, "Table 3.3"),
    "data.days": ((7,), "section 3.4.3"),
    "data.sown": ("", OURS),
    "data.split": ("leaky", "Table 3.1"),
    "data.train_share": (0.6, "section 3.3.4"),
    "data.validation_share": (0.2, "section 3.3.4"),
    "data.split_seed": (0, OURS),
    "data.fold": (0, OURS),
    "data.oversample": (True, "section 3.3.5"),
    "data.augment": (True, "section 3.3.3"),
    "data.rotation": ("quarter", "section 3.3.3: 90 degrees"),
    "data.shift": (0.06, OURS),
    "data.scale": (0.1, OURS),
    "data.shear": (8.0, OURS),
    "data.contrast": (0.0, "section 3.3.3"),
    "data.padding": ("border", OURS),
    "data.method": ("lattice", OURS),
    "data.trays": (88, "section 3.3.1"),
    "data.preset": ("thesis", OURS),
    "data.rows": (10, "section 3.3.1: 150 seedlings per tray"),
    "data.cols": (15, "section 3.3.1"),
    "data.simulated_seed": (0, OURS),
    "objective.weighted": (False, "Eq. 3.3"),
    "objective.divisor": ("count", "Eq. 3.4"),
    "objective.seen_weight": (1.0, OURS),
    "objective.select": ("raw", "section 3.4.1: lowest validation loss"),
    "optim.lr": (1e-4, "Table 3.4"),
    "optim.warmup": (0, OURS),
    "optim.decay_share": (0.0, OURS),
    "optim.clip": (1e6, OURS),
    "optim.ema": (0.0, OURS),
    "optim.kind": ("sgd", "section 3.3.6"),
    "optim.momentum": (0.0, "Eq. 3.6"),
    "optim.weight_decay": (1e-5, "Table 3.4"),
    "run.steps": (53_000, "Table 3.3: 500 epochs, of 106 balanced batches"),
    "run.seed": (0, OURS),
    "run.precision": ("no", OURS),
    "run.log_every": (106, OURS),
    "run.validate_every": (106, OURS),
    "run.checkpoint_every": (1060, OURS),
    "run.keep": (2, OURS),
}


def test_every_value_of_the_recipe() -> None:
    assert flat(paper()) == typed(PAPER)
    assert math.ceil(2 * 0.855 * 7920 / 128) == 106  # section 3.3.4 and Table 3.1: training crops of a day, oversampled


def test_constants_of_the_modules() -> None:
    assert dict(RATES) == {"logistic": (1e-4, 1e-7), "mlp500": (1e-3, 1e-5), "mlp1000-500": (1e-3, 1e-5)}  # Table 3.4
    assert chapter_tables.LEARNING_RATES == (1e-2, 1e-3, 1e-4)  # Table 3.3
    assert chapter_tables.DECAYS == (1e-3, 1e-5, 1e-7)  # Table 3.3
    assert (DAYS, tuple(sorted(SUCCESSES))) == ((4, 5, 6, 7), (5, 6))  # section 3.3.1
    assert normalized(torch.tensor([0, 128, 255])).tolist() == [-0.5, 0.0, 255 / 256 - 0.5]  # section 3.3.3
    scale = SCALES["paper"]
    assert (scale.epochs, scale.runs, scale.split, scale.best) == (500, 3, "leaky", "alexnet")  # Table 3.3, section 3.4.3
    assert scale.networks == ("alexnet", "densenet121", "resnet101", "vgg16")  # section 3.3.2
    assert chapter_tables.SHARES == {
        4: (0.856, 0.857, 0.849), 5: (0.856, 0.850, 0.855), 6: (0.855, 0.853, 0.855), 7: (0.851, 0.854, 0.867),
    }  # Table 3.1  # fmt: skip
    assert (objective.MIN_OF_A_DAY, objective.KNOWN_CROPS, objective.KNOWN_SHARE, calibration.BINS) == (100, 2000, 0.995, 10)
    crops = drawn(trays=10, plants=30)
    for backbone, (rate, decay) in {**RATES, "alexnet": (1e-4, 1e-5)}.items():
        per_epoch = trials.epoch_steps(crops, trials.data_config(scale, 5, Variant()))
        config = trials.config_of(scale, backbone, 5, per_epoch=per_epoch)  # type: ignore[arg-type]
        own = flat(config)
        found = [own[f"optim.{name}"] for name in ("lr", "weight_decay", "momentum", "warmup")]
        assert found == [rate, decay, 0.0, 0]
        assert (own["objective.select"], own["model.init"], own["model.dropout"]) == ("raw", "torch", 0.0)
        assert own["run.steps"] == 500 * per_epoch


def test_logistic_regression_is_eq_3_1() -> None:
    """One linear map of the 4096 pixels to both classes."""
    model = grader(GraderConfig(backbone="logistic"), 2)
    crops = torch.linspace(-0.5, 0.5, 4096).view(1, 1, 64, 64)
    with torch.no_grad():
        expected = model.classes.weight @ crops.flatten() + model.classes.bias
        found = model.eval()(crops, torch.tensor([7])).classes[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
