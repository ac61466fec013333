"""Loss of a flow: negative log-likelihood, plus the cross-entropy of the classifier in hybrid models.

Perugachi-Diaz 2024, section 4.4.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.bijector import bits_per_dim, dequantized
from latens.codes.logdet import Estimate, Exact, Roulette
from latens.data.tensors import to_pixels
from latens.settings import to_dict
from latens.systems.flow.config import FlowConfig, ImageFlow, LikelihoodConfig
from latens.systems.flow.drawing import image_grid
from latens.systems.flow.model import Flow
from latens.systems.flow.scoring import mean_and_error, score_images, score_rows
from latens.systems.flow.unusual import quantiles_of, reference_of, statistics_of
from latens.training.objective import ONE_OPTIMIZER, Export, Step

SAMPLES = 16


class Likelihood:
    """Bits per dimension of images, or nats of rows. Validation scores the frozen model, whose norms are certified.

    The loss of a hybrid model is -lambda log p(x) plus the cross-entropy, both in bits. Where lambda D exceeds 1 the sum is
    divided by it: the gradient keeps the direction of the thesis and the scale of bits per dimension.
    """

    optimizers = ONE_OPTIMIZER

    def __init__(self, loss: LikelihoodConfig, model: FlowConfig, described: dict[str, Any]) -> None:
        self.config, self.model, self.described = loss, model, described
        self.estimate = training_estimate(loss)
        self.frozen: Flow | None = None  # frozen model of the last validation

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        if "rows" in batch:
            nats = -model(batch["rows"], self.estimate).log_prob.mean()
            yield Step("model", nats, {"nats": nats})
            return
        assert isinstance(self.model, ImageFlow)
        x = dequantized(batch["pixels"]).contiguous(memory_format=torch.channels_last)
        coded, dims = model(x, self.estimate), x[0].numel()
        bits = bits_per_dim(coded.log_prob, dims).mean()
        if coded.logits is None:
            yield Step("model", bits, {"bits_per_dim": bits})
            return
        entropy = F.cross_entropy(coded.logits, batch["label"]) / math.log(2)
        weight = 1 / dims if self.config.generative_weight == "1/D" else float(self.config.generative_weight)
        correct = (coded.logits.argmax(1) == batch["label"]).float().mean()
        loss = (weight * dims * bits + entropy) / max(1.0, weight * dims)
        yield Step("model", loss, {"bits_per_dim": bits, "cross_entropy_bits": entropy, "accuracy": correct})

    def validate(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        flow = self.frozen = model.freeze()
        if "rows" in batches[0]:
            nats = -np.concatenate([score_rows(flow, b["rows"], terms=self.config.validation_terms) for b in batches])
            return {"loss": float(nats.mean()), "standard_error": mean_and_error(nats)[1]}
        scores = [score_images(flow, batch["pixels"], terms=self.config.validation_terms) for batch in batches]
        bits = np.concatenate([one.mean for one in scores])
        numbers = {"loss": float(bits.mean()), "bits_per_dim": float(bits.mean())}
        numbers["lipschitz"] = max((one.lipschitz for one in flow.certify()), default=0.0)
        if isinstance(self.model, ImageFlow) and self.model.classes:
            logits = torch.cat([one.logits for one in scores if one.logits is not None])
            labels = torch.cat([batch["label"] for batch in batches]).cpu()
            entropy = float(F.cross_entropy(logits, labels)) / math.log(2)
            weight = 1 / flow.dims if self.config.generative_weight == "1/D" else float(self.config.generative_weight)
            numbers["accuracy"] = float((logits.argmax(1) == labels).float().mean())
            numbers["loss"] = (weight * flow.dims * numbers["bits_per_dim"] + entropy) / max(1.0, weight * flow.dims)
        return numbers

    def images(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        if "rows" in batches[0]:
            return {}
        flow = self.frozen or model.freeze()
        latent = torch.randn(SAMPLES, flow.dims, generator=torch.Generator().manual_seed(0)).to(flow.started.device)
        samples = flow.inverse(latent).clamp(0, 1)
        return {"samples": image_grid([to_pixels(one.expand(3, -1, -1)) for one in samples], columns=4)}

    def export(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> Export:
        flow = self.frozen or model.freeze()
        described = {**self.described, "model": to_dict(self.model), "terms": self.config.validation_terms}
        if "rows" in batches[0]:
            nats = -np.concatenate([score_rows(flow, b["rows"], terms=self.config.validation_terms) for b in batches])
            described["reference"] = {"nats": quantiles_of(nats).tolist()}
        else:
            described["reference"] = self._reference(flow, batches)
        return Export(flow.state_dict(), {}, described)

    def _reference(self, flow: Flow, batches: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        pixels = torch.cat([batch["pixels"] for batch in batches])
        scores = score_images(flow, pixels, terms=self.config.validation_terms)
        statistics = statistics_of(pixels.cpu().numpy(), scores.latents, scores.mean, flow.shape)
        return reference_of(statistics).to_dict()


def training_estimate(loss: LikelihoodConfig) -> Estimate:
    """Estimator of log-determinants in training."""
    if loss.log_det == "exact":
        return Exact()
    return Roulette(loss.log_det, loss.rate, loss.exact_terms, loss.probes)


def after_update(loss: LikelihoodConfig, steps: int) -> Callable[[nn.Module, int], None]:
    """Hook after every update: power iterations, and equal concatenation weights in the first `equal_share` of the steps."""

    def update(model: nn.Module, step: int) -> None:
        assert isinstance(model, Flow)
        if step < loss.equal_share * steps:
            model.equal_concatenations()
        model.power_iterations(loss.power_iterations)

    return update
