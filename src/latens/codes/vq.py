"""Vector quantization: the nearest of K codewords replaces every latent vector (van den Oord et al. 2017; Jang et al. 2020).

Randomly initialized codebooks collapse: all vectors share a few codewords, and the others are never updated. Two measures
prevent this: initialization by k-means on latents after `delay` training steps of the encoder, and replacement of unused
codewords. Both sample vectors with probability proportional to the squared distance from the nearest codeword (Arthur and
Vassilvitskii 2007). Uniform sampling would fail, because most positions of a mask are fully inside or fully outside.

Letters: B batch, D dimension of a codeword, K codewords, *n positions (any number of axes), P = B * n vectors in total.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.ranks import all_rows, common_generator
from latens.shapes import Float, Int

KMEANS_STEPS = 10
SMOOTHING = 1e-5  # keeps the mean of an unused codeword finite
ALIVE = 0.05  # a codeword used less often than this share of the mean is dead
PATIENCE = 0.95  # decay of the usage counts


class Quantized(NamedTuple):
    code: Float[Tensor, "B D *n"]  # the nearest codewords; gradients pass straight through to the input
    indices: Int[Tensor, "B *n"]  # 0..K-1
    loss: Float[Tensor, ""]  # codebook and commitment terms


class VectorQuantizer(nn.Module):
    """Nearest codeword of every vector. The codebook is learned by gradients (`decay` 0) or moving averages (`decay` > 0).

    `commitment` is beta of Jang et al. 2020, Eq. 1, with means over all entries instead of squared norms. With moving averages
    there is no codebook term. During the first `delay` training steps vectors pass unquantized and the codebook does not
    change; then k-means initializes it. In training, vectors of the batch replace dead codewords; the batch is that of all
    processes. All state is in float buffers, which can be averaged and saved.
    """

    codebook: Float[Tensor, "K D"]

    def __init__(
        self, codewords: int, width: int, commitment: float = 0.25, *, decay: float = 0.99, delay: int = 0, revive: bool = True
    ) -> None:
        super().__init__()
        self.commitment = commitment
        self.decay = decay
        self.delay = delay
        self.revive = revive
        start = torch.randn(codewords, width) / width**0.5
        if decay:
            self.register_buffer("codebook", start)
            self.register_buffer("sums", start.clone())
            self.register_buffer("counts", torch.ones(codewords))
        else:
            self.codebook = nn.Parameter(start)
        self.register_buffer("popularity", torch.ones(codewords))  # running count of choices, mean 1
        self.register_buffer("seen", torch.zeros(()))  # training steps
        self.popularity: Tensor
        self.seen: Tensor
        self.sums: Tensor
        self.counts: Tensor

    def forward(self, latent: Float[Tensor, "B D *n"]) -> Quantized:
        vectors = latent.float().movedim(1, -1)
        flat = vectors.reshape(-1, vectors.shape[-1])
        waiting = False
        if self.training:
            waiting = bool(self.seen < self.delay)
            if bool(self.seen == self.delay):
                self._place(all_rows(flat.detach()))
            self.seen += 1
        indices = self.nearest(flat)
        if waiting:
            return Quantized(latent, indices.view(vectors.shape[:-1]), (latent * 0).sum().float())
        chosen = self.codebook[indices]
        loss = self.commitment * F.mse_loss(flat, chosen.detach())
        if not self.decay:
            loss = loss + F.mse_loss(chosen, flat.detach())
        code = (flat + (chosen - flat).detach()).view(vectors.shape).movedim(-1, 1)
        if self.training:
            self._learn(all_rows(flat.detach()), all_rows(indices))
        return Quantized(code, indices.view(vectors.shape[:-1]), loss)

    def nearest(self, vectors: Float[Tensor, "P D"]) -> Int[Tensor, "P"]:
        """Index of the codeword with the smallest Euclidean distance."""
        with torch.autocast(vectors.device.type, enabled=False):
            codebook = self.codebook.detach()
            distance = codebook.square().sum(1) - 2 * vectors.detach().float() @ codebook.T
            return distance.argmin(1)

    def lookup(self, indices: Int[Tensor, "B *n"]) -> Float[Tensor, "B D *n"]:
        """Codewords by index."""
        return self.codebook[indices].movedim(-1, 1)

    @torch.no_grad()
    def _place(self, vectors: Float[Tensor, "P D"]) -> None:
        self.codebook.copy_(kmeans(vectors, len(self.codebook), KMEANS_STEPS, common_generator(vectors.device)))
        if self.decay:
            self.sums.copy_(self.codebook)
            self.counts.fill_(1)

    @torch.no_grad()
    def _learn(self, vectors: Float[Tensor, "P D"], indices: Int[Tensor, "P"]) -> None:
        k = len(self.codebook)
        counts = torch.bincount(indices, minlength=k).to(vectors.dtype)
        if self.decay:
            self.counts.lerp_(counts, 1 - self.decay)
            self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, indices, vectors), 1 - self.decay)
            total = self.counts.sum()
            smoothed = (self.counts + SMOOTHING) / (total + k * SMOOTHING) * total
            self.codebook.copy_(self.sums / smoothed[:, None])
        self.popularity.lerp_(counts * (k / max(len(vectors), 1)), 1 - PATIENCE)
        if self.revive:
            self._revive(vectors, indices)

    def _revive(self, vectors: Float[Tensor, "P D"], indices: Int[Tensor, "P"]) -> None:
        dead = (self.popularity < ALIVE).nonzero()[:, 0]
        if not len(dead):
            return
        far = (vectors - self.codebook[indices]).square().sum(1)
        chance, rng = far + far.mean() * 1e-3 + 1e-12, common_generator(vectors.device)
        fresh = vectors[torch.multinomial(chance, len(dead), replacement=True, generator=rng)]
        self.codebook[dead] = fresh
        self.popularity[dead] = 1.0
        if self.decay:
            weight = self.counts.mean().clamp(min=SMOOTHING)
            self.counts[dead] = weight
            self.sums[dead] = fresh * weight


def kmeans(
    vectors: Float[Tensor, "P D"], clusters: int, steps: int, rng: torch.Generator | None = None
) -> Float[Tensor, "K D"]:
    """Cluster centers after `steps` iterations of Lloyd's algorithm from k-means++ seeds.

    Empty clusters move to distant vectors. With fewer vectors than clusters, vectors are repeated. Random numbers come from
    `rng`, by default torch's global generator.
    """
    centers = vectors[torch.randint(len(vectors), (1,), device=vectors.device, generator=rng)]
    far = (vectors - centers).square().sum(1)
    while len(centers) < clusters:
        new = vectors[torch.multinomial(far + 1e-12, 1, generator=rng)]
        centers = torch.cat((centers, new))
        far = torch.minimum(far, (vectors - new).square().sum(1))
    for _ in range(steps):
        distance, owner = torch.cdist(vectors, centers).min(1)
        counts = torch.bincount(owner, minlength=clusters)
        sums = torch.zeros_like(centers).index_add_(0, owner, vectors)
        empty = (counts == 0).nonzero()[:, 0]
        centers = sums / counts.clamp(min=1)[:, None]
        if len(empty):
            chosen = torch.multinomial(distance.square() + 1e-12, len(empty), replacement=True, generator=rng)
            centers[empty] = vectors[chosen]
    return centers


class Usage(NamedTuple):
    """Usage of a codebook."""

    share: float  # share of the codewords that are used at least once, in [0, 1]
    perplexity: float  # exp of the entropy of the indices, in [1, K]


def usage(indices: Int[Tensor, "*n"], codewords: int) -> Usage:
    """Usage of a codebook of `codewords` codewords by these indices. Raises ValueError without indices."""
    if indices.numel() == 0:
        raise ValueError("codebook usage needs at least one index")
    counts = torch.bincount(indices.flatten(), minlength=codewords).double()
    chance = counts / counts.sum()
    entropy = -(chance * chance.clamp(min=1e-300).log()).sum()
    return Usage(float((counts > 0).double().mean()), float(entropy.exp()))
