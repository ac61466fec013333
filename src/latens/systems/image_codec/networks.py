"""The networks of the image codec by their settings."""

from __future__ import annotations

from typing import TypeAlias

from latens.systems.image_codec.config import ContextConfig, ContextHyperpriorConfig, HyperpriorConfig
from latens.systems.image_codec.context_hyperprior import ContextHyperprior
from latens.systems.image_codec.context_model import ContextCodec
from latens.systems.image_codec.model import MeanScaleHyperprior

CodecNetwork: TypeAlias = MeanScaleHyperprior | ContextCodec | ContextHyperprior


def build_network(config: HyperpriorConfig | ContextConfig | ContextHyperpriorConfig) -> CodecNetwork:
    """The network of a configuration, with random weights."""
    if isinstance(config, ContextHyperpriorConfig):
        return ContextHyperprior(config)
    return ContextCodec(config) if isinstance(config, ContextConfig) else MeanScaleHyperprior(config)
