"""Do parts find what repeats? Part IoU on simulated scenes, for PatchVAE and for clusters of a baseline's features.

A map has one cell for 8 pixels. Maps of the picture moved by half a cell are put between its cells, and the result is raised
to the size of the picture, for both alike. One threshold for each part is chosen on scenes that are not scored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.data.tensors import to_tensor
from latens.shapes import Float
from latens.systems.parts.baselines import Member
from latens.systems.parts.model import PatchVAE
from latens.systems.parts.simulator.motifs import Scenes
from latens.systems.parts.statistics import Match, mean_iou, part_iou

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
BATCH = 64


class Discovery(NamedTuple):
    """How well found parts cover known ones."""

    matches: list[Match]
    iou: float  # mean over kinds
    purity: float  # mean over kinds that are matched

    @classmethod
    def of(cls, matches: list[Match], kinds: int) -> Discovery:
        return cls(matches, mean_iou(matches, kinds), sum(match.purity for match in matches) / max(len(matches), 1))


def discover(model: Member, tuning: Scenes, scored: Scenes) -> Discovery:
    """Part IoU of PatchVAE's occurrence probabilities, or of as many clusters of another member's features as it has parts."""
    if isinstance(model, PatchVAE):
        maps = [occurrence_maps(model, scenes.images) for scenes in (tuning, scored)]
    else:
        maps = cluster_maps(model, tuning.images, scored.images, model.config.parts)
    thresholds = best_thresholds(maps[0], tuning.masks)
    return Discovery.of(part_iou(maps[1] > thresholds[:, None, None], scored.masks), scored.masks.shape[1])


@torch.no_grad()
def occurrence_maps(model: PatchVAE, images: np.ndarray) -> Float[np.ndarray, "P N S S"]:
    """Probability of every part at every pixel: cells, interpolated."""
    maps = []
    for batch in _batches(model, images):
        q = finely(lambda image: model.probability(model.posterior(image).logits), batch, model.encoder.stride)
        maps.append(F.interpolate(q, batch.shape[2:], mode="bilinear", align_corners=False).cpu().numpy())
    return np.concatenate(maps)


@torch.no_grad()
def cluster_maps(model: Member, tuning: np.ndarray, scored: np.ndarray, clusters: int) -> list[Float[np.ndarray, "P N S S"]]:
    """The features phi of every cell in k-means clusters that are found on the tuning scenes: 1 where a cell belongs to one."""
    from sklearn.cluster import MiniBatchKMeans

    stride = model.encoder.stride
    maps = [
        torch.cat([finely(model.encoder, batch, stride).float() for batch in _batches(model, images)]).cpu()
        for images in (tuning, scored)
    ]
    flat = [features.permute(0, 2, 3, 1).flatten(0, 2).numpy() for features in maps]
    scale = flat[0].std(0) + 1e-6
    means = MiniBatchKMeans(clusters, n_init=3, random_state=0, batch_size=4096).fit(flat[0] / scale)
    found = []
    for features, cells, images in zip(maps, flat, (tuning, scored), strict=True):
        member = torch.from_numpy(means.predict(cells / scale)).long().reshape(len(features), *features.shape[2:])
        one_hot = F.one_hot(member, clusters).permute(0, 3, 1, 2).float()
        found.append(F.interpolate(one_hot, images.shape[1:3], mode="bilinear", align_corners=False).numpy())
    return found


def finely(
    network: Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B C h w"]], batch: Float[Tensor, "B 3 S S"], stride: int
) -> Float[Tensor, "B C 2h 2w"]:
    """What the network gives, twice as fine: for the picture moved by a quarter of a cell to all four sides, interleaved.

    The picture goes on beyond its border as a reflection. A network that is the same everywhere is not asked for more than
    it was trained for.
    """
    size, quarter = batch.shape[2:], stride // 4
    padded = F.pad(batch, (quarter,) * 4, mode="reflect")
    shifts = (0, 2 * quarter)
    moved = [[network(padded[:, :, y : y + size[0], x : x + size[1]]) for x in shifts] for y in shifts]
    rows = [torch.stack(row, dim=4).flatten(3) for row in moved]  # columns of both between one another
    return torch.stack(rows, dim=3).flatten(2, 3)


def best_thresholds(maps: Float[np.ndarray, "P N S S"], masks: np.ndarray) -> Float[np.ndarray, "N"]:
    """For each part the threshold at which its IoU with the kind it covers best is largest."""
    best, chosen = np.zeros(maps.shape[1]), np.full(maps.shape[1], THRESHOLDS[0])
    known = masks.transpose(1, 0, 2, 3).reshape(masks.shape[1], -1).astype(np.float32)
    flat = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
    for threshold in THRESHOLDS:
        found = (flat > threshold).astype(np.float32)
        overlap = found @ known.T
        iou = (overlap / np.maximum(found.sum(1)[:, None] + known.sum(1)[None] - overlap, 1)).max(1)
        chosen = np.where(iou > best, threshold, chosen)
        best = np.maximum(best, iou)
    return chosen


def _batches(model: Member, images: np.ndarray) -> list[torch.Tensor]:
    device = next(model.parameters()).device
    return [to_tensor(images[start : start + BATCH], channels_last=True).to(device) for start in range(0, len(images), BATCH)]
