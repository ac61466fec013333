"""Inference: codes of images, reconstructions, galleries of parts, and features for any classifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.arguments import whole
from latens.codes.gaussian import gaussian_kl
from latens.data.image_output import to_pil
from latens.data.images import ImageLike, LoadedImage, Pixels, read_image
from latens.data.squares import center_square
from latens.data.tensors import to_pixels, to_tensor
from latens.errors import InputError, LimitExceeded, ModelError, UsageError, counted
from latens.hub import load_network, locate
from latens.inference.device import choose_device, in_plain_torch, plain_torch
from latens.inference.kept import keepable
from latens.inference.many import OnError, many
from latens.nn.stages import normalized
from latens.shapes import Float
from latens.systems.parts.baselines import Member, build_model
from latens.systems.parts.config import PartsConfig
from latens.systems.parts.gallery import PRESENT, PartGallery, cut_galleries, one_per_image, within_image
from latens.systems.parts.model import PatchVAE
from latens.systems.parts.statistics import PartStatistics, Tally

Pooling: TypeAlias = Literal["mean", "moments"]

NAME = "parts"
EMBED_BATCH = 64
MAX_PIXELS = 2**24  # of a resized image; activations take about 180 bytes per pixel, 3 GB in total
MAX_ASPECT = 64  # largest aspect ratio; longer images could need gigabytes after resizing by the shorter side


@dataclass(frozen=True)
class PartCode:
    """The code of one image: occurrence map and appearance of every part."""

    occurrence: Float[np.ndarray, "N h w"]  # probability of every part in every cell
    appearance: Float[np.ndarray, "N D"]  # mean appearance of every part
    size: tuple[int, int]  # height and width of the image

    def present(self) -> list[int]:
        """Parts with p > 0.5 in some cell, by decreasing probability."""
        highest = self.occurrence.max(axis=(1, 2))
        return [int(n) for n in np.argsort(-highest, kind="stable") if highest[n] > PRESENT]

    def __repr__(self) -> str:
        (parts, height, width), count = self.occurrence.shape, len(self.present())
        return f"PartCode({count} of {parts} parts present, {width} x {height} cells, image {self.size[1]} x {self.size[0]})"


class Measured(NamedTuple):
    """The code of one image and its divergences in nats."""

    code: PartCode
    kl_app: Float[Tensor, "N"]
    kl_occ: Float[Tensor, "N"]


@in_plain_torch
class Parts:
    """Parts in images of any size, which are resized to `resolution` pixels on the shorter side.

    `encode`, `decode`, `swap`, `gallery` and `statistics` need a PatchVAE; `embed` works with every model.
    """

    def __init__(self, model: Member, *, name: str, sha256: str, device: torch.device, resolution: int | None = None) -> None:
        self.model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.name = name
        self.device = device
        self.model_id = sha256
        self.precision = "float32"
        self.resolution = resolution or model.config.size

    def __repr__(self) -> str:
        kind = self.model.config.kind
        return f"Parts({self.name}, weights {self.model_id[:12]}, {self.device}, {kind}, resolution {self.resolution})"

    @property
    def config(self) -> PartsConfig:
        return self.model.config

    def at(self, resolution: int) -> Parts:
        """The same model for another shorter side, a multiple of the stride; larger sides give finer maps.

        Raises UsageError for other numbers, LimitExceeded for a resolution above `MAX_PIXELS`.
        """
        if whole(resolution, "resolution") < 16 or resolution % self.model.encoder.stride:
            hint = f"choose a multiple of {self.model.encoder.stride}, at least 16, e.g. {2 * self.config.size}"
            raise UsageError(f"resolution {resolution} is not supported", where="resolution", hint=hint)
        check_pixels(resolution, resolution)
        return Parts(self.model, name=self.name, sha256=self.model_id, device=self.device, resolution=resolution)

    def encode(self, images: ImageLike | LoadedImage | Sequence[Any]) -> list[PartCode]:
        """One code per image. Raises InputError for unreadable images, ModelError for a model without parts."""
        return [self.measure(image).code for image in singles(images)]

    @torch.no_grad()
    def encode_many(self, images: Iterable[ImageLike], *, on_error: OnError | None = None) -> Iterator[PartCode]:
        """Yield the codes of images, one at a time. See `latens.inference.many`."""
        return many(lambda image: self.encode(image)[0], images, on_error, {})

    def measure(self, image: ImageLike | LoadedImage) -> Measured:
        """The code of one image and its divergences. Raises as `encode` does."""
        model, pixels = self._patchvae(), read_one(image)
        height, width = pixels.shape[:2]
        if max(height, width) > MAX_ASPECT * min(height, width):
            what = f"an image of {width} x {height} pixels exceeds the aspect ratio of {MAX_ASPECT}"
            raise InputError(what, where=str(image) if isinstance(image, str | Path) else None, hint="crop the image")
        posterior = model.posterior(self.prepared(pixels))
        q = model.probability(posterior.logits)[0].cpu().numpy()
        code = PartCode(q, posterior.appearance.mean[0].cpu().numpy(), (height, width))
        return Measured(code, gaussian_kl(*posterior.appearance)[0].sum(1), model.occurrence_kl(posterior.logits)[0])

    @torch.no_grad()
    def decode(self, code: PartCode) -> Image.Image:
        """Reconstruction from a code with the parts of p > 0.5, at the resolution of the model."""
        model = self._patchvae()
        one_code(code)
        if code.occurrence.shape[0] != model.config.parts or code.appearance.shape != (
            model.config.parts,
            model.config.appearance,
        ):
            sizes = f"{model.config.parts} parts with {model.config.appearance} numbers each"
            what = f"the code has {code.occurrence.shape[0]} parts, and the model has {sizes}"
            raise UsageError(what, hint="decode with the model that encoded the image")
        q = torch.from_numpy(code.occurrence.astype(np.float32)).to(self.device)
        chosen = model.hard_occurrence(q[None] - PRESENT)
        appearance = torch.from_numpy(code.appearance.astype(np.float32)).to(self.device)
        return to_pil(to_pixels(model.decode(appearance[None], chosen)[0]))

    def swap(self, target: PartCode, source: PartCode, part: int, source_part: int | None = None) -> PartCode:
        """`target` with the appearance of `part` replaced by that of `source_part` (default: `part`) in `source` (Fig. 5)."""
        one_code(target)
        one_code(source)
        other, count = part if source_part is None else source_part, self._patchvae().config.parts
        for number in (part, other):
            if not 0 <= whole(number, "part") < count:
                raise UsageError(f"there is no part {number}", hint=f"parts are 0 to {count - 1}")
        appearance = target.appearance.copy()
        appearance[part] = source.appearance[other]
        return replace(target, appearance=appearance)

    def gallery(
        self, images: ImageLike | LoadedImage | Sequence[Any], *, most: int = 9, codes: Sequence[PartCode] | None = None
    ) -> list[PartGallery]:
        """Patches of every part that occurs, one per image (Gupta et al. 2020, Fig. 4), by decreasing number of images.

        `images` must be readable twice; `codes` are their codes if already known. Raises UsageError for `most` below 1, and for
        codes that are not one of every image.
        """
        check_most(most)
        every = singles(images)
        known = self.encode(images) if codes is None else checked_codes(codes, len(every))
        maps = [code.occurrence for code in known]
        found = [one_per_image(maps, part) for part in range(self._patchvae().config.parts)]
        order = sorted((part for part in found if part.shown), key=lambda part: -len(part.shown))
        return cut_galleries(order, [one.shape[1:] for one in maps], lambda i: read_one(every[i]), most)

    def occurrences(self, image: ImageLike | LoadedImage, *, most: int = 8, code: PartCode | None = None) -> list[PartGallery]:
        """Patches of every part of one image, at non-adjacent cells, by decreasing number of cells.

        `code` is the code of the image if already known. Raises UsageError for several images and for `most` below 1.
        """
        check_most(most)
        several = singles(image)
        if len(several) != 1:
            raise UsageError(
                f"{len(several)} images instead of one", where="occurrences", hint="use gallery(images) for several images"
            )
        pixels = read_one(several[0])
        if code is not None:
            one_code(code)
        known = self.measure(pixels).code if code is None else code
        order = sorted(known.present(), key=lambda part: (-int((known.occurrence[part] > PRESENT).sum()), part))
        found = [within_image(known.occurrence, part) for part in order]
        return cut_galleries(found, [known.occurrence.shape[1:]], lambda _: pixels, most)

    @torch.no_grad()
    def embed(self, images: ImageLike | LoadedImage | Sequence[Any], *, pooling: Pooling = "mean") -> Float[np.ndarray, "n F"]:
        """Features (n, F) for a classifier, of the center square: phi averaged over cells, as many numbers as it has channels.

        With `pooling="moments"` they are the means, then the standard deviations over cells, of the outputs of every stage of
        phi: more numbers (512 in the bundled model), from which a linear classifier recognizes more. Raises UsageError for
        another pooling.
        """
        if pooling not in get_args(Pooling):
            what = f"pooling must be {' or '.join(get_args(Pooling))}, not {pooling!r}"
            raise UsageError(what, where="pooling")
        squares = (center_square(pixels, self.resolution) for pixels in read_all(images))
        found = []
        while batch := list(islice(squares, EMBED_BATCH)):
            found.append(self._pooled(to_tensor(np.stack(batch), channels_last=True).to(self.device), pooling).cpu().numpy())
        if found:
            return np.concatenate(found)
        size = self.model.config.size
        blank = torch.zeros((1, 3, size, size), device=self.device)
        return np.zeros((0, self._pooled(blank, pooling).shape[1]), np.float32)

    def _pooled(self, image: Float[Tensor, "B 3 H W"], pooling: Pooling) -> Float[Tensor, "B F"]:
        encoder = self.model.encoder
        if pooling == "mean":
            return encoder(image).mean((2, 3))
        x, moments = normalized(image), []
        for number in range(len(encoder.stages)):
            x = encoder.run(x, number, number + 1)
            moments.append((x.mean((2, 3)), x.std((2, 3), correction=0)))
        return torch.cat([torch.cat(pair, dim=1) for pair in moments], dim=1)

    def statistics(self, images: Sequence[Any]) -> PartStatistics:
        """Frequency and divergences of all parts. Raises UsageError for an empty sequence."""
        every = singles(images)
        if not every:
            raise UsageError("no images given", where="statistics", hint="give at least one")
        return statistics_of(self.measure(image) for image in every)

    def prepared(self, pixels: Pixels) -> Float[Tensor, "1 3 H W"]:
        """The image with `resolution` pixels on its shorter side and both sides multiples of the stride."""
        stride, (height, width) = self.model.encoder.stride, pixels.shape[:2]
        factor = self.resolution / min(height, width)
        size = [max(round(side * factor / stride), self.resolution // stride) * stride for side in (width, height)]
        check_pixels(*size)
        if size != [width, height]:
            pixels = np.asarray(Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS))
        return to_tensor(pixels[None], channels_last=True).to(self.device)

    def _patchvae(self) -> PatchVAE:
        if not isinstance(self.model, PatchVAE):
            what = f"a model of kind '{self.config.kind}' has features but no parts"
            raise ModelError(what, where=self.name, hint="train one with --set model.kind=patchvae")
        return self.model


def statistics_of(measured: Iterable[Measured]) -> PartStatistics:
    """The statistics of encoded images, at least one."""
    tally = Tally()
    for code, kl_app, kl_occ in measured:
        tally.add(torch.from_numpy(code.occurrence)[None], kl_app.cpu()[None], kl_occ.cpu()[None])
    return tally.statistics()


def read_all(images: ImageLike | LoadedImage | Sequence[Any]) -> Iterator[Pixels]:
    """Pixels (H, W, 3) of one image, a sequence of them, or a batch: a tensor (B, 3, H, W) or an array (B, H, W, 3).

    Images are read one at a time, so that only one is in memory.
    """
    return (read_one(one) for one in singles(images))


def singles(images: ImageLike | LoadedImage | Sequence[Any]) -> list[ImageLike | LoadedImage]:
    """One image, a sequence of images or a batch as a list of single images, not yet read."""
    if isinstance(images, LoadedImage):
        return [images]
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
        several: Sequence[Any] = list(images)
        return [single for one in several for single in singles(one)]
    return [cast(ImageLike, images)]


def read_one(image: ImageLike | LoadedImage) -> Pixels:
    return image.pixels if isinstance(image, LoadedImage) else read_image(image).pixels


def one_code(code: object) -> None:
    """Raises UsageError for anything but one code, such as the list that `encode` returns."""
    if not isinstance(code, PartCode):
        hint = "encode returns a list with one code per image: use codes[0]"
        raise UsageError(f"a {type(code).__name__} is not the code of one image", hint=hint)


def checked_codes(codes: Sequence[PartCode], count: int) -> list[PartCode]:
    """The codes of `count` images as a list. Raises UsageError for anything else."""
    found = list(codes) if isinstance(codes, Iterable) else []
    if len(found) != count or not all(isinstance(code, PartCode) for code in found):
        raise UsageError(
            f"these are not the codes of {counted(count, 'image')}", where="codes", hint="give those of encode(images)"
        )
    return found


def check_pixels(width: int, height: int) -> None:
    """Raises LimitExceeded for an image that would be resized to more than `MAX_PIXELS`, before memory is allocated."""
    if width * height > MAX_PIXELS:
        what = f"it would be resized to {width} x {height} pixels, more than the limit of {MAX_PIXELS:,}"
        raise LimitExceeded(what, hint="choose a smaller resolution")


def check_most(most: int) -> None:
    if whole(most, "most") < 1:
        raise UsageError(f"the number of patches per part must be at least 1, not {most}", where="most")


@keepable
@plain_torch()
def load(place: str | Path = NAME, *, device: str | torch.device = "auto", threads: int | None = None) -> Parts:
    """Load a model by name, model folder or hub id.

    Raises ModelMissing, ModelError or DeviceUnavailable.
    """
    chosen = choose_device(device, threads)
    folder = locate(place)
    found, model = load_network(folder, NAME, PartsConfig, build_model)
    return Parts(model, name=folder.name, sha256=found.sha256, device=chosen)
