"""Encoders of several stages, of which probes freeze the first ones, and their classifier (Gupta et al. 2020, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from latens.shapes import Float

PIXEL_MEAN, PIXEL_DEVIATION = 0.5, 0.25  # pixels in [0, 1] are normalized by these
HIDDEN = 512  # units of the hidden layer of the classifier
MAX_CELLS = 8  # side of the map that the classifier sees; larger maps are averaged down to it


class StagedEncoder(nn.Module):
    """Images in [0, 1] to a map of features; `stages` run one after the other."""

    def __init__(self, stages: Sequence[nn.Module], channels: int, stride: int, head_kernel: int = 1) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = channels  # of the map
        self.stride = stride  # pixels per cell of the map
        self.head_kernel = head_kernel  # side of the layers that should follow: 1 keeps a local encoder local

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return self.run(normalized(image), 0)

    def run(self, x: Tensor, first: int, last: int | None = None) -> Tensor:
        """Stages `first` to before `last` on the output of stage `first - 1`; stage 0 takes the normalized image."""
        for stage in self.stages[first:last]:
            x = stage(x)
        return x


def normalized(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """The input of stage 0 for pixels in [0, 1]."""
    return (image - PIXEL_MEAN) / PIXEL_DEVIATION


def classifier_head(channels: int, side: int, classes: int) -> nn.Sequential:
    """(B, channels, side, side) to logits (B, classes): dropout and one hidden layer."""
    cells = min(side, MAX_CELLS)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(cells) if side > cells else nn.Identity(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(channels * cells**2, HIDDEN),
        nn.ReLU(inplace=True),
        nn.Linear(HIDDEN, classes),
    )
