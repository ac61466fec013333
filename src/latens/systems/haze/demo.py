"""The haze section of `latens demo`: removal and synthesis of haze on simulated streets with known truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from latens.data.image_output import to_pil, webp_bytes, write_image
from latens.data.images import Pixels
from latens.data.tensors import to_pixels
from latens.inference.page import Figure, Gallery, Part, Section
from latens.metrics.image import psnr
from latens.systems.haze.config import CLASSICAL, LEARNED
from latens.systems.haze.predict import MAX_DEPTH, Haze
from latens.systems.haze.protocol import Protocol, hazy_scene
from latens.systems.haze.scenes import HELD_OUT_SEED, Scene, simulated

STREETS = 2
VISIBILITIES = (400.0, 150.0, 60.0)  # meters

INTRO = (
    "Simulated streets that were not used in training. Above: haze of random color and density, and its removal by every "
    "bundled method, with PSNR. Below: the clear street in haze of three visibilities, with predicted depth."
)


def section(haze: Haze, folder: Path) -> Section:
    """Removal by every bundled method, and synthesis, on simulated streets; all images are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for index, scene in enumerate(simulated(range(HELD_OUT_SEED, HELD_OUT_SEED + STREETS))):
        parts.append(Part(f"Street {index + 1}", [removal(haze, scene, index, folder), *synthesis(haze, scene, folder)]))
    return Section("Haze", [INTRO], parts)


def removal(haze: Haze, scene: Scene, index: int, folder: Path) -> Gallery:
    """The hazy street, the result and PSNR of every method, and the truth."""
    hazy = to_pixels(hazy_scene(scene, index, 0, Protocol(max_depth=MAX_DEPTH)).hazy[0])
    write_image(folder / f"{scene.name}_hazy.png", to_pil(hazy))
    figures = [figure(hazy, "Hazy", f"{psnr(hazy, scene.image):.2f} dB")]
    for method in (*CLASSICAL, *LEARNED):
        if haze.has(method):
            image = haze.dehaze(hazy, method=method)
            write_image(folder / f"{scene.name}_{method}.png", image)
            clear = np.asarray(image)
            figures.append(figure(clear, method, f"{psnr(clear, scene.image):.2f} dB"))
    return Gallery([*figures, figure(scene.image, "Truth", "")], columns=3, narrowest=200)


def synthesis(haze: Haze, scene: Scene, folder: Path) -> list[Gallery]:
    """The clear street in haze of decreasing visibility, with predicted depth."""
    figures, depth = [], haze.depth(scene.image)
    with torch.no_grad():
        for meters in VISIBILITIES:
            image = haze.haze(scene.image, visibility=meters, depth=depth)
            write_image(folder / f"{scene.name}_{meters:g}m.png", image)
            figures.append(figure(np.asarray(image), f"Visibility {meters:g} m", ""))
    return [Gallery(figures, columns=3, narrowest=200)]


def figure(pixels: Pixels, title: str, caption: str) -> Figure:
    return Figure(webp_bytes(pixels, quality=90), title, caption)
