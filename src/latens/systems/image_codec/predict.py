"""The loaded image codec, which compresses images to bytes and decompresses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latens.catalogue import bundled_with_id
from latens.codes.annealing import Refine
from latens.codes.coding import FrozenCoding
from latens.codes.context_coding import ContextCoding
from latens.codes.rate_target import RateTarget, search
from latens.codes.stream import StreamLimits, model_of
from latens.data.files import read_bytes
from latens.data.hidden import fill_hidden, visible
from latens.data.image_output import mean_of_channels, to_pil
from latens.data.images import ImageLike, LoadedImage, Pixels, read_image
from latens.data.limits import current_limits
from latens.data.metadata import Metadata
from latens.errors import Corrupt, ModelError, ModelMismatch, StreamError, UsageError
from latens.hub import fitting, load_network, locate
from latens.inference.device import choose_device, in_plain_torch, plain_torch
from latens.inference.kept import keepable
from latens.inference.many import OnError, many
from latens.metrics.image import psnr as measured_psnr
from latens.systems.image_codec.bands import Symbols
from latens.systems.image_codec.config import DISTORTION, ImageModel
from latens.systems.image_codec.context_model import ContextNetwork
from latens.systems.image_codec.format import (
    QUALITY_STEPS,
    CodedImage,
    StreamInfo,
    inspect_stream,
    read_coded_image,
)
from latens.systems.image_codec.networks import build_network
from latens.systems.image_codec.refinement import BudgetTooShort, refine_image
from latens.systems.image_codec.results import Encoded, Estimate
from latens.systems.image_codec.side_data import metadata_of, read_alpha
from latens.systems.image_codec.stages import Stages

__all__ = ["ImageCodec", "StreamInfo", "Symbols", "inspect_stream", "load"]

DEFAULT_QUALITY = 4.0


@in_plain_torch
class ImageCodec(Stages):
    """Compresses images of any size to bytes and decodes them. Gray images stay gray; alpha is coded losslessly.

    `quality` is between 1 and the number of rates of the model, in steps of 1/256. A file contains the id of its model.
    """

    def __repr__(self) -> str:
        return f"ImageCodec({self.name}, weights {self.model_id[:12]}, {self.device}, quality 1 to {self.best_quality:g})"

    def compress(
        self,
        image: ImageLike | LoadedImage,
        *,
        quality: float | None = None,
        bpp: float | None = None,
        psnr: float | None = None,
        size: float | str | None = None,
        refine: Refine | int | str | None = None,
        strip: bool = False,
        on_step: Callable[[int, float, float], None] | None = None,
    ) -> bytes:
        """The bytes of a .ltn file: `encode(...).data`, with the same arguments."""
        made = self.encode(image, quality=quality, bpp=bpp, psnr=psnr, size=size, refine=refine, strip=strip, on_step=on_step)
        return made.data

    def encode(
        self,
        image: ImageLike | LoadedImage,
        *,
        quality: float | None = None,
        bpp: float | None = None,
        psnr: float | None = None,
        size: float | str | None = None,
        refine: Refine | int | str | None = None,
        strip: bool = False,
        nearest: bool = False,
        on_step: Callable[[int, float, float], None] | None = None,
    ) -> Encoded:
        """Compress an image at a quality (default 4), or at a target in bits per pixel (to 2 %) or in dB of PSNR (to 0.05 dB).

        `size` is a target for the whole file in bytes (or such as "200kB"), metadata included: at most this size, and no more
        than 3 % below it.

        With `refine` (settings, the number of steps, or a time such as "20s"), the latents are optimized for this image
        (Perugachi-Diaz 2024, chapter 5); the decoder stays the same. A time is that of the refinement, without reading and
        writing. Its number of steps, `refine_steps` of the result, gives the same bytes. If the time ends before a first step,
        the file is that without `refine`, and has a note.
        `on_step` is then called with the step, the loss of the relaxed latents and the last true loss.

        Colors under alpha 0 are replaced by those of their visible neighbors, and PSNR is measured over visible pixels only
        (with `refine`, over all pixels after this replacement). EXIF and XMP are carried, unless `strip`.

        Raises InputError for input that is not an image; UsageError for a quality or target that the model cannot reach, and
        for `refine` with a model that was trained for another distortion than MSE. With `nearest`, a target out of reach is
        replaced by the nearest one, and the result has `missed` and a note.
        """
        loaded = _loaded(image)
        if strip:
            loaded = loaded._replace(metadata=Metadata())
        current_limits().check(loaded.pixels.shape[1], loaded.pixels.shape[0])  # before any work
        target = RateTarget.of(quality, bpp, psnr, size, default=self.default_quality, highest=self.best_quality)
        settings = None if refine is None else Refine.of(refine)
        blob, reached, steps, seconds = self._encoded(loaded, target, settings, on_step, nearest=nearest)
        info = inspect_stream(blob)
        value = {"quality": None, "bpp": info.bpp, "psnr": reached, "size": float(len(blob))}[target.kind]
        missed = value is not None and not target.reached(value)
        note: tuple[str, ...] = () if steps != 0 else (f"not refined: no time for a step after {seconds:.3g} s",)
        if value is not None and missed:
            end = ", the highest" if info.quality == self.best_quality else ""
            reached_at = f"{target.shown(value)} reached at quality {info.quality:g}{end}"
            note = (f"target missed: {target.shown(target.value)} asked, {reached_at}", *note)
        if target.kind == "size" and len(blob) > target.value and not nearest:  # after a refinement, which controls the rate
            raise UsageError(note[0], hint="choose a larger size or more steps")
        made = Encoded(blob, info.width, info.height, info.quality, 8 * len(blob), (*loaded.notes, *note), reached, missed)
        return made._replace(refine_steps=steps, refine_seconds=seconds)

    def _encoded(
        self,
        image: LoadedImage,
        target: RateTarget,
        settings: Refine | None,
        on_step: Callable[[int, float, float], None] | None,
        *,
        nearest: bool,
    ) -> tuple[bytes, float | None, int | None, float | None]:
        """File of an image, its PSNR except for a quality without refinement, and steps and seconds of the refinement."""
        if settings is None:
            return *self._plain(image, target, nearest=nearest), None, None
        self.check_refinable()
        try:
            symbols, _, steps, seconds = refine_image(self, image, target, settings, on_step, nearest=nearest)
        except BudgetTooShort as short:
            return *self._plain(image, target, nearest=nearest), 0, short.spent
        reached = psnr_of(self.reconstruct(symbols, image.pixels.shape), image)
        return self.write(image, symbols), reached, steps, seconds

    def _plain(self, image: LoadedImage, target: RateTarget, *, nearest: bool) -> tuple[bytes, float | None]:
        """Unrefined file of an image, and its PSNR except for a quality. `nearest` as in `encode`."""
        latent, size = self.latent(image.pixels), image.pixels.shape
        if target.kind == "quality":
            return self.write(image, self.quantized(latent, round(target.value * QUALITY_STEPS), size)), None
        found: dict[int, tuple[bytes, float]] = {}

        def decoded(steps: int) -> tuple[bytes, float]:
            y_hat = torch.empty_like(latent)
            blob = self.write(image, self.quantized(latent, steps, size).copied_to(y_hat))
            return blob, psnr_of(self.synthesize(y_hat, steps, size), image)

        def measure(steps: int) -> float:
            if target.kind == "psnr":
                found[steps] = decoded(steps)
                return found[steps][1]
            written = len(self.write(image, self.quantized(latent, steps, size)))
            return float(written) if target.kind == "size" else 8 * written / image.pixels[..., 0].size

        best = search(target, measure, QUALITY_STEPS, round(self.best_quality * QUALITY_STEPS), nearest=nearest)
        return found[best] if best in found else decoded(best)

    def decompress(self, blob: bytes | bytearray | memoryview | str | Path, *, partial: bool = False) -> Image.Image:
        """The image of a file's bytes or path (PIL mode L, LA, RGB or RGBA), with EXIF and XMP in `.info` if it has them.

        With `partial`, damaged bands are replaced by the means that the hyper-latent predicts, and `.info["latens_damaged"]`
        lists the lost rows. A file of another bundled model is decoded with that model. Raises StreamError, ModelMismatch or
        DeviceMismatch.
        """
        if isinstance(blob, str | Path):
            data = read_bytes(Path(blob), limit=StreamLimits().file_bytes)
        elif isinstance(blob, bytes | bytearray | memoryview):
            data = bytes(blob)
        else:
            what = f"an object of the type {type(blob).__name__} is not a file"
            raise UsageError(what, where="blob", hint="give its bytes or its path")
        if (other := self.codec_of(data)) is not self:
            return other.decompress(data, partial=partial)
        coded = read_coded_image(data, partial=partial)
        self._check_model(coded)
        header = coded.header
        pixels, lost = self.decode_pixels(coded, partial=partial)
        if header.gray and not coded.gray_is_mean:
            pixels[:] = pixels[..., :1]
        alpha = None
        if header.alpha:
            alpha = read_alpha(coded.alpha, (header.height, header.width), partial=partial)
            lost += [] if coded.alpha is not None else ["alpha channel"]
        image = to_pil(pixels, alpha, header.gray)
        for name, packed in (("exif", coded.exif), ("xmp", coded.xmp)):
            metadata = metadata_of(packed, name.upper(), partial=partial)
            if metadata is None:
                lost.append(name.upper())
            elif metadata:
                image.info[name] = metadata
        if lost:
            image.info["latens_damaged"] = lost
        return image

    def compress_many(self, images: Iterable[ImageLike], *, on_error: OnError | None = None, **options: Any) -> Iterator[bytes]:
        """Yield the files of images, one at a time; options as in `compress`. See `latens.inference.many`."""
        return many(self.compress, images, on_error, options)

    def decompress_many(
        self, blobs: Iterable[bytes | str | Path], *, on_error: OnError | None = None, **options: Any
    ) -> Iterator[Image.Image]:
        """Yield the images of files, one at a time; options as in `decompress`."""
        return many(self.decompress, blobs, on_error, options)

    def estimate(self, image: ImageLike | LoadedImage, *, quality: float | None = None) -> Estimate:
        """Estimated rate and PSNR at a quality (default 4), without writing a file."""
        loaded = _loaded(image)
        symbols = self._symbols(loaded, quality)
        bits_y, bits_z = self.coding.code_length(symbols.y, symbols.parameters.level, symbols.z)
        bpp = (bits_y + bits_z) / loaded.pixels[..., 0].size
        return Estimate(bits_y, bits_z, bpp, psnr_of(self.reconstruct(symbols, loaded.pixels.shape), loaded))

    def code_length(self, image: ImageLike | LoadedImage, *, quality: float | None = None) -> float:
        """Estimated bits of latent and hyper-latent at a quality (default 4), without synthesis."""
        symbols = self._symbols(_loaded(image), quality)
        return sum(self.coding.code_length(symbols.y, symbols.parameters.level, symbols.z))

    def _symbols(self, image: LoadedImage, quality: float | None) -> Symbols:
        target = RateTarget.of(quality, None, None, default=self.default_quality, highest=self.best_quality)
        return self.quantize(self.latent(image.pixels), round(target.value * QUALITY_STEPS), image.pixels.shape[:2])

    @cached_property
    def others(self) -> dict[str, ImageCodec]:
        """Codecs of other bundled models, loaded for their files, by name."""
        return {}

    def codec_of(self, data: bytes) -> ImageCodec:
        """The codec that decodes a file: that of the bundled model that it names, otherwise this one."""
        name = bundled_model_of(data)
        if name is None or model_of(data) == self.file_id:
            return self
        if name not in self.others:
            self.others[name] = load(name, device=self.device)
        found = self.others[name]
        return found if found.file_id == model_of(data) else self  # it differs in an installation with other weights

    def check_refinable(self) -> None:
        """Raise UsageError if the model was trained for another distortion than that of a refinement."""
        if self.distortion != "mse":
            what = f"{self.name} was trained for {self.distortion}, but refinement minimizes squared error"
            raise UsageError(what, where="refine", hint="compress without refinement, or with a model trained for PSNR")

    @property
    def default_quality(self) -> float:
        return min(DEFAULT_QUALITY, self.best_quality)

    def _check_model(self, coded: CodedImage) -> None:
        if coded.model_id.hex() != self.file_id:
            raise ModelMismatch(
                f"the file was written with model {coded.model_id.hex()}, not {self.name} {self.file_id}",
                hint="pass the folder of its model with --model; `latens models` lists the bundled models",
            )
        if not QUALITY_STEPS <= coded.header.quality <= self.best_quality * QUALITY_STEPS:
            raise Corrupt(f"{coded.header.quality / QUALITY_STEPS:g} is not a quality of this model", section="header")


def bundled_model_of(data: bytes) -> str | None:
    """Name of the bundled model that a file names; None for another model, and for a damaged header."""
    with suppress(StreamError):
        return bundled_with_id("image_codec", model_of(data))
    return None


@keepable
@plain_torch()
def load(
    name_or_path: str | Path = "image_codec_joint", *, device: str | torch.device = "auto", threads: int | None = None
) -> ImageCodec:
    """The bundled codec by name, or one from a model folder or a hub id. Raises ModelMissing, ModelError, DeviceUnavailable."""
    place = choose_device(device, threads)
    folder = locate(name_or_path)
    found, model = load_network(folder, "image_codec", ImageModel, build_network)
    if not found.coding:
        raise ModelError("its entropy model is not frozen for coding", where=str(folder), hint="train it with `latens train`")
    with fitting(folder):
        kind = ContextCoding if isinstance(model, ContextNetwork) else FrozenCoding
        coding = kind.from_tensors(found.config["coding"], found.coding, place)
        if isinstance(model, ContextNetwork) and isinstance(coding, ContextCoding):
            model.load_state_dict(model.not_stored(found.weights, coding), strict=False)
        distortion = str(found.config.get(DISTORTION, "mse"))
    return ImageCodec(model, coding, name=folder.name, sha256=found.sha256, device=place, distortion=distortion)


def psnr_of(decoded: Pixels, image: LoadedImage) -> float:
    """PSNR of the image that `decompress` returns, over the visible pixels; `decoded` (H, W, 3) are those of the synthesis."""
    if image.gray:
        decoded = np.repeat(mean_of_channels(decoded)[..., None], 3, axis=2)
    seen, original = visible(image), image.pixels
    return measured_psnr(decoded, original) if seen is None else measured_psnr(decoded[None, seen], original[None, seen])


def _loaded(image: ImageLike | LoadedImage) -> LoadedImage:
    return fill_hidden(image if isinstance(image, LoadedImage) else read_image(image))
