"""Protocol of the evaluation: test scenes with simulated haze, and the output of every method for them.

Haze is added as in Li et al. 2019, section 4.1.1, with depth relative to the largest depth of each scene.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from latens.data.depth import relative_depth
from latens.data.images import Pixels
from latens.data.tensors import to_pixels, to_tensor
from latens.metrics.image import psnr, ssim
from latens.settings import Count, Natural, NonNegative, settings
from latens.shapes import Float
from latens.systems.haze import methods
from latens.systems.haze.baselines.dark_channel import GENTLE, DarkChannelConfig, blocks_of
from latens.systems.haze.config import TRANSLATORS
from latens.systems.haze.formation import (
    MEAN_AIRLIGHT,
    MEAN_BETA,
    HazeParameters,
    add_haze,
    draw_haze_parameters,
    remove_haze,
    transmission,
)
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.predict import Haze
from latens.systems.haze.scenes import Scene

DEHAZE, SYNTHESIS = "haze removal", "haze synthesis"
AS_DEHAZE = " + rules"  # names a method as `latens dehaze` runs it
DRAW_SEED = 4110  # seed of the haze parameters
FULL_SIZE = DarkChannelConfig()  # the method of He et al. 2009 as published


@settings
class Protocol:
    """Size, haze and number of the test scenes."""

    side: Count = 240  # pixels; scenes are reduced to this short side
    draws: Count = 3  # draws of airlight and beta per scene
    scenes: Natural = 0  # largest number of scenes, evenly spaced in the folder; 0: all, or 8 simulated streets
    border: Natural = 0  # pixels cropped from every side (12 removes the white frame of NYU)
    max_depth: NonNegative = (
        0.0  # meters at which relative depth is 1; 0: the largest depth of each scene (120 for simulated streets)
    )


class HazeRow(NamedTuple):
    task: str
    method: str
    scene: str
    draw: int
    psnr: float
    ssim: float | None


class HazyScene(NamedTuple):
    """A scene with haze of one draw, as a batch of one."""

    hazy: Float[Tensor, "1 3 H W"]
    clear: Float[Tensor, "1 3 H W"]
    depth: Float[Tensor, "1 1 H W"]  # relative
    parameters: HazeParameters


def rows_of(haze: Haze, learned: Sequence[str], scene: Scene, index: int, protocol: Protocol) -> list[HazeRow]:
    """Rows of every method for every draw of a scene."""
    return [
        HazeRow(task, method, scene.name, draw, psnr(made, wanted), ssim(made, wanted))
        for draw in range(protocol.draws)
        for task, method, made, wanted in _results(haze, learned, hazy_scene(scene, index, draw, protocol))
    ]


def hazy_scene(scene: Scene, index: int, draw: int, protocol: Protocol) -> HazyScene:
    """The scene with haze of one draw, rounded to 8 bits."""
    parameters = draw_haze_parameters(np.random.default_rng([DRAW_SEED, index, draw]), 1)
    depth = torch.from_numpy(relative_depth(scene.depth, protocol.max_depth or None))[None, None]
    clear = to_tensor(scene.image)
    hazy = add_haze(clear, transmission(depth, parameters.beta), parameters.airlight).mul(255).round().div(255)
    return HazyScene(hazy, clear, depth, parameters)


@torch.no_grad()
def _results(haze: Haze, learned: Sequence[str], sample: HazyScene) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yields (task, method, output, target)."""
    wanted = {DEHAZE: to_pixels(sample.clear[0]), SYNTHESIS: to_pixels(sample.hazy[0])}
    for method, made in removal_rows(haze, learned, sample):
        yield DEHAZE, method, made, wanted[DEHAZE]
    for method, tensor in synthesis_rows(haze, learned, sample):
        yield SYNTHESIS, method, to_pixels(tensor[0]), wanted[SYNTHESIS]


def removal_rows(haze: Haze, learned: Sequence[str], sample: HazyScene) -> Iterator[tuple[str, Pixels]]:
    """Yield (method, dehazed image): the hazy image, methods as in `latens dehaze`, published baselines, known depth."""
    hazy, pixels = sample.hazy, to_pixels(sample.hazy[0])
    yield "do nothing", pixels
    yield "dcp", haze.published_pixels(pixels, "dcp")
    for name, config in (("dcp, full size", FULL_SIZE), ("dcp, gentle", GENTLE)):
        yield name, by_dark_channel(hazy, config)
    for method in ("bccr", *learned):
        yield method, haze.published_pixels(pixels, method)
    for method in ("dcp", "bccr", *learned):
        if method not in TRANSLATORS:
            yield f"{method}{AS_DEHAZE}", haze.dehaze_pixels(pixels, method)
    mean = torch.full((1, 3), MEAN_AIRLIGHT)
    mean_t = transmission(sample.depth, torch.full((1,), MEAN_BETA))
    true_t = transmission(sample.depth, sample.parameters.beta)
    yield "true depth, mean haze", to_pixels(remove_haze(hazy, mean_t, mean)[0])
    yield "true depth and airlight, mean beta", to_pixels(remove_haze(hazy, mean_t, sample.parameters.airlight)[0])
    yield "true transmission and airlight", to_pixels(remove_haze(hazy, true_t, sample.parameters.airlight, floor=0.01)[0])


def by_dark_channel(hazy: Float[Tensor, "1 3 H W"], config: DarkChannelConfig) -> Pixels:
    """The image dehazed by the dark channel prior."""
    coarse = methods.dark_channel(blocks_of(hazy, config.shrink), config)
    return to_pixels(methods.refine(coarse, hazy).clear(hazy)[0])


def synthesis_rows(haze: Haze, learned: Sequence[str], sample: HazyScene) -> Iterator[tuple[str, Tensor]]:
    """Yield (method, hazy image). Airlight and beta are random, so true depth with mean haze is a reference."""
    clear = sample.clear
    mean, beta = torch.full((1, 3), MEAN_AIRLIGHT), torch.full((1,), MEAN_BETA)
    yield "do nothing", clear
    height = clear.shape[2]
    ramp = torch.linspace(1, 0, height)[None, None, :, None].expand_as(sample.depth)
    yield "ramp for depth, mean haze", add_haze(clear, transmission(ramp, beta), mean)
    for kind in learned:
        moved = clear.to(haze.device)
        if kind in TRANSLATORS:
            yield kind, haze.translate(moved, kind, "hazy").cpu()
        elif kind == "physical":
            depth = methods.physical_depth(moved, cast(PhysicalHaze, haze.model(kind))).cpu()
            yield kind, add_haze(clear, transmission(depth, beta), mean)
    yield "true depth, mean haze", add_haze(clear, transmission(sample.depth, beta), mean)
