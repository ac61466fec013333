"""Part discovery: IoU of parts with the known parts of simulated scenes, for PatchVAE and clustered features of baselines.

A map has one cell per 8 pixels. For both kinds of model, the resolution is doubled by interleaving the maps of shifted copies
of the image, and the result is resized to the image. Thresholds are chosen on other scenes than those that are scored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.data.tensors import to_tensor
from latens.nn.stages import StagedEncoder
from latens.shapes import Bool, Float
from latens.systems.parts.config import CodeConfig
from latens.systems.parts.model import PatchVAE
from latens.systems.parts.predict import Parts
from latens.systems.parts.simulator import Scenes

CLUSTERS = 16  # number of clusters for models without a number of parts
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
BATCH = 64


class Match(NamedTuple):
    """A kind of motif and the predicted part that is assigned to it."""

    kind: int
    part: int
    iou: float
    purity: float  # share of the area of the part that lies on the motif


class Discovery(NamedTuple):
    """Agreement of predicted parts with known motifs."""

    matches: list[Match]
    iou: float  # mean over kinds
    purity: float  # mean over kinds that are matched

    @classmethod
    def of(cls, matches: list[Match], kinds: int) -> Discovery:
        return cls(matches, mean_iou(matches, kinds), sum(match.purity for match in matches) / max(len(matches), 1))


def discover(parts: Parts, tuning: Scenes, scored: Scenes) -> Discovery:
    """Part IoU of the occurrences of a PatchVAE, or of as many clusters of another model's features as it has parts."""
    model, config = parts.model, parts.config
    if isinstance(model, PatchVAE):
        maps = [occurrence_maps(model, scenes.images) for scenes in (tuning, scored)]
    else:
        clusters = config.parts if isinstance(config, CodeConfig) else CLUSTERS
        maps = cluster_maps(model.encoder, tuning.images, scored.images, clusters)
    thresholds = best_thresholds(maps[0], tuning.masks)
    return Discovery.of(part_iou(maps[1] > thresholds[:, None, None], scored.masks), scored.masks.shape[1])


@torch.no_grad()
def occurrence_maps(model: PatchVAE, images: np.ndarray) -> Float[np.ndarray, "P N S S"]:
    """Probability of every part at every pixel, interpolated between cells."""
    maps = []
    for batch in _batches(model.encoder, images):
        q = shift_and_interleave(lambda image: model.probability(model.posterior(image).logits), batch, model.encoder.stride)
        maps.append(F.interpolate(q, batch.shape[2:], mode="bilinear", align_corners=False).cpu().numpy())
    return np.concatenate(maps)


@torch.no_grad()
def cluster_maps(
    encoder: StagedEncoder, tuning: np.ndarray, scored: np.ndarray, clusters: int
) -> list[Float[np.ndarray, "P N S S"]]:
    """Membership of every cell in k-means clusters of phi, fitted on the tuning scenes."""
    from sklearn.cluster import MiniBatchKMeans

    maps = [
        torch.cat([shift_and_interleave(encoder, batch, encoder.stride).float() for batch in _batches(encoder, images)]).cpu()
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


def shift_and_interleave(
    network: Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B C h w"]], batch: Float[Tensor, "B 3 S S"], stride: int
) -> Float[Tensor, "B C 2h 2w"]:
    """Double the output resolution by shift-and-interleave: run the network on four copies shifted by half a stride.

    The image is padded by reflection. The network runs at the resolution that it was trained at.
    """
    size, quarter = batch.shape[2:], stride // 4
    padded = F.pad(batch, (quarter,) * 4, mode="reflect")
    shifts = (0, 2 * quarter)
    moved = [[network(padded[:, :, y : y + size[0], x : x + size[1]]) for x in shifts] for y in shifts]
    rows = [torch.stack(row, dim=4).flatten(3) for row in moved]  # interleaves columns
    return torch.stack(rows, dim=3).flatten(2, 3)


def best_thresholds(maps: Float[np.ndarray, "P N S S"], masks: np.ndarray) -> Float[np.ndarray, "N"]:
    """For each part the threshold that maximizes its IoU with its best kind."""
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


def _batches(encoder: StagedEncoder, images: np.ndarray) -> list[torch.Tensor]:
    device = next(encoder.parameters()).device
    return [to_tensor(images[start : start + BATCH], channels_last=True).to(device) for start in range(0, len(images), BATCH)]


# --------------------------------------------------------------------------------------------------------------- IoU


def intersections(
    found: Bool[np.ndarray, "P N H W"], known: Bool[np.ndarray, "P K H W"]
) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "N"], Float[np.ndarray, "K"]]:
    """Areas over all images P: overlaps, predicted parts, known parts."""
    flat = [np.moveaxis(maps, 1, 0).reshape(maps.shape[1], -1).astype(np.float32) for maps in (found, known)]
    return flat[0] @ flat[1].T, flat[0].sum(1), flat[1].sum(1)


def part_iou(found: Bool[np.ndarray, "P N H W"], known: Bool[np.ndarray, "P K H W"]) -> list[Match]:
    """IoU of areas summed over all images, for the one-to-one assignment of parts to motifs that maximizes the mean."""
    from scipy.optimize import linear_sum_assignment

    overlap, found_area, known_area = intersections(found, known)
    iou = overlap / np.maximum(found_area[:, None] + known_area[None] - overlap, 1)
    purity = overlap / np.maximum(found_area[:, None], 1)
    pairs = zip(*linear_sum_assignment(iou, maximize=True), strict=True)
    return sorted(Match(int(k), int(n), float(iou[n, k]), float(purity[n, k])) for n, k in pairs)


def mean_iou(matches: list[Match], kinds: int) -> float:
    """Mean over all kinds of motif; unmatched kinds count as 0."""
    return sum(match.iou for match in matches) / kinds
