"""Vector-quantized autoencoder of object masks (Jang et al. 2020, section 3, Fig. 2).

    mask --encoder--> e --quantizer--> e_hat --decoder--> mask
                          |
                          `-- M x M indices: the shape code

Letters: B batch, S mask size, M code grid, K codewords, D codeword dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.vq import VectorQuantizer
from latens.nn.conv import Residual, fold, unfold
from latens.shapes import Float, Int
from latens.systems.amodal.config import MaskCodeConfig


class MaskCode(NamedTuple):
    logits: Float[Tensor, "B 1 S S"]  # decoded mask before the sigmoid
    indices: Int[Tensor, "B M M"]  # codeword of every grid cell, 0..K-1
    loss: Float[Tensor, ""]  # codebook and commitment terms of Eq. 1


class MaskAutoencoder(nn.Module):
    """E, Q and D of Fig. 2: mask -> M x M codewords -> mask. Masks are area coverages in [0, 1]."""

    def __init__(self, config: MaskCodeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = mask_encoder(config)
        self.quantizer = VectorQuantizer(
            config.codewords, config.width, config.commitment, decay=config.decay, delay=config.delay
        )
        self.decoder = mask_decoder(config)

    def forward(self, mask: Float[Tensor, "B 1 S S"]) -> MaskCode:
        quantized = self.quantizer(self.encoder(2 * mask - 1))
        return MaskCode(self.decoder(quantized.code).float(), quantized.indices, quantized.loss)

    def encode(self, mask: Float[Tensor, "B 1 S S"]) -> Int[Tensor, "B M M"]:
        """The shape code of masks."""
        latent = self.encoder(2 * mask - 1).movedim(1, -1)
        return self.quantizer.nearest(latent.reshape(-1, latent.shape[-1])).view(latent.shape[:-1])

    def decode(self, indices: Int[Tensor, "B M M"]) -> Float[Tensor, "B 1 S S"]:
        """Logits of the masks of shape codes."""
        logits: Tensor = self.decoder(self.quantizer.lookup(indices)).float()
        return logits

    def decode_weights(self, weights: Float[Tensor, "B K M M"]) -> Float[Tensor, "B 1 S S"]:
        """Logits of masks decoded from mixtures of codewords; weights are nonnegative and sum to 1 over K."""
        mixed = F.conv2d(weights, self.quantizer.codebook.T[:, :, None, None].to(weights.dtype))
        logits: Tensor = self.decoder(mixed).float()
        return logits


def mask_encoder(config: MaskCodeConfig) -> nn.Sequential:
    """Every halving folds 2 x 2 pixels into channels, followed by a residual block."""
    c = config.channels
    layers: list[nn.Module] = [fold(1, c), Residual(c)]
    for _ in range(config.halvings - 1):
        layers += [nn.LeakyReLU(), fold(c, 2 * config.channels), Residual(2 * config.channels)]
        c = 2 * config.channels
    return nn.Sequential(*layers, nn.LeakyReLU(), nn.Conv2d(c, config.width, 1))


def mask_decoder(config: MaskCodeConfig) -> nn.Sequential:
    """The encoder, mirrored."""
    steps = config.halvings - 1
    c = 2 * config.channels if steps else config.channels
    layers: list[nn.Module] = [nn.Conv2d(config.width, c, 1), Residual(c)]
    for step in range(steps):
        after = config.channels if step == steps - 1 else 2 * config.channels
        layers += [nn.LeakyReLU(), unfold(c, after), Residual(after)]
        c = after
    return nn.Sequential(*layers, nn.LeakyReLU(), unfold(c, 1))


def code_loss(code: MaskCode, mask: Float[Tensor, "B 1 S S"]) -> Float[Tensor, ""]:
    """L_v of Eq. 1. The reconstruction term is the cross-entropy of the text, with soft coverage as target."""
    return F.binary_cross_entropy_with_logits(code.logits, mask.float()) + code.loss
