"""Stages of coding: from an image to latent, symbols and bytes, and back."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.codes.coding import FrozenCoding, LatentParameters
from latens.codes.entropy import round_for_rate
from latens.data.image_output import png_bytes
from latens.data.images import LoadedImage
from latens.data.metadata import pack_metadata
from latens.data.tensors import pad_to_multiple, to_pixels, to_tensor
from latens.errors import Corrupt, DeviceMismatch
from latens.inference.device import in_float32, transform_precision
from latens.inference.tiling import apply_in_row_blocks
from latens.shapes import Float, Int
from latens.systems.image_codec.config import ANALYSIS_HALO, HYPER_STRIDE, ROUNDING_WEIGHT, STRIDE, SYNTHESIS_HALO
from latens.systems.image_codec.format import QUALITY_STEPS, CodedImage, ImageHeader, write_image_file
from latens.systems.image_codec.model import MeanScaleHyperprior

ROW_BLOCK_PIXELS = 2**21  # larger images are transformed in row blocks of about this many pixels
PADDING_MARGIN = 1  # latent rows and columns outside the image that are coded
_LEVEL_CRC = 4  # bytes of the checksum at the start of a band


class Symbols(NamedTuple):
    """A quantized image: the symbols that the entropy coder writes, and their means and scale levels."""

    z: Int[Tensor, "1 N hz wz"]
    y: Int[Tensor, "1 M h w"]
    parameters: LatentParameters
    quality: int  # in 1/256


@in_float32
class Stages:
    """Model and frozen coding of a codec. The methods are the steps of the diagram in model.py, in this order."""

    def __init__(self, model: MeanScaleHyperprior, coding: FrozenCoding, *, name: str, sha256: str, device: torch.device):
        self.model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.coding = coding
        self.name = name
        self.device = device
        self.model_id = sha256
        self.file_id = sha256[:16]  # id of the model in files
        self.precision = transform_precision(device)
        self.lambdas = model.config.lambdas
        self.best_quality = float(len(self.lambdas))

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point format of the transforms."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @torch.no_grad()
    def latent(self, pixels: np.ndarray) -> Float[Tensor, "1 M h w"]:
        """The latent y of an image uint8 (H, W, 3), before the gain. Sides are padded by replication to multiples of 64."""
        x = pad_to_multiple(to_tensor(pixels).to(self.device), HYPER_STRIDE).contiguous(memory_format=torch.channels_last)
        core = _row_block_height(x.shape[3], HYPER_STRIDE)
        with self._arithmetic():
            return apply_in_row_blocks(self.model.analysis, x, scale=Fraction(1, STRIDE), halo=ANALYSIS_HALO, core=core).float()

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
        parameters = self.coding.parameters(z)
        y = round_for_rate(scaled - parameters.mean, self.coding.scale_of(parameters.level), ROUNDING_WEIGHT)
        if size is not None:
            rows, columns = (-(-side // STRIDE) + PADDING_MARGIN for side in size)
            y[:, :, rows:], y[:, :, :, columns:] = 0, 0
        return Symbols(z, y.to(torch.int64), parameters, quality)

    def write(self, image: LoadedImage, symbols: Symbols) -> bytes:
        """The file of a quantized image."""
        height, width = image.pixels.shape[:2]
        header = ImageHeader(width, height, symbols.quality, image.gray, image.alpha is not None)
        bands = []
        for top, end in header.bands:
            levels = symbols.parameters.level[:, :, top:end]
            bands.append(_level_crc(levels) + self.coding.encode_y(symbols.y[:, :, top:end], levels))
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
        with self._arithmetic():
            x = apply_in_row_blocks(self.model.synthesis, y_hat, scale=Fraction(STRIDE), halo=SYNTHESIS_HALO, core=core)
        return to_pixels(x[0, :, : size[0], : size[1]])

    def decode_symbols(self, coded: CodedImage, *, partial: bool) -> tuple[Symbols, list[str]]:
        """Symbols of a file, and the names of lost rows (only with `partial`), whose symbols are zero.

        Raises Corrupt for damaged bands unless `partial`, DeviceMismatch if this machine computes other entropy parameters.
        """
        header = coded.header
        rows, columns = header.latent_size
        ratio = HYPER_STRIDE // STRIDE
        z = self.coding.decode_z(coded.hyper, rows // ratio, columns // ratio).to(self.device)
        parameters = self.coding.parameters(z)
        y = torch.zeros(parameters.level.shape, dtype=torch.int64, device=self.device)
        lost = []
        for index, ((top, end), band) in enumerate(zip(header.bands, coded.bands, strict=True)):
            levels = parameters.level[:, :, top:end]
            try:
                y[:, :, top:end] = self._decode_band(band, levels, index)
            except Corrupt:
                if not partial:
                    raise
                lost.append(f"rows {top * STRIDE}-{min(end * STRIDE, header.height) - 1}")
        return Symbols(z, y, parameters, header.quality), lost

    def _decode_band(self, band: bytes | None, levels: Tensor, index: int) -> Tensor:
        name = f"latent band {index + 1}"
        if band is None or len(band) < _LEVEL_CRC:
            raise Corrupt(f"{name} is missing or damaged", section=name)
        if band[:_LEVEL_CRC] != _level_crc(levels):
            raise DeviceMismatch(
                f"this machine computes other entropy parameters than the encoder did ({name})",
                hint="`latens doctor` tests the arithmetic; try --device cpu",
            )
        return self.coding.decode_y(band[_LEVEL_CRC:], levels).to(self.device)

    def _quality(self, steps: int) -> Tensor:
        return torch.tensor([steps / QUALITY_STEPS], device=self.device)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Context of the transforms: bfloat16 if the processor supports it. The entropy parameters never depend on it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield


def _row_block_height(width: int, multiple: int) -> int:
    return max(ROW_BLOCK_PIXELS // width // multiple, 1) * multiple


def _level_crc(levels: Tensor) -> bytes:
    return zlib.crc32(levels.to(torch.uint8).contiguous().cpu().numpy().tobytes()).to_bytes(_LEVEL_CRC, "little")
