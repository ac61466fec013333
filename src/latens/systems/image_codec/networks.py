"""The networks of the image codec by their settings."""

from __future__ import annotations

from typing import TypeAlias

from latens.systems.image_codec.config import ContextConfig, HyperpriorConfig
from latens.systems.image_codec.context_model import ContextCodec
from latens.systems.image_codec.model import MeanScaleHyperprior

CodecNetwork: TypeAlias = MeanScaleHyperprior | ContextCodec


def build_network(config: HyperpriorConfig | ContextConfig) -> CodecNetwork:
    """The network of a configuration, with random weights."""
    return ContextCodec(config) if isinstance(config, ContextConfig) else MeanScaleHyperprior(config)
