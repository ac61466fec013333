"""Removal of haze from photographs and clips as `latens dehaze` does it: borders, working image, rules, full size.

Letters: H W image size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from latens.arguments import real
from latens.data.hidden import fill_hidden, visible
from latens.data.images import LoadedImage, Pixels
from latens.data.masks import window_of
from latens.errors import UsageError
from latens.nn.filters import luminance
from latens.shapes import Float
from latens.systems.haze.borders import Box, SteadyBorders, content_box
from latens.systems.haze.field import SteadyField, corner_note, field_of_view
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.readers import read
from latens.systems.haze.rendering import cleared, full_width
from latens.systems.haze.rules import WORKING_SIDE, Controls, plan_of, working_image
from latens.systems.haze.temporal import TemporalFilter

DIM = 0.6  # exposure below which a note says so


class Removed(NamedTuple):
    """A dehazed image (PIL), and notes for people: conversions, borders, exposure."""

    image: Image.Image
    notes: tuple[str, ...]


class Method(NamedTuple):
    """A method that estimates airlight, the network of a learned one, and the device."""

    name: str
    model: nn.Module | None
    device: torch.device

    @property
    def working_side(self) -> int:
        """Shorter side of its working image, pixels."""
        return min(self.model.config.short_side, WORKING_SIDE) if isinstance(self.model, PhysicalHaze) else WORKING_SIDE


class Content(NamedTuple):
    """The part of an image that is dehazed, with filled colors under alpha 0."""

    pixels: Pixels  # (h, w, 3)
    mask: np.ndarray | None  # (h, w), True where pixels are visible; None if all are
    result: Pixels  # (H, W, 3), a copy of the image
    box: Box  # the place of the part in the image
    note: str  # about borders; empty without

    def filled(self, made: Pixels) -> Pixels:
        """The image with its visible content replaced."""
        self.fill(self.result, made)
        return self.result

    def fill(self, whole: np.ndarray, made: np.ndarray) -> None:
        """Replace the values of the visible content in an image or a map of its size."""
        place = self.box.of(whole)
        if self.mask is None:
            place[:] = made
        else:
            place[self.mask] = made[self.mask]


def content_of(pixels: Pixels, alpha: Pixels | None) -> Content:
    """The image without borders, and without the corners around a round field of view or a rotated photograph."""
    image = LoadedImage(pixels, alpha, False, ())
    shown = visible(image)
    if alpha is not None and alpha.max() == 0:  # nothing is seen, so nothing is changed
        shown = np.zeros(pixels.shape[:2], bool)
    box = content_box(pixels, shown)
    field = field_of_view(box.of(pixels))
    notes = [
        *([] if box.covers(pixels) else [box.note(pixels)]),
        *([] if field is None else [corner_note(box.of(pixels)[0, 0])]),
    ]
    if field is not None:
        rows, columns = window_of(field)
        field = field[rows, columns]
        box = Box(box.top + rows.start, box.top + rows.stop, box.left + columns.start, box.left + columns.stop)
    mask = field if shown is None else box.of(shown) if field is None else box.of(shown) & field
    result = np.array(pixels)
    filled = box.of(fill_hidden(image).pixels)
    if field is not None and mask is not None:
        filled = filled_outside(mask, filled)
    return Content(filled, mask, result, box, "; ".join(notes))


def filled_outside(mask: np.ndarray, pixels: Pixels) -> Pixels:
    """The pixels (h, w, 3) with colors of visible neighbors outside of a mask (h, w)."""
    return fill_hidden(LoadedImage(pixels, 255 * mask.astype(np.uint8), False, ())).pixels


@torch.no_grad()
def dehazed(
    content: Content, method: Method, controls: Controls, transmission: Float[np.ndarray, "H W"] | None = None
) -> tuple[Pixels, list[str]]:
    """The dehazed image and a note on its exposure, if it is dim. The visible content of `transmission` is overwritten."""
    moved = torch.from_numpy(np.array(content.pixels)).to(method.device)
    mask = None if content.mask is None else torch.from_numpy(content.mask.copy()).to(method.device)
    working = working_image(moved, mask, method.working_side)
    plan = plan_of(read(working, method.name, method.model), working, controls)
    notes = [] if working.exposure >= DIM else [f"read at {1 / working.exposure:.3g} times its brightness"]
    t = None if transmission is None else torch.empty(moved.shape[:2], device=moved.device)
    made = content.filled(cleared(moved, plan, t).cpu().numpy())
    if transmission is not None and t is not None:
        content.fill(transmission, t.cpu().numpy())
    return made, notes


def dehazed_clip(frames: Iterable[Pixels], method: Method, controls: Controls, notes: list[str] | None) -> Iterator[Pixels]:
    """Dehazed frames of a clip; notes on its borders and corners are added to `notes` after the last."""
    steady, borders, fields = TemporalFilter(), SteadyBorders(), SteadyField()
    last: Pixels | None = None
    for last in frames:
        box = borders.of(last)
        result = np.array(last)
        place, field = box.of(result), fields.of(box.of(last))
        seen = place if field is None else filled_outside(field, place)
        made = dehazed_frame(torch.from_numpy(np.array(seen)), method, controls, steady, field)
        if field is None:
            place[:] = made
        else:
            place[field] = made[field]
        yield result
    if notes is not None and borders.box is not None and last is not None and not borders.box.covers(last):
        notes.append(borders.box.note(last))
    if notes is not None and fields.field is not None:
        notes.append(corner_note(fields.color))


@torch.no_grad()
def dehazed_frame(
    pixels: Tensor, method: Method, controls: Controls, steady: TemporalFilter, field: np.ndarray | None = None
) -> Pixels:
    """The dehazed content of the next frame of a clip; only pixels of the `field` of view (h, w) count in statistics."""
    moved = pixels.to(method.device)
    mask = None if field is None else torch.from_numpy(field).to(method.device)
    working = working_image(moved, mask, method.working_side)
    coarse = steady.estimate(read(working, method.name, method.model), luminance(working.image))
    plan = plan_of(coarse, working, controls)
    wide = full_width(plan._replace(gamma=steady.tone(plan.gamma)), moved.shape[0], moved.shape[1])
    colors = moved.permute(2, 0, 1)[None].contiguous().float()
    t = wide.transmission(colors, 0)
    return wide.clear(steady.denoise(colors, t).clone(), t).cpu().numpy()  # the filter keeps what it returned


def check_controls(controls: Controls) -> None:
    """Raise UsageError for values outside [0, 1]."""
    for name, value in controls._asdict().items():
        if not 0 <= real(value, name) <= 1:
            raise UsageError(f"{name} is in 0..1", where=f"--{name.replace('_', '-')} {value:g}")


def check_transmission(values: object, size: tuple[int, ...]) -> None:
    """Raises UsageError for anything but an array of floats of this size that can be written."""
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or not values.flags.writeable:
        hint = f"give np.empty({size}, np.float32), which is filled"
        raise UsageError("this is no array of floats that can be written", where="transmission", hint=hint)
    if values.shape != size:
        raise UsageError(f"an array of shape {values.shape} is not of the size of the image", where="transmission")


def no_estimate(method: str) -> UsageError:
    """The error for a translator where an estimate is needed."""
    return UsageError(f"{method} translates images and does not estimate transmission", hint="use dcp, bccr or physical")
