"""A video codec made for CPUs: chunks of a few frames share one latent, and nothing is warped.

    frames of a chunk - last frame before it --analysis--> y --hyperprior--> symbols --synthesis--> frames

A linear path is initialized with the three-dimensional cosine transform of blocks of 8 x 8 pixels by T frames; deep paths run
in parallel. The synthesis has a trunk at 1/8 of the resolution for the whole chunk and a head for every frame position. The
last decoded frame before the chunk is an input of both transforms and is added to the output; for the first chunk of a group a
gray frame replaces it.

The region is a quality map with one small integer for every 64 x 64 pixels and frame: the number of half octaves by which the
weight of errors is reduced. The map is transmitted and lowers the log-gain of the latent smoothly. Means depend on the
hyper-latent only. Scales also depend on the gain; on the logarithmic grid of the coder's tables the gain adds integers.

Letters: B batch, T frames of a chunk, M latent channels, H W frame size, h w = H/8 W/8, a b = H/64 W/64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.counts import map_bits
from latens.codes.entropy import FactorizedPrior, gaussian_bits
from latens.codes.gains import RateGains
from latens.codes.rounding import add_noise, round_straight_through
from latens.data.tensors import pad_to_multiple
from latens.nn.conv import Residual, down, unfold
from latens.nn.init import small
from latens.nn.transforms import FOLD, folded_mask, hyper_analysis, hyper_synthesis
from latens.shapes import Float, Int
from latens.systems.video_codec.codec import PRIOR_SPREAD, Rounding, medians_of
from latens.systems.video_codec.config import AMPLIFIER_MAX, ChunkConfig
from latens.systems.video_codec.model import CodedClip

BLOCK = 8
MAP_CELL = 64  # side of a cell of the quality map in pixels
MAP_LEVELS = 1 + round(2 * math.log2(AMPLIFIER_MAX))  # 0: full quality; k: errors have the weight 2^(-k/2)
GRAY = 0.5
COSINE_GAIN = 10.0  # initial quantization steps per unit of intensity at the middle rate
COLOR_SHARE = 0.15  # share of the coefficients for each of the two color differences


class CodedChunk(NamedTuple):
    frames: Float[Tensor, "B T 3 H W"]
    bits: Float[Tensor, "B"]
    bits_hyper: Float[Tensor, "B"]


class ChunkCodec(nn.Module):
    """Transforms, hyperprior, gains of the rates, and response to the quality map."""

    def __init__(self, config: ChunkConfig) -> None:
        super().__init__()
        self.config = config
        m, k = config.latent, config.hyper
        self.analysis = ChunkAnalysis(config)
        self.synthesis = ChunkSynthesis(config)
        self.hyper_analysis = hyper_analysis(m, k, paper=False)
        self.hyper_synthesis = hyper_synthesis(k, k, m, paper=False)
        self.prior = FactorizedPrior(k, spread=PRIOR_SPREAD)
        self.gains = RateGains(m, config.lambdas)
        self.response = nn.Parameter(torch.ones(m, config.frames))  # to one level of the quality map

    def forward(
        self,
        frames: Float[Tensor, "B T 3 H W"],
        quality: Float[Tensor, "B"],
        *,
        mask: Float[Tensor, "B T 1 H W"] | None = None,
        amplifier: Float[Tensor, "B"] | None = None,
        rounding: Rounding = "mixed",
    ) -> CodedClip:
        """Code a clip of any length and size. `mask` (default: 1 everywhere) is in [0, 1], `amplifier` in [1, 64] (default: 1).

        Errors of the background have the weight 1 / amplifier. An incomplete chunk is filled with its last frame.
        """
        count, size = frames.shape[1], self.config.frames
        amplifier = torch.ones_like(quality) if amplifier is None else amplifier
        mask = torch.ones_like(frames[:, :, :1]) if mask is None else mask
        clip, region = self.padded(frames), self.padded(mask)
        levels = map_levels(region, amplifier)
        context = torch.full_like(clip[:, 0], GRAY)
        coded: list[CodedChunk] = []
        for start in range(0, clip.shape[1], size):
            if start % self.config.group == 0:
                context = torch.full_like(clip[:, 0], GRAY)
            part = slice(start, start + size)
            coded.append(self.code(clip[:, part], region[:, part], levels[:, part], context, quality, rounding))
            context = coded[-1].frames[:, -1].detach().clamp(0, 1)
        decoded = torch.cat([chunk.frames for chunk in coded], dim=1)[:, :count, :, : frames.shape[3], : frames.shape[4]]
        bits = {
            "latent": spread([chunk.bits for chunk in coded], size, count),
            "latent_hyper": spread([chunk.bits_hyper for chunk in coded], size, count),
            "map": (map_cost(levels) / count)[:, None].expand(-1, count),
        }
        return CodedClip(decoded, bits)

    def code(
        self,
        frames: Float[Tensor, "B T 3 H W"],
        mask: Float[Tensor, "B T 1 H W"],
        levels: Int[Tensor, "B T a b"],
        context: Float[Tensor, "B 3 H W"],
        quality: Float[Tensor, "B"],
        rounding: Rounding,
    ) -> CodedChunk:
        """Code one chunk, whose sides are multiples of 64; `context` is the decoded frame before it."""
        offset = self.map_gain(levels)
        gain = self.gains.forward_gain(quality) * offset.exp()
        y = self.analysis(frames, mask, context).float() * gain
        z = self.hyper_analysis(y).float()
        if rounding == "mixed":
            z_hat, rated_z = round_straight_through(z), add_noise(z)
        else:
            medians = medians_of(self.prior).to(z.device)[:, None, None]
            z_hat = rated_z = (z - medians).round() + medians
        mean, scale = self.hyper_synthesis(z_hat).float().chunk(2, dim=1)
        scale = scale * gain
        residual = y - mean
        if rounding == "mixed":
            symbols, rated = round_straight_through(residual), add_noise(residual)
        else:
            symbols = rated = residual.round()
        y_hat = (symbols + mean) * self.gains.inverse_gain(quality) * (-offset).exp()
        bits = gaussian_bits(rated, scale).sum((1, 2, 3))
        return CodedChunk(self.synthesis(y_hat, context), bits, self.prior.bits(rated_z).sum((1, 2, 3)))

    def map_gain(self, levels: Int[Tensor, "B T a b"]) -> Float[Tensor, "B M h w"]:
        """Change of the log-gain of every entry of the latent by the quality map.

        The slope dD/dR is proportional to the squared quantization step, so a level (half an octave of the weight) is
        initialized as a quarter of an octave of the gain, divided among the frames.
        """
        coarse = torch.einsum("btij,mt->bmij", levels.float(), self.response) * map_slope(self.config.frames)
        return F.interpolate(coarse, scale_factor=float(MAP_CELL // BLOCK), mode="bilinear", align_corners=False)

    def padded(self, clip: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T2 C H2 W2"]:
        """The clip, padded by replication to whole chunks and to whole cells of the quality map."""
        last = clip[:, -1:].expand(-1, -clip.shape[1] % self.config.frames, -1, -1, -1)
        full = torch.cat([clip, last], dim=1)
        return pad_to_multiple(full.flatten(0, 1), self.config.multiple).unflatten(0, full.shape[:2])


def map_slope(frames: int) -> float:
    """Change of the log-gain per level of the quality map in one of the frames of a chunk, for a response of 1."""
    return -0.25 * math.log(2) / frames


def spread(bits: Sequence[Float[Tensor, "B"]], size: int, count: int) -> Float[Tensor, "B count"]:
    """Bits of chunks, divided evenly among their frames; the last chunk may be incomplete."""
    held = [min(size, count - start) for start in range(0, count, size)]
    return torch.cat([(part / frames)[:, None].expand(-1, frames) for part, frames in zip(bits, held, strict=True)], dim=1)


def map_levels(mask: Float[Tensor, "B T 1 H W"], amplifier: Float[Tensor, "B"]) -> Int[Tensor, "B T a b"]:
    """The quality map of masks: 0 in cells of the region, the amplifier in half octaves elsewhere.

    In a cell that is partly region the level is interpolated by the square root of that share, which favors small objects.
    """
    share = F.avg_pool2d(mask.flatten(0, 1).float(), MAP_CELL).sqrt().unflatten(0, mask.shape[:2])[:, :, 0]
    most = 2 * amplifier.float().clamp(1, AMPLIFIER_MAX).log2()
    return ((1 - share) * most[:, None, None, None]).round().long()


def map_cost(levels: Int[Tensor, "B T a b"]) -> Float[Tensor, "B"]:
    """Bits of the losslessly coded quality maps of clips; one bit for a map of zeros."""
    maps = levels.cpu().numpy()
    costs = [map_bits(clip, MAP_LEVELS) if clip.any() else 1.0 for clip in maps]
    return torch.tensor(costs, dtype=torch.float32, device=levels.device)


class ChunkAnalysis(nn.Module):
    """Frames, their masks and the decoded frame before them -> latent (B, M, h, w)."""

    def __init__(self, config: ChunkConfig) -> None:
        super().__init__()
        fine, head, wide = config.fine, config.head, config.trunk
        self.frame = nn.Sequential(nn.PixelUnshuffle(FOLD), nn.Conv2d(96, fine, 3, padding=1))
        self.mask = folded_mask(fine)
        self.fine = nn.Sequential(Residual(fine), down(fine, head))
        self.join = nn.Sequential(
            nn.Conv2d(head * config.frames, wide, 3, padding=1), Residual(wide), Residual(wide),
            small(nn.Conv2d(wide, config.latent, 3, padding=1)),
        )  # fmt: skip
        basis = chunk_basis(config.latent, config.frames)
        self.linear = nn.Conv2d(3 * config.frames, config.latent, BLOCK, stride=BLOCK, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(COSINE_GAIN * basis)

    def forward(
        self, frames: Float[Tensor, "B T 3 H W"], mask: Float[Tensor, "B T 1 H W"], context: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B M h w"]:
        count = frames.shape[1]
        before = context[:, None].expand(-1, count, -1, -1, -1)
        pairs = torch.cat([frames - 0.5, frames - before], dim=2).flatten(0, 1)
        x = self.frame(pairs.contiguous(memory_format=torch.channels_last)) + self.mask(mask.flatten(0, 1))
        features = self.fine(x).unflatten(0, (-1, count)).flatten(1, 2)
        difference = (frames - before).flatten(1, 2)
        y: Tensor = self.join(features.contiguous(memory_format=torch.channels_last)) + self.linear(difference)
        return y


class ChunkSynthesis(nn.Module):
    """Latent and the decoded frame before the chunk -> frames (B, T, 3, 8h, 8w)."""

    def __init__(self, config: ChunkConfig) -> None:
        super().__init__()
        self.count, self.fine_width = config.frames, config.fine
        wide, head, fine = config.trunk, config.head, config.fine
        self.entry = nn.Conv2d(config.latent, wide, 3, padding=1)
        self.context = nn.Sequential(
            nn.PixelUnshuffle(BLOCK), nn.Conv2d(3 * BLOCK * BLOCK, head, 1), nn.LeakyReLU(), nn.Conv2d(head, wide, 3, padding=1)
        )
        self.trunk = nn.Sequential(*[Residual(wide) for _ in range(config.blocks)])
        self.heads = nn.Conv2d(wide, head * config.frames, 1)  # one head per frame position
        self.near = nn.Sequential(Residual(head), unfold(head, fine))
        self.fold = nn.Sequential(nn.PixelUnshuffle(FOLD), nn.Conv2d(3 * FOLD * FOLD, fine, 1))
        self.far = nn.Sequential(Residual(fine), small(nn.Conv2d(fine, 3 * FOLD * FOLD, 3, padding=1)), nn.PixelShuffle(FOLD))
        self.linear = nn.Conv2d(config.latent, 3 * config.frames * BLOCK * BLOCK, 1, bias=False)
        basis = chunk_basis(config.latent, config.frames)
        with torch.no_grad():
            self.linear.weight.copy_(basis.flatten(1).T[:, :, None, None] / COSINE_GAIN)

    def forward(self, y: Float[Tensor, "B M h w"], context: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T 3 H W"]:
        y = y.contiguous(memory_format=torch.channels_last)
        shifted = (context - 0.5).contiguous(memory_format=torch.channels_last)
        x = self.heads(self.trunk(self.entry(y) + self.context(shifted)))
        each = x.unflatten(1, (self.count, -1)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        fine = self.near(each).unflatten(0, (-1, self.count)) + self.fold(shifted)[:, None]
        deep = self.far(fine.flatten(0, 1).contiguous(memory_format=torch.channels_last)).unflatten(0, (-1, self.count))
        linear = F.pixel_shuffle(self.linear(y), BLOCK).unflatten(1, (self.count, 3))
        frames: Tensor = context[:, None] + deep.float() + linear.float()
        return frames


def chunk_basis(channels: int, frames: int) -> Float[Tensor, "M 3T 8 8"]:
    """Orthonormal functions on blocks of 8 x 8 pixels by T frames: products of cosines on three color axes, by frequency.

    A temporal frequency is multiplied by 8 / T in this order, so that both directions count in half waves per sample.
    """
    space, time = _waves(BLOCK), _waves(frames)
    axes = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
    weight = BLOCK / frames
    order = sorted(
        ((weight * k) ** 2 + i * i + j * j, k, i, j) for k in range(frames) for i in range(BLOCK) for j in range(BLOCK)
    )
    color = int(channels * COLOR_SHARE)
    functions = [
        np.einsum("t,c,y,x->tcyx", time[k], axis, space[i], space[j]).reshape(-1, BLOCK, BLOCK)
        for axis, count in zip(axes, (channels - 2 * color, color, color), strict=True)
        for _, k, i, j in order[:count]
    ]
    return torch.tensor(np.stack(functions), dtype=torch.float32)


def _waves(size: int) -> np.ndarray:
    """Orthonormal cosines (DCT-II) of `size` samples, lowest frequency first."""
    steps = np.arange(size)
    waves: np.ndarray = np.cos(np.pi * (2 * steps + 1) * steps[:, None] / (2 * size)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return waves
