"""The rate-distortion loss (Perugachi-Diaz 2024, Eq. 5.2.1), for one rate or for all rates of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.codes.coding import ACTIVATION_BITS, FrozenCoding, freeze
from latens.codes.gains import interpolate, lambda_of
from latens.codes.goals import PEAK
from latens.data.tensors import grid
from latens.shapes import Float
from latens.systems.image_codec.config import DISTORTION, ROUNDING_WEIGHT, RateDistortionConfig
from latens.systems.image_codec.context_export import export_context
from latens.systems.image_codec.context_model import ContextNetwork
from latens.systems.image_codec.model import MeanScaleHyperprior
from latens.systems.image_codec.networks import CodecNetwork
from latens.systems.image_codec.passes import Reconstruction
from latens.systems.image_codec.structure import structural_distortion
from latens.training.objective import ONE_OPTIMIZER, Export, Step

MIN_STRUCTURE, MIN_COARSE = 1e-3, 1e-6  # added to distortions, whose logarithms have no limit at 0
COARSE = 8  # factor of the size at which the MSE belongs to the structural loss


class RateDistortion:
    """Bits per pixel + lambda * 255^2 * MSE, with lambda drawn per image, log-linearly between the lambdas of the model."""

    optimizers = ONE_OPTIMIZER

    def __init__(self, config: RateDistortionConfig, lambdas: Sequence[float]) -> None:
        self.config = config
        self.lambdas = tuple(lambdas)

    def __call__(self, model: torch.nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        image = batch["image"]
        quality = self.random_qualities(image)
        if self.config.rounding == "entropy":
            yield self.entropy_step(model, image, quality)
            return
        coded = model(image, quality, rounding=self.config.rounding)
        image = image.repeat(self.config.rates_per_crop, 1, 1, 1)
        if self.config.distortion == "structure":
            loss, parts = self.structural_loss(coded, image, quality)
            yield Step("model", loss.mean(), {name: value.mean() for name, value in parts.items()})
            return
        weight = lambda_of(self.lambdas, quality)
        bpp, mse = rate_and_distortion(coded, image)
        middle = math.exp(sum(map(math.log, self.lambdas)) / len(self.lambdas))
        loss = ((bpp + weight * PEAK * mse) * (weight / middle) ** -self.config.balance).mean()
        pixels = image.shape[2] * image.shape[3]
        yield Step("model", loss, {"bpp": bpp.mean(), "mse": mse.mean(), "bpp_z": coded.bits_z.mean() / pixels})

    def structural_loss(
        self, coded: Reconstruction, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B"], dict[str, Float[Tensor, "B"]]]:
        """The loss of every image, and the rate and distortions in it."""
        bpp, mse = rate_and_distortion(coded, image)
        found = log_distortion(coded.image, image, self.config.coarse_share)
        slope = interpolate(torch.tensor(self.config.slopes, device=image.device)[:, None], quality)[:, 0]
        logs = {"bpp": bpp, "mse": mse, "structure": found.structure, "coarse_mse": found.coarse}
        return slope * bpp.log() + found.total, logs

    def entropy_step(self, model: torch.nn.Module, image: Tensor, quality: Tensor) -> Step:
        """Mean logarithm of the rate, so that relative changes at all rates count equally."""
        assert isinstance(model, ContextNetwork)
        coded, bits_z = model.as_encoded(image, quality)
        bpp = (coded.bits().sum((1, 2, 3)) + bits_z) / (image.shape[2] * image.shape[3])
        return Step("model", bpp.log().mean(), {"bpp": bpp.mean()})

    def random_qualities(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "_"]:
        """Qualities of all images at their first rate, then at their second, and so on; an image's are evenly spaced."""
        count = self.config.rates_per_crop
        share = torch.rand(len(image), device=image.device)
        shares = [share, *((share + rate / count) % 1 for rate in range(1, count))]
        return 1 + torch.cat(shares) * (len(self.lambdas) - 1)

    def validate(self, model: CodecNetwork, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Mean over rates of log(true loss), so that relative changes of all rates count equally; bpp and PSNR of each rate.

        With the distortion "structure", the loss is that of the training.
        """
        results: dict[str, float] = {}
        logs = []
        rate_weight = ROUNDING_WEIGHT if self.config.rounding in ("hard", "entropy", "encoder") else None
        for level in range(1, len(self.lambdas) + 1):
            sums = torch.zeros(3, dtype=torch.float64)
            for batch in batches:
                image = batch["image"]
                quality = torch.full((len(image),), float(level), device=image.device)
                coded = model.rounded(image, quality, rate_weight=rate_weight)
                bpp, mse = rate_and_distortion(coded, image)
                if self.config.distortion == "structure":
                    loss = self.structural_loss(coded, image, quality)[0]
                else:
                    loss = bpp + lambda_of(self.lambdas, quality) * PEAK * mse
                sums += torch.stack([loss.mean(), bpp.mean(), -10 * mse.log10().mean()]).double().cpu()
            loss_mean, bpp_mean, psnr = (sums / len(batches)).tolist()
            results[f"bpp_{level}"], results[f"psnr_{level}"] = bpp_mean, psnr
            logs.append(loss_mean if self.config.distortion == "structure" else math.log(loss_mean))
        return {"loss": sum(logs) / len(logs), **results}

    def images(self, model: CodecNetwork, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """The first held-out image and its reconstructions at the lowest, middle and highest rate, side by side."""
        image = batches[0]["image"][:1]
        levels = sorted({1, (len(self.lambdas) + 1) // 2, len(self.lambdas)})
        views = [image]
        for level in levels:
            views.append(model.rounded(image, torch.full((1,), float(level), device=image.device)).image)
        return {"reconstructions": grid([[view[0] for view in views]])}

    def export(self, model: CodecNetwork, batches: Sequence[dict[str, Tensor]]) -> Export:
        """Weights in float16, and the frozen coding that is computed from them."""
        images = [batch["image"] for batch in batches]
        found = export_context(model, images) if isinstance(model, ContextNetwork) else export_codec(model, images)
        trained_for = {} if self.config.distortion == "mse" else {DISTORTION: self.config.distortion}
        return found._replace(config={**found.config, **trained_for})


def export_codec(model: MeanScaleHyperprior, images: Sequence[Float[Tensor, "B 3 H W"]]) -> Export:
    """Contents of the model folder of a codec. The frozen coding is computed from the stored float16 weights.

    `images` calibrate its integers, as in `frozen_coding`.
    """
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    shipped = MeanScaleHyperprior(model.config)
    shipped.load_state_dict(weights)
    coding = frozen_coding(shipped.eval(), [image.cpu() for image in images])
    return Export(weights, coding.tensors(), {"coding": coding.spec()})


def frozen_coding(
    model: MeanScaleHyperprior, images: Sequence[Float[Tensor, "B 3 H W"]], *, activation_bits: int = ACTIVATION_BITS
) -> FrozenCoding:
    """The frozen coding of a trained model. `images`, any photographs in [0, 1], calibrate its integers (see `freeze`)."""
    calibration = hyper_latents(model, images)
    return freeze(model.hyper_synthesis, model.prior, calibration, activation_bits=activation_bits)


@torch.no_grad()
def hyper_latents(model: MeanScaleHyperprior, images: Sequence[Float[Tensor, "B 3 H W"]]) -> Float[Tensor, "n N h w"]:
    """Hyper-latents of the images at every rate of the model, cropped to the smallest size among them."""
    found = []
    for image in images:
        for level in range(1, len(model.config.lambdas) + 1):
            quality = torch.full((len(image),), float(level), device=image.device)
            found.append(model.hyper_analysis(model.scaled_latent(image, quality)).float().cpu())
    height, width = (min(z.shape[side] for z in found) for side in (2, 3))
    return torch.cat([z[:, :, :height, :width] for z in found])


class LogDistortion(NamedTuple):
    """The weighted logarithm of two distortions of every image, and these."""

    total: Float[Tensor, "B"]
    structure: Float[Tensor, "B"]
    coarse: Float[Tensor, "B"]  # MSE of images at an eighth of the size


def log_distortion(decoded: Float[Tensor, "B 3 H W"], image: Float[Tensor, "B 3 H W"], coarse_share: float) -> LogDistortion:
    """The distortion "structure"; `coarse_share` is the weight of the coarse MSE."""
    structure = structural_distortion(image, decoded)
    coarse = F.avg_pool2d(decoded - image, COARSE).square().mean((1, 2, 3))
    total = (1 - coarse_share) * (structure + MIN_STRUCTURE).log() + coarse_share * (coarse + MIN_COARSE).log()
    return LogDistortion(total, structure, coarse)


def rate_and_distortion(coded: Reconstruction, image: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
    """Bits per pixel and mean squared error (pixels in [0, 1]) of every image of a batch."""
    pixels = image.shape[2] * image.shape[3]
    return (coded.bits_y + coded.bits_z) / pixels, (coded.image - image).square().mean((1, 2, 3))
