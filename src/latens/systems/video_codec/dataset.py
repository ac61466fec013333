"""Training clips, kept in memory as bytes if they fit: real clips with object masks, photographs in motion, and composites.

A folder of clips holds CLIP/frames/*.jpg and, for annotated clips, CLIP/masks/*.png of the same names (0 is background), or
clip files such as MP4. The images of any other folder are photographs.

`vimeo:DIR` are the training septuplets of Vimeo-90k (sep_trainlist.txt, sequences/).
`camvid:DIR` holds street images with label maps. `masks:perlin` replaces all regions by noise, `masks:DIR` reads them from
DIR/CLIP/*.png.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.data.images import IMAGE_ENDINGS, read_image
from latens.data.inputs import files_under
from latens.data.origins import without_drawn
from latens.data.regions.noise import perlin_masks
from latens.data.source import Source
from latens.data.streaming import Chain, Streamed, in_memory_or_streamed
from latens.errors import InputError, LimitExceeded, UnreadableInput, UsageError, counted
from latens.shapes import Bool, UInt8
from latens.systems.video_codec import streets
from latens.systems.video_codec.clip_files import Run, clip_files, clips_of_files
from latens.systems.video_codec.config import ClipConfig
from latens.systems.video_codec.sizes import center, reduced, resized
from latens.systems.video_codec.synthetic import composite, cut_out, moving_photograph
from latens.training.data import generator

logger = logging.getLogger(__name__)

VIMEO = "vimeo"  # kind of a source in the layout of Vimeo-90k
KINDS = ("", "clips", "davis", "photographs", VIMEO, streets.KIND)
MASKS = "masks"  # kind of a source of regions
CENTERED_SHARE = 0.5  # share of the crops of annotated clips that are centered on the object


class Clip(NamedTuple):
    name: str
    frames: UInt8[np.ndarray, "T H W 3"]
    masks: UInt8[np.ndarray, "T H W"] | None  # 0 or 255


class TrainingClip(NamedTuple):
    """A training clip and its region, a crop of side S."""

    frames: UInt8[np.ndarray, "T S S 3"]
    mask: Bool[np.ndarray, "T S S"]


class ClipData:
    """Batches {"frames": (B, T, 3, S, S), "mask": (B, T, 1, S, S)}, floats in [0, 1], a function of (seed, step, rank).

    Without `regions` batches have no "mask". Raises UsageError for a source of another kind, UnreadableInput if a folder is
    missing or there are no training data.
    """

    def __init__(self, sources: Sequence[Source], config: ClipConfig, seed: int, *, regions: bool) -> None:
        self.config, self.seed, self.regions = config, seed, regions
        self.held_out: list[Clip] = []
        parts: list[Sequence[Clip]] = []
        self.photographs: list[np.ndarray] = []
        chosen = [source for source in sources if source.kind == MASKS]
        self.perlin = config.masks == "perlin" or any(source.place == "perlin" for source in chosen)
        self.mask_folders = [source.path for source in chosen if source.place != "perlin"]
        for folder in self.mask_folders:
            if not folder.is_dir():
                raise UnreadableInput(
                    "not a folder", where=f"{MASKS}:{folder}", hint="masks:perlin, or a folder with CLIP/*.png"
                )
        for source in sources:
            if source.kind != MASKS:
                parts += self._read(source)
        self.clips: Sequence[Clip] = Chain(parts)
        stored = [part for part in parts if not isinstance(part, Streamed)]  # streamed clips give no objects for composites
        self.objects = [clip for part in stored for clip in part if clip.masks is not None]
        if not self.clips and not self.photographs:
            layout = "clip files or CLIP/frames/*.png"
            hint = f"give clips ({layout}) of at least {config.frames} frames and {config.crop} pixels per side, or photographs"
            raise UnreadableInput("there are no training data", where=", ".join(map(str, sources)) or "--data", hint=hint)
        logger.info("%d clips, %d photographs, %d held out", len(self.clips), len(self.photographs), len(self.held_out))

    def _read(self, source: Source) -> list[Sequence[Clip]]:
        """The training clips of a source; its held-out clips and photographs are kept."""
        if source.kind not in KINDS:
            raise UsageError(
                f"no data of the kind '{source.kind}'", where=str(source), hint="clips:DIR, photographs:DIR or masks:DIR"
            )
        if not source.path.is_dir():
            raise UnreadableInput("not a folder", where=str(source), hint="give a folder of clips or photographs")
        if source.kind == streets.KIND:
            made = self._streets(source)
            self.held_out += [clip for clip in made if clip.name in self.config.held_out]
            return [[clip for clip in made if clip.name not in self.config.held_out and self._long(clip)]]
        if source.kind == VIMEO:
            return [self._stored(vimeo_folders(source.path), source)]
        folders = sorted(path.parent for path in source.path.glob("*/frames") if path.is_dir())
        files = clip_files(source.path)
        if source.kind == "photographs" or (source.kind == "" and not folders):
            paths = sorted(without_drawn(set(files_under(source.path, IMAGE_ENDINGS)).difference(files), source.path))
            found = [pixels for path in paths if (pixels := self._pixels(path)) is not None]
            self.photographs += [pixels for pixels in found if min(pixels.shape[:2]) >= self.config.crop]
        if source.kind == "photographs":
            if files:
                logger.warning("%s: %s not read; give clips:%s", source, counted(len(files), "clip file"), source.path)
            return []
        return [
            self._stored([folder for folder in folders if folder.name not in self.config.never], source),
            self._of_files([path for path in files if path.stem not in self.config.never], source),
        ]

    def _of_files(self, files: Sequence[Path], source: Source) -> Sequence[Clip]:
        """The training clips of clip files, in memory or streamed; the start of the held-out ones is kept."""

        def make(path: Path, frames: Run) -> Clip | None:
            clip = Clip(path.stem, frames, None)
            return clip if self._long(clip) and min(frames.shape[1:3]) >= self.config.crop else None

        def of(paths: Sequence[Path]) -> Sequence[Clip]:
            return clips_of_files(paths, self.config.shrink, make, lambda clip: clip.frames.nbytes, str(source))

        held_out = of([path for path in files if path.stem in self.config.held_out])
        self.held_out += {clip.name: clip for clip in reversed(held_out)}.values()  # the first clip of every file
        return of([path for path in files if path.stem not in self.config.held_out])

    def _stored(self, folders: Sequence[Path], source: Source) -> Sequence[Clip]:
        """The training clips of folders, in memory or streamed; the held-out ones are kept."""
        chosen = [folder for folder in folders if folder.name in self.config.held_out]
        self.held_out += [clip for folder in chosen if (clip := self._read_clip(folder)) is not None]
        rest = [folder for folder in folders if folder.name not in self.config.held_out]

        def read(place: int) -> Clip | None:
            clip = self._read_clip(rest[place])
            return clip if clip is not None and self._long(clip) else None

        def size(clip: Clip) -> int:
            return clip.frames.nbytes + (0 if clip.masks is None else clip.masks.nbytes)

        return in_memory_or_streamed(len(rest), read, size, str(source))

    def _long(self, clip: Clip) -> bool:
        return len(clip.frames) >= self.config.frames

    def _streets(self, source: Source) -> list[Clip]:
        """The training images of a source, as clips of twice the training length, since clips may skip frames."""
        found = streets.street_clips(source, "train", 2 * self.config.frames)
        return [Clip(clip.name, clip.frames, np.where(clip.region(), 255, 0).astype(np.uint8)) for clip in found]

    def _read_clip(self, folder: Path) -> Clip | None:
        inside = folder / "frames"
        files = (inside if inside.is_dir() else folder).iterdir()
        paths = sorted(path for path in files if path.suffix.lower() in IMAGE_ENDINGS)
        frames = [self._pixels(path) for path in paths]
        kept = [index for index, frame in enumerate(frames) if frame is not None and frame.shape == frames[0].shape]  # type: ignore[union-attr]
        if len(kept) < len(paths) or not kept or min(frames[kept[0]].shape[:2]) < self.config.crop:  # type: ignore[union-attr]
            logger.warning("left out of the training data: %s: frames are unreadable, too small or of several sizes", folder)
            return None
        places = [place / folder.name for place in self.mask_folders] or [folder / "masks"]
        place = next((place for place in places if place.is_dir()), places[0])
        names = [(place / path.name).with_suffix(".png") for path in paths]
        masks = np.stack([self._mask(path) for path in names]) if all(path.exists() for path in names) else None
        return Clip(folder.name, np.stack(frames), masks)  # type: ignore[arg-type]

    def _pixels(self, path: Path) -> UInt8[np.ndarray, "H W 3"] | None:
        try:
            return reduced(read_image(path).pixels, self.config.shrink)
        except (InputError, LimitExceeded) as error:
            logger.warning("left out of the training data: %s", str(error).splitlines()[0])
            return None

    def _mask(self, path: Path) -> UInt8[np.ndarray, "H W"]:
        area = reduced(np.where(read_image(path).pixels.any(-1), 255, 0).astype(np.uint8), self.config.shrink)
        return np.where(area > 127, 255, 0).astype(np.uint8)

    # ----------------------------------------------------------------------------------------------------- batches

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        drawn = [self._draw(rng) for _ in range(self.config.batch)]
        return self._tensors(drawn)

    def _tensors(self, drawn: Sequence[TrainingClip]) -> dict[str, Tensor]:
        frames = torch.from_numpy(np.stack([clip.frames for clip in drawn])).permute(0, 1, 4, 2, 3).float().div(255)
        if not self.regions:
            return {"frames": frames}
        return {"frames": frames, "mask": torch.from_numpy(np.stack([clip.mask for clip in drawn])).float()[:, :, None]}

    def _draw(self, rng: np.random.Generator) -> TrainingClip:
        share = rng.random()
        if self.photographs and self.objects and share < self.config.composite_share:
            drawn = self._composite(rng)
        elif self.photographs and (not self.clips or share < self.config.composite_share + self.config.photograph_share):
            frames = self._moving(rng)
            drawn = TrainingClip(frames, self._noise(rng, frames))
        else:
            drawn = self._real(rng)
        if self.perlin and self.regions:
            drawn = TrainingClip(drawn.frames, self._noise(rng, drawn.frames))
        flips = int(rng.integers(2)), int(rng.integers(2))
        return TrainingClip(*(part[:: 1 - 2 * flips[0], :, :: 1 - 2 * flips[1]] for part in drawn))

    def _noise(self, rng: np.random.Generator, frames: np.ndarray) -> Bool[np.ndarray, "T S S"]:
        seed = int(rng.integers(1 << 31))
        count, height, width = frames.shape[:3]
        return perlin_masks(count, height, width, seed) if self.regions else np.ones(frames.shape[:3], bool)

    def _moving(self, rng: np.random.Generator) -> UInt8[np.ndarray, "T S S 3"]:
        config = self.config
        photograph = self.photographs[rng.integers(len(self.photographs))]
        return moving_photograph(photograph, rng, config.frames, config.crop, config.speed, config.zoom)

    def _real(self, rng: np.random.Generator) -> TrainingClip:
        config = self.config
        clip = self.clips[int(rng.integers(len(self.clips)))]
        times = self._times(rng, len(clip.frames))
        height, width = clip.frames.shape[1:3]
        side = min(int(config.crop * rng.uniform(1, config.zoom)), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        if clip.masks is not None and rng.random() < CENTERED_SHARE:
            inside = np.argwhere(clip.masks[times[0], ::8, ::8])
            if len(inside):
                row, column = 8 * inside[rng.integers(len(inside))] - side // 2
                top, left = np.clip(row, 0, height - side), np.clip(column, 0, width - side)
        window = np.s_[top : top + side, left : left + side]
        frames = np.stack([resized(clip.frames[time][window], config.crop) for time in times])
        if clip.masks is None:
            return TrainingClip(frames, self._noise(rng, frames))
        return TrainingClip(frames, np.stack([resized(clip.masks[time][window], config.crop) for time in times]) > 127)

    def _times(self, rng: np.random.Generator, length: int) -> list[int]:
        count = self.config.frames
        skip = 2 if rng.random() < self.config.skip_share and length >= 2 * count else 1
        start = int(rng.integers(length - skip * (count - 1)))
        return [start + skip * index for index in range(count)]

    def _composite(self, rng: np.random.Generator) -> TrainingClip:
        background = self._moving(rng)
        cutouts = []
        for _ in range(2):
            clip = self.objects[rng.integers(len(self.objects))]
            assert clip.masks is not None
            times = self._times(rng, len(clip.frames))
            found = cut_out(clip.frames[times], clip.masks[times])
            cutouts += [found] if found else []
        made = composite(background, cutouts, rng, self.config.speed)
        chosen = ((1,), (2,), (1, 2))[rng.integers(3)]
        return TrainingClip(made.frames, np.isin(made.ids, chosen))

    def validation(self) -> Sequence[dict[str, Tensor]]:
        """Central crops of the held-out clips (without any, of a training clip), at their start and in their middle."""
        found = []
        for clip in self.held_out or self.clips[:1]:
            count = min(self.config.validation_frames, len(clip.frames))
            for start in dict.fromkeys((0, (len(clip.frames) - count) // 2)):
                window = np.s_[start : start + count, *center(clip.frames.shape[1:3], self.config.validation_size)]
                frames = clip.frames[window]
                masks = np.ones(frames.shape[:3], bool) if clip.masks is None else clip.masks[window] > 127
                found.append(self._tensors([TrainingClip(frames, masks)]))
        return found or [self.batch(0, 1)]


def vimeo_folders(root: Path) -> list[Path]:
    """The training septuplets of Vimeo-90k. Raises UnreadableInput without their list."""
    listing = root / "sep_trainlist.txt"
    if not listing.is_file():
        hint = "give the folder of vimeo_septuplet, with sep_trainlist.txt and sequences/"
        raise UnreadableInput("there is no sep_trainlist.txt", where=str(root), hint=hint)
    names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [root / "sequences" / name for name in names]
