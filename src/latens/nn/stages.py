"""Encoders in stages, of which probes freeze the first ones, and the classifier of probes (Gupta et al. 2020, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from latens.shapes import Float

PIXEL_MEAN, PIXEL_DEVIATION = 0.5, 0.25  # normalization of pixels in [0, 1]
HIDDEN = 512  # units of the hidden layer of the classifier
MAX_CELLS = 8  # side of the classifier's input map; larger maps are average-pooled to it


class StagedEncoder(nn.Module):
    """Maps images in [0, 1] to a feature map by consecutive `stages`."""

    def __init__(self, stages: Sequence[nn.Module], channels: int, stride: int, head_kernel: int = 1) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = channels  # channels of the feature map
        self.stride = stride  # pixels per cell of the feature map
        self.head_kernel = head_kernel  # recommended kernel of following layers: 1 keeps the receptive field

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return self.run(normalized(image), 0)

    def run(self, x: Tensor, first: int, last: int | None = None) -> Tensor:
        """Run stages first..last - 1 on the output of stage first - 1; the input of stage 0 is the normalized image."""
        for stage in self.stages[first:last]:
            x = stage(x)
        return x


def normalized(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Normalize pixels in [0, 1] for stage 0."""
    return (image - PIXEL_MEAN) / PIXEL_DEVIATION


def classifier_head(channels: int, side: int, classes: int) -> nn.Sequential:
    """(B, channels, side, side) -> logits (B, classes): dropout and one hidden layer."""
    cells = min(side, MAX_CELLS)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(cells) if side > cells else nn.Identity(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(channels * cells**2, HIDDEN),
        nn.ReLU(inplace=True),
        nn.Linear(HIDDEN, classes),
    )
