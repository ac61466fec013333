"""The models that the tables of 000 compare: heads on top of a recipe, baselines with as many parameters as their rivals."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from latens.systems.amodal.config import AmodalConfig, HeadConfig
from latens.systems.amodal.pipeline import AmodalRCNN

Variant = Literal["fcn", "fcn-plain", "fcn-wide", "vq", "asn-fcn", "asn-vq", "vq-alone", "vq-refined"]
WIDEST = 1024  # of a widened part of a head


def fcn(head: HeadConfig) -> HeadConfig:
    """Direct regression with a dense path, without occlusion branch."""
    return replace(head, mask="fcn", occlusion=False)


def plain(head: HeadConfig) -> HeadConfig:
    """The head of Mask R-CNN as it is."""
    return replace(fcn(head), dense=0)


VARIANTS: Mapping[Variant, Callable[[HeadConfig], HeadConfig]] = MappingProxyType(
    {
        "fcn": fcn,
        "fcn-plain": plain,
        "fcn-wide": plain,
        "vq": lambda head: head,
        "asn-fcn": lambda head: replace(fcn(head), asn=True),
        "asn-vq": lambda head: replace(head, asn=True),
        "vq-alone": lambda head: replace(head, refine=False, occlusion=False),
        "vq-refined": lambda head: replace(head, occlusion=False),
    }
)
EQUALIZED: Mapping[Variant, tuple[Variant, Literal["dense", "channels"]]] = MappingProxyType(
    {"fcn": ("vq", "dense"), "fcn-wide": ("vq", "channels"), "asn-fcn": ("asn-vq", "dense")}
)
"""Baselines, the model whose number of parameters each gets, and the part of the head that is widened for that."""


def is_coded(variant: Variant) -> bool:
    """Whether a variant reads a mask code."""
    return VARIANTS[variant](HeadConfig()).mask == "vq"


def configured(variant: Variant, base: AmodalConfig) -> AmodalConfig:
    """The sizes of a variant on top of those of a recipe; a model without classes yet is one of a single class."""
    base = replace(base, classes=base.classes or ("object",))
    made = replace(base, head=VARIANTS[variant](base.head))
    if variant not in EQUALIZED:
        return made
    model, part = EQUALIZED[variant]
    return _with(made, part, equal_width(made, part, parameters(configured(model, base))))


def equal_width(baseline: AmodalConfig, part: Literal["dense", "channels"], wanted: int) -> int:
    """The width of a part of the baseline's head with which its parameters come nearest to `wanted`; at most `WIDEST`."""

    def size(width: int) -> int:
        return parameters(_with(baseline, part, width))

    above = bisect_left(range(1, WIDEST), wanted, key=size) + 1
    return min((max(above - 1, 1), above), key=lambda width: abs(size(width) - wanted))


def _with(config: AmodalConfig, part: Literal["dense", "channels"], width: int) -> AmodalConfig:
    head = replace(config.head, dense=width) if part == "dense" else replace(config.head, channels=width)
    return replace(config, head=head)


@lru_cache(maxsize=256)
def parameters(config: AmodalConfig) -> int:
    """All parameters of a model, those of its frozen mask code included."""
    return sum(parameter.numel() for parameter in AmodalRCNN(config).parameters())
