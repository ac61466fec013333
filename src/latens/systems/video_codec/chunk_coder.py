"""Groups of frames to bytes and back with the chunk codec: the quality maps of the group, then its chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from latens.data.tensors import to_pixels
from latens.shapes import Float, Int
from latens.systems.video_codec.chunk_model import BLOCK, GRAY, ChunkCodec
from latens.systems.video_codec.exact import CHUNK, ExactCoding
from latens.systems.video_codec.groups import (
    Arithmetic,
    Frame,
    Mask,
    RateControl,
    Setting,
    gain_at,
    unit_settings,
    with_rate_control,
)
from latens.systems.video_codec.latents import Conditions, LatentCoder, Packer, Quantized, Unpacker

HYPER_RATIO = 4  # latent samples per hyper-latent sample, in each direction


class ChunkCoder:
    """A `groups.GroupCoder` for the chunk codec."""

    def __init__(self, model: ChunkCodec, exact: ExactCoding, device: torch.device) -> None:
        self.model, self.exact, self.device = model, exact, device
        self.config = model.config
        self.arithmetic = Arithmetic(device, self.config.multiple)
        self.unit = self.config.frames
        self.latent = LatentCoder("latent", [model.hyper_analysis], [exact.parts[CHUNK]], HYPER_RATIO)

    @torch.no_grad()
    def encode(
        self,
        packer: Packer,
        frames: Sequence[Frame],
        masks: Sequence[Mask] | None,
        setting: Setting,
        control: RateControl | None = None,
    ) -> None:
        length, size = self.config.frames, frames[0].shape
        missing = -len(frames) % length
        full = [*frames, *[frames[-1]] * missing]
        given = None if masks is None else [*masks, *[masks[-1]] * missing]
        levels = self.arithmetic.write_map(packer, given, len(full), size, setting)
        context = self._gray(size)
        for start in range(0, len(full), length):
            part, packer.current_frames = slice(start, start + length), range(start, min(start + length, len(frames)))
            clip = self.arithmetic.frames(full[part])[None]
            mask = self.arithmetic.masks(None if given is None else given[part], length, size)[None]
            with self.arithmetic():
                y = self.model.analysis(clip, mask, context).float()
            context = with_rate_control(packer, setting, control, partial(self._write_chunk, packer, y, levels[part], context))

    def _write_chunk(
        self, packer: Packer, y: Tensor, levels: Int[Tensor, "T a b"], before: Tensor, setting: Setting
    ) -> Float[Tensor, "1 3 H W"]:
        """Code the latent of a chunk; return its last decoded frame."""
        offset = self.model.map_gain(levels[None])
        scaled = y * gain_at(self.model.gains.log_gain, setting.steps(self.device)) * offset.exp()
        found = self.latent.write(packer, scaled, self._conditions(levels, setting))
        return self._synthesized(found, offset, before, setting)[0, -1:].clamp(0, 1)

    def _gray(self, size: tuple[int, ...]) -> Float[Tensor, "1 3 H W"]:
        return torch.full((1, 3, *self.arithmetic.padded(size)), GRAY, device=self.device)

    def _conditions(self, levels: Int[Tensor, "T a b"], setting: Setting) -> Conditions:
        return Conditions(self.exact.shift(CHUNK, setting.steps(self.device), self.exact.map_offset(levels)))

    def _synthesized(self, found: Quantized, offset: Tensor, before: Tensor, setting: Setting) -> Float[Tensor, "1 T 3 H W"]:
        y_hat = found.values() * gain_at(self.model.gains.log_inverse, setting.steps(self.device)) * (-offset).exp()
        with self.arithmetic():
            frames: Tensor = self.model.synthesis(y_hat, before)
        return frames

    @torch.no_grad()
    def decode(
        self, data: bytes, count: int, size: tuple[int, int], setting: Setting, qualities: Sequence[int] = ()
    ) -> Iterator[Frame]:
        unpacker, length = Unpacker(data), self.config.frames
        settings = unit_settings(setting, qualities, -(-count // length))
        levels = self.arithmetic.read_map(unpacker, count + -count % length, size, setting)
        context = self._gray(size)
        cells = context.shape[2] // BLOCK, context.shape[3] // BLOCK
        for start, own in zip(range(0, count, length), settings, strict=True):
            part = slice(start, start + length)
            found = self.latent.read(unpacker, cells, self._conditions(levels[part], own), self.device)
            decoded = self._synthesized(found, self.model.map_gain(levels[None, part]), context, own)
            context = decoded[0, -1:].clamp(0, 1)
            for image in decoded[0, : min(length, count - start)]:
                yield to_pixels(image[:, : size[0], : size[1]])
        unpacker.finish()
