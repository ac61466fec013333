"""Rate plus distortion of clips, with less weight for the background (Perugachi-Diaz 2024, Eqs. 6.3.4 to 6.3.7)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from latens.codes.gains import lambda_of
from latens.codes.goals import PEAK
from latens.data.tensors import to_pixels
from latens.shapes import Float
from latens.systems.video_codec.chunk_model import ChunkCodec
from latens.systems.video_codec.codec import GainCodec
from latens.systems.video_codec.config import AMPLIFIER_MAX, ChunkConfig, LatentScaling, Plain, ScaleSpaceFlowConfig, VideoLoss
from latens.systems.video_codec.exact import CHUNK, freeze_model, hyper_parts
from latens.systems.video_codec.model import CodedClip, ScaleSpaceFlow
from latens.training.objective import ONE_OPTIMIZER, Export, Group, Step

VideoCodec: TypeAlias = ScaleSpaceFlow | ChunkCodec


# Small changes of the flow move large areas of the prediction, so its compact layers have a lower learning rate (ours).
MOTION_FACTORS = {"compact": 0.3, "paper": 1.0}


def flow_optimizer(config: ScaleSpaceFlowConfig) -> Mapping[str, Sequence[Group]]:
    """Parameters of scale-space flow with the factors on their learning rates."""
    motion = Group(("motion",), lr_factor=MOTION_FACTORS[config.transforms])
    return MappingProxyType({"model": (Group(("intra", "residual")), motion)})


class Draw(NamedTuple):
    """The rate and the gain amplifier of every clip of a batch."""

    quality: Float[Tensor, "B"]
    amplifier: Float[Tensor, "B"]


class RateDistortion:
    """Bits per pixel + lambda * 255^2 * weighted MSE, with random lambda and, if the method has one, random gain amplifier ga.

    Eq. 6.3.4 weights the rate with beta instead; only the ratio of both terms matters. Errors of the background have the weight
    1 / (gamma ga). The paper trains with ga = 1 only.
    """

    optimizers: Mapping[str, Sequence[Group]]

    def __init__(self, config: VideoLoss, model: VideoCodec) -> None:
        self.config = config
        self.lambdas = model.config.lambdas
        sizes = model.config
        chunk = isinstance(sizes, ChunkConfig)
        self.optimizers = ONE_OPTIMIZER if isinstance(sizes, ChunkConfig) else flow_optimizer(sizes)
        method = Plain() if isinstance(sizes, ChunkConfig) else sizes.method
        self.ignores_region = not chunk and isinstance(method, Plain)
        self.gamma = 1.0 if isinstance(method, Plain) else method.gamma
        self.amplified = sizes.region_share if isinstance(sizes, ChunkConfig) else 0.0
        if isinstance(method, LatentScaling):
            self.amplified = method.amplified_share

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        frames, mask = batch["frames"], batch.get("mask")
        draw = self.draw(len(frames), frames.device)
        coded: CodedClip = model(frames, draw.quality, mask=mask, amplifier=draw.amplifier)
        bpp = bits_per_pixel(coded)
        distortion = (self.weights(frames, mask, draw.amplifier) * (coded.frames - frames).square()).mean((1, 2, 3, 4))
        weight = lambda_of(self.lambdas, draw.quality)
        middle = math.exp(sum(map(math.log, self.lambdas)) / len(self.lambdas))
        loss = ((bpp + weight * PEAK * distortion) * (weight / middle) ** -self.config.balance).mean()
        pixels = frames.shape[3] * frames.shape[4]
        parts = {f"bpp_{name}": part.detach().mean() / pixels for name, part in coded.bits.items()}
        yield Step("model", loss, {"bpp": bpp.mean(), "distortion": distortion.mean(), **parts})

    def draw(self, count: int, device: torch.device) -> Draw:
        """Random rates, and amplifiers that are 1 or log-uniform between 1 and 64."""
        quality = 1 + torch.rand(count, device=device) * (len(self.lambdas) - 1)
        if self.config.quality:
            quality = torch.full_like(quality, self.config.quality)
        chosen = torch.rand(count, device=device) < self.amplified
        amplifier = AMPLIFIER_MAX ** torch.rand(count, device=device)
        return Draw(quality, torch.where(chosen, amplifier, 1.0))

    def weights(
        self, frames: Float[Tensor, "B T 3 H W"], mask: Float[Tensor, "B T 1 H W"] | None, amplifier: Float[Tensor, "B"]
    ) -> Float[Tensor, "B T 1 H W"]:
        """Weights of squared errors (Eq. 6.3.5): 1 in the region, 1 / (gamma ga) outside.

        They are 1 everywhere for plain scale-space flow.
        """
        if self.ignores_region or mask is None:
            return torch.ones_like(frames[:, :, :1])
        return mask + (1 - mask) / (self.gamma * amplifier)[:, None, None, None, None]

    def validate(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Mean over rates of log(true loss) at ga = 1; bpp and PSNR (all, region, background) of each rate."""
        results: dict[str, float] = {}
        logs = []
        for level in self.config.levels:
            rows = [self._measured(model, batch, level) for batch in batches]
            loss, bpp, *psnr = np.array(rows, dtype=np.float64).T
            logs.append(math.log(loss.mean()))
            results[f"bpp_{level:g}"] = float(bpp.mean())
            for name, values in zip(("psnr", "roi", "rest"), psnr, strict=True):
                if np.isfinite(values).any():
                    results[f"{name}_{level:g}"] = float(np.nanmean(values))
        return {"loss": sum(logs) / len(logs), **results}

    def _measured(self, model: Any, batch: dict[str, Tensor], level: float) -> list[float]:
        frames, mask = batch["frames"], batch.get("mask")
        quality = torch.full((len(frames),), level, device=frames.device)
        coded = model(frames, quality, mask=None if self.ignores_region else mask, rounding="plain")
        bpp = bits_per_pixel(coded)
        errors = (coded.frames.clamp(0, 1) - frames).square()
        weighted = (self.weights(frames, mask, torch.ones_like(quality)) * errors).mean((1, 2, 3, 4))
        loss = bpp + lambda_of(self.lambdas, quality) * PEAK * weighted
        regions = [torch.ones_like(errors[:, :, :1])] if mask is None else [torch.ones_like(mask), mask, 1 - mask]
        psnr = [region_psnr(errors, region) for region in regions] + [math.nan] * (3 - len(regions))
        return [float(loss.mean()), float(bpp.mean()), *psnr]

    def images(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """The last frame of the first held-out clip and its reconstructions at the rates of `levels`, side by side."""
        frames = batches[0]["frames"][:1]
        mask = None if self.ignores_region else batches[0]["mask"][:1]
        views = [frames[0, -1]]
        for level in self.config.levels:
            quality = torch.full((1,), level, device=frames.device)
            views.append(model(frames, quality, mask=mask, rounding="plain").frames[0, -1])
        return {"reconstructions": to_pixels(torch.cat(views, dim=2))}

    def export(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> Export:
        """Weights in float16, and the frozen coding that is computed from them."""
        weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
        shipped = type(model)(model.config)
        shipped.load_state_dict(weights)
        exact = freeze_model(shipped.eval(), batches)
        unused = [f"{name}.hyper_synthesis." for name, _ in hyper_parts(model) if name != CHUNK]
        unused += [f"{name}.decoder." for name, part in hyper_parts(model) if isinstance(part, GainCodec)]
        return Export(weights, exact.tensors(), {"coding": exact.spec(), "training_only": sorted(unused)})


def bits_per_pixel(coded: CodedClip) -> Float[Tensor, "B"]:
    """Bits per pixel of every clip."""
    return coded.total().mean(1) / (coded.frames.shape[3] * coded.frames.shape[4])


def region_psnr(errors: Float[Tensor, "B T 3 H W"], region: Float[Tensor, "B T 1 H W"]) -> float:
    """Mean PSNR in dB over the frames that have pixels of the region; NaN if none has. Errors are squared, in [0, 1]."""
    pixels = region.sum((2, 3, 4))
    mse = (errors * region).sum((2, 3, 4)) / (3 * pixels).clamp_min(1)
    found = -10 * mse.clamp_min(1e-10).log10()[pixels > 0]
    return float(found.mean()) if len(found) else math.nan
