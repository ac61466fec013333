"""Export of networks with a context model: frozen integers, and tables from counted symbols."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latens.codes.coding import FrozenCoding, freeze
from latens.codes.context_coding import ContextCoding
from latens.codes.context_freeze import SymbolCounts, freeze_context
from latens.shapes import Float
from latens.systems.image_codec.context_model import ContextNetwork
from latens.systems.image_codec.format import BAND_ROWS, QUALITY_STEPS, bands_of
from latens.systems.image_codec.stages import encoder_rounding
from latens.training.objective import Export

CALIBRATED = 64  # crops whose hyper-latents calibrate the integers; more do not change the ranges


def export_context(model: ContextNetwork, images: Sequence[Float[Tensor, "B 3 H W"]]) -> Export:
    """Contents of the model folder. The coding is computed from the stored float16 weights and from `images`."""
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    shipped = type(model)(model.config)
    shipped.load_state_dict(weights)
    coding = frozen_context(shipped.eval(), [image.cpu() for image in images])
    return Export(weights, coding.tensors(), {"coding": coding.spec()})


@torch.no_grad()
def frozen_context(
    model: ContextNetwork, images: Sequence[Float[Tensor, "B 3 H W"]], base: FrozenCoding | None = None
) -> ContextCoding:
    """The frozen coding of a trained network, with tables from the symbols of the images at all rates.

    `base` is the frozen coding of the same hyper-synthesis and prior, if there is one.
    """
    stack, features, logarithmic = model.coding_parts()
    latents = [model.analysis(image) for image in images]
    z = hyper_latents_of(model, latents)[: CALIBRATED * len(model.config.lambdas)]
    base = base or freeze(stack, model.prior, z)
    coding = freeze_context(base, stack, features, model.context, z, logarithmic=logarithmic)
    return coding.with_tables(counted(model, latents, coding).tables())


@torch.no_grad()
def hyper_latents_of(model: ContextNetwork, latents: Sequence[Float[Tensor, "B M h w"]]) -> Float[Tensor, "n N h w"]:
    """Hyper-latents of the latents at every rate of the model, cropped to the smallest size among them."""
    found = [
        model.hyper_analysis(model.at_quality(y, torch.full((len(y),), float(level)))).float()
        for y in latents
        for level in range(1, len(model.config.lambdas) + 1)
    ]
    height, width = (min(z.shape[side] for z in found) for side in (2, 3))
    return torch.cat([z[:, :, :height, :width] for z in found])


@torch.no_grad()
def counted(model: ContextNetwork, latents: Sequence[Float[Tensor, "B M h w"]], coding: ContextCoding) -> SymbolCounts:
    """Symbols of the encoder per level, at every rate of the model."""
    counts = SymbolCounts()
    last = len(model.config.lambdas) * QUALITY_STEPS
    for y in latents:
        for quality in range(QUALITY_STEPS, last + 1, QUALITY_STEPS):
            scaled = model.at_quality(y, torch.full((len(y),), quality / QUALITY_STEPS)).float()
            prediction = coding.predict(coding.z_symbols(model.hyper_analysis(scaled)), quality)
            symbols, parameters = coding.quantize(prediction, scaled, bands_of(y.shape[2], BAND_ROWS), encoder_rounding)
            counts.add(symbols, parameters.level)
    return counts
