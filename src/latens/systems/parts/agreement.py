"""Two views of one picture should look alike to phi: what PatchVAE can learn from besides reconstruction (not in 004).

One view is the picture itself, whose parts are reconstructed; the other is cut out, mirrored and coloured at random. The mean
features of both go through a small network, and each must find its partner among all others of the batch (Chen et al. 2020,
SimCLR). The decoder still runs once, so a step costs one more pass through the encoder.

Letters: B batch, C channels of phi, H W image size, P dimensions in which views are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.systems.parts.model import BetaVAE, PatchVAE

if TYPE_CHECKING:
    from jaxtyping import Float

COMPARED = 512  # P
SMALLEST_VIEW = 0.5  # side of the part of the picture that a view shows at least
COLOUR, TINT = 0.4, 0.16  # changes of brightness, contrast and saturation; of one colour against the others
GREY = 0.2  # share of views without colour


class Agreeing(nn.Module):
    """A (beta- or Patch-) VAE and the network in whose output its views are compared; that network is not shipped."""

    def __init__(self, generator: PatchVAE | BetaVAE) -> None:
        super().__init__()
        self.generator = generator
        channels = generator.encoder.channels
        self.projector = nn.Sequential(
            nn.Linear(channels, COMPARED), nn.BatchNorm1d(COMPARED), nn.ReLU(inplace=True), nn.Linear(COMPARED, COMPARED)
        )

    def disagreement(
        self, features: Float[Tensor, "B C h w"], image: Float[Tensor, "B 3 H W"], temperature: float
    ) -> Float[Tensor, ""]:
        """`views_apart` of pictures, whose features are known, and another view of each."""
        other = random_view(image).contiguous(memory_format=torch.channels_last)
        known, found = (self.projector(maps.mean((2, 3))).float() for maps in (features, self.generator.encoder(other)))
        return views_apart(known, found, temperature)


def views_apart(a: Float[Tensor, "B P"], b: Float[Tensor, "B P"], temperature: float) -> Float[Tensor, ""]:
    """How hard it is to tell which of 2B - 1 others is the partner, by cosine: cross-entropy in nats (NT-Xent; SimCLR, Eq. 1).

    Around log(2B - 1) when nothing is known. With a single picture there is nothing to tell: 0.
    """
    both = F.normalize(torch.cat([a, b]), dim=1)
    alike = both @ both.T / temperature
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    partner = torch.arange(len(both), device=both.device).roll(len(a))
    return F.cross_entropy(alike.masked_fill(itself, -torch.inf), partner)


def random_view(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Another view of every picture in [0, 1]: a square of half its side or more, mirrored or not, in other colours."""
    return recoloured(cut_out(image.float()))


def cut_out(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """A random square of every picture, a random half of them mirrored, stretched to the size of the picture."""
    count = len(image)
    side = _uniform(image, count, SMALLEST_VIEW, 1.0)
    left, top = (_uniform(image, count, -1.0, 1.0) * (1 - side) for _ in range(2))
    mirror = torch.where(_uniform(image, count, 0.0, 1.0) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(side)
    affine = torch.stack([torch.stack([side * mirror, zero, left], 1), torch.stack([zero, side, top], 1)], 1)
    grid = F.affine_grid(affine, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


def recoloured(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Brightness, contrast, saturation and tint changed at random, some pictures grey; in [0, 1]."""
    brightness, contrast, saturation = (_factor(image, 1, COLOUR) for _ in range(3))
    image = image * brightness
    middle = image.mean((1, 2, 3), keepdim=True)
    image = middle + (image - middle) * contrast
    grey = image.mean(1, keepdim=True)
    image = (grey + (image - grey) * saturation) * _factor(image, 3, TINT)
    plain = _uniform(image, len(image), 0.0, 1.0)[:, None, None, None] < GREY
    return torch.where(plain, image.mean(1, keepdim=True), image).clamp(0, 1)


def _factor(image: Tensor, channels: int, spread: float) -> Float[Tensor, "B K 1 1"]:
    return 1 + _uniform(image, len(image) * channels, -spread, spread).reshape(-1, channels, 1, 1)


def _uniform(image: Tensor, count: int, low: float, high: float) -> Tensor:
    return torch.empty(count, device=image.device).uniform_(low, high)
