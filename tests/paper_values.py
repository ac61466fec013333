"""Helpers of the tests against the papers: settings as one table, and models with fixed weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from latens.settings import to_dict

OURS = "not in the paper"  # source of values that the paper omits or that are for our machines


def flat(settings: Any) -> dict[str, Any]:
    """Every value of nested settings, by dotted name."""
    found: dict[str, Any] = {}

    def add(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                add(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = tuple(value) if isinstance(value, list) else value

    add(to_dict(settings), "")
    return found


def typed(table: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    """The values of a table of (value, source)."""
    assert all(source for _, source in table.values())
    return {name: value for name, (value, _) in table.items()}


M = TypeVar("M", bound=nn.Module)


def filled(model: M) -> M:
    """The model in evaluation mode, with weights that depend on no random generator: sines of small size."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            places = torch.arange(parameter.numel(), dtype=torch.float64)
            fan = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_((torch.sin(1.7 * places + number) / fan**0.5).view(parameter.shape))
    return model.eval()


def waves(*shape: int) -> torch.Tensor:
    """A tensor of sines: the input of golden numbers."""
    count = int(torch.tensor(shape).prod())
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64)).float().view(shape)


def golden(*tensors: torch.Tensor) -> list[float]:
    """Two numbers of every tensor: its mean, and its mean with weights that change with the place."""
    found: list[float] = []
    for tensor in tensors:
        flat = tensor.detach().double().flatten()
        places = torch.cos(0.37 * torch.arange(flat.numel(), dtype=torch.float64))
        found += [float(flat.mean()), float((flat * places).mean())]
    return found
