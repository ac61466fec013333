"""Program of test_ranks.py: train every kind of model for a few steps, in one process or in two under torchrun.

Random draws of a step are replaced by constants that do not depend on the process, so two processes with half a batch each must
give the weights of one process with the whole batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from latens.catalogue import recipe_of
from latens.contract import open_system
from latens.data.source import Source
from latens.settings import override
from latens.systems.parts.recipes import TABLE_1_ROWS, TWO_VIEWS, compose, iic, one_part_per_cell
from latens.training.config import AnyTrainConfig, Sgd
from latens.training.log import RunLog
from latens.training.loop import Loop

RANKS, STEPS = 2, 2
STREETS = {"data.batch": "2", "data.scenes": "2", "data.crop": "32", "data.side": "64"}
GAN: Mapping[str, str] = {**STREETS, "model.channels": "8", "model.discriminator.channels": "8"}
HISTORY = {**GAN, "data.scenes": "3", "model.discriminator.pool": "5", "model.discriminator.layers": "2"}
RATE, RATE_GAN = 0.02, 2e-4  # learning rates; instance normalization of small maps amplifies rounding errors of the weights

RECIPES: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "amodal": ("amodal", "tiny", {"objective.code_steps": "0"}),
    "mask code": ("amodal", "tiny", {"objective.code_steps": "3", "model.code.delay": "0"}),
    "cells": ("amodal", "cells_tiny", {}),
    "haze": ("haze", "tiny", {**STREETS, "model.channels": "8"}),
    "MMD": ("haze", "tiny_mmd", {**GAN, "objective.prior.weight": "10", "objective.prior.positions": "4096"}),
    "CycleGAN": ("haze", "cpu_cyclegan", HISTORY),
    "flow": ("flow", "tiny", {}),
    "image codec": ("image_codec", "tiny", {"data.batch": "2"}),
    "video codec": ("video_codec", "tiny", {}),
    "seedlings": ("seedlings", "tiny", {"data.trays": "4", "objective.weighted": "true", "objective.divisor": "weights"}),
}
PARTS: Mapping[str, Any] = {
    "PatchVAE-GAN": TABLE_1_ROWS["PatchVAE-GAN"],
    "BiGAN": TABLE_1_ROWS["BiGAN"],
    "masked autoencoder": TABLE_1_ROWS["masked autoencoder"],
    "two views": compose(one_part_per_cell, iic(1.0), TWO_VIEWS),
}
NAMES = (*RECIPES, *PARTS)


def config_of(name: str) -> AnyTrainConfig:
    """A configuration with plain gradient descent, whose steps are as exact as the gradients."""
    if name in PARTS:
        base = override(recipe_of("parts", "tiny"), {"model.size": "40" if name == "two views" else "16"})
        config = PARTS[name](base)
        config = replace(config, data=replace(config.data, batch=4))
    else:
        system, recipe, changes = RECIPES[name]
        config = override(recipe_of(system, recipe), changes)
    run = replace(config.run, steps=STEPS, precision="no")
    rate = RATE_GAN if name in ("MMD", "CycleGAN") else RATE
    return replace(config, optim=Sgd(lr=rate, warmup=0, decay_share=0, ema=0), run=run)


class WholeBatches:
    """The batches of all ranks of a step as one batch."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        parts = [self.data.batch(step, each) for each in range(RANKS)]
        for number, part in enumerate(parts):
            if "owner" in part:
                part["owner"] = part["owner"] + number * len(part["image"])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def validation(self) -> Sequence[dict[str, Tensor]]:
        found: Sequence[dict[str, Tensor]] = self.data.validation()
        return found


def trained(name: str, sources: Sequence[Source], accelerator: Accelerator) -> dict[str, Tensor]:
    """All weights before and after a few steps, the latter with the prefix "after."."""
    config = config_of(name)
    torch.manual_seed(accelerator.process_index)  # only the first rank's weights count
    parts = open_system(config.system).build(config, sources)
    if accelerator.num_processes == 1:
        parts = parts._replace(data=WholeBatches(parts.data))
    folder = Path("nowhere")
    loop = Loop(config, parts, folder, accelerator)
    before = {key: value.clone() for key, value in loop.plain.state_dict().items()}
    step = loop.train_step

    def constant_step(batch: dict[str, Tensor]) -> dict[str, Any]:
        with constant_draws():
            return step(batch)

    with patch.multiple(loop, train_step=constant_step, validate=lambda log: None, save=lambda: None):
        loop.run(RunLog(folder, 0, active=False))
    after = {f"after.{key}": value.clone() for key, value in loop.plain.state_dict().items()}
    return {key: value.contiguous() for key, value in {**before, **after}.items()}


@contextmanager
def constant_draws() -> Iterator[None]:
    """Context in which random draws of torch are constants."""

    def shaped(*shape: Any, size: Any = None, dtype: Any = None, device: Any = None, generator: Any = None) -> Tensor:
        sizes = size if size is not None else shape[0] if shape and not isinstance(shape[0], int) else shape
        return torch.full(tuple(sizes), 0.37, dtype=dtype, device=device)

    def alike(x: Tensor, dtype: Any = None, **_: Any) -> Tensor:
        return torch.full_like(x, 0.37, dtype=dtype)

    def integers(*bounds: Any, **more: Any) -> Tensor:
        return torch.zeros(tuple(bounds[-1]), dtype=torch.int64)

    def likeliest(chance: Tensor, count: int, replacement: bool = False, **_: Any) -> Tensor:
        order = chance.argsort(descending=True, stable=True)
        return order[torch.arange(count) % len(order)]

    def permutation(count: int, device: Any = None, **_: Any) -> Tensor:
        return torch.arange(count, device=device)

    with ExitStack() as stack:
        draws = {"rand": shaped, "randn": shaped, "rand_like": alike, "randn_like": alike}
        for name, draw in {**draws, "randint": integers, "multinomial": likeliest, "randperm": permutation}.items():
            stack.enter_context(patch.object(torch, name, draw))
        for name in ("uniform_", "normal_"):
            stack.enter_context(patch.object(Tensor, name, lambda self, *_, **__: self.fill_(0.37)))
        stack.enter_context(patch.object(F, "dropout", lambda x, *_, **__: x))
        yield


def sources_of(name: str, folder: Path) -> list[Source]:
    """The example data of the system of a case, once written into `folder`."""
    system = config_of(name).system
    if system in ("haze", "seedlings"):
        return [] if system == "haze" else [Source("simulated", "easy")]
    place = folder / system
    if system == "amodal":
        return [Source("coco", str(place / "annotations.json"))] if name != "cells" else []
    return [Source("clips", str(place / "clips"))] if system == "video_codec" else [Source("", str(place))]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    for name in NAMES:
        weights = trained(name, sources_of(name, folder), accelerator)
        if accelerator.is_main_process:
            save_file(weights, folder / f"{name}-{accelerator.num_processes}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
