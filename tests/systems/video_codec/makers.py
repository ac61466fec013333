"""Small untrained codecs and clips for tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from latens.systems.video_codec.chunk_coder import ChunkCoder
from latens.systems.video_codec.chunk_model import ChunkCodec
from latens.systems.video_codec.config import (
    ChunkConfig,
    CodecSize,
    Implicit,
    LatentScaling,
    Method,
    Obic,
    Plain,
    ScaleSpaceFlowConfig,
    VideoModel,
)
from latens.systems.video_codec.exact import ExactCoding, freeze_model
from latens.systems.video_codec.flow_coder import FlowCoder
from latens.systems.video_codec.predict import VideoCodec
from latens.systems.video_codec.trainable import build_model, match_scales

HEIGHT, WIDTH, FRAMES = 70, 101, 6
CPU = torch.device("cpu")
SIZE = CodecSize(hidden=12, latent=16, hyper=8)
GAIN = CodecSize(hidden=8, latent=8, hyper=8)
SCALING = LatentScaling(gain=GAIN)
METHODS: dict[str, Method] = {"plain": Plain(), "obic": Obic(), "implicit": Implicit(), "scaling": SCALING}
KINDS = ("chunk", *METHODS)


def config(kind: str) -> VideoModel:
    if kind == "chunk":
        return ChunkConfig(latent=24, hyper=16, trunk=24, blocks=1, head=12, fine=8, lambdas=(0.005, 0.02), group=4)
    motion = CodecSize(hidden=8, latent=8, hyper=8)
    method = METHODS[kind]
    return ScaleSpaceFlowConfig(intra=SIZE, motion=motion, residual=SIZE, lambdas=(0.005, 0.02), method=method, group=3)


def clip(height: int = HEIGHT, width: int = WIDTH, frames: int = FRAMES) -> np.ndarray:
    """A pattern that moves, with a bright box."""
    rows, columns = np.mgrid[:height, :width]
    made = []
    for t in range(frames):
        waves = [90 + 50 * np.sin(rows / a + (columns + 2 * t) / b) for a, b in ((5, 7), (9, 4), (6, 8))]
        image = np.stack(waves, axis=-1)
        image[10:40, 20 + t : 50 + t] = (230, 200, 120)
        made.append(image.astype(np.uint8))
    return np.stack(made)


def region(height: int = HEIGHT, width: int = WIDTH, frames: int = FRAMES) -> np.ndarray:
    masks = np.zeros((frames, height, width), dtype=bool)
    for t in range(frames):
        masks[t, 10:40, 20 + t : 50 + t] = True
    return masks


@cache
def make_codec(kind: str) -> VideoCodec:
    """An untrained codec whose latents are of a useful size."""
    torch.manual_seed(0)
    model = build_model(config(kind))
    frames = torch.from_numpy(clip(64, 64)).permute(0, 3, 1, 2).float()[None] / 255
    batch = {"frames": frames, "mask": torch.from_numpy(region(64, 64)).float()[None, :, None]}
    match_scales(model, batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    exact = freeze_model(model.eval(), [batch])
    exact = ExactCoding.from_tensors(exact.spec(), exact.tensors(), CPU)
    coder = ChunkCoder(model, exact, CPU) if isinstance(model, ChunkCodec) else FlowCoder(model, exact, CPU)
    return VideoCodec(coder, folder=Path(kind), sha256="ab" * 32, device=CPU)
