"""Whether a mask code is alive: how many of its codewords held-out shapes use, and how well it gives them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from latens.codes.vq import usage
from latens.errors import InputError
from latens.shapes import Float
from latens.systems.amodal.dataset import mask_crops
from latens.systems.amodal.model import MaskAutoencoder
from latens.systems.amodal.objective import binary_iou
from latens.systems.amodal.sources import HeldOut

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 8  # pictures whose masks are cropped together
CROPS = 32  # of one group
SEED = 20_112


class CodeQuality(NamedTuple):
    used: float  # share of the codewords that are chosen at least once, in [0, 1]
    perplexity: float  # in [1, K]
    iou: float  # mean intersection over union of masks and what their codes decode to, on the grid of the code
    worst: float  # the IoU that one mask in a hundred stays below
    masks: int


def held_out_crops(samples: HeldOut, size: int) -> Float[Tensor, "N 1 S S"]:
    """Masks of pictures as the code meets them: in boxes that are off as proposals are, turned and mirrored.

    Raises InputError when the pictures hold no object.
    """
    rng = np.random.default_rng(SEED)
    found = []
    for start in range(0, len(samples), GROUP):
        group = [samples[number] for number in range(start, min(start + GROUP, len(samples)))]
        if any(len(sample.layers.layer) for sample in group):
            found.append(mask_crops(rng, group, CROPS, size))
    if not found:
        raise InputError("the held-out pictures hold no object")
    return torch.cat(found)


@torch.no_grad()
def code_quality(code: MaskAutoencoder, crops: Float[Tensor, "N 1 S S"]) -> CodeQuality:
    """Usage and reconstruction over all masks."""
    device = next(code.parameters()).device
    indices, ious = [], []
    for part in crops.split(256):
        target = part.to(device)
        found = code.encode(target)
        indices.append(found.cpu())
        ious.append(binary_iou(code.decode(found), target).cpu())
    used, iou = usage(torch.cat(indices), code.config.codewords), torch.cat(ious)
    return CodeQuality(used.share, used.perplexity, float(iou.mean()), float(iou.quantile(0.01)), len(iou))
