"""Optimizers and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from latens.training.config import Adam, Muon, OptimConfig, Schedule
from latens.training.muon import MuonAdam
from latens.training.objective import Group


def build_optimizers(
    model: nn.Module, owners: Mapping[str, Sequence[Group]], config: OptimConfig
) -> dict[str, torch.optim.Optimizer]:
    """One optimizer per name, for the trainable parameters of its groups. Groups without parameters are left out."""
    transposed = transposed_weights(model)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name, groups in owners.items():
        owned = [(group, owned_parameters(model, group)) for group in groups]
        optimizers[name] = _build([(group, found) for group, found in owned if found], config, transposed)
    return optimizers


def owned_parameters(model: nn.Module, group: Group) -> dict[str, Tensor]:
    """The trainable parameters whose names start with one of the prefixes of a group."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and any(name.startswith(prefix) for prefix in group.prefixes)
    }


def _build(
    owned: Sequence[tuple[Group, Mapping[str, Tensor]]], config: OptimConfig, transposed: frozenset[str]
) -> torch.optim.Optimizer:
    if isinstance(config, Muon):
        groups = [
            part
            for group, found in owned
            for part in MuonAdam.groups(
                found,
                transposed,
                muon_lr=group.lr_factor * config.muon_lr,
                adam_lr=group.lr_factor * config.lr,
                max_side=config.max_side,
            )
        ]
        return MuonAdam(groups)
    rated = [{"params": list(found.values()), "lr": group.lr_factor * config.lr} for group, found in owned]
    if isinstance(config, Adam):
        return torch.optim.Adam(rated, config.lr, betas=(config.beta1, 0.999))
    nesterov = config.momentum > 0
    return torch.optim.SGD(rated, config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=nesterov)


def transposed_weights(model: nn.Module) -> frozenset[str]:
    """Names of the weights whose second dimension is the output."""
    return frozenset(f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.ConvTranspose2d))


def rate_factor(step: int, steps: int, config: Schedule) -> float:
    """Factor on the learning rates: up from zero over `warmup`, one, down to zero over the last part."""
    up = min(1.0, (step + 1) / max(config.warmup, 1))
    decay = config.decay_share * steps
    down = min(1.0, (steps - step) / decay) if decay else 1.0
    return up * down
