"""The codec a user holds: pictures to bytes and back."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from latens.codes.annealing import Refine
from latens.codes.entropy import round_for_rate
from latens.codes.stream import StreamLimits
from latens.data.files import read_bytes
from latens.data.images import ImageLike, Picture, read_picture, to_pil
from latens.errors import Corrupt, DeviceMismatch, ModelError, ModelMismatch
from latens.hub import load_model, locate
from latens.inference.device import choose_device, transform_precision
from latens.inference.tiling import apply_in_strips
from latens.metrics.image import psnr as measured_psnr
from latens.shapes import Float, Int
from latens.systems.image_codec.aim import Aim, search
from latens.systems.image_codec.coding import FrozenCoding, LatentParameters
from latens.systems.image_codec.config import (
    ANALYSIS_HALO,
    HYPER_STRIDE,
    ROUNDING_WEIGHT,
    STRIDE,
    SYNTHESIS_HALO,
    ImageCodecConfig,
)
from latens.systems.image_codec.format import (
    QUALITY_STEPS,
    CodedPicture,
    PictureHeader,
    StreamInfo,
    inspect_stream,
    read_picture_file,
    write_picture,
)
from latens.systems.image_codec.model import MeanScaleHyperprior

__all__ = ["Estimate", "ImageCodec", "StreamInfo", "inspect_stream", "load"]

DEFAULT_QUALITY = 4.0
STRIP_PIXELS = 2**21  # pictures above this are transformed in strips of about this many pixels
_LEVEL_CRC = 4  # bytes at the start of a band


class Estimate(NamedTuple):
    """Rate by the model's probabilities, without a file, and the quality of the decoded 8-bit picture."""

    bits_y: float
    bits_z: float
    bpp: float
    psnr: float


class Symbols(NamedTuple):
    """A quantised picture: what the entropy coder writes, and what it needs to know."""

    z: Int[Tensor, "1 N h w"]
    y: Int[Tensor, "1 M h w"]
    parameters: LatentParameters
    quality: int  # in 1/256


class ImageCodec:
    """Compresses pictures to bytes and decodes them. Pictures have any size; grey and alpha are kept.

    `quality` runs from 1 to the number of rates of the model, in steps of 1/256. Files name the model that wrote them.
    """

    def __init__(self, model: MeanScaleHyperprior, coding: FrozenCoding, *, name: str, sha256: str, device: torch.device):
        self.model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.coding = coding
        self.name = name
        self.device = device
        self.model_id = sha256[:16]
        self.precision = transform_precision(device)
        self.best_quality = float(len(model.config.lambdas))

    def compress(
        self,
        image: ImageLike | Picture,
        *,
        quality: float | None = None,
        bpp: float | None = None,
        psnr: float | None = None,
        refine: Refine | None = None,
        on_step: Callable[[int, float, float], None] | None = None,
    ) -> bytes:
        """The picture as the bytes of a .ltn file, at a quality (default 4) or aimed at bits per pixel or PSNR in dB.

        With `refine` the latents are optimised for this picture first (003, chapter 5): a better file for the same decoder;
        `on_step` is then told the step, the loss of relaxed latents and the last true loss.

        Raises InputError for what is no picture, UsageError for a quality or target the model cannot reach.
        """
        picture = image if isinstance(image, Picture) else read_picture(image)
        aim = Aim.of(quality, bpp, psnr, default=self.default_quality, highest=self.best_quality)
        if refine is not None:
            from latens.systems.image_codec.refinement import refine_picture

            return self.write(picture, refine_picture(self, picture, aim, refine, on_step).symbols)
        latent = self.latent(picture.pixels)
        if aim.kind == "quality":
            return self.write(picture, self.quantize(latent, round(aim.value * QUALITY_STEPS)))
        found: dict[int, bytes] = {}

        def measure(steps: int) -> float:
            symbols = self.quantize(latent, steps)
            found[steps] = self.write(picture, symbols)
            if aim.kind == "bpp":
                return 8 * len(found[steps]) / picture.pixels[..., 0].size
            return measured_psnr(self.reconstruct(symbols, picture.pixels.shape), picture.pixels)

        return found[search(aim, measure, QUALITY_STEPS, round(self.best_quality * QUALITY_STEPS))]

    def decompress(self, blob: bytes | str | Path, *, partial: bool = False) -> Image.Image:
        """The picture of a file's bytes or path (PIL mode L, LA, RGB or RGBA).

        With `partial`, lost bands of a damaged file are filled with what the hyper-latent expects there, and
        `.info["latens_damaged"]` names the lost rows. Raises StreamError, ModelMismatch or DeviceMismatch.
        """
        data = blob if isinstance(blob, bytes) else read_bytes(Path(blob), limit=StreamLimits().file_bytes)
        coded = read_picture_file(data, partial=partial)
        self._check_model(coded)
        symbols, lost = self._decode_symbols(coded, partial=partial)
        header = coded.header
        pixels = self.reconstruct(symbols, (header.height, header.width))
        alpha = None
        if header.alpha:
            alpha = _read_alpha(coded.alpha, (header.height, header.width), partial=partial)
            lost += [] if coded.alpha is not None else ["alpha channel"]
        image = to_pil(pixels, alpha, header.grey)
        if lost:
            image.info["latens_damaged"] = lost
        return image

    def estimate(self, image: ImageLike | Picture, *, quality: float | None = None) -> Estimate:
        """Rate and quality at a setting, from the code lengths of the model's probabilities."""
        picture = image if isinstance(image, Picture) else read_picture(image)
        aim = Aim.of(quality, None, None, default=self.default_quality, highest=self.best_quality)
        symbols = self.quantize(self.latent(picture.pixels), round(aim.value * QUALITY_STEPS))
        bits_y, bits_z = self.coding.code_length(symbols.y, symbols.parameters.level, symbols.z)
        pixels = self.reconstruct(symbols, picture.pixels.shape)
        bpp = (bits_y + bits_z) / picture.pixels[..., 0].size
        return Estimate(bits_y, bits_z, bpp, measured_psnr(pixels, picture.pixels))

    @property
    def default_quality(self) -> float:
        return min(DEFAULT_QUALITY, self.best_quality)

    # Stages, in the order of the figure in model.py.

    @torch.no_grad()
    def latent(self, pixels: np.ndarray) -> Float[Tensor, "1 M h w"]:
        """The latent y of a picture (H, W, 3) uint8, before the gain; sides are padded by replication to multiples of 64."""
        height, width = pixels.shape[:2]
        x = torch.from_numpy(pixels.copy()).to(self.device).permute(2, 0, 1)[None].float() / 255
        padding = (0, -width % HYPER_STRIDE, 0, -height % HYPER_STRIDE)
        x = F.pad(x, padding, mode="replicate").contiguous(memory_format=torch.channels_last)
        core = _strip_rows(x.shape[3], HYPER_STRIDE)
        with self._arithmetic():
            return apply_in_strips(self.model.analysis, x, scale=Fraction(1, STRIDE), halo=ANALYSIS_HALO, core=core).float()

    @torch.no_grad()
    def quantize(self, latent: Float[Tensor, "1 M h w"], quality: int) -> Symbols:
        """Symbols of a latent at a quality in 1/256."""
        scaled = latent
        if self.model.gains is not None:
            scaled = latent * self.model.gains.forward_gain(self._quality(quality))
        z = self.coding.z_symbols(self.model.hyper_analysis(scaled))
        parameters = self.coding.parameters(z)
        y = round_for_rate(scaled - parameters.mean, self.coding.scale_of(parameters.level), ROUNDING_WEIGHT)
        return Symbols(z, y.to(torch.int64), parameters, quality)

    def write(self, picture: Picture, symbols: Symbols) -> bytes:
        """The file of a quantised picture."""
        height, width = picture.pixels.shape[:2]
        header = PictureHeader(width, height, symbols.quality, picture.grey, picture.alpha is not None)
        bands = []
        for top, end in header.bands:
            levels = symbols.parameters.level[:, :, top:end]
            bands.append(_level_crc(levels) + self.coding.encode_y(symbols.y[:, :, top:end], levels))
        alpha = None if picture.alpha is None else _png(picture.alpha)
        return write_picture(
            CodedPicture(header, bytes.fromhex(self.model_id), self.coding.encode_z(symbols.z), tuple(bands), alpha)
        )

    @torch.no_grad()
    def reconstruct(self, symbols: Symbols, size: tuple[int, ...]) -> np.ndarray:
        """Pixels (H, W, 3) uint8 of symbols, cut to size (H, W, ...)."""
        y_hat = symbols.y + symbols.parameters.mean
        if self.model.gains is not None:
            y_hat = y_hat * self.model.gains.inverse_gain(self._quality(symbols.quality))
        y_hat = y_hat.contiguous(memory_format=torch.channels_last)
        core = _strip_rows(y_hat.shape[3] * STRIDE, HYPER_STRIDE) // STRIDE
        with self._arithmetic():
            x = apply_in_strips(self.model.synthesis, y_hat, scale=Fraction(STRIDE), halo=SYNTHESIS_HALO, core=core)
        x = x[0, :, : size[0], : size[1]].float().clamp_(0, 1).mul_(255).round_().byte()
        return x.permute(1, 2, 0).cpu().numpy()

    def _decode_symbols(self, coded: CodedPicture, *, partial: bool) -> tuple[Symbols, list[str]]:
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
                f"this machine computes other entropy parameters than the file was written with ({name})",
                hint="`latens doctor` tests the arithmetic; try --device cpu",
            )
        return self.coding.decode_y(band[_LEVEL_CRC:], levels).to(self.device)

    def _check_model(self, coded: CodedPicture) -> None:
        if coded.model_id.hex() != self.model_id:
            raise ModelMismatch(
                f"the file was written with model {coded.model_id.hex()}, this is {self.name} {self.model_id}",
                hint="give its folder with --model; `latens models` lists those in the box",
            )
        if not QUALITY_STEPS <= coded.header.quality <= self.best_quality * QUALITY_STEPS:
            raise Corrupt(f"quality {coded.header.quality / QUALITY_STEPS:g} is not one of this model", section="header")

    def _quality(self, steps: int) -> Tensor:
        return torch.tensor([steps / QUALITY_STEPS], device=self.device)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """bfloat16 transforms where the processor computes it natively; never for what the entropy coder depends on."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield


def load(name_or_path: str | Path = "image_codec", *, device: str = "auto", threads: int | None = None) -> ImageCodec:
    """The bundled codec by name, or one from a model folder or a hub id. Raises ModelMissing, ModelError, DeviceUnavailable."""
    place = choose_device(device, threads)
    folder = locate(name_or_path)
    found = load_model(folder)
    if found.config["system"] != "image_codec" or not found.coding:
        raise ModelError(
            "this folder holds no image codec ready for coding", where=str(folder), hint="train it with `latens train`"
        )
    try:
        sizes = found.config["model"]
        config = ImageCodecConfig(**{**sizes, "lambdas": tuple(sizes["lambdas"])})
        model = MeanScaleHyperprior(config)
        model.load_state_dict(found.weights)
        coding = FrozenCoding.from_tensors(found.config["coding"], found.coding, place)
    except (KeyError, TypeError, RuntimeError) as error:
        what = f"config.json and the weights do not fit ({str(error).splitlines()[0]})"
        raise ModelError(what, where=str(folder), hint="save or train the model again") from None
    return ImageCodec(model, coding, name=folder.name, sha256=found.sha256, device=place)


def _strip_rows(width: int, multiple: int) -> int:
    return max(STRIP_PIXELS // width // multiple, 1) * multiple


def _level_crc(levels: Tensor) -> bytes:
    return zlib.crc32(levels.to(torch.uint8).contiguous().cpu().numpy().tobytes()).to_bytes(_LEVEL_CRC, "little")


def _png(alpha: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(alpha).save(target, "PNG", optimize=True)
    return target.getvalue()


def _read_alpha(data: bytes | None, size: tuple[int, int], *, partial: bool) -> np.ndarray:
    opaque = np.full(size, 255, dtype=np.uint8)
    if data is None:
        return opaque
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if (image.height, image.width) != size or image.mode != "L":
                raise Corrupt("the alpha channel does not fit the picture", section="alpha channel")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        if partial:
            return opaque
        raise Corrupt(f"the alpha channel is damaged ({error})", section="alpha channel") from None
