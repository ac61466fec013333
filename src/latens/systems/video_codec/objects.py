"""Choice of the region among two objects: the gain in PSNR of the chosen object at equal rate.

Perugachi-Diaz 2024 (Figs. D.5 and D.6) uses DAVIS clips with several annotated objects. The clips here have one object each, so
objects of two clips are cut out and move over a frame of a third clip, with exact masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from latens.errors import InputError
from latens.inference.page import Block, Figure, Gallery, Table
from latens.metrics.plot import Line, LinePanel, line_plot
from latens.shapes import UInt8
from latens.systems.video_codec.compare import difference_at_equal_rate, signed
from latens.systems.video_codec.measure import RATE, SAMPLE_FRAMES, SAMPLE_SIDE, RegionClip, quality_of
from latens.systems.video_codec.study import SCALING, Study
from latens.systems.video_codec.synthetic import composite, cut_out, moving_photograph
from latens.systems.video_codec.visualization import coded, image, outlined, region_numbers

OBJECTS = (1, 2)  # ids
VISIBLE = 0.02  # share of every frame that each object should cover at least
DRAWS = 40  # number of random motions that are tried
CLAIMED = 5.0  # dB, gain of every instance in the paper
SPEED, ZOOM = 0.01, 1.0  # of the background and the objects, see `synthetic`
# Choices of classes in one street image (not in the paper).
CHOICES = {"road and what moves on it": ("road", "car", "pedestrian", "bicyclist"), "buildings": ("building",), "sky": ("sky",)}


class Pair(NamedTuple):
    """A clip with two objects."""

    clip: RegionClip  # the region contains both objects
    ids: UInt8[np.ndarray, "T S S"]  # 1 and 2 for the pixels of the objects
    names: tuple[str, str]  # source clips of the objects

    def chosen(self, number: int) -> RegionClip:
        """The clip with one object as its region."""
        return RegionClip(self.clip.name, self.clip.frames, self.ids == number)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.clip.frames.tobytes() + self.ids.tobytes()).hexdigest()[:16]

    @property
    def covered(self) -> float:
        """The smallest share of a frame that an object covers."""
        return float(min((self.ids == number).mean((1, 2)).min() for number in OBJECTS))


class Point(NamedTuple):
    """A pair at one rate."""

    bpp: float
    psnr: tuple[float, float]  # dB of the two objects


class SelectionGain(NamedTuple):
    """The gain in PSNR of an object when it is the region instead of the other object."""

    pair: str
    name: str
    share: float  # of the frame
    gain: float | None  # dB at equal rate; None without a common rate
    points: Mapping[bool, Sequence[tuple[float, float]]]  # (bpp, dB of this object) by whether it is chosen


def pairs_of(clips: Sequence[RegionClip]) -> list[Pair]:
    """The objects of every clip and the next one, over a frame of the clip after these. Raises InputError."""
    count = len(clips)
    return [_pair([clips[(index + step) % count] for step in range(3)], index) for index in range(count)]


def _pair(clips: Sequence[RegionClip], seed: int) -> Pair:
    """Two objects with the first random motion that keeps both visible in every frame, or else with the best one."""
    first, second, behind = clips
    frames = min(SAMPLE_FRAMES, *(len(clip.frames) for clip in clips))
    side = min(SAMPLE_SIDE, *behind.frames.shape[1:3])
    cuts = []
    for clip in (first, second):
        found = cut_out(clip.frames[:frames], (255 * clip.masks[:frames]).astype(np.uint8))
        if found is None:
            raise InputError("no object to cut out", where=clip.name, hint="choose clips with --set clips=[...]")
        cuts.append(found)
    best: Pair | None = None
    for draw in range(DRAWS):
        rng = np.random.default_rng((seed, draw))
        background = moving_photograph(behind.frames[0], rng, frames, side, SPEED, ZOOM)
        made = composite(background, cuts, rng, SPEED)
        name = f"{first.name} and {second.name}"
        pair = Pair(RegionClip(name, made.frames, made.ids > 0), made.ids, (first.name, second.name))
        if best is None or pair.covered > best.covered:
            best = pair
        if pair.covered >= VISIBLE:
            return pair
    assert best is not None
    if best.covered == 0:
        raise InputError("one object always hides the other", where=best.clip.name, hint="choose other clips")
    return best


def selection_gains(study: Study) -> list[SelectionGain]:
    """The gain of every object of every pair, coded by latent scaling."""
    pairs = pairs_of(study.clips)
    tasks = [(pair, number, quality) for pair in pairs for number in OBJECTS for quality in study.scale.qualities]
    study.lab.complete([lambda t=task: _point(study, *t) for task in tasks])  # type: ignore[misc]
    return [_selection_gain(study, pair, number) for pair in pairs for number in OBJECTS]


def _selection_gain(study: Study, pair: Pair, number: int) -> SelectionGain:
    points = {}
    for own, chosen in ((True, number), (False, 3 - number)):
        found = [_point(study, pair, chosen, quality) for quality in study.scale.qualities]
        points[own] = [(point.bpp, point.psnr[number - 1]) for point in found]
    curves = {own: tuple(zip(*curve, strict=True)) for own, curve in points.items()}
    gain = difference_at_equal_rate(curves[True], curves[False])  # type: ignore[arg-type]
    return SelectionGain(pair.clip.name, pair.names[number - 1], float((pair.ids == number).mean()), gain, points)


def _point(study: Study, pair: Pair, number: int, quality: float) -> Point:
    """Rate of the file and mean PSNR of both objects when object `number` is the region."""
    codec = study.model(SCALING)
    key = {"objects": pair.digest, "chosen": number, "model": codec.model_id, "precision": codec.precision, "quality": quality}

    def measure() -> list[float]:
        blob = codec.compress(pair.clip.frames, roi=pair.ids == number, quality=quality, fps=RATE)
        decoded = [frame.pixels for frame in codec.frames(blob)]
        found = [quality_of(decoded, pair.chosen(each)).roi for each in OBJECTS]
        return [8 * len(blob) / pair.ids.size, *(value for value in found if value is not None)]

    bpp, *psnr = study.lab.once(key, measure)
    return Point(bpp, (psnr[0], psnr[1]))


# ------------------------------------------------------------------------------------------------------------- figures


def bars(study: Study) -> list[Block]:
    """Figure D.6: PSNR of every object over the rate, chosen and not chosen (bars at one rate in the paper)."""
    found = selection_gains(study)
    panels = []
    for pair in dict.fromkeys(each.pair for each in found):
        lines = []
        for color, each in enumerate(each for each in found if each.pair == pair):
            for own, style in ((True, "-o"), (False, "--o")):
                rates, values = zip(*each.points[own], strict=True)
                name = f"object {color + 1}, {'chosen' if own else 'not chosen'}"
                lines.append(Line(name, rates, values, color, style))
        panels.append(LinePanel("bits per pixel", "PSNR of the object (dB)", lines, f"1 and 2: {pair}"))
    note = "Solid: the object is the region; dashed: the other object is. One clip per panel."
    return [Figure(line_plot(panels), "PSNR of objects by the choice of the region", note), gains_table(found)]


def gains_table(found: Sequence[SelectionGain]) -> Table:
    """The gains of all objects, and their mean."""
    rows = []
    for each in found:
        rates = [
            f"{min(rates):.3f} to {max(rates):.3f}" for rates in ([bpp for bpp, _ in each.points[own]] for own in (True, False))
        ]
        rows.append([each.pair, each.name, f"{100 * each.share:.1f}", *rates, signed(each.gain)])
    gains = [each.gain for each in found if each.gain is not None]
    if gains:
        spread = f"{np.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})"
        rows.append([f"mean of {len(gains)} (range)", "", "", "", "", spread])
    columns = ["clip", "object of", "% of the frame", "bpp, chosen", "bpp, not chosen", "gain dB at equal rate"]
    caption = (
        "Gain: PSNR of the object when it is the region minus that when the other object is, mean over the common rates of "
        "both curves, interpolated linearly in the logarithm of the rate. Perugachi-Diaz 2024 reports "
        f"{CLAIMED:g} dB or more for every instance at about equal rate."
    )
    return Table(columns, rows, caption)


def images(study: Study) -> list[Block]:
    """Figure D.5: one frame for each choice of an object, and one street image for each choice of classes."""
    codec, quality = study.model(SCALING), study.scale.shown
    pair = pairs_of(study.clips)[0]
    both = outlined(outlined(pair.clip.frames[-1], pair.ids[-1] == 1), pair.ids[-1] == 2)
    figures = [image(both, "two objects", f"1: {pair.names[0]}, 2: {pair.names[1]}, over a frame in motion")]
    for number in OBJECTS:
        made = coded(codec, pair.chosen(number), quality, region=True)
        values = [quality_of(list(made.frames), pair.chosen(each)).roi for each in OBJECTS]
        numbers = ", ".join(f"object {each} {value:.1f} dB" for each, value in zip(OBJECTS, values, strict=True))
        bpp = 8 * made.bytes / pair.ids.size
        shown = outlined(made.frames[-1], pair.ids[-1] == number)
        figures.append(image(shown, f"object {number} chosen", f"{bpp:.3f} bpp; {numbers} (means over the clip)"))
    blocks: list[Block] = [Gallery(figures, columns=3, narrowest=160)]
    return [*blocks, *_classes(study)]


def _classes(study: Study) -> list[Block]:
    if not study.streets:
        return []
    street = study.streets[0]
    figures = [image(street.frames[-1], "street", f"{street.name}, last frame")]
    for title, classes in CHOICES.items():
        clip = RegionClip(street.name, street.frames, street.region(classes))
        if not clip.masks.any():
            continue
        made = coded(study.model(SCALING), clip, study.scale.shown, region=True)
        numbers = region_numbers(made.frames[-1], clip.frames[-1], clip.masks[-1])
        shown = outlined(made.frames[-1], clip.masks[-1])
        figures.append(image(shown, f"{title} chosen", f"{8 * made.bytes / clip.masks.size:.3f} bpp; {numbers}"))
    return [
        "Classes of a street image in motion as the region (not in Perugachi-Diaz 2024):",
        Gallery(figures, columns=4, narrowest=160),
    ]
