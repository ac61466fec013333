"""Validation, samples and export of the loss against the frozen model, computed in other words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.paper_values import filled
from torch import Tensor, nn

from latens.codes.bijector import ActNorm, Flatten, Logit, ResidualMap, Squeeze
from latens.codes.logdet import Exact, Series, estimated
from latens.settings import to_dict
from latens.systems.flow.config import DenseBlocks, DensityFlow, ImageFlow, LikelihoodConfig, VectorFlow
from latens.systems.flow.model import Flow, enlargement
from latens.systems.flow.objective import SAMPLES, Likelihood
from latens.systems.flow.scoring import score_images

SIZES = ImageFlow(channels=1, size=4, scales=(1, 1), block=DenseBlocks(growth=4, depth=1), tail=0, classes=3, head_width=4)
ROWS = VectorFlow(columns=2, blocks=2, block=DenseBlocks(growth=4, depth=1))
TERMS = 3
ROW_BATCHES = [{"rows": torch.tensor([[0.1, 0.2], [0.5, -1.0], [2.0, 0.3]])}, {"rows": torch.tensor([[-0.4, 0.8]])}]


def images(count: int, start: int) -> dict[str, Tensor]:
    pixels = (torch.arange(count * 16) * 37 + start) % 256
    return {"pixels": pixels.view(count, 1, 4, 4).to(torch.uint8), "label": torch.arange(count) % 3}


IMAGE_BATCHES = [images(3, 5), images(2, 90)]


def trained(sizes: DensityFlow) -> Flow:
    """A model whose weights are far enough from zero for its frozen copy to differ."""
    model = filled(Flow(sizes))
    model.power_iterations(3)
    return model


def likelihood(sizes: DensityFlow, weight: Any = 1.0) -> Likelihood:
    return Likelihood(LikelihoodConfig(validation_terms=TERMS, generative_weight=weight), sizes, {"data": "by hand"})


def test_validation_of_rows_scores_the_frozen_model() -> None:
    model = trained(ROWS)
    numbers = likelihood(ROWS).validate(model, ROW_BATCHES)
    every = torch.cat([batch["rows"] for batch in ROW_BATCHES])
    with torch.no_grad():
        nats = -model.freeze()(every, Exact()).log_prob.double().numpy()
    assert numbers == pytest.approx({"loss": nats.mean(), "standard_error": nats.std(ddof=1) / 2}, rel=1e-5)


@pytest.mark.parametrize(("weight", "scale"), [(1.0, 16.0), ("1/D", 1.0), (0.0, 0.0), (0.03, 0.48)])
def test_validation_of_a_hybrid(weight: Any, scale: float) -> None:
    """lambda D bits per dimension plus the cross-entropy in bits, divided by lambda D where that exceeds 1."""
    model = trained(SIZES)
    numbers = likelihood(SIZES, weight).validate(model, IMAGE_BATCHES)
    flow = model.freeze()
    scores = [score_images(flow, batch["pixels"], terms=TERMS) for batch in IMAGE_BATCHES]
    bits = np.concatenate([one.mean for one in scores]).mean()
    chances = torch.cat([one.logits for one in scores if one.logits is not None]).double().softmax(1).numpy()
    labels = np.array([0, 1, 2, 0, 1])
    entropy = -np.log2(chances[np.arange(5), labels]).mean()
    assert numbers["bits_per_dim"] == pytest.approx(bits, rel=1e-6)
    assert numbers["accuracy"] == pytest.approx((chances.argmax(1) == labels).mean())
    assert numbers["loss"] == pytest.approx((scale * bits + entropy) / max(1.0, scale), rel=1e-5)
    assert numbers["lipschitz"] == max(one.lipschitz for one in flow.certify()) > 0
    assert set(numbers) == {"loss", "bits_per_dim", "lipschitz", "accuracy"}


def test_validation_of_a_density() -> None:
    sizes = replace(SIZES, classes=0)
    numbers = likelihood(sizes).validate(trained(sizes), IMAGE_BATCHES)
    assert set(numbers) == {"loss", "bits_per_dim", "lipschitz"}
    assert numbers["loss"] == numbers["bits_per_dim"] > 0


def test_samples_are_drawn_with_one_seed() -> None:
    """Sixteen samples in rows of four, two white pixels between them, from latents of generator 0."""
    model = trained(SIZES)
    sheet = likelihood(SIZES).images(model, IMAGE_BATCHES)["samples"]
    drawn = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    values = model.freeze().inverse(drawn).clamp(0, 1)[:, 0].numpy()
    assert sheet.shape == (4 * 6 - 2, 4 * 6 - 2, 3)
    for number, value in enumerate(values):
        top, left = number // 4 * 6, number % 4 * 6
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 4, 1], np.rint(255 * value))
    assert (sheet[4:6] == 255).all()
    assert SAMPLES == 16
    assert likelihood(ROWS).images(trained(ROWS), ROW_BATCHES) == {}


def test_export_of_rows_and_images() -> None:
    """The frozen weights, the settings, and quantiles of held-out scores; the frozen model of a validation is used again."""
    model, objective = trained(ROWS), likelihood(ROWS)
    found = objective.export(model, ROW_BATCHES)
    flow = model.freeze()
    nats = -flow(torch.cat([batch["rows"] for batch in ROW_BATCHES]), Exact()).log_prob.detach().numpy()
    assert found.config["reference"]["nats"][::50] == pytest.approx([nats.min(), np.median(nats), nats.max()], rel=1e-5)
    assert found.config["data"] == "by hand"
    assert (found.config["model"], found.config["terms"], found.coding) == (to_dict(ROWS), TERMS, {})
    assert found.weights.keys() == flow.state_dict().keys()
    assert all(torch.equal(tensor, flow.state_dict()[name]) for name, tensor in found.weights.items())
    objective.validate(model, ROW_BATCHES)
    assert objective.frozen is not None
    assert objective.export(None, ROW_BATCHES).config == found.config

    images_of, hybrid = trained(SIZES), likelihood(SIZES)
    hybrid.validate(images_of, IMAGE_BATCHES)
    described = hybrid.export(None, IMAGE_BATCHES).config["reference"]
    pixels = torch.cat([batch["pixels"] for batch in IMAGE_BATCHES])
    scores = score_images(images_of.freeze(), pixels, terms=TERMS)
    assert described["mean"][0] == pytest.approx(scores.mean.mean())
    assert described["mean"][2] == pytest.approx(float(scores.latents.double().square().mean()), rel=1e-6)
    assert np.shape(hybrid.images(None, IMAGE_BATCHES)["samples"]) == (22, 22, 3)


def reference_log_det(function: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted series by reverse-mode differentiation through its graph."""
    if not x.requires_grad:
        x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
        w, total = probes, probes.new_zeros(len(probes))
        for k, weight in enumerate(weights, start=1):
            (w,) = torch.autograd.grad(y, x, w, create_graph=True)
            total = total + (1 if k % 2 else -1) * weight / k * (w * probes).flatten(1).sum(1)
    return total


def test_the_reference_series_by_hand() -> None:
    """For y = A x the terms are (-1)^(k+1) c_k / k e^T A^k e; `estimated` has the same value and gradient of A."""
    matrix = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64)
    probes, weights = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64), [1.0, 2.0, 5.0]
    powers = [torch.linalg.matrix_power(matrix, k) for k in (1, 2, 3)]
    by_hand = [
        sum(s * w * float(e @ p @ e) for s, w, p in zip((1, -1 / 2, 1 / 3), weights, powers, strict=True)) for e in probes
    ]
    found = reference_log_det(lambda x: x @ matrix.T, torch.zeros(2, 2, dtype=torch.float64), probes, weights)
    assert found.tolist() == pytest.approx(by_hand)
    quick = estimated(probes @ matrix.T, probes, weights, lambda w: w @ matrix)
    assert quick.value.tolist() == pytest.approx(by_hand)
    assert quick.moments.tolist() == pytest.approx([float((matrix @ e).square().sum()) for e in probes])


def test_layout_of_the_steps() -> None:
    """Figure 4.1.1: input, then per scale blocks with activation normalization, squeezes between scales, and the flat end."""
    sizes = replace(SIZES, channels=3, size=8, scales=(2, 1), tail=1, tail_width=4, tail_growth=4)
    model = Flow(sizes)
    kinds = [type(step).__name__ for step in model.steps]
    block = ["ResidualMap", "ActNorm"]
    assert kinds == ["Logit", "ActNorm", *block, *block, "Squeeze", *block, "Flatten", *block]
    assert [name for name in model.names if name] == [
        "scale 1, block 1",
        "scale 1, block 2",
        "scale 2, block 1",
        "tail, block 1",
    ]
    assert (model.reads, model.shape, model.dims) == ([6, 11], (12, 4, 4), 192)
    assert [step.log_scale.numel() for step in model.steps if isinstance(step, ActNorm)] == [3, 3, 3, 12, 192]
    assert [tuple(part.weight.shape) for part in model.heads.modules() if isinstance(part, nn.Conv2d)] == [(4, 12, 3, 3)] * 2
    assert tuple(model.classifier.weight.shape) == (3, 8)
    whitened = Flow(replace(sizes, whiten=True, classes=0))
    assert [type(step).__name__ for step in whitened.steps] == [
        "Logit", "Whitening", *block, *block, "Squeeze", "Whitening", *block, "Flatten", *block,
    ]  # fmt: skip
    rows = Flow(replace(ROWS, normalize=True))
    assert [type(step).__name__ for step in rows.steps] == ["Affine", "ActNorm", *block, *block]
    assert rows.names == ["standardize", "", "block 1", "", "block 2", ""]
    assert all(step.recompute for step in Flow(ROWS, recompute=True).steps if isinstance(step, ResidualMap))
    assert not any(step.recompute for step in Flow(ROWS).steps if isinstance(step, ResidualMap))


def test_the_log_density_is_a_sum_over_the_steps() -> None:
    model = trained(SIZES).eval()
    x = torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        found = model(x, Exact())
        total, value = torch.zeros(2), x
        for step in model.steps:
            mapped = step(value, Exact())
            value, total = mapped.value, total + mapped.log_det
        prior = -0.5 * (found.latent.square().sum(1) + 16 * math.log(2 * math.pi))
        torch.testing.assert_close(found.log_prob, prior + total, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found.latent, value.flatten(1))
        assert len(model(x, Series(2)).moments) == 2


def test_only_some_steps_enlarge_errors() -> None:
    assert [enlargement(step) for step in (Squeeze(), Flatten((1, 2, 2)), Logit(0.05))] == pytest.approx([1, 1, 0.25 / 0.9])
    norm = ActNorm(2)
    with torch.no_grad():
        norm.log_scale.copy_(torch.tensor([0.5, -1.0]))
    assert enlargement(norm) == pytest.approx(math.e)
