"""Two views of one picture should look alike: what PatchVAE can learn from besides reconstruction (not in 004).

One view is the picture itself, whose parts are reconstructed; the other has been changed at random. Pictures agree when the
mean features of both views, through a small network, find one another among all others of the batch; that makes features for
recognition (Chen et al. 2020, SimCLR). Parts agree when the part of a cell in one view tells that of the same cell and of its
neighbors in the other; that makes parts that cover what they stand for (Ji et al. 2019, IIC). The decoder still runs once,
so each costs one more pass through the encoder.

Letters: B batch, N parts, C channels of phi, H W image size, h w cells, P dimensions in which views are compared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Float
from latens.systems.parts.model import BetaVAE, PatchVAE

COMPARED = 512  # P
SMALLEST_VIEW = 0.5  # side of the part of the picture that a view shows at least
COLOR, TINT = 0.4, 0.16  # changes of brightness, contrast and saturation; of one color against the others
GRAY = 0.2  # share of views without color
SHARPNESS = 0.2  # temperature at which pictures are told apart
NEAR = 1  # cells away at most, along each side, of those whose parts are compared
EDGE = 1  # cells along every side of a picture that are not compared, because they see what is beyond it
SCARCE = 1e-8  # joint probability below which a pair of parts is taken as never seen


class TwoViews(nn.Module):
    """A (beta- or Patch-) VAE and the network in whose output its views are compared; that network is not shipped."""

    def __init__(self, generator: PatchVAE | BetaVAE) -> None:
        super().__init__()
        self.generator = generator
        channels = generator.encoder.channels
        self.projector = nn.Sequential(
            nn.Linear(channels, COMPARED), nn.BatchNorm1d(COMPARED), nn.ReLU(inplace=True), nn.Linear(COMPARED, COMPARED)
        )

    def contrastive_loss(self, features: Float[Tensor, "B C h w"], image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        """`nt_xent_loss` of pictures, whose features are known, and another view of each."""
        other = random_view(image).contiguous(memory_format=torch.channels_last)
        known, found = (self.projector(maps.mean((2, 3))).float() for maps in (features, self.generator.encoder(other)))
        return nt_xent_loss(known, found, SHARPNESS)


def nt_xent_loss(a: Float[Tensor, "B P"], b: Float[Tensor, "B P"], temperature: float) -> Float[Tensor, ""]:
    """How hard it is to tell which of 2B - 1 others is the partner, by cosine: cross-entropy in nats (NT-Xent; SimCLR, Eq. 1).

    Around log(2B - 1) when nothing is known. With a single picture there is nothing to tell: 0.
    """
    both = F.normalize(torch.cat([a, b]), dim=1)
    with torch.autocast(both.device.type, enabled=False):
        alike = both @ both.T / temperature
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    partner = torch.arange(len(both), device=both.device).roll(len(a))
    return F.cross_entropy(alike.masked_fill(itself, -torch.inf), partner)


def iic_loss(model: PatchVAE, features: Float[Tensor, "B C h w"], image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """Minus the `mutual_information` of images, whose features are known, and the same images in other colors.

    Border cells are excluded: padding makes them easy to identify, and parts would learn to encode position.
    """
    other = recolored(image.float(), gray=0.0).contiguous(memory_format=torch.channels_last)
    known, found = (model.probability(model.occurrence(maps).float()) for maps in (features, model.encoder(other)))
    inside = slice(EDGE, -EDGE)
    return -mutual_information(known[:, :, inside, inside], found[:, :, inside, inside])


def mutual_information(a: Float[Tensor, "B N h w"], b: Float[Tensor, "B N h w"]) -> Float[Tensor, ""]:
    """How much the part at a cell of `a` tells of those at most `NEAR` cells away in `b`: 0 to log N nats (IIC, Eq. 3).

    Both hold probabilities that sum to one over the parts. It is largest when every cell has one part for sure, all parts are
    equally frequent, and neighbors and views have the same. All neighbors make one joint law; the paper's Eq. 5 averages
    over those of every direction.
    """
    moves = [(y, x) for y in range(-NEAR, NEAR + 1) for x in range(-NEAR, NEAR + 1)]
    with torch.autocast(a.device.type, enabled=False):
        joint = torch.stack([torch.einsum("bnhw,bmhw->nm", _moved(a, y, x), _moved(b, -y, -x)) for y, x in moves]).sum(0)
    joint = joint + joint.T  # both views are of one kind
    joint = (joint / joint.sum()).clamp_min(SCARCE)
    single = joint.sum(0)
    return (joint * (joint.log() - single.log()[:, None] - single.log()[None])).sum()


def _moved(maps: Float[Tensor, "B N h w"], y: int, x: int) -> Float[Tensor, "B N i j"]:
    """The cells that have a neighbour (-y, -x) away, from the first such on."""
    height, width = maps.shape[2:]
    return maps[:, :, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]


def random_view(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Another view of every picture in [0, 1]: a square of half its side or more, mirrored or not, in other colors."""
    # Not by torchvision's transforms: they draw one change for a whole batch.
    return recolored(cut_out(image.float()))


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


def recolored(image: Float[Tensor, "B 3 H W"], gray: float = GRAY) -> Float[Tensor, "B 3 H W"]:
    """Brightness, contrast, saturation and tint changed at random, a share `gray` of the pictures without color; in [0, 1]."""
    brightness, contrast, saturation = (_factor(image, 1, COLOR) for _ in range(3))
    image = image * brightness
    middle = image.mean((1, 2, 3), keepdim=True)
    image = middle + (image - middle) * contrast
    shade = image.mean(1, keepdim=True)
    image = (shade + (image - shade) * saturation) * _factor(image, 3, TINT)
    plain = _uniform(image, len(image), 0.0, 1.0)[:, None, None, None] < gray
    return torch.where(plain, image.mean(1, keepdim=True), image).clamp(0, 1)


def _factor(image: Tensor, channels: int, spread: float) -> Float[Tensor, "B K 1 1"]:
    return 1 + _uniform(image, len(image) * channels, -spread, spread).reshape(-1, channels, 1, 1)


def _uniform(image: Tensor, count: int, low: float, high: float) -> Tensor:
    return torch.empty(count, device=image.device).uniform_(low, high)
