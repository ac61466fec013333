"""The physical model: a code shared by both domains predicts depth and haze parameters; Eq. 1 computes the images.

    hazy  --E_I--.                     .--> relative depth d                    t = exp(-beta d)
                  >-- trunk --> code --<                                  clear = (hazy - A) / t + A
    clear --E_J--'                     '--> (hazy only) airlight A, beta   hazy = clear t + A (1 - t)

Eq. 1 (Li et al. 2019) is applied to the pixels at full size, so texture is preserved although the input of the network is
reduced. No layer normalizes over the image.

Letters: B batch, H W size of the reduced image (multiples of 8 `fold`: 32 or 16).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.conv import Residual
from latens.nn.init import small
from latens.shapes import Float
from latens.systems.haze.config import PhysicalConfig
from latens.systems.haze.formation import MEAN_AIRLIGHT, MEAN_BETA, transmission
from latens.systems.haze.layers import PerDomain
from latens.systems.haze.model import Domain

LEVELS = 8  # samples of the first layer per sample of the code and side
AIRLIGHT_RANGE = (0.3, 1.05)  # per color
BETA_RANGE = (0.1, 6.0)  # per largest depth of the scene
COARSE = 4  # samples of the first layer per sample of the coarse code and side
PARAMETERS = 4  # haze parameters: airlight in three colors, beta
REDUCED = (0.4, 0.9)  # size of the images in `consistency`, relative to the crop
START_DEPTH = -1.0  # logit of the predicted depth at the start of training


class SceneCode(NamedTuple):
    """Features of an image at 1/4, 1/8, 1/16 and 1/32 of its size (with fold 2: 1/2 to 1/16), and colors of its blocks."""

    fine: Float[Tensor, "B c1 h1 w1"]
    middle: Float[Tensor, "B c2 h2 w2"]
    coarse: Float[Tensor, "B c3 h3 w3"]
    whole: Float[Tensor, "B c4 h4 w4"]
    colors: Float[Tensor, "B 9 h3 w3"]  # mean, minimum and maximum of each block


class PhysicalHaze(nn.Module):
    """Encoders of both domains, a shared trunk, and heads for depth and haze parameters."""

    def __init__(self, config: PhysicalConfig) -> None:
        super().__init__()
        self.config = config
        n, fold = config.channels, config.fold
        self.stride = LEVELS * fold  # image pixels per sample of the code and side
        self.encoders = PerDomain(stem(n, fold), stem(n, fold))
        self.to_middle = level(n, 2 * n)
        self.to_coarse = level(2 * n, 4 * n)
        self.to_whole = level(4 * n, 4 * n)
        self.context = nn.Sequential(nn.Linear(8 * n, 4 * n), nn.LeakyReLU(), nn.Linear(4 * n, 4 * n))
        self.up_coarse = Merge(4 * n, 4 * n)
        self.up_middle = Merge(4 * n, 2 * n)
        self.up_fine = Merge(2 * n, n)
        self.depth_head = nn.Sequential(Residual(n), small(nn.Conv2d(n, fold * fold, 3, padding=1)), nn.PixelShuffle(fold))
        nn.init.constant_(head_bias(self.depth_head), START_DEPTH)
        self.votes = nn.Sequential(nn.Conv2d(8 * n + 9, 4 * n, 1), nn.LeakyReLU(), small(nn.Conv2d(4 * n, 2 * PARAMETERS, 1)))
        self.weather_head = nn.Sequential(nn.Linear(8 * n, 4 * n), nn.LeakyReLU(), nn.Linear(4 * n, PARAMETERS))
        start_at_means(self.weather_head)

    def forward(self, hazy: Float[Tensor, "B 3 H W"], clear: Float[Tensor, "B 3 H W"]) -> HazePrediction:
        """Predictions for the hazy and the clear image of one scene; images in [0, 1]."""
        code_hazy, code_clear = self.encode(hazy, "hazy"), self.encode(clear, "clear")
        airlight, beta = self.haze_parameters(code_hazy)
        return HazePrediction(code_hazy, code_clear, self.depth(code_hazy), self.depth(code_clear), airlight, beta)

    def encode(self, image: Float[Tensor, "B 3 H W"], domain: Domain) -> SceneCode:
        fine = self.encoders[domain](image - 0.5)
        middle = self.to_middle(fine)
        coarse = self.to_coarse(middle)
        whole = self.to_whole(coarse)
        whole = whole + self.context(summary(whole))[:, :, None, None]
        return SceneCode(fine, middle, coarse, whole, block_colors(image, COARSE * self.config.fold))

    def depth(self, code: SceneCode) -> Float[Tensor, "B 1 H W"]:
        """Depth relative to the largest depth of the scene, in (0, 1)."""
        features = self.up_coarse(code.whole, code.coarse)
        features = self.up_fine(self.up_middle(features, code.middle), code.fine)
        return torch.sigmoid(self.depth_head(features).float())

    def haze_parameters(self, code: SceneCode) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B"]]:
        """Airlight in [0.3, 1.05] and beta in [0.1, 6] per largest depth of the scene.

        Attention pooling over the coarse code: each position predicts a value and a weight. Distant positions inform the
        airlight, high-contrast ones beta.
        """
        raised = F.interpolate(code.whole, size=code.coarse.shape[2:], mode="nearest")
        with torch.autocast(raised.device.type, enabled=False):  # thick haze amplifies errors of the airlight
            features = torch.cat([raised.float(), code.coarse.float(), code.colors], 1)
            value, attention_logit = self.votes(features).flatten(2).chunk(2, 1)
        pooled = (value * torch.softmax(attention_logit, 2)).sum(2)
        found = torch.sigmoid(self.weather_head(summary(code.whole)).float() + pooled)
        low, high = AIRLIGHT_RANGE
        log_low, log_high = math.log(BETA_RANGE[0]), math.log(BETA_RANGE[1])
        return low + (high - low) * found[:, :3], torch.exp(log_low + (log_high - log_low) * found[:, 3])


class HazePrediction(NamedTuple):
    """Codes and depth of both images of a scene; haze parameters of the hazy image."""

    code_hazy: SceneCode
    code_clear: SceneCode
    depth_hazy: Float[Tensor, "B 1 H W"]
    depth_clear: Float[Tensor, "B 1 H W"]
    airlight: Float[Tensor, "B 3"]
    beta: Float[Tensor, "B"]


class Merge(nn.Module):
    """Upsample coarse features to the size of finer ones and add them."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_out, channels_out, 1)
        self.body = Residual(channels_out)

    def forward(self, coarse: Float[Tensor, "B C h w"], fine: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        raised = F.interpolate(self.conv(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
        result: Tensor = self.body(F.leaky_relu(raised + self.skip(fine)))
        return result


def consistency(model: PhysicalHaze, hazy: Float[Tensor, "B 3 H W"], prediction: HazePrediction) -> Tensor:
    """Mean difference of transmission and airlight between the estimates for images and for their enlarged reductions.

    A reduction has 0.4 to 0.9 of the size. `latens dehaze` enlarges small photographs to its working size in the same way.
    """
    share = float(torch.empty(()).uniform_(*REDUCED))
    height, width = hazy.shape[2:]
    small = F.interpolate(hazy, (round(share * height), round(share * width)), mode="bilinear", antialias=True)
    code = model.encode(F.interpolate(small, (height, width), mode="bilinear"), "hazy")
    airlight, beta = model.haze_parameters(code)
    t = transmission(model.depth(code), beta)
    whole = transmission(prediction.depth_hazy, prediction.beta)
    return (t - whole).abs().mean() + (airlight - prediction.airlight).abs().mean()


def stem(channels: int, fold: int) -> nn.Sequential:
    """The first layer. Pixel blocks are folded into channels, so that no layer runs at full size."""
    return nn.Sequential(
        nn.PixelUnshuffle(fold), nn.Conv2d(3 * fold * fold, channels, 3, padding=1), nn.LeakyReLU(), Residual(channels)
    )


def level(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1),
        nn.LeakyReLU(),
        Residual(channels_out),
        Residual(channels_out),
    )


def head_bias(head: nn.Sequential) -> Tensor:
    """The bias of the convolution before the pixel shuffle."""
    last = head[1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    return last.bias


def block_colors(image: Float[Tensor, "B 3 H W"], side: int) -> Float[Tensor, "B 9 h w"]:
    """Mean, minimum and maximum of every color over blocks of side x side pixels, roughly centered at zero."""
    centered = 4 * (image.float() - 0.75)
    return torch.cat([F.avg_pool2d(centered, side), -F.max_pool2d(-centered, side), F.max_pool2d(centered, side)], 1)


def summary(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 2C"]:
    """Mean and maximum over all positions."""
    return torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)


def start_at_means(head: nn.Sequential) -> None:
    """Initialize the last layer so that the first predictions are near the mean haze parameters of the paper."""
    last = head[-1]
    assert isinstance(last, nn.Linear)
    low, high = AIRLIGHT_RANGE
    share = (MEAN_AIRLIGHT - low) / (high - low)
    beta = math.log(MEAN_BETA / BETA_RANGE[0]) / math.log(BETA_RANGE[1] / BETA_RANGE[0])
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(torch.logit(torch.tensor([share, share, share, beta])))
