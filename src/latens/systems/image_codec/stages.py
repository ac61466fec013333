"""Stages of coding: from an image to latent, symbols and bytes, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from latens.codes.coding import FrozenCoding, LatentParameters
from latens.codes.entropy import round_for_rate
from latens.data.image_output import png_bytes
from latens.data.images import LoadedImage
from latens.data.metadata import pack_metadata
from latens.data.tensors import to_bytes, to_floats
from latens.errors import Corrupt
from latens.inference.device import in_float32, transform_precision
from latens.inference.tiling import apply_in_row_blocks
from latens.nn.reach import halo
from latens.shapes import Float, Int
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


class Symbols(NamedTuple):
    """A quantized image: the symbols that the entropy coder writes, and their means and scale levels."""

    z: Int[Tensor, "1 N hz wz"]
    y: Int[Tensor, "1 M h w"]
    parameters: LatentParameters
    quality: int  # in 1/256


@in_float32
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
        base: str | None = None,
    ) -> None:
        self.model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.coding = coding
        self.name = name
        self.base = base  # name of the bundled model whose transforms this one shares
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
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((0, -height % HYPER_STRIDE), (0, -width % HYPER_STRIDE), (0, 0)), mode="edge")
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].to(self.device)  # bytes: floats of one block at a time
        core = _row_block_height(x.shape[3], HYPER_STRIDE)

        def analysis(block: Tensor) -> Tensor:
            return self.model.analysis(to_floats(block)).float()

        with self._arithmetic():
            return apply_in_row_blocks(analysis, x, scale=Fraction(1, STRIDE), halo=self.analysis_halo, core=core)

    @torch.no_grad()
    def quantize(self, latent: Float[Tensor, "1 M h w"], quality: int, size: tuple[int, int] | None = None) -> Symbols:
        """Symbols of a latent at a quality in 1/256.

        With the `size` (H, W) of the image, the symbols of the padding more than PADDING_MARGIN latents outside it are zero:
        they cost bits but hardly change the visible pixels.
        """
        scaled = latent
        if self.model.gains is not None:
            scaled = latent * self.model.gains.forward_gain(self._quality(quality))
        z = self.coding.z_symbols(self.model.hyper_analysis(scaled))
        if size is not None:
            rows, columns = (-(-side // STRIDE) + PADDING_MARGIN for side in size)
            scaled = scaled.clone()
            scaled[:, :, rows:], scaled[:, :, :, columns:] = torch.nan, torch.nan
        return self.round_latent(scaled, z, quality, known_rounding)

    def round_latent(
        self,
        scaled: Float[Tensor, "1 M h w"],
        z: Int[Tensor, "1 N hz wz"],
        quality: int,
        rounding: Callable[[Tensor, Tensor], Tensor],
    ) -> Symbols:
        """Symbols of a latent in quantization steps, in the order of the decoder; `rounding` maps y - mean and the scale."""
        prediction = self.coding.predict(z, quality)
        y, parameters = self.coding.quantize(prediction, scaled, bands_of(scaled.shape[2], BAND_ROWS), rounding)
        return Symbols(z, y, parameters, quality)

    def replay(self, y: Int[Tensor, "1 M h w"], z: Int[Tensor, "1 N hz wz"], quality: int) -> Symbols:
        """Given symbols with their parameters."""
        prediction = self.coding.predict(z, quality)
        return Symbols(z, y, self.coding.replay(prediction, y, bands_of(y.shape[2], BAND_ROWS)), quality)

    def write(self, image: LoadedImage, symbols: Symbols) -> bytes:
        """The file of a quantized image."""
        height, width = image.pixels.shape[:2]
        header = ImageHeader(width, height, symbols.quality, image.gray, image.alpha is not None)
        bands = []
        for top, end in header.bands:
            bands.append(self.coding.encode_band(symbols.y[:, :, top:end], symbols.parameters.level[:, :, top:end]))
        alpha = None if image.alpha is None else png_bytes(image.alpha, optimize=True)
        exif, xmp = (pack_metadata(data) if data else b"" for data in image.metadata)
        z = self.coding.encode_z(symbols.z)
        return write_image_file(CodedImage(header, bytes.fromhex(self.file_id), z, tuple(bands), alpha, exif=exif, xmp=xmp))

    @torch.no_grad()
    def reconstruct(self, symbols: Symbols, size: tuple[int, ...]) -> np.ndarray:
        """Decoded pixels, uint8 (H, W, 3), cropped to `size` = (H, W, ...)."""
        y_hat = symbols.y + symbols.parameters.mean
        if self.model.gains is not None:
            y_hat = y_hat * self.model.gains.inverse_gain(self._quality(symbols.quality))
        y_hat = y_hat.contiguous(memory_format=torch.channels_last)
        core = _row_block_height(y_hat.shape[3] * STRIDE, HYPER_STRIDE) // STRIDE

        def synthesis(block: Tensor) -> Tensor:
            return to_bytes(self.model.synthesis(block))

        with self._arithmetic():
            x = apply_in_row_blocks(synthesis, y_hat, scale=Fraction(STRIDE), halo=self.synthesis_halo, core=core)
        pixels: np.ndarray = x[0, :, : size[0], : size[1]].permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels

    def decode_symbols(self, coded: CodedImage, *, partial: bool) -> tuple[Symbols, list[str]]:
        """Symbols of a file, and the names of lost rows (only with `partial`), whose symbols are zero.

        Raises Corrupt for damaged bands unless `partial`, DeviceMismatch if this machine computes other entropy parameters.
        """
        header = coded.header
        rows, columns = header.latent_size
        ratio = HYPER_STRIDE // STRIDE
        z = self.coding.decode_z(coded.hyper, rows // ratio, columns // ratio).to(self.device)
        prediction = self.coding.predict(z, header.quality)
        parameters = self.coding.unknown(prediction)
        mean, level = parameters.mean.clone(), parameters.level.clone()
        y = torch.zeros(level.shape, dtype=torch.int64, device=self.device)

        def decode(index: int) -> tuple[Tensor, LatentParameters] | Corrupt:
            top, end = header.bands[index]
            band, name = coded.bands[index], f"latent band {index + 1}"
            if band is None:
                return Corrupt(f"{name} is missing or damaged", section=name)
            try:
                return self.coding.decode_band(band, type(prediction)(*(part[:, :, top:end] for part in prediction)), name)
            except Corrupt as error:
                return error

        lost = []
        for (top, end), found in zip(header.bands, self._each_band(decode, len(header.bands)), strict=True):
            if isinstance(found, Corrupt):
                if not partial:
                    raise found
                lost.append(f"rows {top * STRIDE}-{min(end * STRIDE, header.height) - 1}")
                continue
            y[:, :, top:end], own = found
            mean[:, :, top:end], level[:, :, top:end] = own
        return Symbols(z, y, LatentParameters(mean, level), header.quality), lost

    def _each_band(self, decode: Callable[[int], B], count: int) -> Iterator[B]:
        """Results of all bands in order, in as many threads as torch uses."""
        if count == 1 or self.device.type != "cpu":
            yield from map(decode, range(count))
            return
        with ThreadPoolExecutor(min(count, torch.get_num_threads())) as pool:
            yield from pool.map(decode, range(count))

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
