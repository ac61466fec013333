"""A trained mean-scale hyperprior with a context model that is fitted afterwards; the transforms keep their weights.

The features of the context model are a 1 x 1 layer on the last hidden layer of the hyper-synthesis.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from latens.codes.context import LatentModel, PhaseContext, level_of
from latens.codes.context_coding import ContextCoding
from latens.codes.entropy import SCALE_MIN
from latens.nn.blocks import interleaved_order
from latens.shapes import Float
from latens.systems.image_codec.config import ContextHyperpriorConfig
from latens.systems.image_codec.context_model import CodingParts, ContextNetwork, names_of_layers, parameters_of
from latens.systems.image_codec.model import MeanScaleHyperprior


class ContextHyperprior(ContextNetwork):
    """The modules of `MeanScaleHyperprior`, and `features` and `context`."""

    config: ContextHyperpriorConfig
    starts_from = ("image_codec",)
    as_integers = ("context.", "features.", "hyper_synthesis.")

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

    def of_integers(self, coding: ContextCoding, stored: Collection[str]) -> dict[str, Tensor]:
        weights = {f"context.{name}": value for name, value in coding.float_context().items()}
        names = names_of_layers(self.hyper_synthesis)
        if f"{names[0]}.weight" not in stored:  # features depend on the scale of its hidden channels
            layers, features = coding.float_hyper_synthesis()
            weights |= parameters_of(zip([*names, "features"], [*layers, features], strict=True))
        return weights


FITTED = ("context.", "features.")  # the modules that are fitted to a trained hyperprior


def freeze_hyperprior(model: nn.Module) -> None:
    """Freeze all parameters except those of the context model."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(FITTED))
