"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from latens.training.config import OptimConfig
from latens.training.muon import MuonAdam


def build_optimizers(
    model: nn.Module, owners: Mapping[str, tuple[str, ...]], config: OptimConfig
) -> dict[str, torch.optim.Optimizer]:
    """One optimiser per name for the parameters whose names start with one of its prefixes."""
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name, prefixes in owners.items():
        owned = {
            key: parameter
            for key, parameter in model.named_parameters()
            if parameter.requires_grad and any(key.startswith(prefix) for prefix in prefixes)
        }
        if config.muon_lr:
            transposed = transposed_weights(model)
            optimizers[name] = MuonAdam(owned, transposed, muon_lr=config.muon_lr, adam_lr=config.lr)
        else:
            optimizers[name] = torch.optim.Adam(owned.values(), config.lr, betas=(config.beta1, 0.999))
    return optimizers


def transposed_weights(model: nn.Module) -> frozenset[str]:
    """Names of the weights whose second dimension is the output."""
    return frozenset(f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.ConvTranspose2d))


def rate_factor(step: int, steps: int, config: OptimConfig) -> float:
    """What the learning rate is multiplied with: up from zero over `warmup`, one, down to zero over the last part."""
    up = min(1.0, (step + 1) / max(config.warmup, 1))
    fall = config.decay_share * steps
    down = min(1.0, (steps - step) / fall) if fall else 1.0
    return up * down
