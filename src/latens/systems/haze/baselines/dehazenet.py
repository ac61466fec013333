"""DehazeNet (Cai et al. 2016; row "DehazeNet" of Table 1 of 002): a small network that reads t off a patch.

Trained on 16 x 16 patches of constant transmission, it is slid over the picture; a guided filter refines what it finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Float
from latens.systems.haze.config import PatchLossConfig
from latens.systems.haze.estimate import HazeEstimate
from latens.systems.haze.filters import guided_filter, luminance
from latens.systems.haze.formation import add_haze
from latens.systems.haze.objective import Batch, half_weights, psnr, side_by_side
from latens.training.objective import Export, Step

PATCH = 16  # side of a training patch, and of what one output sees
GROUPS = 4  # filters whose maximum is one feature
REFINE_RADIUS, REFINE_EPSILON = 50, 1e-3
HAZIEST = 0.01  # share of the pixels, those of smallest t, among which the brightest is the airlight
FLOOR = 0.1  # the paper has none, and divides by nearly nothing in the sky


class DehazeNet(nn.Module):
    """Feature maxima, three scales, local maximum, and a rectifier bounded to [0, 1]: about 8,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4 * GROUPS, 5)
        self.scales = nn.ModuleList(nn.Conv2d(4, 16, kernel, padding=kernel // 2) for kernel in (3, 5, 7))
        self.head = nn.Conv2d(48, 1, 6)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0, 0.001 if part is self.head else 0.05)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.head.bias, 0.5)  # type: ignore[arg-type]

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 h w"]:
        """Transmission before it is bounded, for every 16 x 16 window: h = H - 15, w = W - 15."""
        maxima = self.features(image - 0.5).unflatten(1, (4, GROUPS)).amax(2)
        several = torch.cat([scale(maxima) for scale in self.scales], 1)
        result: Tensor = self.head(F.max_pool2d(several, 7, stride=1))
        return result

    def windows(self, hazy: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Transmission in [0, 1] of the window around every pixel, before refinement; pictures of any size in [0, 1]."""
        before, after = (PATCH - 1) // 2, PATCH - 1 - (PATCH - 1) // 2
        mode = "reflect" if min(hazy.shape[2:]) > after else "replicate"
        t: Tensor = self(F.pad(hazy, (before, after, before, after), mode=mode))
        return t.float().clamp(0, 1)

    def airlight(self, hazy: Float[Tensor, "B 3 H W"], t: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3"]:
        """Colour of the brightest pixel among the 1 % of smallest transmission."""
        count = max(int(t.shape[2] * t.shape[3] * HAZIEST), 1)
        chosen = t.flatten(1).topk(count, dim=1, largest=False).indices
        best = luminance(hazy).flatten(1).gather(1, chosen).argmax(1, keepdim=True)
        place = chosen.gather(1, best)
        return hazy.flatten(2).gather(2, place[:, None].expand(-1, 3, -1))[:, :, 0].clamp_min(0.05)

    def estimate(self, hazy: Float[Tensor, "B 3 H W"]) -> HazeEstimate:
        """Transmission and airlight at full size."""
        t = self.windows(hazy)
        refined = guided_filter(luminance(hazy), t, REFINE_RADIUS, REFINE_EPSILON)
        return HazeEstimate(refined.clamp(FLOOR, 1), self.airlight(hazy, t), FLOOR)


class PatchObjective:
    """Squared error of t on "patches" (B, 3, 16, 16) of clear pictures, hazed with one t ~ U(0, 1) each and white airlight."""

    optimizers: Mapping[str, tuple[str, ...]] = MappingProxyType({"model": ("",)})

    def __init__(self, config: PatchLossConfig) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Iterator[Step]:
        patches = batch["patches"]
        t = torch.rand(len(patches), 1, 1, 1, device=patches.device)
        airlight = patches.new_full((len(patches), 3), self.config.airlight)
        found = model(add_haze(patches, t, airlight)).float()
        # Outside [0, 1] the bounded rectifier has no gradient, so a few patches could die; the plain value is pulled back.
        yield Step("model", (found - t).square().mean(), {})

    def validate(self, model: DehazeNet, batches: Sequence[Batch]) -> dict[str, float]:
        values = [psnr(model.estimate(batch["hazy"]).clear(batch["hazy"]), batch["truth"]) for batch in batches]
        return {"loss": -sum(values) / len(values), "dehaze_psnr": sum(values) / len(values)}

    def pictures(self, model: DehazeNet, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        hazy, truth = batches[0]["hazy"][:1], batches[0]["truth"][:1]
        found = model.estimate(hazy)
        views = [hazy, found.clear(hazy), truth, found.transmission.expand(-1, 3, -1, -1)]
        return {"hazy_dehazed_clear_t": side_by_side(views)}

    def export(self, model: DehazeNet, batches: Sequence[Batch]) -> Export:
        return Export(half_weights(model), {}, {})
