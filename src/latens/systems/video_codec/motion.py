"""Transforms of motion: two frames -> latent -> scale-space flow.

The compact transforms are initialized as classical motion compensation: the encoder searches motion from coarse to fine, a
linear path transforms blocks of 4 x 4 vectors by a cosine transform to the latent and back, and deep paths refine both
directions. Only the encoder searches motion.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.conv import Residual, down, up
from latens.nn.init import small
from latens.nn.transforms import FOLD, folded_mask, paper_analysis, paper_synthesis
from latens.nn.warp import search_motion, warp
from latens.shapes import Float
from latens.systems.video_codec.config import STRIDE, ScaleSpaceFlowConfig

FLOW_UNIT = 4.0  # pixels per unit of the networks' flow
# Initial quantization steps per unit of the mean flow of 16 x 16 pixels at the middle rate; a coefficient of frequency f has
# fewer by the factor 1 + FINE_FLOW f.
FLOW_GAIN = 8.0
FINE_FLOW = 1.5
CELL = STRIDE // FOLD  # samples of the folded image per latent sample, in each direction


class MotionAnalysis(nn.Module):
    """Frame and reference (B, 3, H, W) -> latent (B, M, H/16, W/16)."""

    def __init__(self, config: ScaleSpaceFlowConfig, *, mask: bool) -> None:
        super().__init__()
        n, m = config.motion.hidden, config.motion.latent
        self.paper = paper_analysis(6, n, m, mask=mask) if config.transforms == "paper" else None
        self.compact = None if self.paper else CompactMotionAnalysis(n, m, config.search, mask=mask)

    def forward(
        self, frame: Float[Tensor, "B 3 H W"], reference: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"] | None
    ) -> Float[Tensor, "B M h w"]:
        if self.paper is not None:
            return self.paper(torch.cat([frame, reference], dim=1), mask)
        assert self.compact is not None
        return self.compact(frame, reference, mask)


class CompactMotionAnalysis(nn.Module):
    """Motion analysis of both frames, the motion found by block matching, and the reference warped by it."""

    def __init__(self, n: int, m: int, search: int, *, mask: bool) -> None:
        super().__init__()
        wide = n * 4 // 3
        self.search = search
        self.unfold = nn.PixelUnshuffle(FOLD)
        self.entry = nn.Conv2d(9 * FOLD * FOLD + 2, n, 3, padding=1)
        self.deep = nn.Sequential(Residual(n), down(n, wide), Residual(wide), small(down(wide, m)))
        self.linear = nn.Conv2d(2, m, CELL, stride=CELL)
        with torch.no_grad():
            nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]
            self.linear.weight.copy_(flow_basis(m)[0])
        self.mask = folded_mask(n) if mask else None

    def forward(
        self, frame: Float[Tensor, "B 3 H W"], reference: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"] | None
    ) -> Float[Tensor, "B M h w"]:
        found = self._searched(frame, reference)
        moved = warp(reference, FLOW_UNIT * enlarged(found))
        x = torch.cat([self.unfold(torch.cat([frame, reference, moved], dim=1)), found], dim=1)
        x = self.entry(x.contiguous(memory_format=torch.channels_last))
        if self.mask is not None and mask is not None:
            x = x + self.mask(mask)
        return self.deep(x) + self.linear(found)

    def _searched(self, frame: Tensor, reference: Tensor) -> Float[Tensor, "B 2 H/4 W/4"]:
        if not self.search:
            return frame.new_zeros(len(frame), 2, frame.shape[2] // FOLD, frame.shape[3] // FOLD)
        return F.avg_pool2d(search_motion(frame, reference.detach(), self.search), 2) / FLOW_UNIT


class MotionSynthesis(nn.Module):
    """Latent (B, M, h, w) -> flow in pixels (2 channels) and scale in levels (B, 3, 16h, 16w)."""

    def __init__(self, config: ScaleSpaceFlowConfig) -> None:
        super().__init__()
        n, m = config.motion.hidden, config.motion.latent
        self.paper = paper_synthesis(m, n, 3) if config.transforms == "paper" else None
        self.compact = None if self.paper else CompactMotionSynthesis(m, n)

    def forward(self, y: Float[Tensor, "B M h w"]) -> Float[Tensor, "B 3 H W"]:
        if self.paper is not None:
            return in_pixels(self.paper(y))
        assert self.compact is not None
        return enlarged(in_pixels(self.compact(y).float()))


def in_pixels(field: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Flow in pixels and scale in levels, from the units of the networks."""
    return torch.cat([FLOW_UNIT * field[:, :2], field[:, 2:]], dim=1)


class CompactMotionSynthesis(nn.Module):
    """Latent -> flow and scale at a quarter of the resolution."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        wide = n * 4 // 3
        self.deep = nn.Sequential(
            up(m, wide), Residual(wide), nn.LeakyReLU(), small(nn.Conv2d(wide, 12, 3, padding=1)), nn.PixelShuffle(2)
        )
        self.linear = nn.Conv2d(m, 2 * CELL * CELL, 1)
        with torch.no_grad():
            nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]
            self.linear.weight.copy_(flow_basis(m)[1].flatten(1).T[:, :, None, None])

    def forward(self, y: Float[Tensor, "B M h w"]) -> Float[Tensor, "B 3 4h 4w"]:
        linear = F.pixel_shuffle(self.linear(y), CELL)
        return self.deep(y) + F.pad(linear, (0, 0, 0, 0, 0, 1))


def flow_basis(channels: int) -> tuple[Float[Tensor, "M 2 4 4"], Float[Tensor, "M 2 4 4"]]:
    """Analysis and synthesis functions of 4 x 4 flow vectors: products of cosines by frequency, dx and dy in turn.

    There are 32 of them; further channels are zero.
    """
    steps = torch.arange(CELL)
    waves = torch.cos(torch.pi * (2 * steps + 1) * steps[:, None] / (2 * CELL))
    analysis, synthesis = torch.zeros(channels, 2, CELL, CELL), torch.zeros(channels, 2, CELL, CELL)
    order = sorted((i * i + j * j, i, j) for i in range(CELL) for j in range(CELL))
    for index in range(min(channels, 2 * CELL * CELL)):
        squared, i, j = order[index // 2]
        product = waves[i][:, None] * waves[j]
        gain = FLOW_GAIN / (1 + FINE_FLOW * squared**0.5)
        analysis[index, index % 2] = gain * product / product.square().sum()
        synthesis[index, index % 2] = product / gain
    return analysis, synthesis


def enlarged(field: Float[Tensor, "B C H/4 W/4"]) -> Float[Tensor, "B C H W"]:
    """A field at a quarter of the resolution, upsampled bilinearly."""
    return F.interpolate(field, scale_factor=float(FOLD), mode="bilinear", align_corners=False)
