"""How well pictures are reconstructed: PSNR, SSIM, and the Frechet distance in the features of any network (004, Table 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.data.squares import Squares
from latens.inference.page import Table
from latens.metrics.image import mean_db, psnr, ssim
from latens.shapes import Float
from latens.systems.parts.model import BetaVAE, PatchVAE

Features = Callable[[Tensor], Tensor]  # (B, 3, S, S) in [0, 1] -> (B, F)


class Quality(NamedTuple):
    """Means over pictures. PSNR is of pixels in [0, 1]: 12.9 dB above that of pixels divided by ImageNet's deviation."""

    psnr: float
    ssim: float
    frechet: float | None  # None without a feature network
    mean_psnr: float  # of answering every picture with its mean colour, to compare with

    def table(self) -> Table:
        distance = "-" if self.frechet is None else f"{self.frechet:.3f}"
        rows = [["model", f"{self.psnr:.2f}", f"{self.ssim:.3f}", distance], ["mean colour", f"{self.mean_psnr:.2f}", "-", "-"]]
        return Table(["reconstruction", "PSNR dB", "SSIM", "FID"], rows, "Pictures without noise in the code.")


@torch.no_grad()
def reconstruction_quality(model: PatchVAE | BetaVAE, squares: Squares, features: Features | None = None) -> Quality:
    """Compares pictures with `mean_picture` of them. `features` gives the space of the Frechet distance."""
    device = next(model.parameters()).device
    peaks, similarities, flat = [], [], []
    spaces: tuple[list[Tensor], list[Tensor]] = ([], [])
    for batch in squares.batches(64):
        found = model.mean_picture(batch.to(device)).image.clamp(0, 1).cpu()
        for original, made in zip(_bytes(batch), _bytes(found), strict=True):
            peaks.append(psnr(original, made))
            similarities.append(ssim(original, made))
            mean = np.rint(original.mean((0, 1), keepdims=True)).astype(np.uint8)
            flat.append(psnr(original, np.broadcast_to(mean, original.shape).copy()))
        if features is not None:
            for space, images in zip(spaces, (batch, found), strict=True):
                space.append(features(images.to(device)).float().flatten(1).cpu())
    distance = None
    if features is not None:
        distance = frechet_distance(torch.cat(spaces[0]).double(), torch.cat(spaces[1]).double())
    known = [value for value in similarities if value is not None]
    return Quality(mean_db(peaks), float(np.mean(known)) if known else float("nan"), distance, mean_db(flat))


def frechet_distance(a: Float[Tensor, "n F"], b: Float[Tensor, "m F"]) -> float:
    """Squared distance of two Gaussians fitted to features (Heusel et al. 2017): |mean|^2 + tr(A + B - 2 (A B)^(1/2)).

    Needs at least two rows of each (ValueError otherwise).
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("a covariance needs two pictures")
    covariances = [torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b)]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    traces = covariances[0].trace() + covariances[1].trace()
    return float((a.mean(0) - b.mean(0)).square().sum() + traces - 2 * inner)


def _bytes(images: Tensor) -> np.ndarray:
    return images.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
