"""Quantized latents of an image: bands of rows, made one at a time, or all symbols.

The latent of an image of 50 megapixels has 50 million entries. Bands are therefore made, used and given up one after the other,
and what a whole image keeps is stored in small types.

Letters: M channels of the latent y, N of the hyper-latent z, h w and hz wz their sizes, b rows of a band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from latens.codes.coding import LatentParameters
from latens.shapes import Float, Int
from latens.systems.image_codec.format import BAND_ROWS, bands_of


class Band(NamedTuple):
    """The symbols of some rows of y, and their means and scale levels."""

    top: int
    end: int  # exclusive
    y: Int[Tensor, "1 M b w"]
    parameters: LatentParameters

    @property
    def y_hat(self) -> Float[Tensor, "1 M b w"]:
        """The decoded latent, in quantization steps."""
        return self.y + self.parameters.mean


class Symbols(NamedTuple):
    """A quantized image: the symbols that the entropy coder writes, and their means and scale levels."""

    z: Int[Tensor, "1 N hz wz"]
    y: Int[Tensor, "1 M h w"]  # int32
    parameters: LatentParameters  # float32 and uint8
    quality: int  # in 1/256

    def band(self, top: int, end: int) -> Band:
        """The rows from `top` to `end`."""
        mean, level = (part[:, :, top:end] for part in self.parameters)
        return Band(top, end, self.y[:, :, top:end], LatentParameters(mean, level))

    def banded(self) -> Banded:
        """The same symbols band by band."""
        bands = (self.band(top, end) for top, end in bands_of(self.y.shape[2], BAND_ROWS))
        return Banded(self.z, tuple(self.y.shape), self.quality, bands)


class Banded(NamedTuple):
    """A quantized image whose bands are made when the iterator reaches them; it can be used once."""

    z: Int[Tensor, "1 N hz wz"]
    shape: tuple[int, ...]  # of y: (1, M, h, w)
    quality: int  # in 1/256
    bands: Iterator[Band]

    def symbols(self) -> Symbols:
        """All symbols."""
        kinds = (torch.int32, torch.float32, torch.uint8)
        y, mean, level = (torch.empty(self.shape, dtype=kind, device=self.z.device) for kind in kinds)
        for band in self.bands:
            rows = slice(band.top, band.end)
            y[:, :, rows], mean[:, :, rows], level[:, :, rows] = band.y, *band.parameters
            del band  # before the next one is made
        return Symbols(self.z, y, LatentParameters(mean, level), self.quality)

    def rows(self) -> Callable[[int, int], Float[Tensor, "1 M b w"]]:
        """The decoded latent, in quantization steps, as a function of first row and end; rows must be asked from top to bottom.

        Bands are made when their rows are asked for, and given up when later rows are.
        """
        kept: list[tuple[int, int, Tensor]] = []  # first row, end, and decoded latent of some bands

        def rows(top: int, end: int) -> Tensor:
            kept[:] = [part for part in kept if part[1] > top]
            while not kept or kept[-1][1] < end:
                band = next(self.bands)
                kept.append((band.top, band.end, band.y_hat))
                del band  # before the next one is made
            parts = [y_hat[:, :, max(top - low, 0) : end - low] for low, high, y_hat in kept if low < end]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

        return rows

    def copied_to(self, y_hat: Float[Tensor, "1 M h w"]) -> Banded:
        """The same image; its decoded latent is copied to `y_hat` while the bands are used."""

        def copied(band: Band) -> Band:
            y_hat[:, :, band.top : band.end] = band.y_hat
            return band

        return self._replace(bands=map(copied, self.bands))
