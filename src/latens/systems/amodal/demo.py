"""The amodal segmenter's section of `latens demo`: simulated embryos, whose hidden parts are known."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from latens.data.image_output import png_bytes, write_image
from latens.data.instances import Sample
from latens.inference.page import Figure, Gallery, Links, Part, Section, Table
from latens.metrics.instances import diameter, mask_iou, match
from latens.systems.amodal.dataset import Simulated
from latens.systems.amodal.draw import hidden_parts, overlay
from latens.systems.amodal.outputs import Frame, write_outputs
from latens.systems.amodal.segmenter import Found, Segmenter

NUMBERS = (0, 1)  # indices of the test images in the demo
SIZE = 500  # pixels

INTRO = (
    "Cells of an embryo overlap and are translucent. The model predicts the whole outline of every cell, including the part "
    "behind other cells, and their depth order. These embryos are simulated (Hoffman modulation contrast, as embryologists use "
    "it), so the truth is known, and no model was trained on them. Outlines behind another cell are dashed."
)


def section(segmenter: Segmenter[Found], folder: Path) -> Section:
    """Segment embryos; write their images and all files of `latens segment` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = Simulated("embryo").held_out("test", max(NUMBERS) + 1, SIZE)
    parts = [_embryo(segmenter, samples[number], f"embryo-{number}", folder) for number in NUMBERS]
    return Section("Whole outlines of overlapping cells", [INTRO], parts)


def _embryo(segmenter: Segmenter[Found], sample: Sample, name: str, folder: Path) -> Part:
    found = segmenter.segment_pixels(sample.image)
    write_image(folder / f"{name}.png", Image.fromarray(sample.image))
    written = write_outputs([Frame(sample.image, found)], folder / f"{name}.json", f"{name}.png")
    hidden = int(found.layers.occlusion.sum())
    figures = [
        Figure(png_bytes(sample.image), "Image", f"{sample.image.shape[1]} × {sample.image.shape[0]} pixels"),
        Figure(png_bytes(overlay(sample.image, found.layers)), "Found: whole outlines", _counted(len(found), "cell")),
        Figure(png_bytes(hidden_parts(sample.image, found.layers)), "Found: hidden parts", f"{hidden:,} pixels behind a cell"),
        Figure(png_bytes(overlay(sample.image, sample.layers)), "Truth", _counted(len(sample.layers.layer), "cell")),
    ]
    names = [f"{name}.png", *(path.name for path in written.files)]
    links = Links(f"Files in {folder.name}, next to this page:", [f"{folder.name}/{each}" for each in names])
    heading = f"Embryo of {_counted(len(sample.layers.layer), 'cell')}"
    return Part(heading, [Gallery(figures, columns=4, narrowest=200), cells(found, sample), links])


def cells(found: Found, sample: Sample) -> Table:
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


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
