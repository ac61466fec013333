"""Model, objective and data of a training configuration, and the initial scale of hyper-codecs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from latens.codes.entropy import SCALE_MIN
from latens.data.source import Source
from latens.errors import UsageError
from latens.systems.video_codec.chunk_model import ChunkCodec
from latens.systems.video_codec.config import ChunkConfig, VideoModel
from latens.systems.video_codec.dataset import ClipData
from latens.systems.video_codec.model import ScaleSpaceFlow
from latens.systems.video_codec.objective import RateDistortion, VideoCodec
from latens.systems.video_codec.recipes import VideoTraining
from latens.training.objective import Trainable

Z_START = 2.0  # initial root mean square of hyper-latents


def build(config: VideoTraining, sources: Sequence[Source]) -> Trainable:
    """Model, objective and data of a training run. Raises UsageError or UnreadableInput for unusable data."""
    quality, best = config.objective.quality, len(config.model.lambdas)
    if quality and not 1 <= quality <= best:
        raise UsageError(f"objective.quality {quality:g} is not within 1 to {best}", hint="0 trains all rates")
    model = build_model(config.model)
    if isinstance(model, ScaleSpaceFlow) and not config.objective.train_intra:
        model.intra.requires_grad_(False)
    objective = RateDistortion(config.objective, model)
    data = ClipData(sources, config.data, config.run.seed, regions=not objective.ignores_region)
    match_scales(model, data.batch(0, 0))
    return Trainable(model, objective, data)


def build_model(config: VideoModel) -> VideoCodec:
    """The untrained model of a configuration."""
    return ChunkCodec(config) if isinstance(config, ChunkConfig) else ScaleSpaceFlow(config)


@torch.no_grad()
def match_scales(model: VideoCodec, batch: Mapping[str, Tensor]) -> None:
    """Initialize every hyper-codec for its latent: scales at the root mean square of each channel, z at Z_START steps.

    Otherwise z rounds to zero for hundreds of steps, and scales cannot depend on rate and position.
    """
    latents: dict[str, Tensor] = {}
    parts = dict(model.named_modules())
    names = [name.removesuffix("hyper_analysis") for name in parts if name.endswith("hyper_analysis")]
    hooks = [parts[f"{name}hyper_analysis"].register_forward_pre_hook(_recorder(latents, name)) for name in names]
    first_pass(model, batch)
    for hook in hooks:
        hook.remove()
    for name, latent in latents.items():
        analysis, synthesis = (cast("nn.Sequential", parts[f"{name}hyper_{side}"]) for side in ("analysis", "synthesis"))
        last = cast("nn.Conv2d", analysis[-1])
        last.weight.mul_(Z_START / analysis(latent).square().mean().sqrt().clamp_min(1e-3))
        scale = latent.float().square().mean((0, 2, 3)).sqrt().clamp_min(SCALE_MIN)
        bias = cast("Tensor", synthesis[-1].bias)
        bias[len(scale) :] = scale


def first_pass(model: VideoCodec, batch: Mapping[str, Tensor]) -> None:
    """Code the first frames of a batch at the middle rate, where gains start at 1; the reference frame is the original."""
    frames = batch["frames"]
    quality = torch.full((len(frames),), (1 + len(model.config.lambdas)) / 2)
    if isinstance(model, ChunkCodec):
        model(frames[:, : model.config.frames], quality, mask=batch.get("mask"), rounding="plain")
        return
    amplifier = torch.ones_like(quality)
    before, after = model.padded(frames[:, 0]), model.padded(frames[:, 1])
    mask = model.padded(batch["mask"][:, 0]) if "mask" in batch else torch.ones_like(before[:, :1])
    first = model.treatment(model.intra_gain, quality, mask, amplifier, "plain")
    model.code_intra(before, first, "plain")
    second = model.treatment(model.residual_gain, quality, mask, amplifier, "plain")
    model.code_inter(after, before, second, "plain")


def _recorder(latents: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that keeps the first input of a module."""

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        latents.setdefault(name, inputs[0])

    return keep
