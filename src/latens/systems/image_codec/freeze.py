"""The frozen entropy coding of a trained codec, made from its weights, and added to model folders that lack it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latens.codes.coding import ACTIVATION_BITS, INPUT_BITS, OUTPUT_BITS, Z_REACH, FrozenCoding, scales
from latens.codes.quantize import quantize_network
from latens.codes.tables import gaussian_tables, tables_from_pmfs
from latens.shapes import Float
from latens.systems.image_codec.model import MeanScaleHyperprior


@torch.no_grad()
def freeze(
    model: MeanScaleHyperprior,
    images: Sequence[Float[Tensor, "B 3 H W"]],
    *,
    activation_bits: int = ACTIVATION_BITS,
) -> FrozenCoding:
    """The frozen coding of a trained model; `images` (any real photographs) set the ranges of the integer network.

    More than 11 `activation_bits` are finer and need float64 to carry the sums, which takes twice as long.
    """
    medians = (model.prior.medians() * (1 << INPUT_BITS)).round().to(torch.int64)
    masses, lows = model.prior.probabilities(medians.float() / (1 << INPUT_BITS), reach=Z_REACH)
    network = quantize_network(
        model.hyper_synthesis,
        calibration(model, images),
        input_frac_bits=INPUT_BITS,
        input_bound=(Z_REACH << INPUT_BITS) + int(medians.abs().max()),
        output_frac_bits=OUTPUT_BITS,
        activation_bits=activation_bits,
        float32=activation_bits <= ACTIVATION_BITS,
    )
    return FrozenCoding(network, medians, gaussian_tables(scales()), tables_from_pmfs(masses, lows))


def calibration(model: MeanScaleHyperprior, images: Sequence[Float[Tensor, "B 3 H W"]]) -> Float[Tensor, "n N h w"]:
    """Hyper-latents of the images at every rate the model serves, cut to the size of the smallest."""
    found = []
    for image in images:
        for level in range(1, len(model.config.lambdas) + 1):
            quality = torch.full((len(image),), float(level), device=image.device)
            found.append(model.hyper_analysis(model.scaled_latent(image, quality)).float().cpu())
    height, width = (min(z.shape[side] for z in found) for side in (2, 3))
    return torch.cat([z[:, :, :height, :width] for z in found])
