"""Context codec: compact transforms without divisive normalization, trained jointly with a context model of four phases.

    x --analysis--> y --hyper_analysis--> z
                    |                     | round, factorized prior
                    |                  z_hat --hyper_synthesis--> mean, level, features
                    `-- context: rounding in four phases --> y_hat --synthesis--> x_hat

The transforms fold 4 x 4 pixels into channels and consist of residual blocks at 1/4, 1/8 and 1/16 of the resolution, in
parallel with a linear path that starts as the cosine transform of 16 x 16 blocks (like the shortcuts of Li et al. 2025). At the
default sizes the encoder takes 41 and the decoder 33 thousand multiplications per pixel.

Letters: B batch, R rates per image, M latent channels, H W image size (multiples of 64), h w = H/16 W/16.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latens.codes.context import LEVEL_STEP, CodedLatent, LatentModel, PhaseContext, Rounding, level_of
from latens.codes.context_coding import ContextCoding
from latens.codes.entropy import SCALE_MIN, FactorizedPrior
from latens.codes.gains import RateGains
from latens.codes.quantize import FloatLayer
from latens.nn.blocks import BlockAnalysis, BlockSynthesis
from latens.nn.conv import Residual, double, halve
from latens.nn.init import small
from latens.nn.transforms import BLOCK_GAIN, Sum
from latens.shapes import Float
from latens.systems.image_codec.config import ContextConfig, ContextHyperpriorConfig
from latens.systems.image_codec.passes import CodecPasses

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class CodingParts(NamedTuple):
    """The parts of the hyper-synthesis whose integers a file needs."""

    stack: nn.Sequential  # z to M means and M scales or levels
    features: nn.Conv2d  # from the last hidden layer of the stack
    logarithmic: bool  # the stack gives levels


class ContextNetwork(CodecPasses):
    """A network with a context model, which rounds in its order.

    A model folder may lack `as_integers`, starts of the names of weights that the integers of its coding determine.
    """

    context: PhaseContext
    hyper_synthesis: nn.Sequential
    config: ContextConfig | ContextHyperpriorConfig
    as_integers: tuple[str, ...]

    def code(
        self, y: Float[Tensor, "B M h w"], z_hat: Float[Tensor, "B N ..."], quality: Float[Tensor, "B"], rounding: Rounding
    ) -> CodedLatent:
        return self.context(y, self.latent_model(z_hat), quality, rounding)

    @abstractmethod
    def latent_model(self, z_hat: Float[Tensor, "B N ..."]) -> LatentModel:
        """Prediction of the scaled latent from the decoded hyper-latent, in float32."""

    @abstractmethod
    def coding_parts(self) -> CodingParts:
        """The layers that a file needs as integers."""

    @abstractmethod
    def of_integers(self, coding: ContextCoding, stored: Collection[str]) -> dict[str, Tensor]:
        """Float weights of `as_integers` with the results of the integers up to rounding.

        `stored` are the names of the weights in the folder, whose hidden channels have a scale of their own.
        """

    def complete(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights, with the own ones of the parts that a folder may store as integers only."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith(self.as_integers)}
        return {**own, **weights}

    def not_stored(self, stored: Mapping[str, Tensor], coding: ContextCoding) -> dict[str, Tensor]:
        """The weights of `as_integers` that are not stored. Raises ValueError for half a hyper-synthesis."""
        missing = [name for name in self.state_dict() if name.startswith(self.as_integers) and name not in stored]
        layers = [name for name in self.state_dict() if name.startswith(("hyper_synthesis.", "features."))]
        if 0 < len(set(layers) & set(missing)) < len(layers):
            raise ValueError("the hyper-synthesis is stored in part")
        found = self.of_integers(coding, stored) if missing else {}
        return {name: found[name] for name in missing}

    def restored(
        self, stored: Mapping[str, Tensor], coding: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        """The weights of a model folder, with those that it stores as integers only.

        Raises KeyError or ModelError if the integers are not complete, ValueError if they have another number of layers.
        """
        if self.state_dict().keys() <= stored.keys():
            return stored
        return {**stored, **self.not_stored(stored, ContextCoding.from_tensors(config["coding"], coding, torch.device("cpu")))}


def names_of_layers(hyper_synthesis: nn.Sequential) -> list[str]:
    """Names of its layers that have weights, in the state of a network."""
    found = [name for name, layer in hyper_synthesis.named_modules() if isinstance(layer, CONVOLUTIONS)]
    return [f"hyper_synthesis.{name}" for name in found]


def parameters_of(layers: Iterable[tuple[str, FloatLayer]]) -> dict[str, Tensor]:
    """State of named layers."""
    return {f"{name}.{part}": getattr(layer, part) for name, layer in layers for part in ("weight", "bias")}


class ContextCodec(ContextNetwork):
    """Transforms, prior, context model and, with several rates, gains of the latent."""

    config: ContextConfig
    as_integers = ("context.", "hyper_synthesis.")

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = analysis_transform(config)
        self.synthesis = synthesis_transform(config)
        self.hyper_analysis = hyper_analysis_transform(config)
        self.hyper_synthesis = hyper_synthesis_transform(config)
        self.prior = FactorizedPrior(config.hyper)
        self.context = PhaseContext(
            config.latent,
            config.width,
            strong=range(config.strong),
            rates=len(config.lambdas),
            hidden=config.width * 3 // 4,
        )
        self.gains = RateGains(config.latent, config.lambdas) if config.variable_rate else None

    def latent_model(self, z_hat: Float[Tensor, "B N ..."]) -> LatentModel:
        sizes = [self.config.latent, self.config.latent, self.config.width]
        mean, log_scale, features = self.hyper_synthesis(z_hat).float().split(sizes, dim=1)
        return LatentModel(mean, level_of(log_scale), features)

    def coding_parts(self) -> CodingParts:
        head = self.hyper_synthesis[-1]
        assert isinstance(head, nn.Conv2d)
        latent = self.config.latent
        outputs, features = rows_of(head, 0, 2 * latent), rows_of(head, 2 * latent, head.out_channels)
        assert outputs.bias is not None
        with torch.no_grad():
            outputs.bias[latent:] = level_of(outputs.bias[latent:])
            outputs.weight[latent:] /= LEVEL_STEP
        return CodingParts(nn.Sequential(*self.hyper_synthesis[:-1], outputs), features, logarithmic=True)

    def of_integers(self, coding: ContextCoding, stored: Collection[str]) -> dict[str, Tensor]:
        layers, features = coding.float_hyper_synthesis()
        (mean, level), (mean_bias, level_bias) = layers[-1].weight.chunk(2), layers[-1].bias.chunk(2)
        log_scale_bias = level_bias * LEVEL_STEP + math.log(SCALE_MIN)  # the inverse of `level_of`
        weight = torch.cat([mean, level * LEVEL_STEP, features.weight])
        head = FloatLayer(weight, torch.cat([mean_bias, log_scale_bias, features.bias]), features.step)
        context = {f"context.{name}": value for name, value in coding.float_context().items()}
        return context | parameters_of(zip(names_of_layers(self.hyper_synthesis), [*layers[:-1], head], strict=True))


def rows_of(layer: nn.Conv2d, first: int, end: int) -> nn.Conv2d:
    """A 1 x 1 layer with some of the outputs of another one."""
    part = nn.Conv2d(layer.in_channels, end - first, 1)
    assert part.bias is not None
    assert layer.bias is not None
    with torch.no_grad():
        part.weight.copy_(layer.weight[first:end])
        part.bias.copy_(layer.bias[first:end])
    return part


def analysis_transform(config: ContextConfig) -> Sum:
    w = config.width
    quarter, eighth, sixteenth = w * 3 // 2, w * 3, w * 4
    deep = nn.Sequential(
        nn.PixelUnshuffle(4), nn.Conv2d(48, quarter, 3, padding=1), Residual(quarter, w), Residual(quarter, w),
        halve(quarter, eighth), Residual(eighth, 2 * w), Residual(eighth, 2 * w),
        halve(eighth, sixteenth), Residual(sixteenth, 2 * w), Residual(sixteenth, 2 * w),
        small(nn.Conv2d(sixteenth, config.latent, 1)),
    )  # fmt: skip
    return Sum(deep, BlockAnalysis(config.latent, BLOCK_GAIN, interleaved=True))


def synthesis_transform(config: ContextConfig) -> Sum:
    w = config.width
    deep = nn.Sequential(
        nn.Conv2d(config.latent, 4 * w, 1), Residual(4 * w, 2 * w), Residual(4 * w, 2 * w),
        double(4 * w, 2 * w), Residual(2 * w), Residual(2 * w), Residual(2 * w),
        double(2 * w, w), Residual(w), Residual(w),
        small(nn.Conv2d(w, 48, 3, padding=1)), nn.PixelShuffle(4),
    )  # fmt: skip
    return Sum(deep, BlockSynthesis(config.latent, BLOCK_GAIN, interleaved=True))


def hyper_analysis_transform(config: ContextConfig) -> nn.Sequential:
    w = config.width
    return nn.Sequential(
        nn.Conv2d(config.latent, 2 * w, 3, padding=1), nn.LeakyReLU(),
        nn.Conv2d(2 * w, 2 * w, 3, stride=2, padding=1), nn.LeakyReLU(),
        nn.Conv2d(2 * w, config.hyper, 3, stride=2, padding=1),
    )  # fmt: skip


def hyper_synthesis_transform(config: ContextConfig) -> nn.Sequential:
    """Hyper-latent to M means, M logarithms of scales, which start at zero, and one feature per unit of width."""
    w, outputs = config.width, 2 * config.latent + config.width
    head = nn.Conv2d(3 * w, outputs, 1)
    with torch.no_grad():
        head.weight[: 2 * config.latent] *= 0.1
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(config.hyper, 2 * w, 3, padding=1), nn.LeakyReLU(), double(2 * w, 2 * w), nn.LeakyReLU(),
        nn.Conv2d(2 * w, 3 * w, 3, padding=1), nn.LeakyReLU(), double(3 * w, w * 3 // 2), nn.LeakyReLU(),
        nn.Conv2d(w * 3 // 2, 3 * w, 3, padding=1), nn.LeakyReLU(), head,
    )  # fmt: skip
