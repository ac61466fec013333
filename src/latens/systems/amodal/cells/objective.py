"""Losses of the star model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.ranks import share_of_mean
from latens.settings import to_dict
from latens.shapes import Float
from latens.systems.amodal.cells.config import StarLossConfig
from latens.systems.amodal.cells.network import StarMaps, StarNet
from latens.training.objective import ONE_OPTIMIZER, Export, Step

INSIDE = 0.1  # added to the relative distance to the border, the weight of the rays of a pixel
CONTACT_WEIGHT, OVERLAP_WEIGHT = 3.0, 2.0  # of contact and overlap pixels, which are rare
SHOWN = 6  # crops of an image of results


class StarObjective:
    """The weighted sum of the five losses."""

    optimizers = ONE_OPTIMIZER

    def __init__(
        self,
        config: StarLossConfig,
        fit: Callable[[StarNet], dict[str, Any]] | None = None,
        quality: Callable[[StarNet], dict[str, float]] | None = None,
    ) -> None:
        self.config = config
        self.fit = fit  # fits the scores of a trained model on held-out images
        self.quality = quality  # measures the objects that it finds there

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        terms = self.terms(model(batch["image"]), batch)
        yield Step("model", torch.stack(list(terms.values())).sum(), {**terms})

    def terms(self, maps: StarMaps, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted losses, computed in float32."""
        weights, known = self.config, batch["known"].float()
        coarse = F.max_pool2d(known[:, None], 2)[:, 0]
        contact, overlap = batch["contact"].float(), batch["overlap"].float()
        return {
            "center": weights.center * cross_entropy(maps.center, batch["center"], coarse),
            "rays": weights.rays * ray_loss(maps.log_rays, batch["rays"], batch["ray_weight"], batch["center"]),
            "foreground": weights.foreground * cross_entropy(maps.foreground, batch["foreground"].float(), known),
            "contact": weights.contact * cross_entropy(maps.contact, contact, known * (1 + (CONTACT_WEIGHT - 1) * contact)),
            "overlap": weights.overlap * cross_entropy(maps.overlap, overlap, coarse * (1 + (OVERLAP_WEIGHT - 1) * overlap)),
        }

    def validate(self, model: StarNet, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """The mean losses; IoU of the foreground; mean polar IoU of the outlines; measures of `quality`."""
        sums: dict[str, float] = {}
        both = either = polar = weight = 0.0
        for batch in batches:
            maps = model(batch["image"])
            for name, term in self.terms(maps, batch).items():
                sums[name] = sums.get(name, 0.0) + float(term) / len(batches)
            found, true = maps.foreground > 0, batch["foreground"] > 0
            both, either = both + float((found & true).sum()), either + float((found | true).sum())
            share = batch["center"] * (batch["ray_weight"].float().mean(1) > 0)
            iou = polar_iou(maps.log_rays.exp(), batch["rays"], batch["ray_weight"].float())
            polar, weight = polar + float((iou * share).sum()), weight + float(share.sum())
        quality = {"foreground_iou": both / max(either, 1.0), "polar_iou": polar / max(weight, 1e-6)}
        if self.quality is not None:
            quality |= self.quality(model)
        return {"loss": sum(sums.values()), **sums, **quality}

    def images(self, model: StarNet, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Crops with their maps of centers, foreground and contact; truth in the lower rows."""
        batch = {name: tensor[:SHOWN] for name, tensor in batches[0].items()}
        maps = model(batch["image"])
        large = F.interpolate(maps.center[:, None].sigmoid(), scale_factor=2.0)[:, 0]
        true = F.interpolate(batch["center"][:, None], scale_factor=2.0)[:, 0]
        rows = [batch["image"], _gray(large), _gray(true), _gray(maps.foreground.sigmoid()), _gray(batch["foreground"].float())]
        rows += [_gray(maps.contact.sigmoid()), _gray(batch["contact"].float())]
        table = torch.cat([torch.cat(list(row.float().cpu()), dim=2) for row in rows], dim=1)
        return {"maps": (table.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()}

    def export(self, model: StarNet, batches: Sequence[dict[str, Tensor]]) -> Export:
        """Weights in float16, the model settings, and the fit of the scores."""
        weights = {n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()}
        fit = {} if self.fit is None else {"fit": self.fit(model)}
        return Export(weights, {}, {"model": to_dict(model.config), **fit})


def _gray(map_: Float[Tensor, "B H W"]) -> Float[Tensor, "B 3 H W"]:
    return map_[:, None].expand(-1, 3, -1, -1)


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Weighted mean of the binary cross-entropy of soft targets."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
    return share_of_mean((loss * weight).sum(), weight.sum())


def ray_loss(
    log_rays: Float[Tensor, "B R h w"], target: Float[Tensor, "B R h w"], valid: Tensor, center: Float[Tensor, "B h w"]
) -> Float[Tensor, ""]:
    """-log of the polar IoU plus the absolute error of log distances, weighted by the relative distance to the border.

    Rays that leave the image have no target.
    """
    inside = (center > 0).nonzero(as_tuple=True)  # a third of the pixels: the rest costs time and has no weight
    owner, row, column = inside
    found, true, weight = (each[owner, :, row, column] for each in (log_rays, target, valid.float()))
    known = weight.sum(1)
    pixel = (center[inside] + INSIDE) * (known > 0)
    error = ((found - true.clamp(min=0.5).log()).abs() * weight).sum(1) / known.clamp(min=1)
    iou = polar_iou(found.exp(), true, weight)
    return share_of_mean(((error - iou.clamp(min=1e-3).log()) * pixel).sum(), pixel.sum())


def polar_iou(found: Float[Tensor, "N R ..."], target: Tensor, weight: Tensor) -> Float[Tensor, "N ..."]:
    """IoU of two star-shaped areas with the same origin (Xie et al. 2020), over the rays with a weight."""
    low, high = torch.minimum(found, target), torch.maximum(found, target)
    area: Tensor = (low**2 * weight).sum(1) / (high**2 * weight).sum(1).clamp(min=1e-3)
    return area
