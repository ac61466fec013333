"""Eight-bit storage of large weights: int8 numbers, and a float32 scale for every row (the first dimension).

A model folder may hold `NAME#int8` (in the shape of NAME) and `NAME#scale` (one number per row) in place of NAME. The tensor is
their product, one float32 multiplication per number, so it is the same on all machines.

A folder with a base may hold `NAME#change` (in eight bits or not), which is added to NAME of the base. Changes are smaller than
weights, and so are the steps of their eight bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latens.shapes import Float, Int8

NUMBERS, SCALE, CHANGE = "#int8", "#scale", "#change"
MIN_ELEMENTS = 4096  # of a tensor that is stored in eight bits
MAX_INT8 = 127
CLIPS = [1 - k / 50 for k in range(26)]  # clipping thresholds relative to the largest magnitude of a row: 1, 0.98, ... 0.5


def to_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model with large weights in eight bits and all others unchanged.

    Large weights are floating-point tensors named `*.weight`, or their changes, of two or more dimensions and at least
    `MIN_ELEMENTS` numbers. Biases, norms, buffers such as codebooks, and integers are excluded. Raises ValueError for NaN or
    infinity in them.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        is_weight = name.removesuffix(CHANGE).endswith(".weight") and tensor.is_floating_point()
        if is_weight and tensor.ndim > 1 and tensor.numel() >= MIN_ELEMENTS:
            if not tensor.isfinite().all():
                raise ValueError(f"{name} is not finite")
            kept[name + NUMBERS], kept[name + SCALE] = quantize(tensor)
        else:
            kept[name] = tensor
    return kept


def from_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `to_int8` up to rounding, in float32; other tensors are unchanged.

    Raises ValueError if numbers and scales do not match.
    """
    full: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(NUMBERS):
            plain = name.removesuffix(NUMBERS)
            full[plain] = dequantize(plain, tensor, tensors.get(plain + SCALE))
        elif not name.endswith(SCALE):
            full[name] = tensor
        elif name.removesuffix(SCALE) + NUMBERS not in tensors:
            raise ValueError(f"the int8 tensor {name.removesuffix(SCALE)} has scales but no values")
    return full


def changes(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as changes of those of the base, in float32."""
    return {name + CHANGE: tensor.float() - base[name].float() for name, tensor in tensors.items()}


def changed(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `changes`; other tensors are unchanged. Raises ValueError if a change does not fit the base."""
    full: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name.removesuffix(CHANGE)
        if plain != name:
            if plain not in base or base[plain].shape != tensor.shape:
                raise ValueError(f"the base has no {plain} of this shape")
            tensor = base[plain].float() + tensor.float()
        full[plain] = tensor
    return full


def quantize(tensor: Float[Tensor, "R ..."]) -> tuple[Int8[Tensor, "R ..."], Float[Tensor, "R"]]:
    """Numbers and scales with the smallest squared error of each row, among the clipping thresholds `CLIPS`.

    The root mean squared error of a row is at most its largest magnitude / 254, the bound without clipping.
    """
    rows = tensor.detach().float().flatten(1)
    largest = rows.abs().amax(1)
    scale, least = torch.ones_like(largest), torch.full_like(largest, torch.inf)
    for clip in CLIPS:
        tried = (clip * largest / MAX_INT8).clamp_min(torch.finfo(torch.float32).tiny)
        error = (_rounded(rows, tried) * tried[:, None] - rows).square().sum(1)
        scale = torch.where(error < least, tried, scale)
        least = torch.minimum(error, least)
    return _rounded(rows, scale).to(torch.int8).view(tensor.shape), scale


def dequantize(name: str, numbers: Int8[Tensor, "R ..."], scale: Float[Tensor, "R"] | None) -> Float[Tensor, "R ..."]:
    """The product of numbers and scales. Raises ValueError, with `name`, if they do not match."""
    if scale is None:
        raise ValueError(f"{name} has numbers but no scale")
    if numbers.dtype != torch.int8 or scale.dtype != torch.float32 or numbers.ndim < 2 or scale.shape != numbers.shape[:1]:
        raise ValueError(f"numbers and scale of {name} do not fit")
    if not scale.isfinite().all():
        raise ValueError(f"the scale of {name} is not finite")
    return numbers.float() * scale.view(-1, *[1] * (numbers.ndim - 1))


def _rounded(rows: Float[Tensor, "R N"], scale: Float[Tensor, "R"]) -> Float[Tensor, "R N"]:
    return (rows / scale[:, None]).round().clamp(-MAX_INT8, MAX_INT8)
