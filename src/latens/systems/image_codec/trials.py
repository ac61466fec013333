"""One image through one codec at one setting, to bytes and back, as a row of an evaluation."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from latens.data.images import Picture, Pixels, read_picture, to_pil
from latens.experiments.rate_distortion import OURS, Row
from latens.metrics.image import ms_ssim, psnr
from latens.metrics.rate import bits_per_pixel
from latens.systems.image_codec.baselines import Encoder, decode


class EstimatedRate(Protocol):
    @property
    def bits_y(self) -> float: ...
    @property
    def bits_z(self) -> float: ...


class Codec(Protocol):
    """What is measured: the part of `predict.ImageCodec` that an evaluation uses."""

    name: str
    model_id: str
    best_quality: float

    def compress(self, image: Any, *, quality: float | None = None) -> bytes: ...
    def decompress(self, blob: bytes) -> Image.Image: ...
    def estimate(self, image: Any, *, quality: float) -> EstimatedRate: ...


class Subject(NamedTuple):
    """A test picture without its transparency; `digest` is of its pixels, so that a changed picture is measured anew."""

    name: str
    picture: Picture
    digest: str


def load_subject(path: Path, name: str) -> Subject:
    """Reads a test picture. Transparency is left out: no other codec here would store it in the same way."""
    picture = read_picture(path)._replace(alpha=None)
    digest = hashlib.sha256(repr((picture.pixels.shape, picture.grey)).encode() + picture.pixels.tobytes())
    return Subject(name, picture, digest.hexdigest()[:16])


class Trial(NamedTuple):
    """A picture through a codec and back."""

    codec: str
    version: str
    setting: float
    data: bytes
    decoded: Pixels
    encode_seconds: float
    decode_seconds: float
    estimated_bytes: float | None = None


def try_codec(codec: Codec, picture: Picture, quality: float) -> Trial:
    """Our codec: to bytes and back, and what its probabilities say the bytes would be."""
    image = to_pil(picture.pixels, grey=picture.grey)
    started = time.perf_counter()
    data = codec.compress(image, quality=quality)
    packed = time.perf_counter()
    decoded = np.asarray(codec.decompress(data).convert("RGB"))
    done = time.perf_counter()
    estimate = codec.estimate(image, quality=quality)
    estimated = (estimate.bits_y + estimate.bits_z) / 8
    return Trial(OURS, codec.model_id, quality, data, decoded, packed - started, done - packed, estimated)


def try_encoder(encoder: Encoder, picture: Picture, quality: int) -> Trial:
    """Another codec: to bytes and back."""
    started = time.perf_counter()
    data = encoder.encode(picture, quality)
    packed = time.perf_counter()
    decoded = decode(data)
    done = time.perf_counter()
    return Trial(encoder.name, encoder.version, quality, data, decoded, packed - started, done - packed)


def measure(trial: Trial, subject: Subject, *, similarity: bool = True) -> Row:
    """The numbers of a trial; MS-SSIM, the slowest of them, can be left out."""
    original = subject.picture.pixels
    height, width = original.shape[:2]
    return Row(
        image=subject.name,
        digest=subject.digest,
        codec=trial.codec,
        version=trial.version,
        setting=trial.setting,
        bytes=len(trial.data),
        bpp=bits_per_pixel(len(trial.data), width, height),
        psnr=psnr(original, trial.decoded),
        ms_ssim=ms_ssim(original, trial.decoded) if similarity else None,
        encode_seconds=round(trial.encode_seconds, 5),
        decode_seconds=round(trial.decode_seconds, 5),
        estimated_bytes=trial.estimated_bytes,
    )
