"""Groups of frames to bytes and back: what the coders of both models share.

A group is decoded by itself. Both directions keep the decoded frame that predicts the next one, so what the encoder predicts
from is what the decoder has, up to the rounding of floats; the symbols never depend on it.

Letters: T frames, H W frame size, M latent channels, h w sizes of a latent, a b = H/64 W/64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from latens.codes.adaptive import decode_maps, encode_maps
from latens.data.tensors import pad_to_multiple, to_tensor
from latens.errors import Corrupt
from latens.inference.device import transform_precision
from latens.shapes import Float, Int, UInt8
from latens.systems.video_codec.chunk_model import MAP_CELL, MAP_LEVELS, map_levels
from latens.systems.video_codec.config import VideoModel
from latens.systems.video_codec.exact import AMPLIFIER_STEPS, QUALITY_STEPS, at_quality
from latens.systems.video_codec.latents import Packer, Unpacker

Frame: TypeAlias = UInt8[np.ndarray, "H W 3"]
Mask: TypeAlias = UInt8[np.ndarray, "H W"]  # weights of the region, 0 to 255


class Setting(NamedTuple):
    """How a clip is coded; all of it is in the header of its file."""

    quality: int  # in 1/256
    amplifier: int  # gain amplifier in half octaves
    region: bool  # False: all of the frame is region
    varied: bool = False  # every group stores the quality of each of its units; `quality` is about their mean

    def steps(self, device: torch.device) -> Int[Tensor, "1 1"]:
        """The quality in 1/256, for all places."""
        return torch.tensor([[self.quality]], device=device)


class Pace(Protocol):
    """Chooses the quality of every unit of frames while a group is written."""

    def quality(self) -> int:
        """In 1/256, for the next unit."""
        ...

    def accept(self, size: int) -> bool:
        """Whether a unit stays, after which the group has `size` bytes; else it is written again at another quality."""
        ...


class GroupCoder(Protocol):
    """Codes groups of at most `config.group` frames of one size."""

    @property
    def config(self) -> VideoModel: ...

    @property
    def unit(self) -> int:
        """Frames that share a latent, and so a quality."""
        ...

    def encode(
        self, packer: Packer, frames: Sequence[Frame], masks: Sequence[Mask] | None, how: Setting, pace: Pace | None = None
    ) -> None:
        """Appends a group to an empty packer, at the quality of `how` or those of `pace`."""
        ...

    def decode(
        self, data: bytes, count: int, size: tuple[int, int], how: Setting, qualities: Sequence[int] = ()
    ) -> Iterator[Frame]:
        """`qualities`: of the units, in 1/256; without them all have that of `how`.

        Raises Corrupt for bytes that `encode` did not write, DeviceMismatch where this machine finds other tables.
        """
        ...


_Written = TypeVar("_Written")


def at_pace(packer: Packer, how: Setting, pace: Pace | None, write: Callable[[Setting], _Written]) -> _Written:
    """The result of `write`, which appends a unit of frames: at the quality of `how`, or as often as `pace` asks for it."""
    if pace is None:
        return write(how)
    while True:
        mark, tried = packer.mark(), how._replace(quality=pace.quality())
        found = write(tried)
        if pace.accept(packer.size):
            packer.qualities.append(tried.quality)
            return found
        packer.rewind(mark)


def unit_settings(how: Setting, qualities: Sequence[int], count: int) -> list[Setting]:
    """The setting of each of `count` units of a group. Raises Corrupt for another number of qualities."""
    if not qualities:
        return [how] * count
    if len(qualities) != count:
        raise Corrupt(f"a group holds {len(qualities)} qualities for {count} units of frames", section="frames")
    return [how._replace(quality=quality) for quality in qualities]


class Arithmetic:
    """Device and number format of the transforms, and the multiple that sides of frames are filled to."""

    def __init__(self, device: torch.device, multiple: int) -> None:
        self.device, self.precision, self.multiple = device, transform_precision(device), multiple

    def __call__(self) -> AbstractContextManager[object]:
        """bfloat16 where the processor computes it natively; never for what the entropy coder depends on."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def frames(self, frames: Sequence[Frame]) -> Float[Tensor, "T 3 H W"]:
        return pad_to_multiple(to_tensor(np.stack(frames)).to(self.device), self.multiple)

    def masks(self, masks: Sequence[Mask] | None, count: int, size: tuple[int, ...]) -> Float[Tensor, "T 1 H W"]:
        """In [0, 1]; all region without masks."""
        if masks is None:
            return torch.ones(count, 1, *self.padded(size), device=self.device)
        return pad_to_multiple(to_tensor(np.stack(masks)[..., None]).to(self.device), self.multiple)

    def padded(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of filled frames."""
        height, width = (-(-side // self.multiple) * self.multiple for side in size[:2])
        return height, width

    # --------------------------------------------------------------------------------------------------- quality maps

    def write_map(
        self, packer: Packer, masks: Sequence[Mask] | None, count: int, size: tuple[int, ...], how: Setting
    ) -> Int[Tensor, "T a b"]:
        """The quality maps of a group, appended; zeros for a clip without a region, which sends none."""
        if masks is None or not how.region:
            return torch.zeros(self._cells(count, size), dtype=torch.int64, device=self.device)
        amplifier = torch.tensor([2.0 ** (how.amplifier / AMPLIFIER_STEPS)], device=self.device)
        levels = torch.cat([map_levels(self.masks([mask], 1, size)[None], amplifier)[0] for mask in masks])
        packer.put(encode_maps(levels.cpu().numpy(), MAP_LEVELS), "map")
        return levels

    def read_map(self, unpacker: Unpacker, count: int, size: tuple[int, int], how: Setting) -> Int[Tensor, "T a b"]:
        """Undoes `write_map`. Raises Corrupt."""
        shape = self._cells(count, size)
        if not how.region:
            return torch.zeros(shape, dtype=torch.int64, device=self.device)
        return torch.from_numpy(decode_maps(unpacker.take(), shape, MAP_LEVELS)).to(self.device)

    def _cells(self, count: int, size: tuple[int, ...]) -> tuple[int, int, int]:
        height, width = self.padded(size)
        return count, height // MAP_CELL, width // MAP_CELL


def gain_at(log_gain: Float[Tensor, "Q M"], steps: Int[Tensor, "h w"]) -> Float[Tensor, "1 M h w"]:
    """Gains of a latent at qualities in 1/256, for encoders and decoded pixels."""
    return (at_quality(log_gain, steps) / QUALITY_STEPS).exp()[None]
