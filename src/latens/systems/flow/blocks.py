"""Steps of a flow by configuration: the input step, and the blocks of tables, of image scales and of the tail."""

from __future__ import annotations

import torch
from torch import nn

from latens.codes.bijector import Affine, Coupling, Logit, Mixing, ResidualMap
from latens.nn.branch import Branch, dense_branch, plain_branch
from latens.systems.flow.config import CouplingBlocks, DenseBlocks, ImageFlow, ResidualBlocks, VectorFlow, WideBlocks

CIFAR_MEAN, CIFAR_DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def input_step(config: ImageFlow) -> nn.Module:
    """First step of an image model: logit or standardization."""
    if config.input == "logit":
        return Logit(config.alpha)
    mean, deviation = (torch.tensor(values[: config.channels]) for values in (CIFAR_MEAN, CIFAR_DEVIATION))
    return Affine(mean, deviation)


def vector_branch(config: VectorFlow, frozen: bool) -> Branch:
    """Branch of one residual map of a flow on rows."""
    block, columns = config.block, config.columns
    if isinstance(block, DenseBlocks):
        return dense_branch(
            columns, growth=block.growth, depth=block.depth, activation=block.activation, learned=block.learned,
            coefficient=config.coefficient, mixing=config.mixing, size=None, budget=block.budget, frozen=frozen,
        )  # fmt: skip
    if isinstance(block, ResidualBlocks):
        widths = [block.width] * block.hidden
    else:
        assert isinstance(block, WideBlocks)
        widths = [columns + block.growth * (i + 1) for i in range(block.depth)]
    return plain_branch(
        columns, widths, [1] * (len(widths) + 1), activation=block.activation, coefficient=config.coefficient, size=None,
        activation_first=isinstance(block, ResidualBlocks), frozen=frozen,
    )  # fmt: skip


def image_block(config: ImageFlow, channels: int, size: int, position: int, frozen: bool) -> list[nn.Module]:
    """Steps of one block of a scale. `position` is the index of its first step in the model."""
    block, place = config.block, (size, size)
    if isinstance(block, CouplingBlocks):
        turned = position % 4 >= 2
        coupling = Coupling(channels, block.width, checkerboard=channels == config.channels, swapped=turned)
        return [Mixing(channels), coupling] if block.mixing else [coupling]
    if isinstance(block, DenseBlocks):
        branch = dense_branch(
            channels, growth=block.growth, depth=block.depth, activation=block.activation, learned=block.learned,
            coefficient=config.coefficient, mixing=config.mixing, size=place, budget=block.budget, frozen=frozen,
        )  # fmt: skip
    elif isinstance(block, ResidualBlocks):
        branch = plain_branch(
            channels, [block.width] * 2, [3, 1, 3], activation=block.activation, coefficient=config.coefficient, size=place,
            activation_first=position > 2, frozen=frozen,
        )  # fmt: skip
    else:
        widths = [channels + block.growth * (i + 1) for i in range(block.depth)]
        branch = plain_branch(
            channels, widths, [3] * block.depth + [1], activation=block.activation, coefficient=config.coefficient, size=place,
            activation_first=False, frozen=frozen,
        )  # fmt: skip
    return [ResidualMap(branch)]


def tail_block(config: ImageFlow, dims: int, number: int, frozen: bool) -> nn.Module:
    """One fully connected block on flattened latents."""
    block, norm = config.block, config.coefficient
    if isinstance(block, CouplingBlocks):
        return Coupling(dims, block.tail_width, checkerboard=False, swapped=bool(number % 2), flat=True)
    if isinstance(block, DenseBlocks):
        branch = dense_branch(
            dims, growth=config.tail_growth, depth=block.depth, activation=block.activation, learned=block.learned,
            coefficient=norm, mixing=config.mixing, size=None, entry=config.tail_width, budget=block.budget, frozen=frozen,
        )  # fmt: skip
    elif isinstance(block, ResidualBlocks):
        branch = plain_branch(
            dims, [block.tail_width] * 2, [1, 1, 1], activation=block.activation, coefficient=norm, size=None,
            activation_first=True, frozen=frozen,
        )  # fmt: skip
    else:
        widths = [config.tail_width + config.tail_growth * i for i in range(block.depth + 1)]
        branch = plain_branch(
            dims, widths, [1] * (block.depth + 2), activation=block.activation, coefficient=norm, size=None,
            activation_first=False, frozen=frozen,
        )  # fmt: skip
    return ResidualMap(branch)
