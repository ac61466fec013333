"""Statistics of parts over a set of images: active parts, occupancy, and the divergence of every part."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.shapes import Float

ACTIVE_SHARE = 0.01  # smallest share of images with a part that counts as active


class PartStatistics(NamedTuple):
    """Statistics of N parts over a set of images."""

    share: list[float]  # of images with a cell in which the part is more likely present than absent
    occupancy: list[float]  # mean probability in a cell
    kl_app: list[float]  # nats per image
    kl_occ: list[float]  # nats per image

    @property
    def active(self) -> int:
        """Number of active parts."""
        return sum(share >= ACTIVE_SHARE for share in self.share)

    def summary(self) -> dict[str, float]:
        """Active parts, and the expected number of parts in a cell."""
        return {"active_parts": float(self.active), "parts_per_cell": float(np.sum(self.occupancy))}

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), **self.summary()}

    def rows(self) -> list[dict[str, float]]:
        """One mapping per part, by decreasing frequency."""
        order = sorted(range(len(self.share)), key=lambda n: -self.share[n])
        columns = {"share": self.share, "occupancy": self.occupancy, "kl_app": self.kl_app, "kl_occ": self.kl_occ}
        return [{"part": n, **{name: values[n] for name, values in columns.items()}} for n in order]


class Tally:
    """Accumulates `PartStatistics` over batches."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: Tensor = torch.zeros(())

    def add(self, q: Float[Tensor, "B N h w"], kl_app: Float[Tensor, "B N"], kl_occ: Float[Tensor, "B N"]) -> None:
        """Add a batch: occurrence probabilities, and divergences in nats."""
        occurs = (q.amax((2, 3)) > 0.5).float()
        self.sums = self.sums + torch.stack([occurs, q.mean((2, 3)), kl_app, kl_occ]).sum(1).double().cpu()
        self.images += len(q)

    def statistics(self) -> PartStatistics:
        """The statistics of all batches. Raises ValueError if there are none."""
        if not self.images:
            raise ValueError("statistics of no images")
        return PartStatistics(*(self.sums / self.images).tolist())
