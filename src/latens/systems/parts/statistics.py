"""Whether parts are used: active parts, occupancy, divergence of every part; and how well they cover known parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.shapes import Bool, Float

ACTIVE_SHARE = 0.01  # of pictures in which a part must occur to count as active


class PartStatistics(NamedTuple):
    """Of N parts over a set of pictures."""

    share: list[float]  # of pictures in which the part is likelier present than absent somewhere
    occupancy: list[float]  # mean probability at a cell
    kl_app: list[float]  # nats a picture
    kl_occ: list[float]  # nats a picture

    @property
    def active(self) -> int:
        return sum(share >= ACTIVE_SHARE for share in self.share)

    def summary(self) -> dict[str, float]:
        """Active parts, and the expected number of parts at a cell."""
        return {"active_parts": float(self.active), "parts_per_cell": float(np.sum(self.occupancy))}

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), **self.summary()}


class Tally:
    """Adds up what `PartStatistics` says over batches."""

    def __init__(self) -> None:
        self.pictures = 0
        self.sums: Tensor = torch.zeros(())

    def add(self, q: Float[Tensor, "B N h w"], kl_app: Float[Tensor, "B N"], kl_occ: Float[Tensor, "B N"]) -> None:
        occurs = (q.amax((2, 3)) > 0.5).float()
        self.sums = self.sums + torch.stack([occurs, q.mean((2, 3)), kl_app, kl_occ]).sum(1).double().cpu()
        self.pictures += len(q)

    def statistics(self) -> PartStatistics:
        """Raises ValueError when nothing was added."""
        if not self.pictures:
            raise ValueError("statistics of nothing")
        return PartStatistics(*(self.sums / self.pictures).tolist())


class Match(NamedTuple):
    """The known kind of part, the found part that covers it best when every found part may serve once, and how well."""

    kind: int
    part: int
    iou: float
    purity: float  # share of the found part's area that lies on the kind


def intersections(
    found: Bool[np.ndarray, "P N H W"], known: Bool[np.ndarray, "P K H W"]
) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "N"], Float[np.ndarray, "K"]]:
    """Areas over all pictures P: of overlaps, of found parts, of known parts."""
    flat = [np.moveaxis(maps, 1, 0).reshape(maps.shape[1], -1).astype(np.float32) for maps in (found, known)]
    return flat[0] @ flat[1].T, flat[0].sum(1), flat[1].sum(1)


def part_iou(found: Bool[np.ndarray, "P N H W"], known: Bool[np.ndarray, "P K H W"]) -> list[Match]:
    """Intersection over union of areas summed over all pictures; parts are assigned one to one so that the mean is largest."""
    overlap, found_area, known_area = intersections(found, known)
    iou = overlap / np.maximum(found_area[:, None] + known_area[None] - overlap, 1)
    purity = overlap / np.maximum(found_area[:, None], 1)
    return sorted(Match(k, n, float(iou[n, k]), float(purity[n, k])) for n, k in best_assignment(iou))


def best_assignment(score: Float[np.ndarray, "N K"]) -> list[tuple[int, int]]:
    """Pairs (row, column), each once, of largest sum and as many as there can be; for few columns: 2^K sums are compared."""
    best: dict[int, tuple[float, int, list[tuple[int, int]]]] = {0: (0.0, 0, [])}  # by the set of columns taken, as bits
    for n, row in enumerate(score):
        for taken, (total, count, pairs) in list(best.items()):
            for k, value in enumerate(row):
                grown = taken | 1 << k
                if grown != taken and (total + value, count + 1) > best.get(grown, (-1.0, 0, []))[:2]:
                    best[grown] = (total + float(value), count + 1, [*pairs, (n, k)])
    return max(best.values(), key=lambda found: found[:2])[2]


def mean_iou(matches: list[Match], kinds: int) -> float:
    """Mean over all known kinds; one without a partner counts as 0."""
    return sum(match.iou for match in matches) / kinds
