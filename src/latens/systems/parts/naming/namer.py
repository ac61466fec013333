"""Names of pixels: a linear classifier of cell features, fitted to marked images, or clusters of a person's own images.

    logits(cell) = W (f - mean) / deviation + b          probabilities: softmax

The fit is multinomial logistic regression with an L2 penalty. Clusters are those of k-means, as the same kind of classifier.
The probabilities of cells are enlarged and aligned with the edges of the image by a guided filter (He et al. 2010).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.codes.vq import kmeans
from latens.data.images import ImageLike, LoadedImage, Pixels, read_image
from latens.data.tensors import to_tensor
from latens.errors import InputError, ModelError, UsageError, counted
from latens.hub import load_model, save_model
from latens.nn.filters import fit_guide, luminance
from latens.shapes import Float, UInt8
from latens.systems.parts.naming.features import ALL_KINDS, KINDS, Kind, cell_features
from latens.systems.parts.predict import Parts, read_one

SYSTEM = "parts_names"  # of the folder of names
RESOLUTION = 256  # shorter side in pixels
MAX_NAMES = 254  # a label map has one byte per pixel, and 0 is no name
MAX_MASK_SIDE = 1024  # longer side in pixels at which edges are aligned; larger images take the nearest pixel
EDGE_RADIUS, EDGE_EPSILON = 8, 1e-3
STEPS = 80  # of L-BFGS
PENALTY = 1e-3
MAX_CELLS = 60_000  # of the fit, in memory
SHARPNESS = 8.0  # of clusters: weight of squared distances, relative to their mean


class Marked(NamedTuple):
    """An image and the names that a person gave to its pixels: 0 is unmarked, n is name n - 1."""

    path: Path
    labels: UInt8[np.ndarray, "H W"]


class NamedImage(NamedTuple):
    """The names of one image. `labels` has the size of the image: 0 is below the wanted probability, n is name n - 1."""

    labels: UInt8[np.ndarray, "H W"]
    probability: Float[np.ndarray, "N h w"]  # of every name in every cell
    certainty: float  # mean over cells of the largest probability
    mean: Float[np.ndarray, "F"]  # of the features, over cells


@dataclass(frozen=True)
class Namer:
    """Names the pixels of images with the features of one model. Names that are equal are one name."""

    parts: Parts
    names: tuple[str, ...]
    weight: Float[Tensor, "F N"]
    bias: Float[Tensor, "N"]
    mean: Float[Tensor, "F"]
    deviation: Float[Tensor, "F"]
    kinds: tuple[Kind, ...] = KINDS
    clustered: bool = False

    def __repr__(self) -> str:
        return f"Namer({', '.join(self.names)}; {self.parts!r})"

    @torch.no_grad()
    def __call__(self, image: ImageLike | LoadedImage, *, sure: float = 0.0) -> NamedImage:
        """Names of one image; pixels whose largest probability is below `sure` have none. Raises InputError."""
        pixels = read_one(image)
        features = features_of(self.parts, pixels, self.kinds)
        cells = (features - self.mean) / self.deviation
        probability = self._merged((cells @ self.weight + self.bias).softmax(-1).permute(2, 0, 1))
        labels = edges_aligned(pixels, probability, sure)
        return NamedImage(labels, probability.numpy(), float(probability.amax(0).mean()), features.mean((0, 1)).numpy())

    @property
    def distinct(self) -> tuple[str, ...]:
        """The names without repetition, in order: name n of label maps is distinct[n - 1]."""
        return tuple(dict.fromkeys(self.names))

    def fingerprint(self) -> str:
        """Hash of everything that decides the names of an image."""
        digest = hashlib.sha256(f"{self.parts.model_id} {self.parts.resolution} {self.kinds} {self.names}".encode())
        for tensor in (self.weight, self.bias, self.mean, self.deviation):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _merged(self, probability: Float[Tensor, "K h w"]) -> Float[Tensor, "N h w"]:
        index = torch.tensor([self.distinct.index(name) for name in self.names])
        return torch.zeros(len(self.distinct), *probability.shape[1:]).index_add_(0, index, probability)

    def save(self, folder: Path) -> None:
        """Write the names, the fit and the hash of the model. The list `names` in config.json may be edited."""
        config = {
            "system": SYSTEM,
            "names": list(self.names),
            "model": {"sha256": self.parts.model_id, "resolution": self.parts.resolution},
            "features": list(self.kinds),
            "clustered": self.clustered,
        }
        tensors = {"weight": self.weight, "bias": self.bias, "mean": self.mean, "deviation": self.deviation}
        save_model(folder, config, tensors)


def load_namer(folder: Path, parts: Parts) -> Namer:
    """Names that `Namer.save` wrote. Raises ModelError for those of another model, UsageError for edits that do not fit."""
    found = load_model(folder)
    config, tensors = found.config, found.weights
    if config.get("system") != SYSTEM:
        raise ModelError("this folder holds no names", where=str(folder), hint="make one with `latens parts --teach`")
    if config["model"]["sha256"] != parts.model_id:
        hint = f"give the model with weights {config['model']['sha256'][:12]} with --model, or teach again"
        raise ModelError(f"these names belong to another model than {parts.name}", where=str(folder), hint=hint)
    names = tuple(config["names"])
    count = len(tensors["bias"])
    if len(names) != count or not all(isinstance(name, str) and name.strip() for name in names):
        what = f"its config.json must list {counted(count, 'name')}, each a text; equal names are merged"
        raise UsageError(what, where=str(folder))
    kinds = tuple(kind for kind in ALL_KINDS if kind in config["features"])
    return Namer(parts.at(config["model"]["resolution"]), names, **tensors, kinds=kinds, clustered=bool(config["clustered"]))


def teach(
    parts: Parts, marked: Iterable[Marked], names: Sequence[str], *, kinds: tuple[Kind, ...] = KINDS, penalty: float = PENALTY
) -> Namer:
    """Fit names to marked images.

    Raises InputError if a name is marked nowhere, or marks have another size than their image. Raises UsageError for fewer than
    two names.
    """
    if not 2 <= len(names) <= MAX_NAMES:
        what = f"{counted(len(names), 'name')} given; between 2 and {MAX_NAMES} are needed"
        raise UsageError(what, where="names", hint="mark at least two kinds of things, such as tree and other")
    finder = parts.at(max(RESOLUTION, parts.resolution))
    cells, shares = [], []
    for one in marked:
        pixels = read_image(one.path).pixels
        if pixels.shape[:2] != one.labels.shape:
            (height, width), (rows, columns) = pixels.shape[:2], one.labels.shape
            what = f"the image has {width} x {height} pixels, its marks {columns} x {rows}"
            raise InputError(what, where=str(one.path), hint="mark this image, or put the marked one there")
        features = features_of(finder, pixels, kinds)
        share = marked_shares(one.labels, len(names), (features.shape[0], features.shape[1]))
        there = share.sum(-1) > 0
        cells.append(features[there])
        shares.append(share[there])
    x, y = _thinned(torch.cat(cells), torch.cat(shares))
    missing = [name for name, total in zip(names, y.sum(0), strict=True) if total == 0]
    if missing:
        raise InputError(f"no pixel is marked as {', '.join(missing)}", hint="mark every name in at least one image")
    mean, deviation = x.mean(0), x.std(0) + 1e-4
    weight, bias = logistic_regression((x - mean) / deviation, y, penalty)
    return Namer(finder, tuple(names), weight, bias, mean, deviation, kinds)


def cluster(parts: Parts, images: Sequence[ImageLike], count: int, *, kinds: tuple[Kind, ...] = KINDS, seed: int = 0) -> Namer:
    """k-means clusters of the cells of these images, named by numbers, as a start for names. Raises InputError."""
    if not 2 <= count <= MAX_NAMES:
        raise UsageError(f"{count} clusters; between 2 and {MAX_NAMES} are possible", where="clusters")
    finder = parts.at(max(RESOLUTION, parts.resolution))
    each = max(1, MAX_CELLS // max(1, len(images)))
    draw = torch.Generator().manual_seed(seed)
    cells = []
    for image in images:
        flat = features_of(finder, read_one(image), kinds).flatten(0, 1)
        cells.append(flat[torch.randperm(len(flat), generator=draw)[:each]])
    x = torch.cat(cells)
    if len(x) < count:
        raise InputError(
            f"these images have {len(x)} cells, fewer than {count} clusters", hint="give more images, or fewer clusters"
        )
    mean, deviation = x.mean(0), x.std(0) + 1e-4
    z = (x - mean) / deviation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        centers = kmeans(z, count, STEPS)
    spread = float(torch.cdist(z[:: max(1, len(z) // 4000)], centers).amin(1).square().mean())
    scale = SHARPNESS / max(spread, 1e-6)
    names = tuple(f"cluster-{number}" for number in range(1, count + 1))
    return Namer(finder, names, scale * 2 * centers.T, -scale * centers.square().sum(1), mean, deviation, kinds, clustered=True)


def features_of(parts: Parts, pixels: Pixels, kinds: tuple[Kind, ...]) -> Float[Tensor, "h w F"]:
    return cell_features(parts.model.encoder, parts.prepared(pixels), kinds).cpu()


def marked_shares(labels: UInt8[np.ndarray, "H W"], names: int, size: tuple[int, int]) -> Float[Tensor, "h w N"]:
    """Share of every name in the area of every cell; unmarked pixels count for none."""
    planes = [torch.from_numpy(labels == number + 1)[None].float() for number in range(names)]
    return torch.stack([F.adaptive_avg_pool2d(plane, size)[0] for plane in planes], -1)


def logistic_regression(
    x: Float[Tensor, "P F"], y: Float[Tensor, "P N"], penalty: float
) -> tuple[Float[Tensor, "F N"], Float[Tensor, "N"]]:
    """Weights and biases that minimize the cross-entropy with the shares `y`, plus `penalty` / 2 times the squared weights."""
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")
    total = y.sum()

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -(y * (x @ weight + bias).log_softmax(1)).sum() / total + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    step: Callable[[Callable[[], Tensor]], Any] = optimizer.step
    step(loss)
    return weight.detach(), bias.detach()


def edges_aligned(pixels: Pixels, probability: Float[Tensor, "N h w"], sure: float) -> UInt8[np.ndarray, "H W"]:
    """The most probable name of every pixel, from 1, or 0 below `sure`; borders follow the edges of the image."""
    height, width = pixels.shape[:2]
    factor = min(1.0, MAX_MASK_SIDE / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    image = F.interpolate(to_tensor(pixels[None], channels_last=True), size, mode="bilinear", antialias=True)
    guide = luminance(image)
    best = torch.full(size, -1.0)
    labels = torch.zeros(size, dtype=torch.uint8)
    for number, cells in enumerate(probability, start=1):  # one name at a time, to save memory
        large = F.interpolate(cells[None, None], size, mode="bilinear", align_corners=False)
        value = fit_guide(guide, large, EDGE_RADIUS, EDGE_EPSILON).apply(guide)[0, 0]
        better = value > best
        best, labels = torch.where(better, value, best), torch.where(better, number, labels)
    labels[best < sure] = 0
    if size != (height, width):
        labels = F.interpolate(labels[None, None].float(), (height, width), mode="nearest-exact")[0, 0].byte()
    return labels.numpy()


def _thinned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """At most MAX_CELLS cells, drawn with a fixed seed."""
    if len(x) <= MAX_CELLS:
        return x, y
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:MAX_CELLS]
    return x[chosen], y[chosen]
