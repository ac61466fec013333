"""The models that the tables of 000 compare, as settings on top of a recipe."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from latens.systems.amodal.config import AmodalConfig
from latens.systems.amodal.pipeline import AmodalRCNN
from latens.training.config import override

FCN = {"model.head.mask": "fcn", "model.head.occlusion": "false"}
PLAIN = {**FCN, "model.head.dense": "0"}
ASN = {"model.head.asn": "true"}

VARIANTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "fcn": FCN,
        "fcn-plain": PLAIN,
        "fcn-wide": PLAIN,
        "vq": {},
        "asn-fcn": {**FCN, **ASN},
        "asn-vq": ASN,
        "vq-alone": {"model.head.refine": "false", "model.head.occlusion": "false"},
        "vq-refined": {"model.head.occlusion": "false"},
    }
)
RIVALS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"fcn": ("vq", "dense"), "fcn-wide": ("vq", "channels"), "asn-fcn": ("asn-vq", "dense")}
)
"""Baselines, the model of the paper that each is to have as many parameters as, and what of its head is widened for that."""
WIDEST = 1024


def coded(variant: str) -> bool:
    """Whether a variant reads a mask code."""
    return VARIANTS[variant].get("model.head.mask") != "fcn"


def settings_of(variant: str, base: AmodalConfig) -> dict[str, str]:
    """What makes `base`, the sizes of a recipe, this variant. Rivals are as large as what they are compared with."""
    settings = dict(VARIANTS[variant])
    if variant in RIVALS:
        model, field = RIVALS[variant]
        wanted = parameters(configured(VARIANTS[model], base))
        settings[f"model.head.{field}"] = str(equal_width(configured(settings, base), field, wanted))
    return settings


def configured(settings: Mapping[str, str], base: AmodalConfig) -> AmodalConfig:
    """The sizes of a variant; a model without classes yet is one of a single class."""
    sizes = replace(base, classes=base.classes or ("object",))
    return override(sizes, {key.removeprefix("model."): value for key, value in settings.items()})


def equal_width(baseline: AmodalConfig, field: str, wanted: int) -> int:
    """The width of a part of the baseline's head with which its parameters come nearest to `wanted`; at most `WIDEST`."""

    def size(width: int) -> int:
        return parameters(override(baseline, {f"head.{field}": str(width)}))

    above = bisect_left(range(1, WIDEST), wanted, key=size) + 1
    return min((max(above - 1, 1), above), key=lambda width: abs(size(width) - wanted))


@lru_cache(maxsize=256)
def parameters(config: AmodalConfig) -> int:
    """All parameters of a model, those of its frozen mask code included."""
    return sum(parameter.numel() for parameter in AmodalRCNN(config).parameters())
