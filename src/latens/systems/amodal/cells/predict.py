"""Inference with the star model: the scale of an image, its objects, their scores, and a warning for unknown images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from latens.arguments import real
from latens.data.image_arrays import check_uint8
from latens.data.instances import Placed
from latens.errors import UsageError
from latens.inference.device import in_plain_torch
from latens.shapes import UInt8
from latens.systems.amodal.cells.config import STRIDE, StarConfig
from latens.systems.amodal.cells.fields import Contrast, Kind, contrast_of, kind_of
from latens.systems.amodal.cells.frame import Frame, computed
from latens.systems.amodal.cells.network import StarNet, fused
from latens.systems.amodal.cells.objects import Objects, diameters, image_map, objects_of
from latens.systems.amodal.cells.result import CellSegmentation
from latens.systems.amodal.cells.scores import Fit, image_features, object_features
from latens.systems.amodal.order import SCORE_THRESHOLD
from latens.systems.amodal.segmenter import Segmenter

PROBES = (1.0, 1 / 3, 1 / 9)  # scales at which the diameter is estimated
LAST_PROBE = 3.0  # the scale for images without an object at these
WHOLE = 2  # windows; smaller images are probed whole
WINDOWS = 4  # number of windows of a probe
WINDOW = 512  # side of the part of an image that is probed, pixels of the frame
RELIABLE = (0.4, 2.7)  # range of diameters, relative to the network's, whose objects are believed in a probe
ACCEPTED = (1 / 1.5, 1.3)  # factors on the scale that are too small to resample a frame again
SMALLEST_DIAMETER = 5.0  # pixels of the image; the grain of noise is finer
LARGEST_SHARE = 0.6  # largest diameter of such an object, relative to the shorter side of the image: not a vignette
CONFIDENT = 0.5  # object probability of objects that count in a probe
DIAMETERS = (3, 2000)  # pixels
UNKNOWN = "the image resembles nothing that the model was trained on: expect missing and false objects"
LOWERED = "; all scores were multiplied by {:.2g}, the probability that it is known (--score 0 shows all objects)"
KNOWN = 0.5  # probability below which there is a warning


class Seen(NamedTuple):
    """Everything that is known of an image before scores are filtered."""

    objects: Objects
    frame: Frame
    kind: Kind
    diameter: float  # for which the image was resampled, pixels of the image
    inverted: bool  # light and dark were exchanged


class Probe(NamedTuple):
    """The scale that a probe suggests; its frame, if it can be used for the whole image."""

    evidence: float  # area and number of the confident objects, weighted by how confident they are
    scale: float
    frame: Frame | None


def checked_diameter(diameter: float | None) -> float | None:
    """The diameter, or None. Raises UsageError for one outside of DIAMETERS: the image would be scaled beyond any memory."""
    if diameter is None or DIAMETERS[0] <= real(diameter, "diameter") <= DIAMETERS[1]:
        return diameter
    what = f"a diameter of {diameter:g} pixels is outside of {DIAMETERS[0]} to {DIAMETERS[1]}"
    raise UsageError(what, where="diameter", hint="leave it out, and it is estimated")


@in_plain_torch
class CellSegmenter(Segmenter[CellSegmentation]):
    """Nuclei of any number in images of any size, with their whole outlines where they overlap."""

    as_label_maps = True

    def __init__(
        self, model: StarNet, *, name: str, sha256: str, device: torch.device, fit: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(name=name, sha256=sha256, device=device, classes=model.config.classes)
        self.config: StarConfig = model.config
        self.model = fused(model).to(device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        self.dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self.fit = Fit.from_dict(fit)
        self.diameter: float | None = None  # typical diameter of the objects in pixels; None: estimated for every image

    def segment_pixels(
        self,
        pixels: UInt8[np.ndarray, "H W 3"],
        *,
        least_score: float = SCORE_THRESHOLD,
        maps: bool = False,
        diameter: float | None = None,
    ) -> CellSegmentation:
        """The objects of an image given as uint8 pixels; with `maps`, the probabilities of foreground and overlap.

        `diameter` is the typical diameter of the objects in pixels; by default the attribute `diameter`, or an estimate.
        Raises UsageError for one outside of DIAMETERS.
        """
        check_uint8(pixels)
        seen = self.look(pixels, checked_diameter(self.diameter if diameter is None else diameter))
        scores = self.fit.scores(object_features(seen.objects), seen.kind)
        known = self.fit.known(image_features(seen.frame, seen.objects, scores))
        if not self.fit.decides:
            scores = known * scores
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= real(least_score, "least_score")]
        pieces = [seen.objects.pieces[index] for index in order]
        placed = [Placed(piece.top, piece.left, piece.amodal, piece.visible) for piece in pieces]
        size = (pixels.shape[0], pixels.shape[1])
        frame = seen.frame
        return CellSegmentation(
            size=size,
            maps={"foreground": image_map(frame.foreground, size), "overlap": image_map(frame.overlap, size, STRIDE)}
            if maps
            else {},
            placed=placed,
            scores=scores[order].astype(np.float32),
            classes=self.classes,
            diameter=seen.diameter,
            inverted=seen.inverted,
            known=known,
            warnings=() if known >= KNOWN else (UNKNOWN if self.fit.decides else UNKNOWN + LOWERED.format(known),),
        )

    def look(self, pixels: UInt8[np.ndarray, "H W 3"], diameter: float | None = None) -> Seen:
        """The unfiltered objects of an image. Gray images with a light background are inverted, as if they were fluorescent."""
        step = max(1, int(np.sqrt(pixels.shape[0] * pixels.shape[1] / 2**16)))
        part = pixels[::step, ::step]
        kind = kind_of(part, np.median(part.reshape(-1, 3), axis=0))
        inverted = kind == "bright"
        if inverted:
            pixels, kind = 255 - pixels, "fluorescent"
        contrast = contrast_of(pixels)
        if diameter is None:
            frame, scale = self._estimated(pixels, contrast)
        else:
            scale = self.config.diameter / diameter
            frame = self._frame(pixels, contrast, scale)
        return Seen(objects_of(frame, pixels.shape[:2]), frame, kind, self.config.diameter / scale, inverted)

    def _frame(self, pixels: np.ndarray, contrast: Contrast, scale: float) -> Frame:
        return computed(self.model, pixels, contrast, scale, self.device, self.dtype)

    def _estimated(self, pixels: np.ndarray, contrast: Contrast) -> tuple[Frame, float]:
        """The frame of the estimated scale, and this scale."""
        best = self._best_probe(pixels, contrast)
        frame, scale = (best.frame, best.scale) if best is not None else (None, 1.0)
        if frame is None:
            frame = self._frame(pixels, contrast, scale)
        diameter, _ = self._typical(frame)
        factor = 1.0 if diameter is None else self.config.diameter / diameter
        if ACCEPTED[0] < factor < ACCEPTED[1]:
            return frame, scale
        # The objects of the whole image have another diameter than those of the probe.
        return self._frame(pixels, contrast, scale * factor), scale * factor

    def _best_probe(self, pixels: np.ndarray, contrast: Contrast) -> Probe | None:
        """The probe whose confident objects cover most of the liveliest window; None without objects at any scale."""
        found = [probe for scale in PROBES if (probe := self._probe(pixels, contrast, scale)) is not None]
        if not found:
            return self._probe(pixels, contrast, LAST_PROBE)
        return max(found, key=lambda probe: probe.evidence)

    def _probe(self, pixels: np.ndarray, contrast: Contrast, scale: float) -> Probe | None:
        """The objects of some windows at a scale; None without confident ones."""
        whole = pixels.shape[0] * pixels.shape[1] * scale**2 <= WHOLE * WINDOW**2  # probed at once, and not again
        windows = [pixels] if whole else lively(pixels, round(WINDOW / scale))
        frames = [self._frame(window, contrast, scale) for window in windows]
        diameter, evidence = self._typical(*frames)
        if diameter is None:
            return None
        wanted = self.config.diameter / diameter
        if ACCEPTED[0] < wanted < ACCEPTED[1]:
            return Probe(evidence, scale, frames[0] if windows[0].shape == pixels.shape else None)
        return Probe(evidence, scale * wanted, None)

    def _typical(self, *frames: Frame) -> tuple[float | None, float]:
        """Median diameter of the confident objects of frames of one scale, and the evidence for this scale."""
        sizes, weights, area = [], [], 0
        for frame in frames:
            kept = frame.candidates
            diameter = diameters(kept)
            low, high = (self.config.diameter * each for each in RELIABLE)
            low = max(low, SMALLEST_DIAMETER * math.sqrt(frame.scale[0] * frame.scale[1]))
            high = min(high, LARGEST_SHARE * min(frame.foreground.shape))
            sure = (kept.score >= CONFIDENT) & (diameter > low) & (diameter < high)
            sizes.append(diameter[sure])
            weights.append((kept.score[sure] - CONFIDENT) ** 2)
            area += frame.foreground.size
        size, weight = np.concatenate(sizes), np.concatenate(weights)
        if not len(size):
            return None, 0.0
        return float(np.median(size)), math.log1p(len(size)) * float((size**2 * weight).sum()) / area


def lively(pixels: UInt8[np.ndarray, "H W 3"], side: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """At most WINDOWS windows of at most `side` pixels from the half of a grid of windows with the larger variance."""
    height, width = pixels.shape[:2]
    rows, columns = (
        [round(place) for place in np.linspace(0, max(length - side, 0), -(-length // side))] for length in (height, width)
    )
    step = max(1, side // 64)
    windows = [pixels[y : y + side, x : x + side] for y in rows for x in columns]
    spread = [float(window[::step, ::step].astype(np.float32).std()) for window in windows]
    order = np.argsort(spread)[::-1]
    chosen = np.unique(np.linspace(0, len(windows) // 2, WINDOWS).astype(int))
    return [windows[int(order[place])] for place in chosen if place < len(windows)]
