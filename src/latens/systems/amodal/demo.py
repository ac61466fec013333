"""The amodal segmenter's section of `latens demo`: real nuclei with labels, and simulated embryos with known hidden parts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.image_output import changed_pixels, webp_bytes, write_image
from latens.data.instances import Sample, paint
from latens.errors import counted
from latens.inference.page import Block, Columns, Figure, Layer, Links, Overlays, Part, Section, Summary, Table
from latens.metrics.instances import diameter, mask_iou, match
from latens.systems.amodal.dataset import Simulated
from latens.systems.amodal.draw import hidden_parts, overlay
from latens.systems.amodal.outputs import Frame, write_outputs
from latens.systems.amodal.predict import load
from latens.systems.amodal.segmenter import Found, Segmenter

NUMBERS = (0, 1)  # indices of the test images in the demo
SIZE = 500  # pixels
NUCLEI = {"fluorescent": "Fluorescence", "stained": "Hematoxylin and eosin"}
SAMPLES = Path(__file__).with_name("samples")
NARROWEST = 320  # CSS pixels of an image with overlays

NUCLEI_INTRO = "Real nuclei from microscope fields that the model has not seen (2018 Data Science Bowl, CC0)."
EMBRYO_INTRO = (
    "Cells of an embryo overlap and are translucent. The model predicts the whole outline of every cell, including the part "
    "behind other cells; outlines behind another cell are dashed. These embryos are simulated (Hoffman modulation contrast, as "
    "embryologists use it), so the truth is known, and no model was trained on them. The order in depth cannot be seen in such "
    "an image and is a guess."
)


class Shown(NamedTuple):
    """A segmented sample and its overlays."""

    sample: Sample
    found: Found
    iou: np.ndarray  # whole masks of the objects that match a true one with an IoU of at least 0.5
    overlays: Overlays


def section(segmenter: Segmenter[Found], folder: Path) -> Section:
    """Segment nuclei and embryos; write their images and all files of `latens segment` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    cell_model = load("cells", device=segmenter.device)
    nuclei = [segmented(cell_model, nuclei_sample(name), title) for name, title in NUCLEI.items()]
    samples = Simulated("embryo").held_out("test", max(NUMBERS) + 1, SIZE)
    embryos = [segmented(segmenter, samples[number], "Embryo") for number in NUMBERS]
    names = [*NUCLEI, *(f"embryo-{number}" for number in NUMBERS)]
    shown = [*nuclei, *embryos]
    for each, one in zip(names, shown, strict=True):
        write(one, each, folder)
    blocks: list[Block] = [
        NUCLEI_INTRO,
        Columns([one.overlays for one in nuclei], NARROWEST),
        EMBRYO_INTRO,
        Columns([one.overlays for one in embryos], NARROWEST),
        Links("All files, next to this page:", [folder.name]),
    ]
    tables = [measurements(one.found, one.sample) for one in embryos]
    return Section("Outline cells", blocks, [Part("Every cell of the embryos", tables, folded=True)], summary(nuclei, embryos))


def summary(nuclei: list[Shown], embryos: list[Shown]) -> Summary:
    right, true = sum(len(one.iou) for one in nuclei), sum(len(one.sample.layers.layer) for one in nuclei)
    found = sum(len(one.found) for one in nuclei)
    iou = float(np.concatenate([one.iou for one in embryos]).mean()) if any(one.iou.size for one in embryos) else 0.0
    return Summary(
        "two microscope images of nuclei, two embryos (simulated)",
        "outlines, hidden parts included; COCO JSON, label maps, ImageJ ROIs and a table",
        f"{right} of {true} nuclei",
        f"found, with {found - right} false; whole outlines of embryo cells have a mean IoU of {iou:.2f}",
        "latens segment nuclei.png -o out/",
    )


def nuclei_sample(name: str) -> Sample:
    """A bundled image of nuclei and its label map (see samples/README.md)."""
    with Image.open(SAMPLES / f"{name}.png") as image, Image.open(SAMPLES / f"{name}_labels.png") as labels:
        pixels, numbers = np.asarray(image.convert("RGB")), np.asarray(labels)
    masks = np.stack([numbers == number for number in np.unique(numbers) if number])
    return Sample(pixels, paint(masks, np.zeros(len(masks), dtype=np.int64)))


def segmented(segmenter: Segmenter[Found], sample: Sample, title: str) -> Shown:
    """Segment a sample; its overlays are outlines found, hidden parts if there are any, and the truth."""
    found = segmenter.segment_pixels(sample.image)
    overlap = mask_iou(found.layers.amodal, sample.layers.amodal)
    iou = np.array([overlap[pair] for pair in match(overlap)])
    layers = [_layer("found", changed_pixels(sample.image, overlay(sample.image, found.layers)))]
    true = counted(len(sample.layers.layer), "object")
    caption = f"{len(found)} outlines for {true}."
    if sample.layers.occlusion.any():
        layers.append(_layer("hidden parts", hidden_parts(found.layers)))
        caption += f" {int(found.layers.occlusion.sum()):,} pixels are behind a cell."
    layers.append(_layer("truth", changed_pixels(sample.image, overlay(sample.image, sample.layers)), shown=False))
    base = Figure(webp_bytes(sample.image), title, caption, alt=f"{title}, {true}")
    return Shown(sample, found, iou, Overlays(base, layers))


def write(shown: Shown, name: str, folder: Path) -> None:
    """Write the image and all files of `latens segment`."""
    write_image(folder / f"{name}.png", Image.fromarray(shown.sample.image))
    write_outputs([Frame(shown.sample.image, shown.found)], folder / f"{name}.json", f"{name}.png")


def measurements(found: Found, sample: Sample) -> Table:
    """Measurements of every detected cell and of the true cell that it matches."""
    iou = mask_iou(found.layers.amodal, sample.layers.amodal)
    partner = dict(match(iou))
    share, true_share = found.layers.hidden_fraction(), sample.layers.hidden_fraction()
    rows = []
    for index, mask in enumerate(found.layers.amodal):
        area = int(mask.sum())
        row = [str(index + 1), f"{found.scores[index]:.2f}", str(int(found.layers.layer[index]))]
        row += [f"{area:,}", f"{diameter(area):.1f}", f"{100 * share[index]:.0f}"]
        true = partner.get(index)
        if true is None:
            rows.append([*row, "-", "-", "-"])
            continue
        true_area = int(sample.layers.amodal[true].sum())
        rows.append([*row, f"{true_area:,}", f"{100 * true_share[true]:.0f}", f"{iou[index, true]:.3f}"])
    columns = ["cell", "score", "layer", "area px", "diameter px", "hidden %", "true area px", "true hidden %", "IoU"]
    missed = len(sample.layers.layer) - len(partner)
    caption = f"Layer 0 is in front. IoU of whole masks, hidden parts included. Missed cells: {missed}."
    return Table(columns, rows, caption)


def _layer(title: str, pixels: np.ndarray, *, shown: bool = True) -> Layer:
    return Layer(Figure(webp_bytes(pixels), title, alt=title), shown)
