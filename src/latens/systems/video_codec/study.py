"""Training and measurement of the methods of Perugachi-Diaz 2024, Figure 6.4.1, from one plain model and for equal steps.

The paper trains 80 models, one per rate. Here every method is trained once for all rates: five methods at gamma 30, and latent
scaling also at gamma 10 and on masks of Perlin noise. Three more trainings on street images in motion replace those on
Cityscapes if `--data` has such images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.lab import ExperimentRunner
from latens.hub import load_model, locate, read_config
from latens.settings import Count, Natural, Positive, settings, to_dict
from latens.systems.video_codec.config import (
    Implicit,
    LatentScaling,
    Method,
    Obic,
    Plain,
    RoiLoss,
    ScaleSpaceFlowConfig,
)
from latens.systems.video_codec.measure import ClipRow, RegionClip, measure_ours, region_clips
from latens.systems.video_codec.predict import VideoCodec
from latens.systems.video_codec.recipes import RECIPES, VideoTraining
from latens.systems.video_codec.streets import StreetClip, split_streets, street_clips
from latens.training.config import shortened


@settings
class VideoScale:
    """Length of the trainings, and clips and rates of the measurements."""

    recipe: Literal["tiny", "cpu_decay", "paper"] = "cpu_decay"  # recipe of every training
    steps: Natural = 0  # steps of every training; 0: those of the recipe
    clips: tuple[str, ...] = ("blackswan", "drift-straight", "horsejump-high", "cows")  # all clips if --data has none of these
    start: str = ""  # plain model that all methods start from, a name or a folder; empty: train one
    train: str = ""  # folders of clips and photographs for training (A,B); empty: --data
    streets: Count = 4  # number of street images that are measured as clips
    frames: Natural = 24  # number of frames per clip, from the first; 0: all
    qualities: tuple[Positive, ...] = (1.0, 2.5, 4.0, 6.0)  # rates of every curve
    shown: Positive = 3.0  # quality of images
    amplifiers: tuple[Positive, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # gain amplifiers of Figure D.7
    swept: Natural = 0  # number of clips of Figure D.7, from the first; 0: all


SCALES: Mapping[str, VideoScale] = MappingProxyType(
    {
        "tiny": VideoScale(
            recipe="tiny",
            steps=2,
            clips=("one",),
            streets=1,
            frames=2,
            qualities=(1.0, 2.0),
            shown=1.0,
            amplifiers=(1.0, 64.0),
        ),
        "cpu": VideoScale(),
        "paper": VideoScale(recipe="paper", frames=0, qualities=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)),
    }
)
VideoLab: TypeAlias = ExperimentRunner[VideoCodec, VideoScale]


class Variant(NamedTuple):
    """Method and data of one training."""

    method: Method
    masks: Literal["objects", "perlin"] = "objects"
    quality: float = 0.0  # above 0: the only quality
    streets: bool = False  # trained on street images

    @property
    def aware(self) -> bool:
        """True if the region is an input of the encoder."""
        return not isinstance(self.method, Plain | RoiLoss)


SSF, LOSS, OBIC, IMPLICIT, SCALING = "SSF", "ROI loss", "OBIC", "implicit", "latent scaling"
SCALING_10, SCALING_PERLIN = "latent scaling, gamma 10", "latent scaling, Perlin masks"
SSF_STREETS, SCALING_STREETS = "SSF, streets", "latent scaling, streets"
SCALING_10_STREETS = "latent scaling, gamma 10, streets"
ONE_RATE = (2.0, 6.0)  # qualities of the models with a single rate


def single_rate(quality: float) -> str:
    """Label of plain scale-space flow trained for a single quality."""
    return f"{SSF}, quality {quality:g} alone"


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        SSF: Variant(Plain()),
        LOSS: Variant(RoiLoss()),
        OBIC: Variant(Obic()),
        IMPLICIT: Variant(Implicit()),
        SCALING: Variant(LatentScaling()),
        SCALING_10: Variant(LatentScaling(gamma=10.0)),
        SCALING_PERLIN: Variant(LatentScaling(), "perlin"),
        SSF_STREETS: Variant(Plain(), streets=True),
        SCALING_STREETS: Variant(LatentScaling(), streets=True),
        SCALING_10_STREETS: Variant(LatentScaling(gamma=10.0), streets=True),
        **{single_rate(quality): Variant(Plain(), quality=quality) for quality in ONE_RATE},
    }
)


def training(scale: VideoScale, variant: Variant) -> VideoTraining:
    """The training configuration of a variant."""
    base = RECIPES[scale.recipe]()
    model = base.model
    assert isinstance(model, ScaleSpaceFlowConfig)
    method = variant.method
    if isinstance(method, LatentScaling) and isinstance(model.method, LatentScaling):
        method = replace(method, gain=model.method.gain)  # sizes of the recipe
    if isinstance(method, LatentScaling) and scale.recipe == "paper":
        method = replace(method, amplified_share=0.0)  # the thesis amplifies gains only after training
    run, optim = base.run, base.optim
    if scale.steps:
        run = replace(run, steps=scale.steps, validate_every=min(run.validate_every, scale.steps))
        optim = shortened(optim, scale.steps)
    data, loss = replace(base.data, masks=variant.masks), base.objective
    if variant.quality:
        loss = replace(loss, quality=variant.quality, levels=(variant.quality,))
    return replace(base, model=replace(model, method=method), data=data, objective=loss, optim=optim, run=run)


def trainings(labels: Sequence[str], scale: VideoScale) -> dict[str, VideoTraining]:
    """The training configurations of variants; all start from one plain model, which is trained too if the scale names none."""
    plan = {label: training(scale, VARIANTS[label]) for label in labels}
    start = {} if scale.start or not labels else {"plain model that all start from": training(scale, VARIANTS[SSF])}
    return {**start, **plan}


class Study:
    """Models, clips and measurements of a `ExperimentRunner`. Raises UsageError or UnreadableInput for the data."""

    def __init__(self, lab: VideoLab) -> None:
        self.lab, self.scale = lab, lab.scale
        self.street_sources, self.clip_sources = split_streets(lab.sources)
        if lab.sources and not self.clip_sources:
            where, hint = ", ".join(map(str, lab.sources)), "add clips of objects: --data davis:DIR camvid:DIR"
            raise UsageError("the methods are trained on clips of objects", where=where, hint=hint)
        self.clips = region_clips(self.clip_sources, self.scale.clips, self.scale.frames)
        self._loaded: dict[str, VideoCodec] = {}

    @cached_property
    def streets(self) -> list[StreetClip]:
        """Clips of the street images in val/; none without `camvid:DIR`."""
        frames = len(self.clips[0].frames)
        return [clip for each in self.street_sources for clip in street_clips(each, "val", frames, self.scale.streets)]

    def start(self) -> Path:
        """The plain model that all methods start from: `scale.start`, or one that is trained for as many steps."""
        if self.scale.start:
            folder = locate(self.scale.start)
            if read_config(folder)["model"].get("method", {}).get("kind") != "plain":
                hint = "name a model of `cpu` or `cpu_decay`, or leave start out to train one"
                what = "the methods start from plain scale-space flow; this is another model"
                raise UsageError(what, where=str(folder), hint=hint)
            return folder
        plain = VARIANTS[SSF]
        return self.lab.trained(training(self.scale, plain), name="start", sources=self.sources(plain))

    def sources(self, variant: Variant) -> list[Source]:
        """Training data of a variant."""
        if variant.streets:
            return self.street_sources
        return [Source("", place) for place in self.scale.train.split(",") if place] or self.clip_sources

    def model(self, label: str) -> VideoCodec:
        """The trained codec of the variant `label`, a key of VARIANTS. The first call trains it or opens its finished run."""
        if label not in self._loaded:
            name, variant = label.replace(",", "").replace(" ", "_"), VARIANTS[label]
            folder = self.lab.trained(
                training(self.scale, variant), name=name, init=self.start(), sources=self.sources(variant)
            )
            self._loaded[label] = self.lab.open_model(folder)
        return self._loaded[label]

    def row(self, label: str, clip: RegionClip, quality: float, gain: float | None = None) -> ClipRow:
        """One clip at one quality, with its region if it is an input of the method."""
        codec, aware = self.model(label), VARIANTS[label].aware
        key = {"clip": clip.digest, "model": codec.model_id, "precision": codec.precision, "quality": quality, "gain": gain}
        found = self.lab.once(key, lambda: measure_ours(codec, clip, quality, region=aware, gain=gain)._asdict())
        return ClipRow(**found)._replace(clip=clip.name, codec=label, region=False)

    def rows(self, labels: Sequence[str], clips: Sequence[RegionClip] | None = None) -> list[ClipRow]:
        """Rows of these variants on every clip (default: all clips of objects) at every quality."""
        found = self.clips if clips is None else clips
        tasks = [(label, clip, quality) for label in labels for clip in found for quality in self.scale.qualities]
        self.lab.complete([lambda t=task: self.row(*t) for task in tasks])  # type: ignore[misc]
        return [self.row(*task) for task in tasks]

    @property
    def swept(self) -> list[RegionClip]:
        """The clips of `sweeps`."""
        return self.clips[: self.scale.swept or None]

    def sweeps(self) -> dict[float, list[ClipRow]]:
        """Latent scaling at three qualities with all gain amplifiers, by quality; rows have the amplifier as their setting.

        The qualities are the ends and the middle of the range. The thesis has beta 1e-4, 8e-4 and 64e-4, which are the
        qualities 8, 5 and 2 of the recipe `paper`.
        """
        best = self.model(SCALING).best_quality
        qualities = (1.0, (1 + best) / 2, best)
        # The default of latent scaling is 1, so both share one measurement.
        gains = {amplifier: None if amplifier == 1 else amplifier for amplifier in self.scale.amplifiers}
        tasks = [(SCALING, clip, quality, gain) for quality in qualities for gain in gains.values() for clip in self.swept]
        self.lab.complete([lambda t=task: self.row(*t) for task in tasks])  # type: ignore[misc]
        return {
            quality: [
                self.row(SCALING, clip, quality, gain)._replace(codec=f"quality {quality:g}, amplified", setting=amplifier)
                for amplifier, gain in gains.items()
                for clip in self.swept
            ]
            for quality in qualities
        }

    def about(self, *, trained: bool = True) -> str:
        """A summary of data and scale; `trained` is False for figures without a model."""
        names = ", ".join(clip.name for clip in self.clips)
        scale = self.scale
        height, width = self.clips[0].frames.shape[1:3]
        steps = scale.steps or RECIPES[scale.recipe]().run.steps
        clips = f"{names}; first {len(self.clips[0].frames)} frames of {width} x {height}"
        if not trained:
            return clips
        start = f"the plain model {load_model(self.start()).sha256[:12]}" if scale.start else "one plain model"
        training = f"every method trained for {steps:,} steps of the recipe {scale.recipe} from {start}"
        return f"{clips}; {training}, once for all rates; rates of files"

    def facts(self) -> dict[str, object]:
        """Scale, data and models for the report."""
        return {
            "recipe": self.lab.recipe,
            "scale": to_dict(self.scale),
            "clips": [clip.name for clip in self.clips],
            "models": {label: codec.model_id for label, codec in self._loaded.items()},
        }
