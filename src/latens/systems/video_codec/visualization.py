"""Images of coded clips: frames, and maps of bits and PSNR."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from latens.data.image_output import png_bytes
from latens.data.images import Pixels
from latens.inference.page import Figure
from latens.shapes import Bool, Float, UInt8
from latens.systems.video_codec.chunk_model import BLOCK
from latens.systems.video_codec.config import STRIDE, ChunkConfig
from latens.systems.video_codec.groups import Setting
from latens.systems.video_codec.latents import Packer
from latens.systems.video_codec.measure import RATE, RegionClip
from latens.systems.video_codec.predict import VideoCodec

OUTLINE = (255, 80, 20)
MAX_BITS, MIN_BITS = 2.0, 0.001  # bits per pixel at the ends of the color scale of maps
DECIBELS = (15.0, 45.0)  # dB at the ends of the color scale of maps of PSNR
WINDOW = 16  # side in pixels of the window of maps of PSNR
FRAME = 5  # index of the shown frame, as in the paper; shorter clips show their last frame


class Coded(NamedTuple):
    """A decoded clip, and the size of its file."""

    frames: UInt8[np.ndarray, "T H W 3"]
    bytes: int


def coded(codec: VideoCodec, clip: RegionClip, quality: float, *, region: bool, gain: float | None = None) -> Coded:
    """Compress and decompress a clip."""
    blob = codec.compress(clip.frames, roi=clip.masks if region else None, quality=quality, gain=gain, fps=RATE)
    return Coded(np.stack([frame.pixels for frame in codec.frames(blob)]), len(blob))


def bits_map(codec: VideoCodec, clip: RegionClip, frame: int, setting: Setting) -> Float[np.ndarray, "H W"]:
    """Bits per pixel at every pixel of a frame of the first group, summed over its latents.

    The bits of a latent are divided evenly among the frames that share it.
    """
    height, width = clip.frames.shape[1:3]
    stride = BLOCK if isinstance(codec.config, ChunkConfig) else STRIDE
    packer = Packer(bit_maps=True)
    _pack_first_group(packer, codec, clip, setting)
    total = np.zeros((height, width))
    assert packer.bit_maps is not None
    for frames, bits in packer.bit_maps:
        if frame in frames:
            total += _spread(bits, stride, (height, width)) / len(frames)
    return total


def shares(codec: VideoCodec, clip: RegionClip, quality: float) -> dict[str, float]:
    """Shares of the bits of the first group by latent (intra, motion, residual, gain), each with its hyper-latent.

    The clip is coded with its region.
    """
    setting, _ = codec.setting(True, quality, None)
    packer = Packer()
    _pack_first_group(packer, codec, clip, setting)
    found: dict[str, float] = {}
    for name, bits in packer.bits.items():
        kind = "gain" if "_gain" in name else name.removesuffix("_hyper")
        found[kind] = found.get(kind, 0.0) + bits / sum(packer.bits.values())
    return found


def _pack_first_group(packer: Packer, codec: VideoCodec, clip: RegionClip, setting: Setting) -> None:
    count = min(codec.config.group, len(clip.frames))
    masks = [(255 * mask).astype(np.uint8) for mask in clip.masks[:count]] if setting.region else None
    codec.coder.encode(packer, list(clip.frames[:count]), masks, setting)


def _spread(bits: torch.Tensor, stride: int, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Bits of cells of `stride` x `stride` pixels as bits per pixel, cropped to `size`."""
    enlarged = F.interpolate(bits[None, None].float().cpu(), scale_factor=float(stride), mode="nearest")[0, 0]
    found: np.ndarray = enlarged.numpy()[: size[0], : size[1]] / stride**2
    return found


def psnr_map(decoded: Pixels, original: Pixels) -> Float[np.ndarray, "H W"]:
    """PSNR in dB in a window of WINDOW x WINDOW pixels around every pixel."""
    squared = np.square(decoded.astype(np.float64) - original).mean(-1)
    tensor = torch.from_numpy(squared)[None, None]
    mean = F.avg_pool2d(tensor, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)[0, 0, : squared.shape[0]]
    found: np.ndarray = 10 * np.log10(255**2 / np.maximum(mean.numpy()[:, : squared.shape[1]], 1e-6))
    return found


def bits_image(bits: Float[np.ndarray, "H W"]) -> Pixels:
    """A map of bits in colors, from few (dark) to many (bright) on a logarithmic scale."""
    low, high = np.log(MIN_BITS), np.log(MAX_BITS)
    return colored((np.log(np.maximum(bits, MIN_BITS)) - low) / (high - low))


def psnr_image(decibels: Float[np.ndarray, "H W"]) -> Pixels:
    """A map of PSNR in colors, from low (dark) to high (bright)."""
    return colored((decibels - DECIBELS[0]) / (DECIBELS[1] - DECIBELS[0]))


def colored(share: Float[np.ndarray, "H W"]) -> Pixels:
    """Values from 0 to 1 in colors from black over violet and orange to light yellow."""
    stops = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float64)
    place = np.clip(share, 0, 1) * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)
    part = (place - low)[..., None]
    return (stops[low] * (1 - part) + stops[low + 1] * part).round().astype(np.uint8)


def colored_labels(labels: UInt8[np.ndarray, "H W"], classes: int) -> Pixels:
    """A label map with one color per class; other values are black."""
    hues = np.arange(classes) / classes
    wheel = [np.clip(np.abs((6 * hues + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    palette = np.zeros((256, 3), np.uint8)
    palette[:classes] = (70 + 170 * np.stack(wheel, axis=-1)).round()
    found: np.ndarray = palette[labels]
    return found


def outlined(pixels: Pixels, mask: Bool[np.ndarray, "H W"]) -> Pixels:
    """A frame with the outline of its region."""
    around = np.pad(mask, 1, mode="edge")  # the edge of the frame is not an edge of the region
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    drawn: np.ndarray = np.where((mask & ~inside)[..., None], OUTLINE, pixels).astype(np.uint8)
    return drawn


def region_numbers(decoded: Pixels, original: Pixels, mask: Bool[np.ndarray, "H W"]) -> str:
    """PSNR of region and background of one frame, as text."""
    squared = np.square(decoded.astype(np.float64) - original).mean(-1)
    shown = []
    for name, part in (("region", mask), ("background", ~mask)):
        if part.any():
            shown.append(f"{name} {10 * np.log10(255**2 / max(squared[part].mean(), 1e-10)):.1f} dB")
    return ", ".join(shown)


def shown_frame(frames: UInt8[np.ndarray, "T H W 3"]) -> int:
    """Index of the frame that images show."""
    return min(FRAME, len(frames) - 1)


def mask_image(mask: Bool[np.ndarray, "H W"]) -> Figure:
    """A region in black and white, captioned with its share of the frame."""
    return image(
        np.repeat((255 * mask).astype(np.uint8)[..., None], 3, axis=2), "region", f"{100 * mask.mean():.1f} % of the frame"
    )


def image(pixels: Pixels, title: str, caption: str = "") -> Figure:
    return Figure(png_bytes(pixels), title, caption)


def gif(frames: Sequence[Pixels], milliseconds: int = 80) -> bytes:
    """An animated GIF."""
    from PIL import Image

    stream = io.BytesIO()
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(stream, format="GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
    return stream.getvalue()
