"""The haze section of `latens demo`: removal and synthesis of haze on simulated streets with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from latens.data.image_output import avif_bytes, to_pil, webp_bytes, write_image
from latens.data.images import Pixels
from latens.data.tensors import to_pixels
from latens.inference.page import Block, Columns, Compare, Figure, Gallery, Links, Part, Section, Summary
from latens.metrics.image import psnr
from latens.systems.haze.config import CLASSICAL, LEARNED
from latens.systems.haze.predict import MAX_DEPTH, Haze
from latens.systems.haze.protocol import Protocol, hazy_scene
from latens.systems.haze.scenes import HELD_OUT_SEED, Scene, simulated

STREETS = 2
VISIBILITIES = (400.0, 150.0, 60.0)  # meters
COMPARED = 150.0  # the visibility next to the clear street
NARROWEST = 320  # CSS pixels of a comparison

INTRO = (
    "Simulated streets that were not used in training, in haze of random color and density. The model estimates depth, "
    "density and color of the haze from the image alone, and inverts the physics of scattering."
)
BACKWARDS = "The same model renders haze of a given visibility into a clear image, with predicted depth."


class Street(NamedTuple):
    """A street, clear and hazy, and the result of every bundled method; the first is the default."""

    scene: Scene
    hazy: Pixels
    results: dict[str, Pixels]

    @property
    def before(self) -> float:
        """PSNR of the hazy image in dB."""
        return psnr(self.hazy, self.scene.image)

    @property
    def best(self) -> Pixels:
        return next(iter(self.results.values()))

    @property
    def after(self) -> float:
        """PSNR of the default method in dB."""
        return psnr(self.best, self.scene.image)


def section(haze: Haze, folder: Path) -> Section:
    """Removal by every bundled method, and synthesis, on simulated streets; all images are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = simulated(range(HELD_OUT_SEED, HELD_OUT_SEED + STREETS))
    streets = [removal(haze, scene, index, folder) for index, scene in enumerate(scenes)]
    before, after = np.mean([street.before for street in streets]), np.mean([street.after for street in streets])
    summary = Summary(
        f"{len(streets)} hazy streets (simulated)",
        "the same streets without haze",
        f"{before:.1f} → {after:.1f} dB",
        "mean PSNR to the clear street, before and after",
        "latens dehaze foggy.jpg clip.mp4 -o clear/",
    )
    blocks: list[Block] = [
        INTRO,
        Columns([compared(street) for street in streets], NARROWEST),
        BACKWARDS,
        Columns([synthesis(haze, street.scene, folder) for street in streets], NARROWEST),
        Links("All files, next to this page:", [folder.name]),
    ]
    return Section(
        "Remove and add haze", blocks, [Part("All methods", [methods(street) for street in streets], folded=True)], summary
    )


def removal(haze: Haze, scene: Scene, index: int, folder: Path) -> Street:
    """The hazy street, and the result of every bundled method."""
    hazy = to_pixels(hazy_scene(scene, index, 0, Protocol(max_depth=MAX_DEPTH)).hazy[0])
    write_image(folder / f"{scene.name}_hazy.png", to_pil(hazy))
    results: dict[str, Pixels] = {}
    for method in dict.fromkeys((haze.default_method, *CLASSICAL, *LEARNED)):
        if haze.has(method):
            image = haze.dehaze(hazy, method=method)
            write_image(folder / f"{scene.name}_{method}.png", to_pil(image))
            results[method] = image
    return Street(scene, hazy, results)


def compared(street: Street) -> Compare:
    caption = f"PSNR to the clear street: {street.before:.2f} dB before, {street.after:.2f} dB after."
    return Compare(
        lossless(street.hazy, "hazy", "street in haze"), lossless(street.best, "dehazed", "the street after dehazing"), caption
    )


def synthesis(haze: Haze, scene: Scene, folder: Path) -> Compare:
    """The clear street, and in haze of COMPARED; the files hold all VISIBILITIES."""
    depth, shown = haze.depth(scene.image), scene.image
    with torch.no_grad():
        for meters in VISIBILITIES:
            image = haze.haze(scene.image, visibility=meters, depth=depth)
            write_image(folder / f"{scene.name}_{meters:g}m.png", to_pil(image))
            shown = image if meters == COMPARED else shown
    title = f"visibility {COMPARED:g} m"
    return Compare(lossless(scene.image, "clear", "clear street"), lossless(shown, title, f"the street at {title}"))


def methods(street: Street) -> Gallery:
    """All results with their PSNR, and the truth."""
    found = {"hazy": street.hazy, **street.results}
    figures = [Figure(avif_bytes(pixels), name, f"{psnr(pixels, street.scene.image):.2f} dB") for name, pixels in found.items()]
    return Gallery([*figures, Figure(avif_bytes(street.scene.image), "truth")], columns=4, narrowest=150)


def lossless(pixels: Pixels, title: str, alt: str) -> Figure:
    return Figure(webp_bytes(pixels), title, alt=alt)
