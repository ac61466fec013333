"""Stages of coding: from an image to latent, symbols and bytes, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from itertools import starmap
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from latens.codes.coding import FrozenCoding
from latens.codes.entropy import round_for_rate
from latens.data.image_output import png_bytes
from latens.data.images import LoadedImage
from latens.data.metadata import pack_metadata
from latens.data.tensors import part_of, to_bytes, to_floats
from latens.errors import Corrupt
from latens.inference.device import in_plain_torch, transform_precision
from latens.inference.tiling import in_blocks, spans
from latens.nn.reach import halo
from latens.shapes import Float, Int
from latens.systems.image_codec.bands import Band, Banded, Symbols
from latens.systems.image_codec.config import HYPER_STRIDE, ROUNDING_WEIGHT, STRIDE
from latens.systems.image_codec.format import (
    BAND_ROWS,
    QUALITY_STEPS,
    CodedImage,
    ImageHeader,
    bands_of,
    write_image_file,
)
from latens.systems.image_codec.networks import CodecNetwork

B = TypeVar("B")
ROW_BLOCK_PIXELS = 2**21  # larger images are transformed in row blocks of about this many pixels
PADDING_MARGIN = 1  # latent rows and columns outside the image that are coded


@in_plain_torch
class Stages:
    """Model and frozen coding of a codec. The methods are the steps of the diagram in model.py, in this order."""

    def __init__(
        self,
        model: CodecNetwork,
        coding: FrozenCoding,
        *,
        name: str,
        sha256: str,
        device: torch.device,
        distortion: str = "mse",
    ) -> None:
        self.model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.coding = coding
        self.name = name
        self.distortion = distortion  # that the transforms were trained for
        self.device = device
        self.model_id = sha256
        self.file_id = sha256[:16]  # id of the model in files
        self.precision = transform_precision(device)
        self.lambdas = model.config.lambdas
        self.best_quality = float(len(self.lambdas))
        self.analysis_halo = halo(model.analysis, HYPER_STRIDE)  # image rows
        self.synthesis_halo = halo(model.synthesis, 1)  # latent rows

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point format of the transforms."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @torch.no_grad()
    def latent(self, pixels: np.ndarray) -> Float[Tensor, "1 M h w"]:
        """The latent y of an image uint8 (H, W, 3), before the gain. Sides are padded by replication to multiples of 64."""
        height, width = (side + -side % HYPER_STRIDE for side in pixels.shape[:2])

        def analysis(rows: slice, columns: slice) -> Tensor:
            x = torch.from_numpy(part_of(pixels, rows, columns)).permute(2, 0, 1)[None].to(self.device)
            return self.model.analysis(to_floats(x)).float()  # padded and converted to floats one block at a time

        core = _row_block_height(width, HYPER_STRIDE)
        with self._arithmetic():
            return in_blocks(analysis, (height, width), scale=Fraction(1, STRIDE), halo=self.analysis_halo, core=core)

    def quantize(self, latent: Float[Tensor, "1 M h w"], quality: int, size: tuple[int, ...] | None = None) -> Symbols:
        """Symbols of a latent at a quality in 1/256.

        With the `size` (H, W) of the image, the symbols of the padding more than PADDING_MARGIN latents outside it are zero:
        they cost bits but hardly change the visible pixels.
        """
        return self.quantized(latent, quality, size).symbols()

    @torch.no_grad()
    def quantized(self, latent: Float[Tensor, "1 M h w"], quality: int, size: tuple[int, ...] | None = None) -> Banded:
        """`quantize`, one band at a time."""
        gain = None if self.model.gains is None else self.model.gains.forward_gain(self._quality(quality))
        gained = latent if gain is None else latent * gain
        with self._arithmetic():
            hyper = self.model.hyper_analysis(gained.contiguous(memory_format=torch.channels_last)).float()
        z = self.coding.z_symbols(hyper)
        rows, columns = latent.shape[2:] if size is None else (-(-side // STRIDE) + PADDING_MARGIN for side in size[:2])

        def scaled(top: int, end: int) -> Tensor:
            own = latent[:, :, top:end]
            own = own.clone() if gain is None else own * gain
            own[:, :, max(rows - top, 0) :], own[:, :, :, columns:] = torch.nan, torch.nan
            return own

        return self._rounded(scaled, latent.shape, z, quality, known_rounding)

    def round_latent(
        self,
        scaled: Float[Tensor, "1 M h w"],
        z: Int[Tensor, "1 N hz wz"],
        quality: int,
        rounding: Callable[[Tensor, Tensor], Tensor],
    ) -> Symbols:
        """Symbols of a latent in quantization steps, in the order of the decoder; `rounding` maps y - mean and the scale."""
        return self._rounded(lambda top, end: scaled[:, :, top:end], scaled.shape, z, quality, rounding).symbols()

    def _rounded(
        self,
        scaled: Callable[[int, int], Tensor],
        shape: tuple[int, ...],
        z: Int[Tensor, "1 N hz wz"],
        quality: int,
        rounding: Callable[[Tensor, Tensor], Tensor],
    ) -> Banded:
        """Quantized bands of a latent of a shape, whose rows `scaled` gives."""

        @torch.no_grad()
        def rounded(top: int, end: int) -> Band:
            prediction = self.coding.predict(z, quality, (top, end))
            return Band(top, end, *self.coding.quantize(prediction, scaled(top, end), [(0, end - top)], rounding))

        return Banded(z, tuple(shape), quality, starmap(rounded, bands_of(shape[2], BAND_ROWS)))

    def replay(self, y: Int[Tensor, "1 M h w"], z: Int[Tensor, "1 N hz wz"], quality: int) -> Banded:
        """Given symbols with their parameters."""

        def replayed(top: int, end: int) -> Band:
            own, prediction = y[:, :, top:end], self.coding.predict(z, quality, (top, end))
            return Band(top, end, own, self.coding.replay(prediction, own, [(0, end - top)]))

        return Banded(z, tuple(y.shape), quality, starmap(replayed, bands_of(y.shape[2], BAND_ROWS)))

    def write(self, image: LoadedImage, quantized: Symbols | Banded) -> bytes:
        """The file of a quantized image."""
        quantized = quantized.banded() if isinstance(quantized, Symbols) else quantized
        height, width = image.pixels.shape[:2]
        header = ImageHeader(width, height, quantized.quality, image.gray, image.alpha is not None)
        bands = []
        for band in quantized.bands:
            bands.append(self.coding.encode_band(band.y, band.parameters.level))
            del band  # before the next one is made
        alpha = None if image.alpha is None else png_bytes(image.alpha, optimize=True)
        exif, xmp = (pack_metadata(data) if data else b"" for data in image.metadata)
        z = self.coding.encode_z(quantized.z)
        return write_image_file(CodedImage(header, bytes.fromhex(self.file_id), z, tuple(bands), alpha, exif=exif, xmp=xmp))

    def reconstruct(self, symbols: Symbols, size: tuple[int, ...]) -> np.ndarray:
        """Decoded pixels, uint8 (H, W, 3), cropped to `size` = (H, W, ...)."""
        return self._pixels(lambda top, end: symbols.band(top, end).y_hat, symbols.y.shape, symbols.quality, size)

    def synthesize(self, y_hat: Float[Tensor, "1 M h w"], quality: int, size: tuple[int, ...]) -> np.ndarray:
        """`reconstruct` from the decoded latent, in quantization steps."""
        return self._pixels(lambda top, end: y_hat[:, :, top:end], y_hat.shape, quality, size)

    @torch.no_grad()
    def _pixels(
        self, y_hat: Callable[[int, int], Tensor], shape: tuple[int, ...], quality: int, size: tuple[int, ...]
    ) -> np.ndarray:
        """Pixels of a decoded latent of a shape, whose rows `y_hat` gives; one block at a time is in memory as floats."""
        gain = None if self.model.gains is None else self.model.gains.inverse_gain(self._quality(quality))
        core = _row_block_height(shape[3] * STRIDE, HYPER_STRIDE) // STRIDE
        pixels = np.empty((size[0], size[1], 3), np.uint8)

        def synthesis(low: int, high: int) -> np.ndarray:
            latent = y_hat(low, high) if gain is None else y_hat(low, high) * gain
            with self._arithmetic():  # not around `y_hat`, which may decode
                made = to_bytes(self.model.synthesis(latent.contiguous(memory_format=torch.channels_last)))
            block: np.ndarray = made[0].permute(1, 2, 0).cpu().numpy()
            return block

        for span in spans(shape[2], core, self.synthesis_halo):
            rows = pixels[span.place(Fraction(STRIDE))]
            rows[:] = synthesis(span.low, span.high)[span.kept(Fraction(STRIDE))][: len(rows), : size[1]]
        return pixels

    def decode_symbols(self, coded: CodedImage, *, partial: bool) -> tuple[Symbols, list[str]]:
        """Symbols of a file, and the names of lost rows (only with `partial`), whose symbols are zero.

        Raises Corrupt for damaged bands unless `partial`, DeviceMismatch if this machine computes other entropy parameters.
        """
        lost: list[str] = []
        return self._decoded(coded, lost, partial=partial).symbols(), lost

    def decode_pixels(self, coded: CodedImage, *, partial: bool) -> tuple[np.ndarray, list[str]]:
        """Pixels of a file, uint8 (H, W, 3), and the names of lost rows. Raises as `decode_symbols`."""
        lost: list[str] = []
        decoded = self._decoded(coded, lost, partial=partial)
        return self._pixels(decoded.rows(), decoded.shape, decoded.quality, (coded.header.height, coded.header.width)), lost

    def _decoded(self, coded: CodedImage, lost: list[str], *, partial: bool) -> Banded:
        """The bands of a file; the names of lost rows are added to `lost`."""
        header = coded.header
        rows, columns = header.latent_size
        ratio = HYPER_STRIDE // STRIDE
        z = self.coding.decode_z(coded.hyper, rows // ratio, columns // ratio).to(self.device)

        def decode(index: int) -> tuple[Band, bool]:
            top, end = header.bands[index]
            data, name = coded.bands[index], f"latent band {index + 1}"
            prediction = self.coding.predict(z, header.quality, (top, end))
            try:
                if data is None:
                    raise Corrupt(f"{name} is missing or damaged", section=name)
                return Band(top, end, *self.coding.decode_band(data, prediction, name)), True
            except Corrupt:
                if not partial:
                    raise
            parameters = self.coding.unknown(prediction)
            return Band(top, end, torch.zeros_like(parameters.level), parameters), False

        def bands() -> Iterator[Band]:
            for band, intact in self._each_band(decode, len(header.bands)):
                if not intact:
                    lost.append(f"rows {band.top * STRIDE}-{min(band.end * STRIDE, header.height) - 1}")
                yield band
                del band  # before the next one is made

        return Banded(z, (1, self.coding.channels, rows, columns), header.quality, bands())

    def _each_band(self, decode: Callable[[int], B], count: int) -> Iterator[B]:
        """Results of all bands in order, as many at once as torch has threads."""
        threads = min(count, torch.get_num_threads())
        if threads == 1 or self.device.type != "cpu":
            yield from map(decode, range(count))
            return
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, count, threads):
                results = list(pool.map(decode, range(first, min(first + threads, count))))
                while results:
                    yield results.pop(0)

    def _quality(self, steps: int) -> Tensor:
        return torch.tensor([steps / QUALITY_STEPS], device=self.device)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Context of the transforms: bfloat16 if the processor supports it. The entropy parameters never depend on it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield


def _row_block_height(width: int, multiple: int) -> int:
    return max(ROW_BLOCK_PIXELS // width // multiple, 1) * multiple


def encoder_rounding(residual: Tensor, scale: Tensor) -> Tensor:
    """Rounding of the encoder, rate-aware."""
    return round_for_rate(residual, scale, ROUNDING_WEIGHT)


def known_rounding(residual: Tensor, scale: Tensor) -> Tensor:
    """`encoder_rounding` with symbols of 0 where the latent is NaN: in the padding."""
    return encoder_rounding(residual, scale).nan_to_num(nan=0.0)
