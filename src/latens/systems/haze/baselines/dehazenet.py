"""DehazeNet (Cai et al. 2016; row "DehazeNet" of Table 1 of Li et al. 2019): a small network that estimates t of a patch.

It is trained on 16 x 16 patches of constant transmission and applied to every window of an image. A guided filter refines the
result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.filters import luminance
from latens.shapes import Bool, Float

PATCH = 16  # side of a training patch and of the receptive field
GROUPS = 4  # filters per maxout feature
REFINE_RADIUS, REFINE_EPSILON = 50, 1e-3
HAZIEST = 0.01  # share of the pixels (of smallest t) whose brightest one gives the airlight
FLOOR = 0.1  # lower bound of t; the paper has none, which amplifies noise in the sky


class DehazeNet(nn.Module):
    """Maxout features, multi-scale convolutions, local maximum, bounded ReLU: about 8,000 parameters."""

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
        """Transmission before the bounded ReLU, for every 16 x 16 window: h = H - 15, w = W - 15."""
        maxima = self.features(image - 0.5).unflatten(1, (4, GROUPS)).amax(2)
        several = torch.cat([scale(maxima) for scale in self.scales], 1)
        result: Tensor = self.head(F.max_pool2d(several, 7, stride=1))
        return result

    def windows(self, hazy: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Transmission in [0, 1] of the window around every pixel, before refinement; images of any size in [0, 1]."""
        before, after = (PATCH - 1) // 2, PATCH - 1 - (PATCH - 1) // 2
        mode = "reflect" if min(hazy.shape[2:]) > after else "replicate"
        t: Tensor = self(F.pad(hazy, (before, after, before, after), mode=mode))
        return t.float().clamp(0, 1)

    def airlight(
        self,
        hazy: Float[Tensor, "B 3 H W"],
        t: Float[Tensor, "B 1 H W"],
        visible: Bool[Tensor, "B 1 H W"] | None = None,
    ) -> Float[Tensor, "B 3"]:
        """Color of the brightest pixel among the 1 % of smallest transmission; of visible pixels only."""
        if visible is not None:
            t, hazy = t.masked_fill(~visible, 2), hazy * visible
        count = max(int(t.shape[2] * t.shape[3] * HAZIEST), 1)
        chosen = t.flatten(1).topk(count, dim=1, largest=False).indices
        best = luminance(hazy).flatten(1).gather(1, chosen).argmax(1, keepdim=True)
        place = chosen.gather(1, best)
        return hazy.flatten(2).gather(2, place[:, None].expand(-1, 3, -1))[:, :, 0].clamp_min(0.05)
