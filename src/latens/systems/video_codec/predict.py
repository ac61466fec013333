"""The loaded video codec, which compresses clips to bytes and decompresses them frame by frame."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch

from latens.arguments import byte_size, optional_real, path, real, whole
from latens.codes.byte_stream import check_readable, check_writable
from latens.codes.clip_stream import ClipHeader, ClipSection, ClipWriter
from latens.codes.gains import lambda_at
from latens.data.clips.clip import Clip
from latens.data.clips.memory import FramesLike
from latens.data.files import reading
from latens.data.notes import logged_once
from latens.errors import Corrupt, ModelError, ModelMismatch, UsageError
from latens.hub import fitting, load_network, locate
from latens.inference.device import choose_device, in_plain_torch, plain_torch, transform_precision
from latens.systems.video_codec.chunk_coder import ChunkCoder
from latens.systems.video_codec.chunk_model import ChunkCodec
from latens.systems.video_codec.config import (
    AMPLIFIER_MAX,
    Implicit,
    LatentScaling,
    Obic,
    ScaleSpaceFlowConfig,
    VideoModel,
)
from latens.systems.video_codec.contents import VideoInfo, inspect_stream
from latens.systems.video_codec.decoded import DecodedClip
from latens.systems.video_codec.encoded import EncodedClip, GroupWriter, header_of, note_depth, record_of
from latens.systems.video_codec.exact import AMPLIFIER_STEPS, QUALITY_STEPS, ExactCoding
from latens.systems.video_codec.flow_coder import FlowCoder
from latens.systems.video_codec.format import (
    PROFILE,
    SOUND,
    SOUND_PIECE,
    OpenedStream,
    open_stream,
)
from latens.systems.video_codec.groups import GroupCoder, Setting
from latens.systems.video_codec.model import ScaleSpaceFlow
from latens.systems.video_codec.rate_control import WINDOW, RateController
from latens.systems.video_codec.size_plan import check_target, make_plan, too_large
from latens.systems.video_codec.source import Source
from latens.systems.video_codec.trainable import build_model
from latens.video.masks import Recorded
from latens.video.request import Roi, ids_of, region_of, thread_count

if TYPE_CHECKING:
    from latens.systems.video_codec.output import WrittenClip

__all__ = ["DecodedClip", "EncodedClip", "VideoCodec", "VideoInfo", "inspect_stream", "load"]

DEFAULT_QUALITY = 4.0
DEFAULT_GAIN, SPARE = 32.0, 4.0  # see `VideoCodec.default_gain`


@in_plain_torch
class VideoCodec:
    """Compresses clips to `.ltv` bytes and decodes them, for every kind of model.

    `quality` is between 1 and the number of rates of the model, in steps of 1/256. A file contains the id of its model.
    """

    def __init__(self, coder: GroupCoder, *, folder: Path, sha256: str, device: torch.device) -> None:
        self.coder, self.folder = coder, folder
        self.name, self.model_id, self.device = folder.name, sha256, device
        self.file_id = sha256[:16]  # id of the model in files
        self.precision = transform_precision(device)
        self.config: VideoModel = coder.config
        self.best_quality = float(len(self.config.lambdas))

    def __repr__(self) -> str:
        return f"VideoCodec({self.name}, weights {self.model_id[:12]}, {self.device}, quality 1 to {self.best_quality:g})"

    @property
    def default_quality(self) -> float:
        return min(DEFAULT_QUALITY, self.best_quality)

    @property
    def takes_gain(self) -> bool:
        """True if `gain` has an effect. For OBIC and the implicit method the ratio of region and background is learned."""
        return not isinstance(self.config, ScaleSpaceFlowConfig) or not isinstance(self.config.method, Obic | Implicit)

    def default_gain(self, quality: float) -> float:
        """The gain amplifier that is used by default.

        For latent scaling it is 1, the learned ratio. For quality maps it is DEFAULT_GAIN, or less at low qualities: the weight
        of errors outside the region is at least 1 / SPARE of the weight at quality 1.
        """
        if isinstance(self.config, ScaleSpaceFlowConfig) and isinstance(self.config.method, LatentScaling):
            return 1.0
        lambdas = self.config.lambdas
        return min(DEFAULT_GAIN, SPARE * lambda_at(lambdas, quality) / lambdas[0])

    # ----------------------------------------------------------------------------------------------------- compression

    def compress(
        self,
        frames: FramesLike,
        *,
        roi: Roi | None = None,
        roi_ids: Iterable[int] | None = None,
        track: bool = False,
        quality: float | None = None,
        size: float | str | None = None,
        kbps: float | None = None,
        gain: float | None = None,
        fps: Fraction | float | None = None,
    ) -> bytes:
        """The clip as the bytes of a .ltv file; for arguments and errors see `encode`."""
        stream = io.BytesIO()
        self.encode(
            frames, stream, roi=roi, roi_ids=roi_ids, track=track, quality=quality, size=size, kbps=kbps, gain=gain, fps=fps
        )
        return stream.getvalue()

    def encode(
        self,
        frames: FramesLike,
        out: BinaryIO,
        *,
        roi: Roi | None = None,
        roi_ids: Iterable[int] | None = None,
        track: bool = False,
        quality: float | None = None,
        size: float | str | None = None,
        kbps: float | None = None,
        gain: float | None = None,
        fps: Fraction | float | None = None,
    ) -> EncodedClip:
        """Write a clip to a stream, group by group, and return its size, rate and quality.

        `frames` is a path, an array or tensor of frames, or an iterator. `roi` is box:x0,y0,x1,y1, ellipse:x0,y0,x1,y1, a mask
        image, a folder of masks, a mask video, or an array of masks (T, H, W) or (H, W), bool or uint8 weights. `gain` is the
        gain amplifier, 1 to 64; larger values make the background coarser.

        `size` in bytes (or such as "8MB") or `kbps` in kbit/s (of the whole file, sound included) replaces `quality`: the file
        is at most 3 % smaller and never larger, unless the highest quality takes fewer bytes, which a note reports. The clip is
        read twice, some frames are coded on trial, and the quality varies from frame to frame. In this case `frames` must not
        be an iterator, and `out` should be seekable: a file that turns out larger is written a second time.

        Raises UsageError, also for a size that the model cannot reach, InputError, UnreadableInput or LimitExceeded.
        """
        started = time.perf_counter()
        size = None if size is None else byte_size(size, "size")
        quality, kbps = optional_real(quality, "quality"), optional_real(kbps, "kbps")
        check_target(frames, quality, size, kbps)
        check_writable(out)
        setting, notes = self.setting(roi is not None, quality, gain)
        source = Source(frames, region_of(roi), ids_of(roi_ids), track, fps)
        source.check()
        if size is None and kbps is None:
            done = self._pass(source, out, setting, notes)
        else:
            with logged_once():
                done = self._to_size(source, out, gain, size, kbps, notes)
        return done._replace(seconds=round(time.perf_counter() - started, 3))

    def _to_size(
        self, source: Source, out: BinaryIO, gain: float | None, size: float | None, kbps: float | None, notes: list[str]
    ) -> EncodedClip:
        """Write a file of `size` bytes or of `kbps`; a file that turns out larger is written a second time."""
        if source.track:
            source = source._replace(recorded=Recorded())
        plan = make_plan(self, source, gain, size, kbps)
        place = out.tell() if getattr(out, "seekable", bool)() else None
        controller = plan.controller()
        done = self._pass(source, out, plan.setting, notes, controller)
        if done.bytes > plan.wanted and place is not None:
            out.seek(place)
            out.truncate()
            done = self._pass(source, out, plan.setting, notes, plan.controller(controller))
        if done.bytes > plan.wanted:
            raise too_large(plan.wanted, done.bytes, done.lowest_quality)
        short = done.bytes < WINDOW * plan.wanted
        why = f"{done.bytes:,} of {plan.wanted:,.0f} bytes used: quality {self.best_quality:g} is the highest"
        return done._replace(notes=(*done.notes, why)) if short else done

    def _pass(
        self, source: Source, out: BinaryIO, setting: Setting, notes: list[str], controller: RateController | None = None
    ) -> EncodedClip:
        """Write the file once."""
        with source.open() as (clip, regions):
            note_depth(clip)
            header = header_of(clip, setting, self.config.group)
            writer = ClipWriter(out, ClipHeader(PROFILE, bytes.fromhex(self.file_id), header.pack()))
            notes = notes + self._write_sound(writer, clip)
            written = GroupWriter(self.coder, writer, setting, header, controller)
            for frame in clip.frames():
                written.add(frame, None if regions is None else regions.of(frame))
            written.flush()
            if regions is not None:
                regions.finish(written.last + 1)
            writer.close()
        return record_of(
            clip, regions, written, writer.offset, setting, None if controller is None else controller.wanted, notes
        )

    def setting(self, region: bool, quality: float | None, gain: float | None) -> tuple[Setting, list[str]]:
        """The coding options for a quality and a gain (None: the defaults), and notes on them. Raises UsageError."""
        quality = self.default_quality if quality is None else real(quality, "quality")
        gain = optional_real(gain, "gain")
        if not 1 <= quality <= self.best_quality:
            raise UsageError(f"quality {quality:g} is not within 1 to {self.best_quality:g}", where="--quality")
        if gain is not None and not (region and self.takes_gain):
            what = "this model has no gain" if region else "a gain needs a region"
            raise UsageError(what, where="--gain", hint="leave --gain out" if region else "add --roi")
        if gain is not None and not 1 <= gain <= AMPLIFIER_MAX:
            raise UsageError(f"gain {gain:g} is not within 1 to {AMPLIFIER_MAX:g}", where="--gain")
        if not region:
            return Setting(round(quality * QUALITY_STEPS), 0, False), []
        if not self.takes_gain:
            return Setting(round(quality * QUALITY_STEPS), 0, True), []
        wanted = self.default_gain(quality) if gain is None else gain
        amplifier = round(AMPLIFIER_STEPS * math.log2(wanted))
        used = 2.0 ** (amplifier / AMPLIFIER_STEPS)
        notes = (
            []
            if gain is None or abs(used / wanted - 1) < 0.01
            else [f"gain {used:.3g} is used: gains are rounded to half octaves"]
        )
        return Setting(round(quality * QUALITY_STEPS), amplifier, True), notes

    @staticmethod
    def _write_sound(writer: ClipWriter, clip: Clip) -> list[str]:
        if not clip.info.sound:
            return []
        from latens.data.clips.sound import copied_sound

        data, notes = copied_sound(clip.path)
        for start in range(0, len(data), SOUND_PIECE):
            writer.append(ClipSection(SOUND, data[start : start + SOUND_PIECE], required=False))
        return notes

    # --------------------------------------------------------------------------------------------------- decompression

    def frames(self, blob: bytes | bytearray | memoryview | str | Path | BinaryIO, *, start: int = 0) -> DecodedClip:
        """An iterator that decodes the frames of a file, from frame `start` on. An open file is read from its position.

        Damaged groups are left out and listed in `damage` of the result. Raises StreamError, ModelMismatch or DeviceMismatch,
        and UsageError for a negative `start`.
        """
        if (start := whole(start, "start")) < 0:
            raise UsageError("the first frame is 0", where=f"start {start}")
        with contextlib.ExitStack() as held:
            if isinstance(blob, str | Path):
                with reading(Path(blob)):
                    stream: BinaryIO = held.enter_context(open(blob, "rb"))
            else:
                stream = io.BytesIO(blob) if isinstance(blob, bytes | bytearray | memoryview) else blob
                check_readable(stream)
            begin = stream.tell()
            opened = self._opened(stream)
            return DecodedClip(self.coder, stream, begin, opened, start, held.pop_all())

    def decompress(
        self, blob: bytes | str | Path | BinaryIO, out: str | Path, *, force: bool = False, threads: int = 0
    ) -> WrittenClip:
        """Decode a file to a clip or a folder of images, as `output.write_decoded`, whose errors it raises.

        Also raises ModelMismatch or DeviceMismatch.
        """
        from latens.systems.video_codec.output import write_decoded

        with self.frames(blob) as decoded:
            return write_decoded(decoded, path(out, "out"), force=force, threads=thread_count(threads))

    def _opened(self, stream: BinaryIO) -> OpenedStream:
        """The header of a file, checked against this model."""
        opened = open_stream(stream)
        if opened.model_id != self.file_id:
            raise ModelMismatch(
                f"the file was written with model {opened.model_id}, not {self.name} {self.file_id}",
                hint="pass the folder of its model with --model; `latens models` lists the bundled models",
            )
        quality = opened.header.setting.quality
        if not QUALITY_STEPS <= quality <= self.best_quality * QUALITY_STEPS or opened.header.group > self.config.group:
            raise Corrupt(f"{quality / QUALITY_STEPS:g} is not a quality of this model", section="header")
        return opened


def _for_coding(config: VideoModel) -> ScaleSpaceFlow | ChunkCodec:
    """A model whose weights may lack the networks that the frozen coding replaces."""
    model = build_model(config)
    if isinstance(model, ScaleSpaceFlow):
        model.coding_only = True
    return model


@plain_torch()
def load(
    name_or_path: str | Path = "video_codec", *, device: str | torch.device = "auto", threads: int | None = None
) -> VideoCodec:
    """The bundled codec by name, or one from a model folder or a hub id. Raises ModelMissing, ModelError, DeviceUnavailable."""
    place = choose_device(device, threads)
    folder = locate(name_or_path)
    found, model = load_network(folder, "video_codec", VideoModel, _for_coding)
    if not found.coding:
        raise ModelError("its entropy model is not frozen for coding", where=str(folder), hint="train it with `latens train`")
    with fitting(folder):
        exact = ExactCoding.from_tensors(found.config["coding"], found.coding, place)
        model = model.to(place, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        chunks = isinstance(model, ChunkCodec)
        coder: GroupCoder = ChunkCoder(model, exact, place) if chunks else FlowCoder(model, exact, place)
    return VideoCodec(coder, folder=folder, sha256=found.sha256, device=place)
