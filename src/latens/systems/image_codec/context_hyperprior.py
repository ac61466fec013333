"""A trained mean-scale hyperprior with a context model that is fitted afterwards; the transforms keep their weights.

The features of the context model are a 1 x 1 layer on the last hidden layer of the hyper-synthesis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latens.codes.context import LatentModel, PhaseContext, level_of
from latens.codes.context_coding import ContextCoding
from latens.codes.entropy import SCALE_MIN
from latens.nn.blocks import interleaved_order
from latens.shapes import Float
from latens.systems.image_codec.config import ContextHyperpriorConfig
from latens.systems.image_codec.context_model import CodingParts, ContextNetwork
from latens.systems.image_codec.model import MeanScaleHyperprior


class ContextHyperprior(ContextNetwork):
    """The modules of `MeanScaleHyperprior`, and `features` and `context`."""

    config: ContextHyperpriorConfig
    starts_from = ("image_codec",)

    def __init__(self, config: ContextHyperpriorConfig) -> None:
        super().__init__()
        self.config = config
        plain, base = MeanScaleHyperprior(config.base), config.base
        self.analysis, self.synthesis = plain.analysis, plain.synthesis
        self.hyper_analysis, self.hyper_synthesis = plain.hyper_analysis, plain.hyper_synthesis
        self.prior, self.gains = plain.prior, plain.gains
        head = self.hyper_synthesis[-1]
        assert isinstance(head, nn.Conv2d)
        self.features = nn.Conv2d(head.in_channels, config.features, 1)
        self.context = PhaseContext(
            base.latent,
            config.features,
            strong=interleaved_order(base.latent)[: config.strong],
            rates=len(base.lambdas),
            hidden=config.slice_width,
        )

    def latent_model(self, z_hat: Float[Tensor, "B N ..."]) -> LatentModel:
        hidden = self.hyper_synthesis[:-1](z_hat)
        mean, scale = self.hyper_synthesis[-1](hidden).float().chunk(2, dim=1)
        return LatentModel(mean, level_of(scale.clamp_min(SCALE_MIN).log()), self.features(hidden))

    def coding_parts(self) -> CodingParts:
        return CodingParts(self.hyper_synthesis, self.features, logarithmic=False)

    def complete(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights, with the own ones of the parts that a folder may lack or store as integers only."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith(AS_INTEGERS)}
        return {**own, **weights}

    def restored(
        self, stored: Mapping[str, Tensor], coding: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        """The weights of a model folder, with those that it stores as integers only.

        Raises KeyError or ModelError if the integers are not complete, ValueError if they have another number of layers.
        """
        if self.state_dict().keys() <= stored.keys():
            return stored
        frozen = ContextCoding.from_tensors(config["coding"], coding, torch.device("cpu"))
        return {**self.of_integers(frozen, stored), **stored}

    def of_integers(self, coding: ContextCoding, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights that are not stored, with the results of the integers up to rounding."""
        weights = {f"context.{name}": value for name, value in coding.float_context().items()}
        names = [name for name, layer in self.hyper_synthesis.named_children() if isinstance(layer, CONVOLUTIONS)]
        if f"hyper_synthesis.{names[0]}.weight" not in stored:  # features depend on the scale of its hidden channels
            layers, features = coding.float_hyper_synthesis()
            named = {f"hyper_synthesis.{name}": layer for name, layer in zip(names, layers, strict=True)}
            for name, layer in {**named, "features": features}.items():
                weights |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
        return {name: value for name, value in weights.items() if name not in stored}


FITTED = ("context.", "features.")  # the modules that are fitted to a trained hyperprior
AS_INTEGERS = (*FITTED, "hyper_synthesis.")  # the modules that the integers of a model folder determine
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def freeze_hyperprior(model: nn.Module) -> None:
    """Freeze all parameters except those of the context model."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(FITTED))
