"""Results of the image codec."""

from __future__ import annotations

from typing import NamedTuple


class Encoded(NamedTuple):
    """A compressed file with its size, quality and rate."""

    data: bytes
    width: int  # pixels
    height: int
    quality: float
    bits: int  # of the whole file
    notes: tuple[str, ...]  # from reading the image, such as a conversion from 16 bits, and on a target that was missed
    psnr: float | None = None  # in dB, measured for a target in bits per pixel, dB or bytes, and with `refine`
    missed: bool = False  # the target was not reached
    refine_steps: int | None = None  # steps of `refine`; 0 if its time was too short for one
    refine_seconds: float | None = None  # what they took, with analysis, search and measurements

    @property
    def bpp(self) -> float:
        return self.bits / (self.width * self.height)

    def __repr__(self) -> str:
        return f"Encoded({len(self.data):,} bytes, {self.width} x {self.height}, quality {self.quality:g}, {self.bpp:.3f} bpp)"


class Estimate(NamedTuple):
    """Rate in bits estimated from the probabilities of the model, and PSNR in dB of the decoded 8-bit image."""

    bits_y: float
    bits_z: float
    bpp: float
    psnr: float
