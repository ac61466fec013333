"""Settings of the standard encoders: rate factor of a quality, effect of the strength, options of FFmpeg."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

CodecName = Literal["h264", "h265", "av1"]
BEST_QUALITY = 8.0


class Codec(NamedTuple):
    """One encoder. Rate factors (CRF) fall linearly with quality from 1 to 8.

    `outside` is the quantizer offset of the background at full strength, relative to the quantizer range; 0 for encoders that
    ignore regions. `sigma` is the width of the background's low-pass filter at full strength, in pixels at a height of 480;
    0 for no filter.
    """

    library: str
    coarsest: float  # rate factor of quality 1
    finest: float  # rate factor of quality 8
    limits: tuple[float, float]  # smallest and largest rate factor
    step: float  # rate factors are multiples of this
    halving: float  # approximate increase of the rate factor that halves the bits
    outside: float
    sigma: float
    options: Mapping[str, str]

    def rate_factor(self, quality: float) -> float:
        """The rate factor of a quality from 1 (small) to 8 (fine)."""
        share = (quality - 1) / (BEST_QUALITY - 1)
        return self.rounded(self.coarsest + share * (self.finest - self.coarsest))

    def rounded(self, rate_factor: float) -> float:
        return round(rate_factor / self.step) * self.step

    def encoder_options(self, rate_factor: float, extra: Mapping[str, str], threads: int) -> dict[str, str]:
        """Options of FFmpeg; `extra` options take precedence."""
        options = dict(self.options)
        if self.library == "libsvtav1":  # fractional rate factors need its own options
            options["svtav1-params"] = f"crf={rate_factor:g}:lp={threads}" if threads else f"crf={rate_factor:g}"
        else:
            options["crf"] = f"{rate_factor:g}"
        if self.library == "libx265" and threads:
            options["x265-params"] += f":pools={threads}"
        return options | dict(extra)


_X265 = MappingProxyType({"preset": "fast", "x265-params": "log-level=none"})
# Offsets are from docs/results/video_encoders.md. Adaptive quantization stays on: without it the encoders ignore regions.
CODECS: Mapping[CodecName, Codec] = MappingProxyType(
    {
        "h264": Codec(
            library="libx264", coarsest=42.0, finest=17.5, limits=(8.0, 51.0), step=0.1, halving=6.0,
            outside=0.6, sigma=0.0, options={"preset": "medium"},
        ),
        "h265": Codec(
            library="libx265", coarsest=42.0, finest=17.5, limits=(8.0, 51.0), step=0.1, halving=6.0,
            outside=0.4, sigma=1.4, options=_X265,
        ),
        "av1": Codec(
            library="libsvtav1", coarsest=58.0, finest=23.0, limits=(8.0, 63.0), step=0.25, halving=9.0,
            outside=0.0, sigma=6.0, options={"preset": "9"},
        ),
    }
)  # fmt: skip
