"""Layers of the translators: padded convolutions, and normalization whose statistics can be frozen.

Instance and layer normalization depend on the whole image. If an image is translated in tiles, every tile uses the statistics
of the reduced image, so that there are no seams.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.ranks import all_rows, common_generator, own_rows
from latens.shapes import Float

EPSILON = 1e-5


class ImageNorm(nn.Module):
    """Normalization per image: of each channel (instance), or of all channels together with learned gain and bias (layer)."""

    def __init__(self, channels: int, *, layer: bool = False) -> None:
        super().__init__()
        self.dims = (1, 2, 3) if layer else (2, 3)
        self.gain = nn.Parameter(torch.ones(channels, 1, 1)) if layer else None
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1)) if layer else None
        self.recording = False
        self.held: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        if self.held is None and not self.recording:
            if self.gain is None or self.bias is None:
                return instance_norm(x)
            return F.group_norm(x, 1, self.gain.flatten(), self.bias.flatten(), EPSILON)
        values = x.float()
        if self.held is not None and not self.recording:
            mean, scale = self.held
        else:
            variance, mean = torch.var_mean(values, self.dims, correction=0, keepdim=True)
            scale = (variance + EPSILON).rsqrt()
            if self.recording:
                self.held = (mean, scale)
        y = (values - mean) * scale
        if self.gain is not None and self.bias is not None:
            y = y * self.gain + self.bias
        return y.to(x.dtype)


def instance_norm(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Instance normalization: (x - mean) / deviation of each channel of each image.

    On a CPU with channels-last memory, batch normalization of one image at a time is eight times as fast as
    `F.instance_norm`.
    """
    if x.device.type != "cpu":
        return F.instance_norm(x, eps=EPSILON)
    done = [F.batch_norm(image, None, None, training=True, eps=EPSILON) for image in x.split(1)]
    return torch.cat(done) if len(done) > 1 else done[0]


@contextmanager
def frozen_norm_stats(model: nn.Module) -> Iterator[None]:
    """Context in which the first forward pass fixes the statistics of every `ImageNorm` for later passes."""
    norms = [part for part in model.modules() if isinstance(part, ImageNorm)]
    hooks = [norm.register_forward_hook(_stop_recording) for norm in norms]
    for norm in norms:
        norm.recording = True
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.recording, norm.held = False, None


def _stop_recording(norm: nn.Module, inputs: object, output: object) -> None:
    assert isinstance(norm, ImageNorm)
    norm.recording = False


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution with reflection padding: (B, channels_in, stride * h, stride * w) -> (B, channels_out, h, w)."""
    padding = (kernel - 1) // 2
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, padding_mode="reflect")


class DoubledConv(nn.Module):
    """Nearest-neighbor upsampling by 2 and a 5 x 5 convolution, computed at the small size.

    Every phase of the output depends on 3 x 3 input samples. Taps that fall on the same sample are summed first, which leaves
    9 of 25 products. The small map is padded by reflection.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 5)
        # Rows are (phase, sample), columns taps: tap k of phase p falls on sample floor((p + k - 2) / 2).
        falls = [[[float((phase + tap - 2) // 2 == sample) for tap in range(5)] for sample in (-1, 0, 1)] for phase in (0, 1)]
        self.register_buffer("falls", torch.tensor(falls), persistent=False)
        self.falls: Tensor

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D 2*h 2*w"]:
        with torch.autocast(x.device.type, enabled=False):
            weight = torch.einsum("psk,qtl,oikl->pqoist", self.falls, self.falls, self.conv.weight)
        assert self.conv.bias is not None
        mirrored = F.pad(x, (1, 1, 1, 1), mode="reflect" if min(x.shape[2:]) > 1 else "replicate")
        phases = F.conv2d(mirrored, weight.flatten(0, 2), self.conv.bias.repeat(4))
        count, _, height, width = phases.shape
        split = phases.view(count, 2, 2, -1, height, width)
        return split.permute(0, 4, 1, 5, 2, 3).reshape(count, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


class NormResidual(nn.Module):
    """Residual block: x plus two normalized 3 x 3 convolutions of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, 3), ImageNorm(channels), nn.ReLU(), conv(channels, channels, 3), ImageNorm(channels)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        total: Tensor = x + self.body(x)
        return total


class PerDomain(nn.Module):
    """One module for the hazy domain and one for the clear domain."""

    def __init__(self, hazy: nn.Module, clear: nn.Module) -> None:
        super().__init__()
        self.of_hazy = hazy
        self.of_clear = clear

    def __getitem__(self, domain: str) -> nn.Module:
        return self.of_hazy if domain == "hazy" else self.of_clear


class ImagePool(nn.Module):
    """History of generated images for a discriminator (Shrivastava et al. 2017).

    With probability 1/2, `exchange` replaces an image by one of the history and stores the image in its place. The history is
    part of the checkpoint, so a resumed run sees the same images. All processes of a training have the same history, of the
    images of all.
    """

    def __init__(self, size: int, crop: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, 3, crop, crop))
        self.register_buffer("filled", torch.zeros(()))
        self.images: Tensor
        self.filled: Tensor

    @torch.no_grad()
    def exchange(self, fakes: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The images, some of them exchanged with images of the history."""
        fakes = all_rows(fakes.detach())
        rng = common_generator(torch.device("cpu"))
        result = fakes.clone()
        for index in range(len(fakes)):
            count = int(self.filled)
            if count < len(self.images):
                self.images[count] = fakes[index]
                self.filled += 1
            elif torch.rand((), generator=rng) < 0.5:
                place = int(torch.randint(len(self.images), (), generator=rng))
                result[index] = self.images[place]
                self.images[place] = fakes[index]
        return own_rows(result)
