"""Losses between two views of an image: NT-Xent (Chen et al. 2020, SimCLR) and IIC (Ji et al. 2019). Not in Gupta et al. 2020.

One view is the image itself, which is also reconstructed. The NT-Xent loss improves features for recognition: it makes the
projected mean features of an image and of a random crop in other colors more similar than those of different images. The IIC
loss makes parts cover regions: it maximizes the mutual information between the part of a cell in one view and the parts of that
cell and its neighbors in a recolored view. Each loss costs one additional pass of the encoder.

Letters: B batch, N parts, C channels of phi, H W image size, h w cells, P dimensions of the projection.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.ranks import all_rows, all_sum
from latens.shapes import Float
from latens.systems.parts.config import EDGE
from latens.systems.parts.model import VAE, PatchVAE

PROJECTION = 512  # P
SMALLEST_VIEW = 0.5  # smallest side of a crop, as a share of the image
COLOR, TINT = 0.4, 0.16  # ranges of brightness, contrast and saturation; of color channels
GRAY = 0.2  # share of gray views
TEMPERATURE = 0.2  # of the NT-Xent loss
NEAR = 1  # largest distance of compared cells along each axis
MIN_JOINT = 1e-8  # smallest joint probability, so that the logarithm is finite


class TwoViews(nn.Module):
    """A VAE and the projector of its views; the projector is not exported."""

    def __init__(self, generator: VAE) -> None:
        super().__init__()
        self.generator = generator
        channels = generator.encoder.channels
        self.projector = nn.Sequential(
            nn.Linear(channels, PROJECTION),
            nn.BatchNorm1d(PROJECTION),
            nn.ReLU(inplace=True),
            nn.Linear(PROJECTION, PROJECTION),
        )

    def contrast(self, features: Float[Tensor, "B C h w"], image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        """`nt_xent_loss` of images, whose features are known, and a second view of each."""
        other = random_view(image).contiguous(memory_format=torch.channels_last)
        known, found = (self.projector(maps.mean((2, 3))).float() for maps in (features, self.generator.encoder(other)))
        return nt_xent_loss(known, found, TEMPERATURE)


def nt_xent_loss(a: Float[Tensor, "B P"], b: Float[Tensor, "B P"], temperature: float) -> Float[Tensor, ""]:
    """Cross-entropy of identifying the second view among 2B - 1 vectors by cosine similarity, in nats (SimCLR, Eq. 1).

    About log(2B - 1) for uninformative vectors; 0 for a single image. In a training of several processes, B counts the images
    of all.
    """
    a, b = all_rows(a), all_rows(b)
    both = F.normalize(torch.cat([a, b]), dim=1)
    with torch.autocast(both.device.type, enabled=False):
        similarity = both @ both.T / temperature
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    partner = torch.arange(len(both), device=both.device).roll(len(a))
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def iic_of_views(model: PatchVAE, features: Float[Tensor, "B C h w"], image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """`iic_loss` of images, whose features are known, and the same images in other colors.

    Border cells are excluded: padding makes them easy to identify, and parts would learn to encode position.
    """
    other = jitter_colors(image.float(), gray=0.0).contiguous(memory_format=torch.channels_last)
    known, found = (model.probability(model.occurrence(maps).float()) for maps in (features, model.encoder(other)))
    inside = slice(EDGE, -EDGE)
    return iic_loss(known[:, :, inside, inside], found[:, :, inside, inside])


def iic_loss(a: Float[Tensor, "B N h w"], b: Float[Tensor, "B N h w"]) -> Float[Tensor, ""]:
    """Minus the mutual information of the part of a cell in `a` and of cells at most `NEAR` away in `b`, in nats (IIC, Eq. 3).

    Between -log N and 0. `a` and `b` hold probabilities that sum to 1 over the parts. The minimum is reached if every cell has
    one part with certainty, all parts are equally frequent, and neighbors and views have equal parts. All neighbors share one
    joint distribution; Eq. 5 of the IIC paper averages over the losses of every direction.
    """
    moves = [(y, x) for y in range(-NEAR, NEAR + 1) for x in range(-NEAR, NEAR + 1)]
    with torch.autocast(a.device.type, enabled=False):
        joint = torch.stack([torch.einsum("bnhw,bmhw->nm", _moved(a, y, x), _moved(b, -y, -x)) for y, x in moves]).sum(0)
    joint = all_sum(joint)  # over the processes of a training
    joint = joint + joint.T  # the two views are exchangeable
    joint = (joint / joint.sum()).clamp_min(MIN_JOINT)
    single = joint.sum(0)
    return -(joint * (joint.log() - single.log()[:, None] - single.log()[None])).sum()


def _moved(maps: Float[Tensor, "B N h w"], y: int, x: int) -> Float[Tensor, "B N i j"]:
    """The cells whose neighbor at offset (-y, -x) lies inside the map."""
    height, width = maps.shape[2:]
    return maps[:, :, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]


def random_view(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """A random view of every image in [0, 1]: a crop of at least half the side, randomly mirrored, in other colors."""
    # The transforms of torchvision would apply the same change to the whole batch.
    return jitter_colors(random_crop(image.float()))


def random_crop(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """A random crop of every image at the size of the image; a random half of them is mirrored."""
    count = len(image)
    side = _uniform(image, count, SMALLEST_VIEW, 1.0)
    left, top = (_uniform(image, count, -1.0, 1.0) * (1 - side) for _ in range(2))
    mirror = torch.where(_uniform(image, count, 0.0, 1.0) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(side)
    affine = torch.stack([torch.stack([side * mirror, zero, left], 1), torch.stack([zero, side, top], 1)], 1)
    grid = F.affine_grid(affine, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


def jitter_colors(image: Float[Tensor, "B 3 H W"], gray: float = GRAY) -> Float[Tensor, "B 3 H W"]:
    """Random brightness, contrast, saturation and tint; a share `gray` of the images becomes gray; clamped to [0, 1]."""
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
