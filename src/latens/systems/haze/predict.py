"""Inference: removal of haze from images and clips, synthesis of haze on images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from latens.arguments import real
from latens.catalogue import MODELS
from latens.data.depth import Depth, DepthFormat
from latens.data.given_type import as_given
from latens.data.image_arrays import check_uint8
from latens.data.image_output import carry_metadata, to_pil
from latens.data.images import ImageLike, LoadedImage, Pixels, read_each_frame, read_image
from latens.data.tensors import to_pixels, to_tensor
from latens.errors import UsageError
from latens.hub import locate
from latens.inference.device import choose_device, in_plain_torch, plain_torch
from latens.inference.kept import keepable
from latens.inference.many import OnError, many
from latens.shapes import Float, UInt8
from latens.systems.haze import methods
from latens.systems.haze.bands import dark_channel_pixels
from latens.systems.haze.baselines.boundary import BoundaryConfig
from latens.systems.haze.baselines.dark_channel import FAST, blocks_of
from latens.systems.haze.baselines.dehazenet import DehazeNet
from latens.systems.haze.config import CLASSICAL, TRANSLATORS
from latens.systems.haze.formation import MEAN_AIRLIGHT, HazeEstimate, scattering
from latens.systems.haze.model import Domain, HazeTranslator
from latens.systems.haze.networks import HazeModels, kind_of, read_folder
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.removal import (
    Method,
    Removed,
    check_controls,
    check_transmission,
    content_of,
    dehazed,
    dehazed_clip,
    no_estimate,
)
from latens.systems.haze.rules import Controls
from latens.systems.haze.synthesis import Rows, color_of, given_depth, predicted_depth, whole, with_haze
from latens.systems.haze.translation import translated, translated_pixels

GRAY = (MEAN_AIRLIGHT,) * 3  # default airlight
MAX_DEPTH = 120.0  # meters at relative depth 1, by default


@in_plain_torch
class Haze(HazeModels):
    """Removal and synthesis of haze for images of any size; gray images stay gray, and alpha is preserved.

    The methods are "dcp" and "bccr", which need no weights, the method of the loaded model folder, and those of the bundled
    models. The default is the method of the loaded model folder, else "physical".
    """

    def dehaze(
        self,
        image: ImageLike | LoadedImage,
        *,
        method: str | None = None,
        strength: float = 1.0,
        keep_brightness: float = 0.0,
        strip: bool = False,
    ) -> Any:
        """The dehazed image in the type of the input; a PIL image has EXIF and XMP in `.info`, unless `strip`. See `remove`.

        A path or PIL image gives a PIL image, an array or tensor one of the same shape and type, bytes a file in the same
        container (see `latens.data.given_type`).
        """
        made = self.remove(image, method=method, strength=strength, keep_brightness=keep_brightness, strip=strip)
        return as_given(made.image, image)

    def dehaze_many(self, images: Iterable[ImageLike], *, on_error: OnError | None = None, **options: Any) -> Iterator[Any]:
        """Yield dehazed images, one at a time; options as in `dehaze`. See `latens.inference.many`."""
        return many(self.dehaze, images, on_error, options)

    def remove(
        self,
        image: ImageLike | LoadedImage,
        *,
        method: str | None = None,
        strength: float = 1.0,
        keep_brightness: float = 0.0,
        strip: bool = False,
        transmission: Float[np.ndarray, "H W"] | None = None,
    ) -> Removed:
        """The dehazed image, and notes on conversions, borders and exposure.

        `strength` in [0, 1] is the power of the transmission: 0 returns the same pixels, 1 removes all haze that was found.
        Airlight and exposure are held; where haze was bright, the image becomes darker, and `keep_brightness` in [0, 1]
        restores that share of its mean brightness. Borders and transparent pixels stay as they are.

        An array `transmission` of the size of the image is filled with the transmission to the power `strength`; it is 1 where
        nothing is removed.

        Raises InputError, ModelMissing, and UsageError, also for the transmission of a translator, which estimates none.
        """
        loaded = image if isinstance(image, LoadedImage) else read_image(image)
        notes: list[str] = []
        chosen, controls = method or self.default_method, Controls(strength, keep_brightness)
        if transmission is not None:
            check_transmission(transmission, loaded.pixels.shape[:2])
            transmission[:] = 1
        pixels = self.dehaze_pixels(loaded.pixels, chosen, controls, alpha=loaded.alpha, notes=notes, transmission=transmission)
        made = to_pil(pixels, loaded.alpha, loaded.gray)
        return Removed(made if strip else carry_metadata(loaded, made), (*loaded.notes, *notes))

    def dehaze_pixels(
        self,
        pixels: Pixels,
        method: str,
        controls: Controls = Controls(),  # noqa: B008
        *,
        alpha: Pixels | None = None,
        notes: list[str] | None = None,
        transmission: Float[np.ndarray, "H W"] | None = None,
    ) -> Pixels:
        """Dehazed pixels (H, W, 3) uint8, as `dehaze` returns them; `alpha` (H, W).

        Notes are added to `notes`. The values of `transmission` are overwritten where haze is removed. Raises UsageError for
        pixels of another type or shape.
        """
        check_uint8(pixels)
        check_controls(controls)
        if self.has(method) and method in TRANSLATORS and transmission is not None:
            raise no_estimate(method)
        if controls.strength == 0:
            return pixels.copy()
        content = content_of(pixels, alpha)
        if method in TRANSLATORS:
            if controls.keep_brightness:
                raise no_estimate(method)
            moved = self._translated(content.pixels, method, "clear", controls.strength)
            made = content.filled(moved)
            found: list[str] = []
        else:
            made, found = dehazed(content, self._method(method), controls, transmission)
        if notes is not None:
            notes += [note for note in (content.note, *found) if note]
        return made

    def _translated(self, pixels: Pixels, method: str, to: Domain, strength: float = 1.0) -> Pixels:
        """Pixels moved by `strength` from the image to its translation."""
        model = cast(HazeTranslator, self.model(method))
        moved = translated_pixels(model, pixels, to, self.device, strength=strength)
        return moved.permute(1, 2, 0).cpu().numpy()

    def _method(self, name: str) -> Method:
        return Method(name, None if name in CLASSICAL else self.model(name), self.device)

    def published_pixels(self, pixels: Pixels, method: str) -> Pixels:
        """Dehazed pixels (H, W, 3) uint8 by the method as published, without the rules of `dehaze`: the rows of Table 1."""
        if method == "dcp":
            return dark_channel_pixels(torch.from_numpy(np.array(pixels)).to(self.device)).cpu().numpy()
        return to_pixels(self.clear(self.tensor(pixels), method)[0])

    @torch.no_grad()
    def clear(self, hazy: Float[Tensor, "B 3 H W"], method: str) -> Float[Tensor, "B 3 H W"]:
        """Dehazed images in [0, 1]."""
        if self.has(method) and method in TRANSLATORS:
            return self.translate(hazy, method, "clear")
        return self.estimate(hazy, method).clear(hazy)

    @torch.no_grad()
    def estimate(self, hazy: Float[Tensor, "B 3 H W"], method: str) -> HazeEstimate:
        """Transmission and airlight. Raises UsageError for a translator, which estimates neither."""
        return methods.refine(self.coarse(hazy, method), hazy)

    @torch.no_grad()
    def coarse(self, hazy: Float[Tensor, "B 3 H W"], method: str) -> methods.Coarse:
        """The estimate before refinement."""
        if self.has(method) and method in TRANSLATORS:
            raise no_estimate(method)
        if method == "dcp":
            return methods.dark_channel(blocks_of(hazy, FAST.shrink), FAST)
        if method == "bccr":
            return methods.boundary(hazy, BoundaryConfig())
        if method == "dehazenet":
            return methods.dehazenet(hazy, cast(DehazeNet, self.model(method)))
        return methods.physical(hazy, cast(PhysicalHaze, self.model(method)))

    def dehaze_clip(
        self,
        frames: Iterable[ImageLike],
        *,
        method: str | None = None,
        strength: float = 1.0,
        keep_brightness: float = 0.0,
        notes: list[str] | None = None,
    ) -> Iterator[Pixels]:
        """Dehazed frames (H, W, 3) uint8 of one clip, with temporally filtered estimates and constant borders.

        `frames` are images of one size, also as one array (T, H, W, 3) or tensor (T, 3, H, W). Controls as in `remove`. A note
        on borders is added to `notes` after the last frame. Raises UsageError for a translator, which has no estimate to
        filter, InputError for frames of several sizes and for what is no clip.
        """
        chosen, controls = method or self.default_method, Controls(strength, keep_brightness)
        check_controls(controls)
        if self.has(chosen) and chosen in TRANSLATORS:
            raise no_estimate(chosen)
        pixels = (image.pixels for image in read_each_frame(frames))
        if strength == 0:
            yield from (np.array(each) for each in pixels)
            return
        yield from dehazed_clip(pixels, self._method(chosen), controls, notes)

    def haze(
        self,
        image: ImageLike | LoadedImage,
        *,
        visibility: float | None = None,
        beta: float | None = None,
        depth: str | Path | np.ndarray[Any, Any] | None = None,
        depth_format: DepthFormat | None = None,
        airlight: tuple[float, float, float] = GRAY,
        max_depth: float = MAX_DEPTH,
        method: str | None = None,
        refine_depth: bool = False,
        linear_light: bool = False,
        strip: bool = False,
    ) -> Any:
        """The image with haze of a visibility in meters, or of a scattering coefficient `beta` per meter.

        The result has the type of the input, as in `dehaze`.
        By default beta is the mean coefficient of Li et al. 2019 divided by `max_depth`. `depth` is a file or array (H, W) in
        `depth_format` (default: `default_format`); relative depth is scaled to end at `max_depth` meters.
        `refine_depth` aligns the edges of measured depth with those of the image. Without `depth`, the physical model predicts
        it. `airlight` is RGB in [0, 1]. With a translator as `method`, visibility, depth and airlight cannot be set. EXIF and
        XMP are in `.info`, unless `strip`.

        Raises InputError for depth that does not fit the image, UsageError for conflicting arguments, ModelMissing.
        """
        loaded = image if isinstance(image, LoadedImage) else read_image(image)
        self.has(method or "physical")  # raises for an unknown one
        if method in TRANSLATORS:
            unused = (airlight, max_depth, refine_depth, linear_light) != (GRAY, MAX_DEPTH, False, False)
            if unused or any(given is not None for given in (visibility, beta, depth, depth_format)):
                what = f"{method} is a learned translation: depth, density and color of the haze cannot be set"
                raise UsageError(what, where="--method", hint="remove --method or the other options")
            hazy = self._translated(loaded.pixels, method, "hazy")
        else:
            if method not in (None, "physical"):
                what = f"{method} cannot add haze"
                raise UsageError(what, where="--method", hint=f"use {', '.join(TRANSLATORS)}, or remove --method")
            coefficient = scattering(visibility, beta, max_depth)
            meters = self._meters(loaded.pixels, depth, depth_format, max_depth)
            color = torch.tensor([color_of(airlight)], dtype=torch.float32, device=self.device)
            clear = self._bytes(loaded.pixels)
            made_hazy = with_haze(clear, meters, coefficient, color, refine=refine_depth, linear_light=linear_light)
            hazy = made_hazy.cpu().numpy()
        made = to_pil(hazy, loaded.alpha, loaded.gray)
        return as_given(made if strip else carry_metadata(loaded, made), image)

    def haze_many(self, images: Iterable[ImageLike], *, on_error: OnError | None = None, **options: Any) -> Iterator[Any]:
        """Yield images with haze, one at a time; options as in `haze`. See `latens.inference.many`."""
        return many(self.haze, images, on_error, options)

    def depth(self, image: ImageLike | LoadedImage, *, max_depth: float = MAX_DEPTH) -> Depth:
        """Predicted distance (H, W) in meters, the farthest point at `max_depth`. Raises ModelMissing."""
        loaded = image if isinstance(image, LoadedImage) else read_image(image)
        if not 0 < real(max_depth, "max_depth") < float("inf"):
            raise UsageError("max_depth must be above 0", where=f"max_depth {max_depth:g}")
        meters = self._meters(loaded.pixels, None, None, max_depth)
        with torch.no_grad():
            return whole(self._bytes(loaded.pixels), meters)[0, 0].cpu().numpy()

    def _meters(self, pixels: Pixels, depth: Any, form: DepthFormat | None, max_depth: float) -> Rows:
        """Distance of every pixel in meters, from `depth` or predicted."""
        if depth is not None:
            return given_depth(depth, form, max_depth, (pixels.shape[0], pixels.shape[1]), self.device)
        relative = predicted_depth(self._bytes(pixels), cast(PhysicalHaze, self.model("physical")))
        return lambda band: max_depth * relative(band)

    def _bytes(self, pixels: Pixels) -> UInt8[Tensor, "H W 3"]:
        return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).to(self.device)

    @torch.no_grad()
    def translate(self, image: Float[Tensor, "B 3 H W"], method: str, to: Domain) -> Float[Tensor, "B 3 H W"]:
        """Translation by a network. Large images are translated in tiles, with the statistics of the reduced image."""
        return translated(cast(HazeTranslator, self.model(method)), image, to)

    def tensor(self, pixels: Pixels) -> Float[Tensor, "1 3 H W"]:
        """Pixels (H, W, 3) uint8 as a batch of one in [0, 1] on the device."""
        return to_tensor(pixels).to(self.device)


@keepable
@plain_torch()
def load(name_or_path: str | Path = "haze", *, device: str | torch.device = "auto", threads: int | None = None) -> Haze:
    """All bundled methods ("haze"), or those and a model by name, from a folder or a hub id.

    Raises ModelMissing or ModelError.
    """
    place = choose_device(device, threads)
    if str(name_or_path) == "haze":
        return Haze({}, name="haze", sha256=MODELS["haze_physical"].sha256, device=place)
    folder = locate(name_or_path)
    digest, model = read_folder(folder)
    return Haze({kind_of(model): model}, name=folder.name, sha256=digest, device=place)
