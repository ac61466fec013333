"""Context model of a latent in four phases: decoded innovations sharpen the means and scales of the symbols that follow.

The latent is split into the four images of every second row and column. The phases are coded in the order of `PHASES`, each
with the innovations u = (y_hat - mean) / sigma of the earlier ones, where mean and sigma are those of the hyper-synthesis:

    mean of phase k   += sigma * gate_k(features) * filter_k(u of the phases before k)       one filter per channel
    level of phase k  += filter'_k(|u| of the phases before k)                               one filter per channel
    level of the weak channels += slice_k(|u| of the strong channels at the same place, features)

Because u has no unit, one filter serves every rate. Levels are logarithmic scales: level l is the standard deviation
`scale_of(l)`. Everything starts at zero, so training starts without context.

Letters: B batch, M channels of the latent, S strong channels, F features, h w size of the latent (even), k phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.coding import LEVELS, SCALE_MAX
from latens.codes.entropy import SCALE_MIN, gaussian_bits
from latens.codes.gains import interpolate
from latens.nn.bounds import lower_bound
from latens.shapes import Float, Shaped

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))  # row and column in every block of 2 x 2, in the order of coding
INNOVATION_MAX = 127 / 16  # innovations are clamped to +- this many standard deviations
SHIFT_MAX = 2047 / 512  # shifts of the mean, likewise
MEAN_MAGNITUDE = 5 / 16  # typical |u|, subtracted so that the zeros outside of the latent are neutral
LEVEL_STEP = math.log(SCALE_MAX / SCALE_MIN) / (LEVELS - 1)  # of ln(sigma), between two levels

# Symbols of (y - mean, sigma): rounding or one of its relaxations. Differentiable where training needs it.
Rounding: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class LatentModel(NamedTuple):
    """What the hyper-synthesis predicts of the latent."""

    mean: Float[Tensor, "B M h w"]
    level: Float[Tensor, "B M h w"]  # real-valued
    features: Float[Tensor, "B F h w"]


class CodedLatent(NamedTuple):
    """A latent after rounding, in the order of its channels and places."""

    y_hat: Float[Tensor, "B M h w"]
    symbols: Float[Tensor, "B M h w"]  # y_hat minus its mean
    residual: Float[Tensor, "B M h w"]  # y minus the same mean
    scale: Float[Tensor, "B M h w"]

    def bits(self) -> Float[Tensor, "B M h w"]:
        """Bits of the symbols under Gaussians."""
        return gaussian_bits(self.symbols, self.scale)


class PhaseContext(nn.Module):
    """The context model. `strong` are the channels that are coded first within a phase; the others are the weak ones.

    With several `rates`, each channel has a level shift for each rate.
    """

    strong: Tensor
    weak: Tensor
    back: Tensor

    def __init__(self, channels: int, features: int, *, strong: Sequence[int], rates: int, hidden: int) -> None:
        super().__init__()
        first = set(strong)
        if len(first) != len(strong) or not 0 < len(first) < channels or not first <= set(range(channels)):
            raise ValueError(f"the strong channels must be some, but not all, of the {channels} channels")
        weak = [channel for channel in range(channels) if channel not in first]
        self.register_buffer("strong", torch.tensor(strong), persistent=False)
        self.register_buffer("weak", torch.tensor(weak), persistent=False)
        self.register_buffer("back", torch.tensor([*strong, *weak]).argsort(), persistent=False)
        later = range(1, len(PHASES))
        self.mean_filters = nn.ParameterList(nn.Parameter(torch.zeros(channels, k, 3, 3)) for k in later)
        self.level_filters = nn.ParameterList(nn.Parameter(torch.zeros(channels, k, 3, 3)) for k in later)
        self.gates = nn.ModuleList(zero(nn.Conv2d(features, channels, 1)) for _ in later)
        self.slices = nn.ModuleList(
            nn.Sequential(nn.Conv2d(len(strong) + features, hidden, 1), nn.LeakyReLU(), zero(nn.Conv2d(hidden, len(weak), 1)))
            for _ in PHASES
        )
        self.rate_levels = nn.Parameter(torch.zeros(rates, channels)) if rates > 1 else None

    def forward(
        self, y: Float[Tensor, "B M h w"], model: LatentModel, quality: Float[Tensor, "B"], rounding: Rounding
    ) -> CodedLatent:
        """Round y phase by phase, each relative to the means that the earlier phases give. h and w must be even.

        `rounding` is called with y - mean and sigma of a part of the latent: first the strong, then the weak channels of every
        phase. Computed in float32.
        """
        with torch.autocast(y.device.type, enabled=False):
            model = LatentModel(*(part.float() for part in model))
            if self.rate_levels is not None:
                model = model._replace(level=model.level + interpolate(self.rate_levels, quality)[:, :, None, None])
            known: list[Tensor] = []
            found = []
            for k, parts in enumerate(zip(split_phases(y.float()), *map(split_phases, model), strict=True)):
                coded = self._phase(k, parts[0], LatentModel(*parts[1:]), known, rounding)
                known.append(innovation(coded.y_hat - parts[1], scale_of(parts[2])))
                found.append(coded)
        return CodedLatent(*(merge_phases(images) for images in zip(*found, strict=True)))

    def _phase(self, k: int, y: Tensor, model: LatentModel, known: Sequence[Tensor], rounding: Rounding) -> CodedLatent:
        mean, level = model.mean, model.level
        if known:
            stacked = torch.stack(list(known), dim=2).flatten(1, 2)  # (B, M k, h/2, w/2), grouped by channel
            gate = (1 + self.gates[k - 1](model.features)).clamp(0, 2)
            shift = (gate * per_channel(stacked, self.mean_filters[k - 1])).clamp(-SHIFT_MAX, SHIFT_MAX)
            mean = mean + scale_of(level) * shift
            level = level + per_channel(stacked.abs() - MEAN_MAGNITUDE, self.level_filters[k - 1])
        residual = y - mean
        strong = scale_of(level[:, self.strong])
        symbols = rounding(residual[:, self.strong], strong)
        u = innovation(symbols + (mean - model.mean)[:, self.strong], scale_of(model.level[:, self.strong]))
        hints = torch.cat([u.abs() - MEAN_MAGNITUDE, model.features], dim=1)
        weak = scale_of(level[:, self.weak] + self.slices[k](hints))
        rest = rounding(residual[:, self.weak], weak)
        symbols, scale = (torch.cat(pair, dim=1)[:, self.back] for pair in ((symbols, rest), (strong, weak)))
        return CodedLatent(symbols + mean, symbols, residual, scale)


def scale_of(level: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Standard deviation of a real-valued level, which is clamped to 0..63; see `latens.nn.bounds` for the gradient."""
    bounded = -lower_bound(-lower_bound(level, 0.0), 1.0 - LEVELS)
    return SCALE_MIN * (bounded * LEVEL_STEP).exp()


def level_of(log_scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Real-valued level of the logarithm of a standard deviation."""
    return (log_scale - math.log(SCALE_MIN)) / LEVEL_STEP


def innovation(difference: Float[Tensor, "..."], scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return (difference / scale).clamp(-INNOVATION_MAX, INNOVATION_MAX)


def per_channel(stacked: Float[Tensor, "B _ h w"], filters: Float[Tensor, "M k 3 3"]) -> Float[Tensor, "B M h w"]:
    """Every channel of k phase images convolved with its own filter; zeros outside."""
    return F.conv2d(stacked, filters, padding=1, groups=len(filters))


def split_phases(x: Shaped[Tensor, "B C h w"]) -> list[Shaped[Tensor, "B C _ _"]]:
    """The four images of every second row and column, in the order of `PHASES`."""
    return [x[:, :, row::2, column::2] for row, column in PHASES]


def merge_phases(images: Iterable[Shaped[Tensor, "B C _ _"]]) -> Shaped[Tensor, "B C h w"]:
    """Inverse of `split_phases`."""
    by_place = dict(zip(PHASES, images, strict=True))
    return F.pixel_shuffle(torch.stack([by_place[place] for place in sorted(PHASES)], dim=2).flatten(1, 2), 2)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Set weights and bias of a layer to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
