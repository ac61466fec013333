"""Frames per second of first (I) and predicted (P) frames: Table D.1 of Perugachi-Diaz 2024."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from latens.inference.page import Block, Table
from latens.systems.video_codec.measure import RATE, RegionClip
from latens.systems.video_codec.model import ScaleSpaceFlow
from latens.systems.video_codec.predict import VideoCodec
from latens.systems.video_codec.study import VARIANTS, Study


def speeds(labels: Sequence[str], study: Study) -> list[Block]:
    """Table D.1 on this machine; the paper has 1280 x 720 on a V100."""
    clip = study.clips[0]
    rows = []
    for label in labels:
        codec = study.model(label)
        key = {"speed": label, "model": codec.model_id, "clip": clip.digest, "threads": torch.get_num_threads()}
        rates = study.lab.once(key, partial(frame_rates, codec, clip, region=VARIANTS[label].aware))
        rows.append([label, *(f"{rate:.2f}" for rate in rates)])
    height, width = clip.frames.shape[1:3]
    parts = [f"{side} {kind}{suffix}" for suffix in ("", ", networks") for side in ("encode", "decode") for kind in ("I", "P")]
    caption = f"Frames per second, {width} x {height}, {torch.get_num_threads()} threads. 'networks': without entropy coding."
    return [Table(["method", *parts], rows, caption)]


def frame_rates(codec: VideoCodec, clip: RegionClip, *, region: bool) -> list[float]:
    """The eight numbers of a row of Table D.1, with or without the `region`."""
    frames, masks = clip.frames[:2], clip.masks[:2]

    def encode(count: int) -> bytes:
        return codec.compress(frames[:count], roi=masks[:count] if region else None, fps=RATE)

    blobs = [encode(count) for count in (1, 2)]
    encoded = [_seconds(partial(encode, count)) for count in (1, 2)]
    decoded = [_seconds(lambda blob=blob: sum(1 for _ in codec.frames(blob))) for blob in blobs]  # type: ignore[misc]
    model = codec.coder.model  # type: ignore[attr-defined]
    assert isinstance(model, ScaleSpaceFlow)
    pixels = [model.padded(torch.from_numpy(frame).permute(2, 0, 1)[None].float().div(255)) for frame in frames]
    networks = _network_seconds(model, pixels, torch.from_numpy(masks[:1, None]).float() if region else None)
    seconds = [encoded[0], encoded[1] - encoded[0], decoded[0], decoded[1] - decoded[0], *networks]
    return [round(1 / max(value, 1e-9), 3) for value in seconds]


@torch.no_grad()
def _network_seconds(model: ScaleSpaceFlow, frames: Sequence[torch.Tensor], mask: torch.Tensor | None) -> list[float]:
    """Seconds of the transforms: encode I, encode P, decode I, decode P."""
    seen = None if mask is None else model.padded(mask)
    y = model.intra.analysis(frames[0], seen)
    flow = model.motion.analysis(frames[1], frames[0], seen)
    residual = model.residual.analysis(frames[1] - frames[0], seen)

    def encode_inter() -> None:
        model.motion.analysis(frames[1], frames[0], seen)
        model.residual.analysis(frames[1] - model.predict(frames[0], flow), seen)

    def decode_inter() -> None:
        model.predict(frames[0], flow)
        model.residual.synthesis(residual, flow)

    actions: list[Callable[[], object]] = [
        lambda: model.intra.analysis(frames[0], seen), encode_inter, lambda: model.intra.synthesis(y), decode_inter
    ]  # fmt: skip
    return [_seconds(action) for action in actions]


def _seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """The shortest time of `repeats` calls in seconds."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return min(found)
