"""Rate plus distortion (003, Eq. 5.2.1), for one rate or for all of them at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latens.codes.gains import lambda_of
from latens.hub import load_model, save_model
from latens.settings import decode
from latens.shapes import Float
from latens.systems.image_codec.config import ROUNDING_WEIGHT, ImageCodecConfig, RateDistortionConfig
from latens.systems.image_codec.model import MeanScaleHyperprior, Reconstruction
from latens.training.objective import ONE_OPTIMIZER, Export, Group, Step

PEAK = 255.0**2  # distortion is the squared error of 8-bit values

logger = logging.getLogger(__name__)


class RateDistortion:
    """bits per pixel + lambda * 255^2 * MSE, lambda drawn per picture between the ends that the model serves."""

    optimizers: Mapping[str, Sequence[Group]] = ONE_OPTIMIZER

    def __init__(self, config: RateDistortionConfig, lambdas: Sequence[float]) -> None:
        self.config = config
        self.lambdas = tuple(lambdas)

    def weight(self, quality: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Lambda at real-valued qualities."""
        return lambda_of(self.lambdas, quality)

    def __call__(self, model: torch.nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        image = batch["image"]
        quality = 1 + torch.rand(len(image), device=image.device) * (len(self.lambdas) - 1)
        coded = model(image, quality, rounding=self.config.rounding)
        weight = self.weight(quality)
        bpp, mse = rate_and_distortion(coded, image)
        middle = math.exp(sum(map(math.log, self.lambdas)) / len(self.lambdas))
        loss = ((bpp + weight * PEAK * mse) * (weight / middle) ** -self.config.balance).mean()
        pixels = image.shape[2] * image.shape[3]
        yield Step("model", loss, {"bpp": bpp.mean(), "mse": mse.mean(), "bpp_z": coded.bits_z.mean() / pixels})

    def validate(self, model: MeanScaleHyperprior, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Mean over rates of log(true loss), so that every rate counts by its relative change; bpp and PSNR of each."""
        results: dict[str, float] = {}
        logs = []
        rate_weight = ROUNDING_WEIGHT if self.config.rounding == "hard" else None
        for level in range(1, len(self.lambdas) + 1):
            sums = torch.zeros(3, dtype=torch.float64)
            for batch in batches:
                image = batch["image"]
                quality = torch.full((len(image),), float(level), device=image.device)
                bpp, mse = rate_and_distortion(model.rounded(image, quality, rate_weight=rate_weight), image)
                loss = bpp + self.weight(quality) * PEAK * mse
                sums += torch.stack([loss.mean(), bpp.mean(), -10 * mse.log10().mean()]).double().cpu()
            loss_mean, bpp_mean, psnr = (sums / len(batches)).tolist()
            results[f"bpp_{level}"], results[f"psnr_{level}"] = bpp_mean, psnr
            logs.append(math.log(loss_mean))
        return {"loss": sum(logs) / len(logs), **results}

    def images(self, model: MeanScaleHyperprior, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """The first held-out picture beside its reconstructions at the lowest, middle and highest rate, (H, W, 3) bytes."""
        image = batches[0]["image"][:1]
        levels = sorted({1, (len(self.lambdas) + 1) // 2, len(self.lambdas)})
        views = [image]
        for level in levels:
            views.append(model.rounded(image, torch.full((1,), float(level), device=image.device)).image)
        row = torch.cat(views, dim=3)[0].clamp(0, 1).mul(255).round().byte()
        return {"reconstructions": row.permute(1, 2, 0).cpu().numpy()}

    def export(self, model: MeanScaleHyperprior, batches: Sequence[dict[str, Tensor]]) -> Export:
        """Weights in float16 and the frozen coding made from those very weights."""
        return export_codec(model, [batch["image"] for batch in batches])


def export_codec(model: MeanScaleHyperprior, pictures: Sequence[Tensor]) -> Export:
    """What a codec's model folder holds. The frozen coding is computed from the weights as stored, float16.

    On a machine that trains but has no entropy coder the frozen coding is left out; `finish_folder` adds it elsewhere.
    """
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    try:
        from latens.systems.image_codec.freeze import freeze
    except ModuleNotFoundError as error:
        logger.warning("no %s here: the model is saved without its frozen coding (`latens freeze` adds it)", error.name)
        return Export(weights, {}, {})
    shipped = MeanScaleHyperprior(model.config)
    shipped.load_state_dict(weights)
    coding = freeze(shipped.eval(), [picture.cpu() for picture in pictures])
    return Export(weights, coding.tensors(), {"coding": coding.spec()})


def finish_folder(folder: Path, pictures: Sequence[Tensor]) -> None:
    """Adds the frozen coding to a model folder that was saved without it; `pictures` are (B, 3, H, W) in [0, 1]."""
    found = load_model(folder)
    model = MeanScaleHyperprior(decode(ImageCodecConfig, found.config["model"], where=str(folder)))
    model.load_state_dict(found.weights)
    export = export_codec(model.eval(), pictures)
    save_model(folder, {**found.config, **export.config}, export.weights, export.coding)


def rate_and_distortion(coded: Reconstruction, image: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
    """Bits per pixel and mean squared error (pixels in [0, 1]) of every picture of a batch."""
    pixels = image.shape[2] * image.shape[3]
    return (coded.bits_y + coded.bits_z) / pixels, (coded.image - image).square().mean((1, 2, 3))
