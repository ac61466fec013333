"""Training crops: scenes with depth, hazed by the scattering model (Eq. 1), or unpaired real hazy and clear images."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.data.depth import QUANTILE, relative_depth
from latens.data.images import IMAGE_ENDINGS, Pixels, read_each
from latens.data.inputs import files_under
from latens.data.notes import left_out
from latens.data.origins import without_drawn
from latens.data.streaming import Chain, Part, in_memory_or_streamed
from latens.data.tensors import to_tensor
from latens.errors import InputError, LimitExceeded, UnreadableInput, UsageError, counted
from latens.systems.haze.baselines.dehazenet import PATCH
from latens.systems.haze.config import HazeDataConfig
from latens.systems.haze.formation import HazeParameters, add_haze, draw_haze_parameters, transmission
from latens.systems.haze.scenes import (
    HELD_OUT_SEED,
    Scene,
    ScenePath,
    below,
    find_labeled,
    find_scenes,
    load_scene,
    reduced,
    simulated,
    split,
    street_size,
)
from latens.training.data import generator

logger = logging.getLogger(__name__)

MULTIPLE = 32  # sides of held-out images are cropped to multiples of this
STREET_MAX_DEPTH = (60.0, 260.0)  # range of the depth of simulated streets that maps to 1, meters
FIXED = 77  # random stream of the fixed haze parameters of every image (`draws` above 0)
ASPECT = (0.9, 1.4)  # width / height of the region that is resampled to a square crop
SPARSE = 3  # the largest depth of a crop is measured on every third row and column
GAMMA, GAIN, TINT = 0.6, (0.6, 1.1), 0.06  # ranges of color jitter: log gamma, exposure, color channels


class TrainingScene(NamedTuple):
    """A scene in memory: 8-bit image, depth, and the depth that maps to 1. The depth of a crop is relative, in [0, 1]."""

    image: Pixels
    depth: np.ndarray
    max_depth: float = math.inf


class SceneData:
    """Batches of scenes with depth, from folders and simulated streets.

    {"hazy", "truth", "depth", "airlight", "beta"} belong to the hazed scenes, "clear" to other scenes; images are (B, 3, crop,
    crop). Raises UsageError if no scene is large enough.
    """

    def __init__(self, folders: Sequence[Path], config: HazeDataConfig, seed: int, labeled: Sequence[Path] = ()) -> None:
        self.config = config
        self.seed = seed
        trained: list[tuple[ScenePath, int]] = []
        self.held_out: list[TrainingScene] = []
        found = [find_scenes(folder) for folder in folders] + [find_labeled(folder) for folder in labeled]
        borders = config.borders or (config.border,) * len(found)
        if len(borders) != len(found):
            what = f"{len(borders)} borders for {len(found)} folders"
            raise UsageError(what, where="--set data.borders", hint="give one per folder, those of labels last")
        for folder, paths, border in zip([*folders, *labeled], found, borders, strict=True):
            used = self._used(folder, paths)
            train, held = split(used, config.validation_share)
            if train == held:
                logger.warning("%s: %s used for both training and validation", folder, counted(len(train), "scene"))
            elif between := len(used) - len(train) - len(held):
                shares = f"{counted(len(train), 'scene')} for training, {len(held)} for validation"
                logger.info("%s: %s; %d between them left out, because neighboring frames look alike", folder, shares, between)
            trained += [(path, border) for path in train]
            self.held_out += self._load(held, border)
        few = max(round(config.scenes * config.validation_share), 2)
        size = street_size(config.side)
        made = [self._street(scene) for scene in simulated(range(config.scenes), size)]
        if config.scenes:
            self.held_out += [self._street(scene) for scene in simulated(range(HELD_OUT_SEED, HELD_OUT_SEED + few), size)]
        self.train: Sequence[TrainingScene] = Chain([self._stored(trained), _large_enough(made, config.crop, "training")])
        self.held_out = _large_enough(self.held_out, MULTIPLE, "validation")
        if not self.train or not self.held_out:
            least = MULTIPLE if self.train else config.crop
            what = f"no {'held-out ' if self.train else ''}scene has both sides of at least {least} pixels"
            raise UsageError(what, hint="give folders with larger images, or --set data.crop=... or data.scenes=...")

    def _used(self, folder: Path, paths: list[ScenePath]) -> list[ScenePath]:
        """The scenes that are not left for tests, with lines on the others. Raises UsageError if none is."""
        first = self.config.held_out_from
        used = below(paths, first)
        if not used:
            what = f"all {len(paths)} scenes have the number {first} or more and are left for tests"
            raise UsageError(what, where=str(folder), hint="give other scenes, or --set data.held_out_from=0")
        if len(used) < len(paths):
            logger.warning("%s: %d scenes from number %d on are left for tests", folder, len(paths) - len(used), first)
        elif first and all(path.number is None for path in paths):
            logger.warning("%s: the scenes have no numbers, so data.held_out_from leaves none for tests", folder)
        return used

    def _load(self, paths: Sequence[ScenePath], border: int) -> list[TrainingScene]:
        loaded = []
        for path in paths:
            try:
                loaded.append(self._scene(reduced(load_scene(path, border=border), self.config.side)))
            except (InputError, LimitExceeded) as error:
                left_out(error)
        return loaded

    def _stored(self, paths: Sequence[tuple[ScenePath, int]]) -> Sequence[TrainingScene]:
        """The training scenes of files (with the border to cut off) that are large enough, in memory or streamed."""
        small: set[str] = set()

        def read(place: int) -> TrainingScene | None:
            path, border = paths[place]
            loaded = self._load([path], border)
            if loaded and min(loaded[0].image.shape[:2]) < self.config.crop:
                small.add(str(path.image))
                return None
            return loaded[0] if loaded else None

        where = str(paths[0][0].image.parent) if paths else ""
        found = in_memory_or_streamed(len(paths), read, lambda scene: scene.image.nbytes + scene.depth.nbytes, where)
        if small:
            logger.warning("skipped for training: %d scenes with a side below %d pixels", len(small), self.config.crop)
        return found

    def _scene(self, small: Scene, most: float = math.inf) -> TrainingScene:
        if self.config.farthest_of == "scene":
            most = min(farthest(small.depth, most), most)
        return TrainingScene(small.image, small.depth, most)

    def _street(self, scene: Scene) -> TrainingScene:
        """A simulated street with a random largest depth: relative to the farthest point, most of the image would be near."""
        small = reduced(scene, self.config.side)
        drawn = np.random.default_rng([FIXED, *small.image.tobytes()[:64]]).uniform(*STREET_MAX_DEPTH)
        return self._scene(small, float(drawn))

    def _relative(self, scene: TrainingScene, sparse: int = 1) -> TrainingScene:
        """The scene with depth in [0, 1], relative to `data.max_depth`, else to its largest depth (at most `scene.max_depth`).

        By default the farthest point of a crop has depth 1, because a crop does not show the scale of its scene. With
        `data.farthest_of=scene` the depth of a crop stays relative to `scene.max_depth`, the largest depth of the whole scene.
        """
        most = self.config.max_depth or scene.max_depth
        if not self.config.max_depth and self.config.farthest_of == "crop":
            most = min(farthest(scene.depth[::sparse, ::sparse], most), most)
        return scene._replace(depth=relative_depth(scene.depth, most))

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        count, half = len(self.train), len(self.train) // 2
        disjoint = self.config.disjoint and half > 0
        hazed, drawn, clear = [], [], []
        for _ in range(self.config.batch):
            index = int(rng.integers(half if disjoint else count))
            hazed.append(self._crop(self.train[index], rng))
            drawn.append(self._parameters(index, rng))
            other = int(rng.integers(half, count)) if disjoint else int(rng.integers(count))
            clear.append(self._crop(self.train[other], rng))
        parameters = HazeParameters(torch.cat([w.airlight for w in drawn]), torch.cat([w.beta for w in drawn]))
        brightness = rng.uniform(1 - self.config.dimming, 1, len(hazed)) if self.config.dimming else None
        return {**hazy_batch(hazed, parameters, brightness), "clear": batched([crop.image for crop in clear])}

    def _parameters(self, index: int, rng: np.random.Generator) -> HazeParameters:
        if self.config.draws:
            rng = np.random.default_rng([self.seed, FIXED, index, int(rng.integers(self.config.draws))])
        return draw_haze_parameters(rng, 1, gray=self.config.gray_airlight)

    def _crop(self, scene: TrainingScene, rng: np.random.Generator) -> TrainingScene:
        """A random region resampled to a square, mirrored half of the time, with relative depth."""
        height, width = scene.image.shape[:2]
        size = self.config.crop
        tall = int(rng.integers(max(size * 2 // 3, 1), min(height, width, size * 3 // 2) + 1))
        wide = min(round(tall * rng.uniform(*ASPECT)), width)
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        window = (slice(top, top + tall), slice(left, left + wide))
        image, depth = scene.image[window], scene.depth[window]
        if (tall, wide) != (size, size):
            image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
            depth = np.asarray(Image.fromarray(depth).resize((size, size), Image.Resampling.NEAREST))
        if rng.random() < 0.5:
            image, depth = image[:, ::-1], depth[:, ::-1]
        if self.config.color_jitter:
            image = jitter_camera(image, rng, self.config.color_jitter)
        return self._relative(TrainingScene(image, depth, scene.max_depth), SPARSE)

    def validation(self) -> list[dict[str, Tensor]]:
        """All held-out scenes, cropped to sides that are multiples of 32, each with one draw of haze parameters."""
        batches = []
        for index, scene in enumerate(self.held_out):
            height, width = (max(side // MULTIPLE * MULTIPLE, 1) for side in scene.image.shape[:2])
            whole = self._relative(TrainingScene(scene.image[:height, :width], scene.depth[:height, :width], scene.max_depth))
            batch = hazy_batch([whole], draw_haze_parameters(np.random.default_rng([FIXED, index]), 1))
            batches.append({**batch, "clear": batch["truth"]})
        return batches


def farthest(depth: np.ndarray, otherwise: float) -> float:
    """The largest measured depth (its 99.9 % quantile), or `otherwise` if nothing was measured."""
    finite = depth[np.isfinite(depth)]
    return float(np.quantile(finite, QUANTILE)) if finite.size else otherwise


def _large_enough(scenes: list[TrainingScene], least: int, purpose: str) -> list[TrainingScene]:
    """The scenes whose sides are at least `least` pixels; a warning counts the others."""
    kept = [scene for scene in scenes if min(scene.image.shape[:2]) >= least]
    if len(kept) < len(scenes):
        logger.warning("skipped for %s: %d scenes with a side below %d pixels", purpose, len(scenes) - len(kept), least)
    return kept


class UnpairedData:
    """Batches {"hazy", "clear"} of crops from folders of unpaired real images."""

    def __init__(self, hazy: Sequence[Path], clear: Sequence[Path], config: HazeDataConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.train: dict[str, Sequence[Pixels]] = {}
        self.held_out: dict[str, Sequence[Pixels]] = {}
        for domain, folders in (("hazy", hazy), ("clear", clear)):
            paths = [path for folder in folders for path in without_drawn(files_under(folder, IMAGE_ENDINGS), folder)]
            found = self._load(paths, ", ".join(map(str, folders)))
            if not found:
                least = max(config.crop, MULTIPLE)
                what = f"no image of at least {least} x {least} pixels"
                raise UnreadableInput(what, where=", ".join(map(str, folders)))
            held = max(round(len(found) * config.validation_share), 1)
            if held >= len(found):
                logger.warning("the same %d %s images are used for training and validation", len(found), domain)
            kept = max(len(found) - held, 0)
            self.train[domain] = Part(found, range(kept)) if kept else found
            self.held_out[domain] = Part(found, range(kept, len(found)))

    def _load(self, paths: Sequence[Path], where: str) -> Sequence[Pixels]:
        small_ones: set[Path] = set()

        def read(place: int) -> Pixels | None:
            for path, pixels in read_each([paths[place]]):
                flat = np.zeros(pixels.shape[:2], np.float32)
                small = reduced(Scene(path.name, pixels, flat), self.config.side).image
                if min(small.shape[:2]) >= max(self.config.crop, MULTIPLE):
                    return small
                small_ones.add(path)
            return None

        found = in_memory_or_streamed(len(paths), read, lambda image: image.nbytes, where)
        if small_ones:
            least = max(self.config.crop, MULTIPLE)
            logger.warning("%s: skipped %d images with a side below %d pixels", where, len(small_ones), least)
        return found

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        return {
            domain: batched([self._crop(self.train[domain], rng) for _ in range(self.config.batch)]) for domain in self.train
        }

    def _crop(self, found: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
        image = found[int(rng.integers(len(found)))]
        size = self.config.crop
        top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
        part = image[top : top + size, left : left + size]
        return part[:, ::-1] if rng.random() < 0.5 else part

    def validation(self) -> list[dict[str, Tensor]]:
        pairs = zip(self.held_out["hazy"], self.held_out["clear"], strict=False)
        return [{"hazy": batched([_whole(hazy)]), "clear": batched([_whole(clear)])} for hazy, clear in pairs]


class PatchData:
    """Batches {"patches": (B, 3, 16, 16)} of clear images for DehazeNet; held-out scenes are whole and hazed by Eq. 1."""

    def __init__(self, scenes: SceneData, batch: int) -> None:
        self.scenes = scenes
        self.count = batch

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.scenes.seed, step, rank)
        patches = []
        for _ in range(self.count):
            image = self.scenes.train[int(rng.integers(len(self.scenes.train)))].image
            top, left = (int(rng.integers(side - PATCH + 1)) for side in image.shape[:2])
            patches.append(image[top : top + PATCH, left : left + PATCH])
        return {"patches": batched(patches)}

    def validation(self) -> list[dict[str, Tensor]]:
        return self.scenes.validation()


def jitter_camera(image: Pixels, rng: np.random.Generator, amount: float) -> Pixels:
    """Random exposure, gamma and white balance; `amount` is the strength, 0 for none."""
    gamma = math.exp(amount * rng.uniform(-GAMMA, GAMMA))
    gains = (1 + amount * (rng.uniform(*GAIN) - 1)) * (1 + amount * rng.uniform(-TINT, TINT, 3))
    curve = (np.arange(256) / 255) ** gamma
    tables = np.rint(255 * np.clip(curve[:, None] * gains, 0, 1)).astype(np.uint8)
    return np.stack([tables[image[..., color], color] for color in range(3)], -1)


def hazy_batch(
    scenes: Sequence[TrainingScene], parameters: HazeParameters, brightness: np.ndarray | None = None
) -> dict[str, Tensor]:
    """Scenes of the same size, hazed by Eq. 1 and rounded to 8 bits. `brightness` scales image, haze and airlight of each."""
    truth = batched([scene.image for scene in scenes])
    if brightness is not None:
        factor = torch.from_numpy(brightness.astype(np.float32))
        truth = truth * factor[:, None, None, None]
        parameters = parameters._replace(airlight=parameters.airlight * factor[:, None])
    depth = torch.from_numpy(np.stack([scene.depth for scene in scenes]))[:, None]
    hazy = add_haze(truth, transmission(depth, parameters.beta), parameters.airlight).mul(255).round().div(255)
    return {"hazy": hazy, "truth": truth, "depth": depth, "airlight": parameters.airlight, "beta": parameters.beta}


def batched(images: Sequence[Pixels]) -> Tensor:
    """Images of the same size (H, W, 3) as (B, 3, H, W) in [0, 1]."""
    return to_tensor(np.stack(images))


def _whole(image: Pixels) -> Pixels:
    height, width = (max(side // MULTIPLE * MULTIPLE, 1) for side in image.shape[:2])
    return image[:height, :width]
