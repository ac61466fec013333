"""Variants of a recipe: the rows of Tables 1 to 3 of Jang et al. 2020, with the parameters of each baseline equalized."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Literal

import torch

from latens.systems.amodal.config import AmodalConfig, HeadConfig
from latens.systems.amodal.pipeline import AmodalRCNN
from latens.systems.amodal.recipes import AmodalTraining

WIDEST = 1024  # largest value of a width setting that `equal_width` tries

Variant = Literal["fcn", "fcn-plain", "fcn-wide", "vq", "asn-fcn", "asn-vq", "vq-alone", "vq-refined"]

VARIANTS: Mapping[Variant, Callable[[HeadConfig], HeadConfig]] = MappingProxyType(
    {
        "fcn": partial(replace, mask="fcn", occlusion=False),
        "fcn-plain": partial(replace, mask="fcn", occlusion=False, dense=0),
        "fcn-wide": partial(replace, mask="fcn", occlusion=False, dense=0),
        "vq": replace,
        "asn-fcn": partial(replace, mask="fcn", occlusion=False, asn=True),
        "asn-vq": partial(replace, asn=True),
        "vq-alone": partial(replace, refine=False, occlusion=False),
        "vq-refined": partial(replace, occlusion=False),
    }
)
BASELINES: Mapping[Variant, tuple[Variant, Literal["dense", "channels"]]] = MappingProxyType(
    {"fcn": ("vq", "dense"), "fcn-wide": ("vq", "channels"), "asn-fcn": ("asn-vq", "dense")}
)
"""Baseline -> the variant that it matches in parameters, and the width setting of its head that is adjusted for that."""


def with_variant(config: AmodalTraining, variant: Variant) -> AmodalTraining:
    """The training configuration of a variant. Baselines get as many parameters as the variant they are compared with."""
    base = replace(config.model, classes=config.model.classes or ("object",))
    model = _with_head(base, VARIANTS[variant])
    if variant in BASELINES:
        other, name = BASELINES[variant]
        wanted = parameters(_with_head(base, VARIANTS[other]))
        width = equal_width(model, name, wanted)
        model = replace(model, head=_widened(model.head, name, width))
    return replace(config, model=replace(model, classes=config.model.classes))


def has_code(variant: Variant) -> bool:
    """True if a variant has a mask code."""
    return VARIANTS[variant](HeadConfig()).mask == "vq"


def equal_width(baseline: AmodalConfig, name: Literal["dense", "channels"], wanted: int) -> int:
    """The value (up to `WIDEST`) of a width setting for which the baseline has nearest to `wanted` parameters."""

    def size(width: int) -> int:
        return parameters(replace(baseline, head=_widened(baseline.head, name, width)))

    above = bisect_left(range(1, WIDEST), wanted, key=size) + 1
    return min((max(above - 1, 1), above), key=lambda width: abs(size(width) - wanted))


def _widened(head: HeadConfig, name: Literal["dense", "channels"], width: int) -> HeadConfig:
    return replace(head, dense=width) if name == "dense" else replace(head, channels=width)


def _with_head(model: AmodalConfig, change: Callable[[HeadConfig], HeadConfig]) -> AmodalConfig:
    return replace(model, head=change(model.head))


@lru_cache(maxsize=256)
def parameters(config: AmodalConfig) -> int:
    """Number of parameters of a model, including its frozen mask code; without classes, one class is assumed."""
    sizes = replace(config, classes=config.classes or ("object",))
    with torch.device("meta"):  # sizes without values
        return sum(parameter.numel() for parameter in AmodalRCNN(sizes).parameters())
