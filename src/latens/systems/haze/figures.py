"""Figures 2 to 5 of Li et al. 2019: removal on scenes with known truth and on photographs, synthesis on both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from latens.contract import Artifact
from latens.data.depth import COMPANIONS
from latens.data.image_output import png_bytes
from latens.data.images import IMAGE_ENDINGS, Pixels, read_image
from latens.data.inputs import find_inputs
from latens.data.notes import left_out
from latens.data.samples import photographs
from latens.data.source import one_source
from latens.data.tensors import to_pixels, to_tensor
from latens.errors import InputError, LatensError
from latens.experiments.report import Report
from latens.inference.page import Block, Figure, Table
from latens.inference.sheet import column_of, resized, row_of, titled
from latens.metrics.image import psnr, ssim
from latens.systems.haze.artifacts import (
    SCALES,
    HazeLab,
    TableScale,
    protocol_of,
    row_configs,
    test_folder,
    with_all_methods,
    with_scale,
)
from latens.systems.haze.evaluate import candidates, streets_protocol
from latens.systems.haze.predict import Haze
from latens.systems.haze.protocol import FULL_SIZE, Protocol, by_dark_channel, hazy_scene, removal_rows, synthesis_rows
from latens.systems.haze.scenes import Scene

SCENES = 2  # of Figures 2 and 5
PHOTOGRAPHS = 6  # largest number in Figures 3 and 4
HEIGHT = 160  # of an image in a figure, in pixels
DETAIL = 0.25  # height of a detail, relative to the image; it lies at the center, where the vanishing point of a road is
VISIBILITIES = (400.0, 100.0)  # meters, of the physical model in Figure 4
REMOVERS = {"dcp, full size": "He", "bccr": "Meng", "dehazenet": "DehazeNet", "unit": "UNIT", "cyclegan": "CycleGAN"}
TRANSLATED = {"unit": "UNIT", "cyclegan": "CycleGAN"}
OURS = {"mmd": "MMD-VAE", "physical": "physical"}
ALL_TITLES = {**REMOVERS, **OURS}


class Compared(NamedTuple):
    """An image under its title, and what it should be."""

    title: str
    image: Pixels
    truth: Pixels


@dataclass(frozen=True)
class Shown:
    """Rows of images, with PSNR and SSIM where there is a truth, and inputs that were left out."""

    rows: list[Pixels]
    measured: list[dict[str, Any]]
    failures: list[str]


def figure2(lab: HazeLab) -> Report:
    """Figure 2: removal on scenes with known truth, and a detail of each result."""
    haze, trainings = with_all_methods(lab)

    def row(scene: Scene, index: int, protocol: Protocol) -> list[Compared]:
        sample = hazy_scene(scene, index, 0, protocol)
        learned = [kind for kind in (*TRANSLATED, "dehazenet", *OURS) if haze.has(kind)]
        made = dict(removal_rows(haze, learned, sample))
        truth = to_pixels(sample.clear[0])
        return beside_truth(made, {"do nothing": "hazy", **ALL_TITLES}, truth)

    shown = of_scenes(lab, row)
    return made_of(lab, "figure2", "Figure 2: haze removal on scenes with known truth", shown, trainings, SCENE_CAPTION)


def figure5(lab: HazeLab) -> Report:
    """Figure 5: synthesis on scenes with known truth."""
    haze, trainings = with_all_methods(lab)

    def row(scene: Scene, index: int, protocol: Protocol) -> list[Compared]:
        sample = hazy_scene(scene, index, 0, protocol)
        learned = [kind for kind in (*TRANSLATED, *OURS) if haze.has(kind)]
        made = {name: to_pixels(tensor[0]) for name, tensor in synthesis_rows(haze, learned, sample)}
        truth = to_pixels(sample.hazy[0])
        return beside_truth(made, {"do nothing": "clear", **TRANSLATED, **OURS}, truth)

    shown = of_scenes(lab, row)
    used = {kind: text for kind, text in trainings.items() if kind in (*TRANSLATED, *OURS)}
    return made_of(lab, "figure5", "Figure 5: haze synthesis on scenes with known truth", shown, used, SCENE_CAPTION)


def figure3(lab: HazeLab) -> Report:
    """Figure 3: removal on hazy photographs, which have no truth."""
    haze, trainings = with_all_methods(lab)

    def row(pixels: Pixels) -> list[tuple[str, Pixels]]:
        tiles = [("hazy", pixels), ("He", by_dark_channel(to_tensor(pixels), FULL_SIZE))]
        named = {name: title for name, title in ALL_TITLES.items() if name != "dcp, full size" and haze.has(name)}
        return tiles + [(title, haze.published_pixels(pixels, name)) for name, title in named.items()]

    shown = of_photographs(lab, row)
    return made_of(lab, "figure3", "Figure 3: haze removal on photographs", shown, trainings, "No truth is known.")


def figure4(lab: HazeLab) -> Report:
    """Figure 4: synthesis on clear photographs, by the translator and by the physical model."""
    haze, trainings = with_all_methods(lab)

    def row(pixels: Pixels) -> list[tuple[str, Pixels]]:
        with torch.no_grad():
            translated = to_pixels(haze.translate(haze.tensor(pixels), "mmd", "hazy")[0])
        hazy = [(f"physical, {meters:g} m", np.asarray(haze.haze(pixels, visibility=meters))) for meters in VISIBILITIES]
        return [("clear", pixels), ("MMD-VAE", translated), *hazy]

    caption = "Translation by the MMD-VAE, and haze of two visibilities on the depth that the physical model predicts."
    used = {kind: trainings[kind] for kind in OURS}
    return made_of(lab, "figure4", "Figure 4: haze synthesis on photographs", of_photographs(lab, row), used, caption)


SCENE_CAPTION = "Below each image its center, with PSNR in dB and SSIM of the whole image against the truth."


def beside_truth(made: Mapping[str, Pixels], titles: Mapping[str, str], truth: Pixels) -> list[Compared]:
    """The images that were made, under their titles, and the truth."""
    shown = [Compared(title, made[name], truth) for name, title in titles.items() if name in made]
    return [*shown, Compared("truth", truth, truth)]


def of_scenes(lab: HazeLab, row: Callable[[Scene, int, Protocol], Sequence[Compared]]) -> Shown:
    """A row for each of the first scenes, and a row with the centers of the same images below it."""
    folder = test_folder(lab)
    protocol = streets_protocol(replace(protocol_of(lab), scenes=SCENES), folder)
    shown = Shown([], [], [])
    for index, candidate in enumerate(candidates(folder, protocol)):
        try:
            scene = candidate.load()
        except LatensError as error:
            shown.failures.append(left_out(error, candidate.name))
            continue
        images, crops = [], []
        for title, image, truth in row(scene, index, protocol):
            decibel, similarity = psnr(image, truth), ssim(image, truth)
            known = image is not truth
            images.append(titled(resized(image, HEIGHT), title))
            crops.append(titled(resized(detail(image), HEIGHT), f"{decibel:.2f}, {similarity:.4f}" if known else " "))
            if known:
                shown.measured.append({"scene": scene.name, "image": title, "psnr": decibel, "ssim": similarity})
        shown.rows.extend([row_of(images), row_of(crops)])
    return shown


def of_photographs(lab: HazeLab, row: Callable[[Pixels], Sequence[tuple[str, Pixels]]]) -> Shown:
    """A row for each of the first images of --data, by default of the bundled photographs, reduced to the side of the scale."""
    source = one_source(lab.sources)
    paths = (
        [photograph.path for photograph in photographs()]
        if source is None
        else [file.path for file in find_inputs([source.path], IMAGE_ENDINGS, companions=COMPANIONS)]
    )
    shown = Shown([], [], [])
    for path in islice(paths, PHOTOGRAPHS):
        try:
            pixels = read_image(path).pixels
        except LatensError as error:
            shown.failures.append(left_out(error, path.name))
            continue
        small = resized(pixels, lab.scale.side) if pixels.shape[0] > lab.scale.side else pixels
        shown.rows.append(row_of([titled(resized(image, HEIGHT), title) for title, image in row(small)]))
        shown.measured.append({"image": path.name})
    return shown


def detail(pixels: Pixels) -> Pixels:
    """The center of an image, a quarter of its height and width."""
    height, width = pixels.shape[:2]
    rows, columns = max(1, round(height * DETAIL)), max(1, round(width * DETAIL))
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def made_of(lab: HazeLab, name: str, title: str, shown: Shown, trainings: Mapping[str, str], caption: str) -> Report:
    """The report of a figure, with the training of its methods. Raises InputError if it has no row."""
    source = one_source(lab.sources)
    if not shown.rows:
        raise InputError("no image could be used", where=str(source), hint=next(iter(shown.failures), None))
    blocks: list[Block] = [Figure(png_bytes(column_of(shown.rows)), title, caption, alt=title)]
    blocks.append(Table(["method", "training"], [[ALL_TITLES[kind], text] for kind, text in trainings.items()]))
    images = "Simulated streets and bundled photographs" if source is None else f"Images of {source.path.name}"
    about = f"{images}, height {lab.scale.side} pixels."
    facts = {"training": dict(trainings)}
    made = Report(name=name, title=title, about=about, blocks=blocks, facts=facts, rows=shown.measured, failures=shown.failures)
    return with_scale(lab, made)


FIGURES: Mapping[str, Artifact[Haze, TableScale]] = MappingProxyType(
    {make.__name__: Artifact(make, SCALES, row_configs) for make in (figure2, figure3, figure4, figure5)}
)
