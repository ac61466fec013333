"""Scale-space volumes, the warp through them (Agustsson et al. 2020), and block matching.

A volume holds an image at growing blur. A scale-space flow moves every pixel and chooses how blurred its source is, so that a
prediction without a good match can be smooth instead of wrong. Flows are in pixels, which makes them independent of the size
of the frame; the volume's coordinate counts its levels, 0 is sharp.

Letters: B batch, C channels, H W image size, K levels of a volume.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.nn.bounds import lower_bound
from latens.shapes import Float

ZERO_BIAS = 1e-5  # of squared difference per pixel of displacement: flat areas are matched where they are


def gaussian_blur(image: Float[Tensor, "B C H W"], sigma: float) -> Float[Tensor, "B C H W"]:
    """Gaussian blur with a kernel of 2 ceil(3 sigma) + 1 samples; the border is repeated."""
    reach = math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device)
    kernel = torch.exp(-0.5 * (places / sigma).square())
    kernel = (kernel / kernel.sum()).to(image.dtype).expand(image.shape[1], 1, 1, -1)
    padded = F.pad(image, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=image.shape[1])
    return F.conv2d(rows, kernel.mT, groups=image.shape[1])


def scale_space_volume(image: Float[Tensor, "B C H W"], levels: int, *, sigma: float = 1.5) -> Float[Tensor, "B K C H W"]:
    """The image and `levels` blurred versions of it, K = levels + 1; the blur about doubles from one to the next.

    Level 1 is blurred by `sigma`; each further one is the one before at half the size, blurred again and enlarged bilinearly.
    Needs sides that are multiples of 2^(levels - 1).
    """
    slices = [image]
    blurred = gaussian_blur(image, sigma)
    for level in range(levels):
        if level:
            blurred = gaussian_blur(F.avg_pool2d(blurred, 2), sigma)
        enlarged = blurred
        for _ in range(level):
            enlarged = F.interpolate(enlarged, scale_factor=2.0, mode="bilinear", align_corners=False)
        slices.append(enlarged)
    return torch.stack(slices, dim=1)


def warp_volume(
    volume: Float[Tensor, "B K C H W"], flow: Float[Tensor, "B 2 H W"], scale: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B C H W"]:
    """The volume at (x + flow_x, y + flow_y, scale) for every pixel, trilinearly; outside, the border is repeated.

    `flow` is (dx, dy) in pixels, `scale` in levels, held to [0, K - 1] with a gradient that leads back. The bilinear samples
    of all levels are added with the weights of the linear interpolation in scale, which is faster than a sampler of volumes.
    """
    levels = volume.shape[1]
    samples = warp(volume.flatten(1, 2), flow).reshape(volume.shape)
    top = levels - 1.0
    held = lower_bound(scale.float(), 0.0)
    held = top - lower_bound(top - held, 0.0)
    below = held.detach().floor().clamp(0, levels - 2)
    share = (held - below)[:, None]
    offsets = torch.arange(levels, device=volume.device)[:, None, None, None] - below[:, None]
    weights = torch.where(offsets == 0, 1 - share, torch.where(offsets == 1, share, 0.0))
    return (samples * weights).sum(1)


def warp(image: Float[Tensor, "B C H W"], flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B C H W"]:
    """The image at (x + flow_x, y + flow_y) for every pixel, bilinearly, in float32; outside, the border is repeated."""
    height, width = image.shape[2:]
    size = torch.tensor([width, height], device=image.device, dtype=torch.float32)
    rows = torch.arange(height, device=image.device, dtype=torch.float32)
    columns = torch.arange(width, device=image.device, dtype=torch.float32)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([x, y], dim=-1) + flow.float().permute(0, 2, 3, 1)
    grid = (2 * places + 1) / size - 1
    return F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


@torch.no_grad()
def match_blocks(
    current: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], reach: int, *, window: int = 5
) -> Float[Tensor, "B 2 H W"]:
    """Displacement (dx, dy) in pixels of the best match of every window of `current` in `reference`, at most `reach` a side.

    The full search minimizes the mean squared difference of gray values over `window` x `window` pixels; a parabola through
    the costs of neighbors gives fractions of a pixel.
    """
    height, width = current.shape[2:]
    gray, other = current.float().mean(1), reference.float().mean(1, keepdim=True)
    padded = F.pad(other, (reach, reach, reach, reach), mode="replicate")[:, 0]
    side = 2 * reach + 1
    shifted = [padded[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    costs = torch.stack([(candidate - gray).square() for candidate in shifted], dim=1)
    costs = F.avg_pool2d(costs, window, stride=1, padding=window // 2, count_include_pad=False)
    offsets = torch.arange(-reach, reach + 1, device=costs.device, dtype=torch.float32)
    dy, dx = torch.meshgrid(offsets, offsets, indexing="ij")
    best = (costs + (ZERO_BIAS * (dx.abs() + dy.abs())).flatten()[:, None, None]).argmin(1, keepdim=True)
    row, column = best // side, best % side
    x = (column - reach) + _vertex(costs, best, column, side, 1)
    y = (row - reach) + _vertex(costs, best, row, side, side)
    return torch.cat([x, y], dim=1)


@torch.no_grad()
def search_motion(
    current: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], reach: int
) -> Float[Tensor, "B 2 H/2 W/2"]:
    """Flow in pixels that warps `reference` to `current`, by block matching from coarse to fine.

    The full search covers `reach` samples at 1/8 of the size; two more, at 1/4 and 1/2, cover two samples around its result.
    Needs sides that are multiples of 8.
    """
    flow = match_blocks(F.avg_pool2d(current, 8), F.avg_pool2d(reference, 8), reach)
    for factor in (4, 2):
        fine, other = F.avg_pool2d(current, factor), F.avg_pool2d(reference, factor)
        flow = F.interpolate(2 * flow, scale_factor=2.0, mode="bilinear", align_corners=False)
        flow = flow + match_blocks(fine, warp(other, flow), 2)
    return 2 * flow


def _vertex(costs: Tensor, best: Tensor, place: Tensor, side: int, stride: int) -> Tensor:
    """Minimum of the parabola through a cost and its two neighbors along an axis, within half a pixel; 0 at the ends."""
    inside = (place > 0) & (place < side - 1)
    before = costs.gather(1, torch.where(inside, best - stride, best))
    after = costs.gather(1, torch.where(inside, best + stride, best))
    curvature = before + after - 2 * costs.gather(1, best)
    return torch.where(curvature > 1e-8, (before - after) / (2 * curvature.clamp_min(1e-8)), 0.0).clamp(-0.5, 0.5)
