"""Groups of frames to bytes and back: the common parts of the coders of both models.

Groups are decoded independently. Encoder and decoder predict the next frame from the same decoded frame, up to floating-point
rounding; the symbols do not depend on this rounding.

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
    """Coding options of a clip, which the header of its file stores."""

    quality: int  # in 1/256
    amplifier: int  # gain amplifier in half octaves
    region: bool  # False: the region is the whole frame
    varied: bool = False  # every group stores the qualities of its units; `quality` is their approximate mean

    def steps(self, device: torch.device) -> Int[Tensor, "1 1"]:
        """The quality in 1/256, for all positions."""
        return torch.tensor([[self.quality]], device=device)


class RateControl(Protocol):
    """Chooses the quality of every unit during encoding. A unit is one frame of scale-space flow, or one chunk of frames."""

    def quality(self) -> int:
        """The quality of the next unit, in steps of 1/256."""
        ...

    def accept(self, size: int) -> bool:
        """True to keep the last unit; `size` is the size of its group in bytes. False to code it again at another quality."""
        ...


class GroupCoder(Protocol):
    """Codes groups of at most `config.group` frames of one size."""

    @property
    def config(self) -> VideoModel: ...

    @property
    def unit(self) -> int:
        """Number of frames that share a latent and a quality."""
        ...

    def encode(
        self,
        packer: Packer,
        frames: Sequence[Frame],
        masks: Sequence[Mask] | None,
        setting: Setting,
        control: RateControl | None = None,
    ) -> None:
        """Append a group to an empty packer, at the quality of `setting` or the qualities of `control`."""
        ...

    def decode(
        self, data: bytes, count: int, size: tuple[int, int], setting: Setting, qualities: Sequence[int] = ()
    ) -> Iterator[Frame]:
        """Decode the `count` frames of a group, of `size` = (height, width).

        `qualities` are those of the units in 1/256; without them all units have the quality of `setting`. Raises Corrupt
        for bytes that `encode` did not write, DeviceMismatch if this machine computes other tables.
        """
        ...


_Written = TypeVar("_Written")


def with_rate_control(
    packer: Packer, setting: Setting, control: RateControl | None, write: Callable[[Setting], _Written]
) -> _Written:
    """The result of `write`, which appends a unit of frames; repeated until `control` accepts it."""
    if control is None:
        return write(setting)
    while True:
        mark, tried = packer.mark(), setting._replace(quality=control.quality())
        found = write(tried)
        if control.accept(packer.size):
            packer.qualities.append(tried.quality)
            return found
        packer.rewind(mark)


def unit_settings(setting: Setting, qualities: Sequence[int], count: int) -> list[Setting]:
    """The setting of each of `count` units of a group. Raises Corrupt for another number of qualities."""
    if not qualities:
        return [setting] * count
    if len(qualities) != count:
        raise Corrupt(f"a group holds {len(qualities)} qualities for {count} units of frames", section="frames")
    return [setting._replace(quality=quality) for quality in qualities]


class Arithmetic:
    """Device and floating-point format of the transforms, and padding of frames to multiples of `multiple` pixels."""

    def __init__(self, device: torch.device, multiple: int) -> None:
        self.device, self.precision, self.multiple = device, transform_precision(device), multiple

    def __call__(self) -> AbstractContextManager[object]:
        """Context of the transforms: bfloat16 if the processor supports it. The entropy parameters never depend on it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def frames(self, frames: Sequence[Frame]) -> Float[Tensor, "T 3 H W"]:
        return pad_to_multiple(to_tensor(np.stack(frames)).to(self.device), self.multiple)

    def masks(self, masks: Sequence[Mask] | None, count: int, size: tuple[int, ...]) -> Float[Tensor, "T 1 H W"]:
        """Weights of the region in [0, 1]; ones without masks."""
        if masks is None:
            return torch.ones(count, 1, *self.padded(size), device=self.device)
        return pad_to_multiple(to_tensor(np.stack(masks)[..., None]).to(self.device), self.multiple)

    def padded(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of padded frames."""
        height, width = (-(-side // self.multiple) * self.multiple for side in size[:2])
        return height, width

    # --------------------------------------------------------------------------------------------------- quality maps

    def write_map(
        self, packer: Packer, masks: Sequence[Mask] | None, count: int, size: tuple[int, ...], setting: Setting
    ) -> Int[Tensor, "T a b"]:
        """Append the quality maps of a group and return them. Without a region they are zeros and not transmitted."""
        if masks is None or not setting.region:
            return torch.zeros(self._cells(count, size), dtype=torch.int64, device=self.device)
        amplifier = torch.tensor([2.0 ** (setting.amplifier / AMPLIFIER_STEPS)], device=self.device)
        levels = torch.cat([map_levels(self.masks([mask], 1, size)[None], amplifier)[0] for mask in masks])
        packer.put(encode_maps(levels.cpu().numpy(), MAP_LEVELS), "map")
        return levels

    def read_map(self, unpacker: Unpacker, count: int, size: tuple[int, int], setting: Setting) -> Int[Tensor, "T a b"]:
        """The quality maps that `write_map` wrote. Raises Corrupt."""
        shape = self._cells(count, size)
        if not setting.region:
            return torch.zeros(shape, dtype=torch.int64, device=self.device)
        return torch.from_numpy(decode_maps(unpacker.take(), shape, MAP_LEVELS)).to(self.device)

    def _cells(self, count: int, size: tuple[int, ...]) -> tuple[int, int, int]:
        height, width = self.padded(size)
        return count, height // MAP_CELL, width // MAP_CELL


def gain_at(log_gain: Float[Tensor, "Q M"], steps: Int[Tensor, "h w"]) -> Float[Tensor, "1 M h w"]:
    """Gains of a latent at qualities in 1/256, in floating point: for encoders and decoded pixels only."""
    return (at_quality(log_gain, steps) / QUALITY_STEPS).exp()[None]
