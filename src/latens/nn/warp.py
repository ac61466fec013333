"""Scale-space volumes, scale-space warping (Agustsson et al. 2020), and block matching.

A volume holds an image at increasing blur. A scale-space flow gives every pixel a displacement and the blur of its source, so
a prediction without a good match can be smooth instead of wrong. Flows are in pixels and hence independent of the frame size;
the scale is a level of the volume, where 0 is sharp.

Letters: B batch, C channels, H W image size, K levels of a volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.nn.bounds import lower_bound
from latens.shapes import Float

ZERO_BIAS = 1e-5  # cost per pixel of displacement, in squared differences: flat areas get zero displacement


def gaussian_blur(image: Float[Tensor, "B C H W"], sigma: float) -> Float[Tensor, "B C H W"]:
    """Gaussian blur with a kernel of 2 ceil(3 sigma) + 1 samples and replicated borders."""
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    kernel = torch.exp(-0.5 * (places / sigma).square())
    kernel = (kernel / kernel.sum()).to(image.dtype).expand(image.shape[1], 1, 1, -1)
    # On CPUs a depthwise convolution takes three times as long in any other layout.
    image = image.contiguous(memory_format=torch.channels_last)
    padded = F.pad(image, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=image.shape[1])
    return F.conv2d(rows, kernel.mT, groups=image.shape[1])


def scale_space_volume(image: Float[Tensor, "B C H W"], levels: int, *, sigma: float = 1.5) -> list[Float[Tensor, "B C H W"]]:
    """The image and `levels` blurred versions of it, K = levels + 1; the blur about doubles from one level to the next.

    Level 1 is blurred by `sigma`. Each further level is the previous one at half the resolution, blurred again and enlarged
    bilinearly. The sides must be multiples of 2^(levels - 1).
    """
    volume = [image]
    blurred = gaussian_blur(image, sigma)
    for level in range(levels):
        if level:
            blurred = gaussian_blur(F.avg_pool2d(blurred, 2), sigma)
        enlarged = blurred
        for _ in range(level):
            enlarged = F.interpolate(enlarged, scale_factor=2.0, mode="bilinear", align_corners=False)
        volume.append(enlarged)
    return volume


def warp_volume(
    volume: Sequence[Float[Tensor, "B C H W"]], flow: Float[Tensor, "B 2 H W"], scale: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B C H W"]:
    """Trilinear samples of a volume of K >= 2 images at (x + flow_x, y + flow_y, scale) per pixel, with replicated borders.

    `flow` is (dx, dy) in pixels. `scale` is in levels, clamped to [0, K - 1] with a gradient that leads back into the range.
    All pixels are sampled from the first two images; each further image is sampled only at pixels with a larger scale.
    """
    last = len(volume) - 2
    held = last + 1 - lower_bound(last + 1 - lower_bound(scale.float(), 0.0), 0.0)
    grid = sampling_grid(flow)
    first, second = (sample(image, grid) for image in volume[:2])
    shape = first.shape
    warped = torch.lerp(first, second, _share(held, 0, last)).flatten(2)
    images = []
    for index, (pixels, points, scales) in enumerate(zip(warped, grid.flatten(1, 2), held.flatten(1), strict=True)):
        for level, image in enumerate(volume[2:], 1):
            places = (scales.detach() > level).nonzero()[:, 0]
            if not len(places):
                break
            blurred = sample(image[index : index + 1], points[places][None, None])[0, :, 0]
            share = _share(scales[places], level, last)
            pixels = pixels.index_copy(1, places, torch.lerp(pixels[:, places], blurred, share))
        images.append(pixels)
    return torch.stack(images).reshape(shape)


def _share(scale: Tensor, level: int, last: int) -> Tensor:
    """Weight of the image after `level`. The weight of the last image is not clamped, because a clamp has no gradient there."""
    share = scale - level
    return share if level == last else share.clamp(max=1.0)


def warp(image: Float[Tensor, "B C H W"], flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B C H W"]:
    """Bilinear samples at (x + flow_x, y + flow_y) for every pixel, in float32, with replicated borders."""
    return sample(image, sampling_grid(flow))


def sampling_grid(flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B H W 2"]:
    """Positions (x + flow_x, y + flow_y) in the coordinates of `F.grid_sample`, float32."""
    height, width = flow.shape[2:]
    rows, columns = (
        (2 * torch.arange(side, device=flow.device, dtype=torch.float32) + 1) / side - 1 for side in (height, width)
    )
    x = torch.add(columns, flow[:, 0].float(), alpha=2 / width)
    y = torch.add(rows[:, None], flow[:, 1].float(), alpha=2 / height)
    return torch.stack([x, y], dim=-1)


def sample(image: Float[Tensor, "B C H W"], grid: Float[Tensor, "B h w 2"]) -> Float[Tensor, "B C h w"]:
    """Bilinear samples at the positions of a grid, in float32, with replicated borders."""
    return F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


@torch.no_grad()
def match_blocks(
    current: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], radius: int, *, window: int = 5
) -> Float[Tensor, "B 2 H W"]:
    """Displacement (dx, dy) in pixels of the best match of every window of `current` in `reference`, within +-`radius`.

    The full search minimizes the mean squared difference of gray values over `window` x `window` pixels. A parabola through the
    neighboring costs gives subpixel precision.
    """
    height, width = current.shape[2:]
    gray, other = current.float().mean(1), reference.float().mean(1, keepdim=True)
    padded = F.pad(other, (radius, radius, radius, radius), mode="replicate")[:, 0]
    side = 2 * radius + 1
    shifted = [padded[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    costs = torch.stack([(candidate - gray).square() for candidate in shifted], dim=1)
    costs = F.avg_pool2d(costs, window, stride=1, padding=window // 2, count_include_pad=False)
    offsets = torch.arange(-radius, radius + 1, device=costs.device, dtype=torch.float32)
    dy, dx = torch.meshgrid(offsets, offsets, indexing="ij")
    best = (costs + (ZERO_BIAS * (dx.abs() + dy.abs())).flatten()[:, None, None]).argmin(1, keepdim=True)
    row, column = best // side, best % side
    x = (column - radius) + _vertex(costs, best, column, side, 1)
    y = (row - radius) + _vertex(costs, best, row, side, side)
    return torch.cat([x, y], dim=1)


@torch.no_grad()
def search_motion(
    current: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], radius: int
) -> Float[Tensor, "B 2 H/2 W/2"]:
    """Flow in pixels that warps `reference` to `current`, by coarse-to-fine block matching.

    The full search has a radius of `radius` samples at 1/8 of the resolution; two refinements, at 1/4 and 1/2, have a radius of
    two samples. The sides must be multiples of 8.
    """
    flow = match_blocks(F.avg_pool2d(current, 8), F.avg_pool2d(reference, 8), radius)
    for factor in (4, 2):
        fine, other = F.avg_pool2d(current, factor), F.avg_pool2d(reference, factor)
        flow = F.interpolate(2 * flow, scale_factor=2.0, mode="bilinear", align_corners=False)
        flow = flow + match_blocks(fine, warp(other, flow), 2)
    return 2 * flow


def _vertex(costs: Tensor, best: Tensor, place: Tensor, side: int, stride: int) -> Tensor:
    """Minimum of the parabola through a cost and its two neighbors along an axis, within half a pixel; 0 at the border."""
    inside = (place > 0) & (place < side - 1)
    before = costs.gather(1, torch.where(inside, best - stride, best))
    after = costs.gather(1, torch.where(inside, best + stride, best))
    curvature = before + after - 2 * costs.gather(1, best)
    return torch.where(curvature > 1e-8, (before - after) / (2 * curvature.clamp_min(1e-8)), 0.0).clamp(-0.5, 0.5)
