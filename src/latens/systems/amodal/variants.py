"""The models that the tables of 000 compare, as settings on top of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from latens.systems.amodal.config import AmodalConfig
from latens.systems.amodal.pipeline import AmodalRCNN
from latens.training.config import override

FCN = {"model.head.mask": "fcn", "model.head.occlusion": "false"}
ASN = {"model.head.asn": "true"}

VARIANTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "fcn": FCN,
        "fcn-plain": {**FCN, "model.head.dense": "0"},
        "vq": {},
        "asn-fcn": {**FCN, **ASN},
        "asn-vq": ASN,
        "vq-alone": {"model.head.refine": "false", "model.head.occlusion": "false"},
        "vq-refined": {"model.head.occlusion": "false"},
    }
)
RIVAL_OF: Mapping[str, str] = MappingProxyType({"fcn": "vq", "asn-fcn": "asn-vq"})
"""Baselines, and the model of the paper that each is to have as many parameters as."""


def coded(variant: str) -> bool:
    """Whether a variant reads a mask code."""
    return VARIANTS[variant].get("model.head.mask") != "fcn"


def settings_of(variant: str, base: AmodalConfig) -> dict[str, str]:
    """What makes `base`, the sizes of a recipe, this variant. Rivals get a dense path that makes parameters equal."""
    settings = dict(VARIANTS[variant])
    if variant in RIVAL_OF:
        wanted = parameters(configured(VARIANTS[RIVAL_OF[variant]], base))
        settings["model.head.dense"] = str(equal_dense(configured(settings, base), wanted))
    return settings


def configured(settings: Mapping[str, str], base: AmodalConfig) -> AmodalConfig:
    """The sizes of a variant; a model without classes yet is one of a single class."""
    sizes = replace(base, classes=base.classes or ("object",))
    return override(sizes, {key.removeprefix("model."): value for key, value in settings.items()})


def equal_dense(baseline: AmodalConfig, wanted: int) -> int:
    """Channels of the baseline's dense path with which its parameters come nearest to `wanted`; parameters are linear in them.

    0, the plain head, where that alone is as large.
    """
    one, two = (parameters(replace(baseline, head=replace(baseline.head, dense=dense))) for dense in (1, 2))
    return max(0, round(1 + (wanted - one) / (two - one)))


@lru_cache(maxsize=32)
def parameters(config: AmodalConfig) -> int:
    """All parameters of a model, those of its frozen mask code included."""
    return sum(parameter.numel() for parameter in AmodalRCNN(config).parameters())
