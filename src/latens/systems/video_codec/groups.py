"""Groups of frames to bytes and back: the two codecs behind one interface.

A group is decoded by itself. Both directions keep the decoded frame that predicts the next one, so what the encoder predicts
from is what the decoder has, up to the rounding of floats; the symbols never depend on it.

Letters: T frames, H W frame size, M latent channels, h w sizes of a latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from latens.codes.adaptive import decode_maps, encode_maps
from latens.data.tensors import to_pixels, to_tensor
from latens.inference.device import transform_precision
from latens.shapes import Float, Int, UInt8
from latens.systems.video_codec.chunk_model import BLOCK, GRAY, MAP_CELL, MAP_LEVELS, ChunkCodec, map_levels
from latens.systems.video_codec.codec import GainCodec, HyperpriorCodec
from latens.systems.video_codec.config import STRIDE, ChunkConfig, Obic, VideoModel
from latens.systems.video_codec.exact import AMPLIFIER_STEPS, CHUNK, QUALITY_STEPS, ExactCoding
from latens.systems.video_codec.latents import Conditions, LatentCoder, Packer, Quantized, Unpacker
from latens.systems.video_codec.model import ScaleSpaceFlow, cells_of

Frame = UInt8[np.ndarray, "H W 3"]
HYPER_RATIO, PAPER_HYPER_RATIO = 4, 8  # samples of a latent per sample of its hyper-latent and side


class Setting(NamedTuple):
    """How a clip is coded; all of it is in the header of its file."""

    quality: int  # in 1/256
    amplifier: int  # gain amplifier in half octaves
    region: bool  # False: all of the frame is region

    def rate(self, device: torch.device) -> Float[Tensor, "1"]:
        return torch.tensor([self.quality / QUALITY_STEPS], device=device)


class GroupCoder(Protocol):
    """Codes groups of at most `config.group` frames of one size."""

    @property
    def config(self) -> VideoModel: ...

    def encode(self, frames: Sequence[Frame], masks: Sequence[UInt8[np.ndarray, "H W"]] | None, how: Setting) -> Packer: ...

    def decode(self, data: bytes, count: int, size: tuple[int, int], how: Setting) -> Iterator[Frame]: ...


class Arithmetic:
    """Device and number format of the transforms."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.precision = device, transform_precision(device)

    def __call__(self) -> AbstractContextManager[object]:
        """bfloat16 where the processor computes it natively; never for what the entropy coder depends on."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def frames(self, frames: Sequence[Frame]) -> Float[Tensor, "T 3 H W"]:
        return to_tensor(np.stack(frames)).to(self.device)

    def masks(self, masks: Sequence[UInt8[np.ndarray, "H W"]] | None, count: int, size: tuple[int, ...]) -> Tensor:
        """(T, 1, H, W) in [0, 1]; all region without masks."""
        if masks is None:
            return torch.ones(count, 1, *size[:2], device=self.device)
        return to_tensor(np.stack(masks)[..., None]).to(self.device)


# --------------------------------------------------------------------------------------------------------- chunk codec


class ChunkCoder:
    """Groups of the chunk codec: the quality map of the group, then its chunks."""

    def __init__(self, model: ChunkCodec, exact: ExactCoding, device: torch.device) -> None:
        self.model, self.exact, self.arithmetic = model, exact, Arithmetic(device)
        self.config: ChunkConfig = model.config
        self.device = device
        self.latent = LatentCoder("latent", [model.hyper_analysis], [exact.parts[CHUNK]], HYPER_RATIO)

    @torch.no_grad()
    def encode(self, frames: Sequence[Frame], masks: Sequence[UInt8[np.ndarray, "H W"]] | None, how: Setting) -> Packer:
        packer, length = Packer(), self.config.frames
        full = [*frames, *[frames[-1]] * (-len(frames) % length)]
        given = None if masks is None else [*masks, *[masks[-1]] * (-len(frames) % length)]
        levels = self._write_map(packer, given, len(full), frames[0].shape, how)
        context: Tensor | None = None
        for start in range(0, len(full), length):
            part = slice(start, start + length)
            clip = self.model.padded(self.arithmetic.frames(full[part])[None])
            mask = self.arithmetic.masks(None if given is None else given[part], length, frames[0].shape)
            before = torch.full_like(clip[:, 0], GRAY) if context is None else context
            with self.arithmetic():
                y = self.model.analysis(clip, self.model.padded(mask[None]), before).float()
            offset = self.model.map_gain(levels[None, part])
            scaled = y * self.model.gains.forward_gain(how.rate(self.device)) * offset.exp()
            found = self.latent.write(packer, scaled, self._conditions(levels[part], how))
            context = self._synthesized(found, offset, before, how)[0, -1:].clamp(0, 1)
        return packer

    def _write_map(
        self, packer: Packer, masks: Sequence[UInt8[np.ndarray, "H W"]] | None, count: int, size: tuple[int, ...], how: Setting
    ) -> Int[Tensor, "T a b"]:
        """The quality map of a group; a clip without a region sends none."""
        if masks is None or not how.region:
            rows, columns = (-(-side // MAP_CELL) for side in size[:2])
            return torch.zeros(count, rows, columns, dtype=torch.int64, device=self.device)
        amplifier = torch.tensor([2.0 ** (how.amplifier / AMPLIFIER_STEPS)])
        levels = torch.cat(
            [map_levels(self.model.padded(self.arithmetic.masks([mask], 1, size)[None])[:, :1], amplifier)[0] for mask in masks]
        )
        packer.put(encode_maps(levels.cpu().numpy(), MAP_LEVELS), "map")
        return levels

    def _conditions(self, levels: Int[Tensor, "T a b"], how: Setting) -> Conditions:
        return Conditions(self.exact.shift(CHUNK, how.quality, self.exact.map_offset(levels)))

    def _synthesized(self, found: Quantized, offset: Tensor, before: Tensor, how: Setting) -> Float[Tensor, "1 T 3 H W"]:
        y_hat = found.values() * self.model.gains.inverse_gain(how.rate(self.device)) * (-offset).exp()
        with self.arithmetic():
            return self.model.synthesis(y_hat, before)

    @torch.no_grad()
    def decode(self, data: bytes, count: int, size: tuple[int, int], how: Setting) -> Iterator[Frame]:
        unpacker, length = Unpacker(data), self.config.frames
        rows, columns = (-(-side // MAP_CELL) for side in size)
        shape = (-(-count // length) * length, rows, columns)
        if how.region:
            levels = torch.from_numpy(decode_maps(unpacker.take(), shape, MAP_LEVELS)).to(self.device)
        else:
            levels = torch.zeros(shape, dtype=torch.int64, device=self.device)
        context = torch.full((1, 3, rows * MAP_CELL, columns * MAP_CELL), GRAY, device=self.device)
        cells = rows * MAP_CELL // BLOCK, columns * MAP_CELL // BLOCK
        for start in range(0, count, length):
            part = slice(start, start + length)
            found = self.latent.read(unpacker, cells, self._conditions(levels[part], how), self.device)
            decoded = self._synthesized(found, self.model.map_gain(levels[None, part]), context, how)
            context = decoded[0, -1:].clamp(0, 1)
            for image in decoded[0, : min(length, count - start)]:
                yield to_pixels(image[:, : size[0], : size[1]])
        unpacker.finish()


# ---------------------------------------------------------------------------------------------------- scale-space flow


class FlowCoder:
    """Groups of scale-space flow with any of its methods: the cells of OBIC, then frame after frame."""

    def __init__(self, model: ScaleSpaceFlow, exact: ExactCoding, device: torch.device) -> None:
        self.model, self.exact, self.arithmetic = model, exact, Arithmetic(device)
        self.config = model.config
        self.device = device
        self.split = isinstance(self.config.method, Obic)
        ratio = PAPER_HYPER_RATIO if self.config.transforms == "paper" else HYPER_RATIO
        self.coders = {name: self._coder(name, ratio) for name in exact.parts if not name.endswith(".background")}

    def _coder(self, name: str, ratio: int) -> LatentCoder:
        names = [name, f"{name}.background"] if f"{name}.background" in self.exact.parts else [name]
        analyses = [self.model.get_submodule(f"{each}.hyper_analysis") for each in names]
        return LatentCoder(name, analyses, [self.exact.parts[each] for each in names], ratio)

    @torch.no_grad()
    def encode(self, frames: Sequence[Frame], masks: Sequence[UInt8[np.ndarray, "H W"]] | None, how: Setting) -> Packer:
        packer, size = Packer(), frames[0].shape
        all_masks = [self._mask(None if masks is None else masks[i], size) for i in range(len(frames))]
        if self.split:
            cells = torch.cat([cells_of(mask) for mask in all_masks])[:, 0]
            packer.put(encode_maps(cells.long().cpu().numpy(), 2), "map")
        reference: Tensor | None = None
        for pixels, mask in zip(frames, all_masks, strict=True):
            frame = self.model.padded(self.arithmetic.frames([pixels]))
            reference = self._write_frame(packer, frame, mask, reference, how)
        return packer

    def _mask(self, mask: UInt8[np.ndarray, "H W"] | None, size: tuple[int, ...]) -> Float[Tensor, "1 1 H W"]:
        return self.model.padded(self.arithmetic.masks(None if mask is None else [mask], 1, size))

    def _write_frame(
        self, packer: Packer, frame: Tensor, mask: Tensor, reference: Tensor | None, how: Setting
    ) -> Float[Tensor, "1 3 H W"]:
        """Codes a frame; returns it as decoded."""
        seen = mask if self.model.masked else None
        cells = cells_of(mask) if self.split else None
        name, codec, gain = self._parts(reference)
        steps = None
        if gain is not None:
            with self.arithmetic():
                latent = gain.analysis(mask).float()
            steps = self._steps(name, self.coders[f"{name}_gain"].write(packer, latent, Conditions()), how)
        if reference is None:
            with self.arithmetic():
                y = codec.analysis(frame, seen).float()
            return self._image(None, None, self._write(packer, "intra", codec, y, steps, cells, how), how)
        reference = reference.clamp(0, 1)
        with self.arithmetic():
            y = self.model.motion.analysis(frame, reference, seen).float()
        motion = self._values(self.model.motion, self._write(packer, "motion", self.model.motion, y, None, None, how), how)
        with self.arithmetic():
            predicted = self.model.predict(reference, motion)
            y = codec.analysis(frame - predicted, seen).float()
        return self._image(predicted, motion, self._write(packer, "residual", codec, y, steps, cells, how), how)

    def _parts(self, reference: Tensor | None) -> tuple[str, HyperpriorCodec, GainCodec | None]:
        if reference is None:
            return "intra", self.model.intra, self.model.intra_gain
        return "residual", self.model.residual, self.model.residual_gain

    def _steps(self, name: str, latent: Quantized, how: Setting) -> Int[Tensor, "1 M h w"]:
        return self.exact.step_index(f"{name}_gain", latent.fixed_point(), how.amplifier)

    def _write(
        self,
        packer: Packer,
        name: str,
        codec: HyperpriorCodec,
        y: Tensor,
        steps: Tensor | None,
        cells: Tensor | None,
        how: Setting,
    ) -> Quantized:
        scaled = y * codec.gains.forward_gain(how.rate(self.device))
        return self.coders[name].write(packer, scaled, Conditions(self.exact.shift(name, how.quality), steps, cells))

    def _values(self, codec: HyperpriorCodec, found: Quantized, how: Setting) -> Float[Tensor, "1 M h w"]:
        return found.values() * codec.gains.inverse_gain(how.rate(self.device))

    def _image(
        self, predicted: Tensor | None, motion: Tensor | None, found: Quantized, how: Setting
    ) -> Float[Tensor, "1 3 H W"]:
        """A frame from its latent, and for a predicted one from its prediction and motion latent."""
        with self.arithmetic():
            if predicted is None:
                image: Tensor = self.model.intra.synthesis(self._values(self.model.intra, found, how)).float()
                return image
            residual = self.model.residual
            return predicted + residual.synthesis(self._values(residual, found, how), motion).float()

    @torch.no_grad()
    def decode(self, data: bytes, count: int, size: tuple[int, int], how: Setting) -> Iterator[Frame]:
        unpacker = Unpacker(data)
        height, width = (-(-side // self.config.multiple) * self.config.multiple // STRIDE for side in size)
        maps = torch.zeros(count, height, width)
        if self.split:
            maps = torch.from_numpy(decode_maps(unpacker.take(), (count, height, width), 2))
        reference: Tensor | None = None
        for index in range(count):
            cells = maps[index : index + 1, None].bool().to(self.device) if self.split else None
            reference = self._read_frame(unpacker, (height, width), cells, reference, how)
            yield to_pixels(reference[0, :, : size[0], : size[1]])
        unpacker.finish()

    def _read_frame(
        self, unpacker: Unpacker, size: tuple[int, int], cells: Tensor | None, reference: Tensor | None, how: Setting
    ) -> Float[Tensor, "1 3 H W"]:
        name, _, gain = self._parts(reference)
        steps = None
        if gain is not None:
            latent = self.coders[f"{name}_gain"].read(unpacker, size, Conditions(), self.device)
            steps = self._steps(name, latent, how)
        predicted = motion = None
        if reference is not None:
            given = Conditions(self.exact.shift("motion", how.quality))
            found = self.coders["motion"].read(unpacker, size, given, self.device)
            motion = self._values(self.model.motion, found, how)
            with self.arithmetic():
                predicted = self.model.predict(reference.clamp(0, 1), motion)
        given = Conditions(self.exact.shift(name, how.quality), steps, cells)
        return self._image(predicted, motion, self.coders[name].read(unpacker, size, given, self.device), how)


def group_coder(model: ScaleSpaceFlow | ChunkCodec, exact: ExactCoding, device: torch.device) -> GroupCoder:
    """The coder of a model."""
    return ChunkCoder(model, exact, device) if isinstance(model, ChunkCodec) else FlowCoder(model, exact, device)
