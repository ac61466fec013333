"""A structural distortion of color images, which needs no pretrained network: the weighted terms of SSIMULACRA2 (Sneyers 2023).

Linear light is halved in size from scale to scale. At each scale, in the opponent colors XYB of JPEG XL, three maps compare a
decoded image with its original in Gaussian windows: structure, artifacts and lost detail. Means and 4-norms of the maps are
summed with the published weights, which were fitted to opinions of people. SSIMULACRA2 is a decreasing function of this sum.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.data.tensors import decode_srgb
from latens.nn.warp import gaussian_blur
from latens.shapes import Float

SIGMA = 1.5  # of the Gaussian windows, in pixels
STABLE = 0.0009  # added to variances
SMALLEST = 1e-20  # added to a mean of fourth powers, whose root is not differentiable at 0
SCALES = 5  # the weights of the sixth scale, 0.0003 % of all, are left out

# RGB to the responses of three kinds of cones, and their bias (opsin_params.h of JPEG XL).
CONES = ((0.3, 0.622, 0.078), (0.23, 0.692, 0.078), (0.24342268924547819, 0.20476744424496821, 0.5518098665095536))
BIAS = 0.0037930732552754493

X, Y, B = 0, 1, 2  # channels; B is blue minus Y
STRUCTURE, ARTIFACTS, DETAIL = 0, 1, 2  # maps
MEAN, FOURTH = 0, 1  # norms

# (scale, channel, map, norm, weight): the 24 weights of version 2.1 above 0.9. The 84 others sum to 0.03 % of these.
TERMS = (
    (0, Y, STRUCTURE, FOURTH, 7.466890), (0, Y, DETAIL, FOURTH, 17.445834),
    (1, X, STRUCTURE, FOURTH, 1.104173), (1, Y, STRUCTURE, FOURTH, 6.683678), (1, Y, DETAIL, FOURTH, 1.027890),
    (2, X, STRUCTURE, FOURTH, 1.842246), (2, X, ARTIFACTS, FOURTH, 11.441173),
    (2, Y, STRUCTURE, MEAN, 225.205153), (2, Y, STRUCTURE, FOURTH, 19.213238),
    (3, X, STRUCTURE, FOURTH, 1.878759), (3, X, ARTIFACTS, FOURTH, 10.949070),
    (3, Y, STRUCTURE, MEAN, 176.393176), (3, Y, STRUCTURE, FOURTH, 24.433010),
    (3, B, STRUCTURE, FOURTH, 8.826983), (3, B, ARTIFACTS, FOURTH, 23.192433),
    (4, X, ARTIFACTS, MEAN, 0.967794), (4, X, ARTIFACTS, FOURTH, 0.998177),
    (4, Y, STRUCTURE, FOURTH, 34.779063), (4, Y, ARTIFACTS, FOURTH, 44.835625),
    (4, B, STRUCTURE, MEAN, 95.108050), (4, B, ARTIFACTS, MEAN, 0.986398), (4, B, DETAIL, MEAN, 0.983438),
    (4, B, ARTIFACTS, FOURTH, 171.266726), (4, B, DETAIL, FOURTH, 0.980786),
)  # fmt: skip


def structural_distortion(original: Float[Tensor, "B 3 H W"], decoded: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """The distortion of images whose values are clamped to [0, 1], in float32: 0.004 for identical images, about 1 to 40.

    Both sides must be multiples of 16.
    """
    with torch.autocast(original.device.type, enabled=False):  # variances are small differences
        light = [decode_srgb(image.float()).contiguous() for image in (original, decoded)]
        total = original.new_zeros(len(original), dtype=torch.float32)
        for scale in range(SCALES):
            if scale:
                light = [F.avg_pool2d(image, 2) for image in light]
            maps = compared(*(opponent_colors(image) for image in light))
            norms = torch.stack([maps.mean((-2, -1)), fourth_norm(maps)], dim=-1)  # (B, 3 maps, 3 channels, 2 norms)
            total = total + (norms * weights(scale).to(norms.device)).sum((1, 2, 3))
    return total


def opponent_colors(light: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """XYB of linear light, shifted and scaled to about [0, 1]."""
    cones = torch.einsum("ij,bjhw->bihw", torch.tensor(CONES, device=light.device), light) + BIAS
    long, middle, short = (cones ** (1 / 3) - BIAS ** (1 / 3)).unbind(1)
    y = (long + middle) / 2
    return torch.stack([7 * (long - middle) + 0.42, y + 0.01, short - y + 0.55], dim=1)


def compared(a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 3 H W"]:
    """The three maps of a decoded image b of an original a, in the order of STRUCTURE, ARTIFACTS and DETAIL."""
    planes = torch.cat([a, b, a * a, b * b, a * b])
    mean_a, mean_b, square_a, square_b, product = gaussian_blur(planes, SIGMA).chunk(5)
    variances = square_a - mean_a**2 + square_b - mean_b**2 + STABLE
    covariance = 2 * (product - mean_a * mean_b) + STABLE
    structure = (1 - (1 - (mean_a - mean_b) ** 2) * covariance / variances).clamp_min(0)
    edges = (1 + (b - mean_b).abs()) / (1 + (a - mean_a).abs()) - 1
    return torch.stack([structure, edges.clamp_min(0), (-edges).clamp_min(0)], dim=1)


def fourth_norm(maps: Float[Tensor, "... H W"]) -> Float[Tensor, "..."]:
    return (maps.square().square().mean((-2, -1)) + SMALLEST) ** 0.25


@lru_cache(maxsize=SCALES)
def weights(scale: int) -> Float[Tensor, "3 3 2"]:
    """The weights of a scale by map, channel and norm."""
    found = torch.zeros(3, 3, 2)
    for at, channel, kind, norm, weight in TERMS:
        if at == scale:
            found[kind, channel, norm] = weight
    return found
