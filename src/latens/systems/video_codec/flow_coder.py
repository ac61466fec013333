"""Groups of frames to bytes and back with scale-space flow and any of its methods: maps of the group, then frame after frame.

Methods whose encoders do not use the region (plain, ROI loss) code it by quality maps, as the chunk codec does: positions
outside the region use the gains of a lower quality. This needs no training, as the model has gains for all of its rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from latens.codes.adaptive import decode_maps, encode_maps
from latens.data.tensors import to_pixels
from latens.shapes import Bool, Float, Int
from latens.systems.video_codec.chunk_model import MAP_CELL
from latens.systems.video_codec.codec import GainCodec, HyperpriorCodec
from latens.systems.video_codec.config import STRIDE, Obic
from latens.systems.video_codec.exact import ExactCoding
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
from latens.systems.video_codec.model import ScaleSpaceFlow, cells_of

HYPER_RATIO, PAPER_HYPER_RATIO = 4, 8  # latent samples per hyper-latent sample, in each direction


class FrameMap(NamedTuple):
    """Qualities and region of one frame at the resolution of the latent."""

    steps: Int[Tensor, "h w"]  # qualities in 1/256
    cells: Bool[Tensor, "1 1 h w"] | None  # True in the region; for OBIC


class FlowCoder:
    """A `groups.GroupCoder` for scale-space flow."""

    unit = 1  # frames per latent

    def __init__(self, model: ScaleSpaceFlow, exact: ExactCoding, device: torch.device) -> None:
        self.model, self.exact, self.device = model, exact, device
        self.config = model.config
        self.arithmetic = Arithmetic(device, self.config.multiple)
        self.split = isinstance(self.config.method, Obic)
        self.mapped = not self.split and not model.masked
        ratio = PAPER_HYPER_RATIO if self.config.transforms == "paper" else HYPER_RATIO
        self.coders = {name: self._coder(name, ratio) for name in exact.parts if not name.endswith(".background")}
        for name in ("intra", "residual"):
            gain = f"{name}_gain"
            if getattr(model, gain) is not None and not (gain in self.coders and gain in exact.decoders):
                raise KeyError(f"there is no coding of {gain}")  # of a config.json that does not fit

    def _coder(self, name: str, ratio: int) -> LatentCoder:
        names = [name, f"{name}.background"] if f"{name}.background" in self.exact.parts else [name]
        analyses = [self.model.get_submodule(f"{each}.hyper_analysis") for each in names]
        return LatentCoder(name, analyses, [self.exact.parts[each] for each in names], ratio)

    # -------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(
        self,
        packer: Packer,
        frames: Sequence[Frame],
        masks: Sequence[Mask] | None,
        setting: Setting,
        control: RateControl | None = None,
    ) -> None:
        size = frames[0].shape
        regions = [self.arithmetic.masks(None if masks is None else [masks[i]], 1, size) for i in range(len(frames))]
        if self.split:
            cells = torch.cat([cells_of(region) for region in regions])
            packer.put(encode_maps(cells[:, 0].long().cpu().numpy(), 2), "map")
            maps: Sequence[Tensor] = [part[None] for part in cells]
        else:
            mapped = setting if self.mapped else setting._replace(region=False)
            maps = self.arithmetic.write_map(packer, masks, len(frames), size, mapped).unbind()
        reference: Tensor | None = None
        for index, (pixels, region, own) in enumerate(zip(frames, regions, maps, strict=True)):
            packer.current_frames = range(index, index + 1)
            frame = self.model.padded(self.arithmetic.frames([pixels]))
            reference = with_rate_control(
                packer, setting, control, partial(self._write_frame, packer, frame, region, own, reference)
            )

    def _frame_map(self, own: Tensor, setting: Setting) -> FrameMap:
        """The qualities that the map of a frame selects; for OBIC the map itself."""
        if self.split:
            return FrameMap(setting.steps(self.device), own)
        if not own.any():
            return FrameMap(setting.steps(self.device), None)
        return FrameMap(self.exact.qualities(setting.quality, own, MAP_CELL // STRIDE), None)

    def _write_frame(
        self, packer: Packer, frame: Tensor, mask: Tensor, own: Tensor, reference: Tensor | None, setting: Setting
    ) -> Float[Tensor, "1 3 H W"]:
        """Code a frame, whose map is `own`; return the decoded frame."""
        frame_map = self._frame_map(own, setting)
        seen = mask if self.model.masked else None
        name, codec, gain = self._parts(reference)
        steps = None
        if gain is not None:
            with self.arithmetic():
                latent = gain.analysis(mask).float()
            steps = self._steps(name, self.coders[f"{name}_gain"].write(packer, latent, Conditions()), setting)
        if reference is None:
            with self.arithmetic():
                y = codec.analysis(frame, seen).float()
            return self._image(None, None, self._write(packer, name, codec, y, frame_map, steps), frame_map)
        reference = reference.clamp(0, 1)
        with self.arithmetic():
            y = self.model.motion.analysis(frame, reference, seen).float()
        found = self._write(packer, "motion", self.model.motion, y, frame_map._replace(cells=None), None)
        motion = self._values(self.model.motion, found, frame_map)
        with self.arithmetic():
            predicted = self.model.predict(reference, motion)
            y = codec.analysis(frame - predicted, seen).float()
        return self._image(predicted, motion, self._write(packer, name, codec, y, frame_map, steps), frame_map)

    def _parts(self, reference: Tensor | None) -> tuple[str, HyperpriorCodec, GainCodec | None]:
        if reference is None:
            return "intra", self.model.intra, self.model.intra_gain
        return "residual", self.model.residual, self.model.residual_gain

    def _steps(self, name: str, latent: Quantized, setting: Setting) -> Int[Tensor, "1 M h w"]:
        return self.exact.step_index(f"{name}_gain", latent.fixed_point(), setting.amplifier)

    def _write(
        self, packer: Packer, name: str, codec: HyperpriorCodec, y: Tensor, frame_map: FrameMap, steps: Tensor | None
    ) -> Quantized:
        given = Conditions(self.exact.shift(name, frame_map.steps), steps, frame_map.cells)
        return self.coders[name].write(packer, y * gain_at(codec.gains.log_gain, frame_map.steps), given)

    # ------------------------------------------------------------------------------------------------------ both sides

    @staticmethod
    def _values(codec: HyperpriorCodec, found: Quantized, frame_map: FrameMap) -> Float[Tensor, "1 M h w"]:
        return found.values() * gain_at(codec.gains.log_inverse, frame_map.steps)

    def _image(
        self, predicted: Tensor | None, motion: Tensor | None, found: Quantized, frame_map: FrameMap
    ) -> Float[Tensor, "1 3 H W"]:
        """A decoded frame from its latent and, for a predicted frame, from the prediction and the motion latent."""
        with self.arithmetic():
            if predicted is None:
                image: Tensor = self.model.intra.synthesis(self._values(self.model.intra, found, frame_map)).float()
                return image
            residual = self.model.residual
            return predicted + residual.synthesis(self._values(residual, found, frame_map), motion).float()

    # -------------------------------------------------------------------------------------------------------- decoding

    @torch.no_grad()
    def decode(
        self, data: bytes, count: int, size: tuple[int, int], setting: Setting, qualities: Sequence[int] = ()
    ) -> Iterator[Frame]:
        unpacker, settings = Unpacker(data), unit_settings(setting, qualities, count)
        height, width = (side // STRIDE for side in self.arithmetic.padded(size))
        if self.split:
            cells = torch.from_numpy(decode_maps(unpacker.take(), (count, height, width), 2)).bool().to(self.device)
            maps: Sequence[Tensor] = [part[None, None] for part in cells]
        else:
            mapped = setting if self.mapped else setting._replace(region=False)
            maps = self.arithmetic.read_map(unpacker, count, size, mapped).unbind()
        reference: Tensor | None = None
        for own, frame_setting in zip(maps, settings, strict=True):
            reference = self._read_frame(
                unpacker, (height, width), self._frame_map(own, frame_setting), reference, frame_setting
            )
            yield to_pixels(reference[0, :, : size[0], : size[1]])
        unpacker.finish()

    def _read_frame(
        self, unpacker: Unpacker, size: tuple[int, int], frame_map: FrameMap, reference: Tensor | None, setting: Setting
    ) -> Float[Tensor, "1 3 H W"]:
        name, _, gain = self._parts(reference)
        steps = None
        if gain is not None:
            latent = self.coders[f"{name}_gain"].read(unpacker, size, Conditions(), self.device)
            steps = self._steps(name, latent, setting)
        predicted = motion = None
        if reference is not None:
            found = self.coders["motion"].read(
                unpacker, size, Conditions(self.exact.shift("motion", frame_map.steps)), self.device
            )
            motion = self._values(self.model.motion, found, frame_map)
            with self.arithmetic():
                predicted = self.model.predict(reference.clamp(0, 1), motion)
        given = Conditions(self.exact.shift(name, frame_map.steps), steps, frame_map.cells)
        return self._image(predicted, motion, self.coders[name].read(unpacker, size, given, self.device), frame_map)
