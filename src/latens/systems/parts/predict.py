"""The model a user holds: parts of pictures, pictures of parts, and features for any classifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from latens.catalogue import MODELS
from latens.data.images import ImageLike, Picture, Pixels, read_picture, to_pil
from latens.data.squares import center_square
from latens.data.tensors import to_pixels, to_tensor
from latens.errors import InputError, ModelError, ModelMissing, UsageError
from latens.hub import load_model, locate
from latens.inference.device import choose_device
from latens.settings import decode
from latens.shapes import Float
from latens.systems.parts.baselines import Member, build_model
from latens.systems.parts.config import PartsConfig
from latens.systems.parts.gallery import PRESENT, PartCode, PartGallery, cut_galleries, one_a_picture, within_picture
from latens.systems.parts.model import PatchVAE, most_likely
from latens.systems.parts.statistics import PartStatistics, Tally

NAME = "parts"
EMBED_BATCH = 64
LONGEST = 64  # times the shorter side: a line of pixels would be raised to a picture of gigabytes


class Measured(NamedTuple):
    """The code of one picture and what it costs, in nats."""

    code: PartCode
    kl_app: Float[Tensor, "N"]
    kl_occ: Float[Tensor, "N"]


class Parts:
    """Discovers parts in pictures of any size and kind; these are reduced to `resolution` pixels on the shorter side.

    `encode`, `decode`, `swap`, `gallery` and `statistics` need a PatchVAE; `embed` works with every member of the family.
    """

    def __init__(self, model: Member, *, name: str, sha256: str, device: torch.device, resolution: int | None = None) -> None:
        self.model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.name = name
        self.device = device
        self.model_id = sha256
        self.precision = "float32"
        self.resolution = resolution or model.config.size

    @property
    def config(self) -> PartsConfig:
        return self.model.config

    def at(self, resolution: int) -> Parts:
        """The same model for pictures reduced to another size, a multiple of 8: finer maps for larger ones."""
        if resolution < 16 or resolution % self.model.encoder.stride:
            hint = f"a multiple of {self.model.encoder.stride}, e.g. {2 * self.config.size}"
            raise UsageError(f"a resolution of {resolution} pixels", where="resolution", hint=hint)
        return Parts(self.model, name=self.name, sha256=self.model_id, device=self.device, resolution=resolution)

    def encode(self, images: ImageLike | Picture | Sequence[Any]) -> list[PartCode]:
        """One code a picture. Raises InputError for what is no picture, ModelError for a model without parts."""
        return [self.measure(image).code for image in singles(images)]

    @torch.no_grad()
    def measure(self, image: ImageLike | Picture) -> Measured:
        """The code of one picture and its divergences. Raises as `encode` does."""
        from latens.codes.gaussian import gaussian_kl

        model, pixels = self._patchvae(), read_one(image)
        height, width = pixels.shape[:2]
        if max(height, width) > LONGEST * min(height, width):
            what = f"of {width} x {height} pixels one side is more than {LONGEST} times the other"
            raise InputError(what, where=str(image) if isinstance(image, str | Path) else None, hint="crop the picture")
        posterior = model.posterior(self._prepared(pixels))
        q = model.probability(posterior.logits)[0].cpu().numpy()
        code = PartCode(q, posterior.appearance.mean[0].cpu().numpy(), (height, width))
        return Measured(code, gaussian_kl(*posterior.appearance)[0].sum(1), model.occurrence_kl(posterior.logits)[0])

    @torch.no_grad()
    def decode(self, code: PartCode) -> Image.Image:
        """The picture of a code: parts where they are likelier there than not, at the resolution of the model."""
        model = self._patchvae()
        one_code(code)
        if code.occurrence.shape[0] != model.config.parts or code.appearance.shape != (
            model.config.parts,
            model.config.appearance,
        ):
            what = f"a code of {code.occurrence.shape[0]} parts for a model of {model.config.parts}"
            raise UsageError(what, hint="decode with the model that encoded")
        q = torch.from_numpy(code.occurrence.astype(np.float32)).to(self.device)
        chosen = most_likely(q[None] - PRESENT, categorical=model.config.categorical)
        appearance = torch.from_numpy(code.appearance.astype(np.float32)).to(self.device)
        picture = model.decode(appearance[None], chosen)[0]
        return to_pil(to_pixels(picture))

    def swap(self, target: PartCode, source: PartCode, part: int, source_part: int | None = None) -> PartCode:
        """`target` with the appearance of `part` taken from `source` (004, Fig. 5), there from `source_part` if it is given."""
        one_code(target)
        one_code(source)
        other = part if source_part is None else source_part
        for number in (part, other):
            if not 0 <= number < self.config.parts:
                raise UsageError(f"there is no part {number}", hint=f"parts are 0 to {self.config.parts - 1}")
        appearance = target.appearance.copy()
        appearance[part] = source.appearance[other]
        return replace(target, appearance=appearance)

    def gallery(
        self, images: ImageLike | Picture | Sequence[Any], *, most: int = 9, codes: Sequence[PartCode] | None = None
    ) -> list[PartGallery]:
        """For every part that occurs, where it does (004, Fig. 4), one place a picture: the part in most pictures first.

        `images` must be readable twice; `codes` are theirs, where they are known already. Raises UsageError for `most` below 1.
        """
        check_most(most)
        known = self.encode(images) if codes is None else list(codes)
        places = [one_a_picture(known, part) for part in range(self.config.parts)]
        order = sorted((place for place in places if place.shown), key=lambda place: -len(place.shown))
        every = singles(images)
        return cut_galleries(order, known, lambda i: read_one(every[i]), most)

    def places(self, image: ImageLike | Picture, *, most: int = 8, code: PartCode | None = None) -> list[PartGallery]:
        """For every part of one picture, where it occurs: the commonest part first, of each the surest cells.

        Two cells of a part that touch count as one place. `code` is the picture's, where it is known already.
        Raises UsageError for several pictures and for `most` below 1.
        """
        check_most(most)
        several = singles(image)
        if len(several) != 1:
            raise UsageError(f"{len(several)} pictures where one is looked at", where="places", hint="or use gallery(images)")
        pixels = read_one(several[0])
        known = self.measure(pixels).code if code is None else code
        order = sorted(known.present(), key=lambda part: (-int((known.occurrence[part] > PRESENT).sum()), part))
        return cut_galleries([within_picture(known, part) for part in order], [known], lambda _: pixels, most)

    @torch.no_grad()
    def embed(self, images: ImageLike | Picture | Sequence[Any]) -> Float[np.ndarray, "n C"]:
        """Features for a classifier: phi of the middle square, averaged over cells."""
        squares = (center_square(pixels, self.resolution) for pixels in pictures(images))
        found = []
        while batch := list(islice(squares, EMBED_BATCH)):
            found.append(
                self.model.encoder(to_tensor(np.stack(batch), channels_last=True).to(self.device)).mean((2, 3)).cpu().numpy()
            )
        return np.concatenate(found) if found else np.zeros((0, self.model.encoder.channels), np.float32)

    def statistics(self, images: Sequence[Any]) -> PartStatistics:
        """Which parts are in use, and what they cost. Raises UsageError for no pictures."""
        every = singles(images)
        if not every:
            raise UsageError("there are no pictures", where="statistics", hint="give at least one")
        return statistics_of(self.measure(image) for image in every)

    def _prepared(self, pixels: Pixels) -> Float[Tensor, "1 3 H W"]:
        """The picture with `resolution` pixels on its shorter side and both sides multiples of the stride."""
        stride, (height, width) = self.model.encoder.stride, pixels.shape[:2]
        factor = self.resolution / min(height, width)
        size = [max(round(side * factor / stride), self.resolution // stride) * stride for side in (width, height)]
        if size != [width, height]:
            pixels = np.asarray(Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS))
        return to_tensor(pixels, channels_last=True).to(self.device)

    def _patchvae(self) -> PatchVAE:
        if not isinstance(self.model, PatchVAE):
            what = f"a model of the kind '{self.config.kind}' has features but no parts"
            raise ModelError(what, where=self.name, hint="train one with --set model.kind=patchvae")
        return self.model


def statistics_of(measured: Iterable[Measured]) -> PartStatistics:
    """The statistics of pictures that are encoded already, at least one."""
    tally = Tally()
    for code, kl_app, kl_occ in measured:
        tally.add(torch.from_numpy(code.occurrence)[None], kl_app.cpu()[None], kl_occ.cpu()[None])
    return tally.statistics()


def pictures(images: ImageLike | Picture | Sequence[Any]) -> Iterator[Pixels]:
    """Pixels (H, W, 3) of one picture, a sequence of them, or a batch (B, 3, H, W) of a tensor or (B, H, W, 3) of an array.

    A picture is read when its turn comes: large ones need not fit into memory together.
    """
    return (read_one(one) for one in singles(images))


def singles(images: ImageLike | Picture | Sequence[Any]) -> list[ImageLike | Picture]:
    """One picture, a sequence of them or a batch as a list of single pictures, not read yet."""
    if isinstance(images, Picture):
        return [images]
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
        several: Sequence[Any] = list(images)
        return [single for one in several for single in singles(one)]
    return [cast(ImageLike, images)]


def read_one(image: ImageLike | Picture) -> Pixels:
    return image.pixels if isinstance(image, Picture) else read_picture(image).pixels


def one_code(code: object) -> None:
    """Raises UsageError for anything but one code, such as the list that `encode` gives."""
    if not isinstance(code, PartCode):
        hint = "encode gives a list, one code a picture: take codes[0]"
        raise UsageError(f"a {type(code).__name__} is not the code of one picture", hint=hint)


def check_most(most: int) -> None:
    if most < 1:
        raise UsageError(f"{most} patches of a part", where="most", hint="1 or more")


def up_to(maps: Float[np.ndarray, "N h w"], height: int, width: int) -> Float[np.ndarray, "N H W"]:
    """Maps of cells at the size of a picture, between neighbours linearly."""
    raised = F.interpolate(torch.from_numpy(maps)[None].float(), (height, width), mode="bilinear", align_corners=False)
    return raised[0].numpy()


def load(name_or_path: str | Path = NAME, *, device: str = "auto", threads: int | None = None) -> Parts:
    """A model of this system by name, or from a model folder or a hub id.

    Raises ModelMissing, ModelError or DeviceUnavailable.
    """
    place = choose_device(device, threads)
    if str(name_or_path) == NAME and NAME not in MODELS:
        hint = "train one with `latens train parts --data PICTURES -o runs/parts`, then name runs/parts/best (--model)"
        raise ModelMissing("no weights of this system are in the box", where=NAME, hint=hint)
    folder = locate(name_or_path)
    found = load_model(folder)
    if found.config["system"] != NAME:
        raise ModelError(f"this is a model of {found.config['system']}, not of parts", where=str(folder))
    try:
        model = build_model(decode(PartsConfig, found.config["model"], where=str(folder)))
        model.load_state_dict(found.weights)
    except (KeyError, RuntimeError) as error:
        what = f"config.json and the weights do not fit ({str(error).splitlines()[0]})"
        raise ModelError(what, where=str(folder), hint="save or train the model again") from None
    return Parts(model, name=folder.name, sha256=found.sha256, device=place)
