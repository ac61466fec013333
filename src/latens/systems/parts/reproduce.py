"""The tables and figures of 004: `latens reproduce parts/table1 --data cifar100:PATH` trains what is missing.

Tables train their models; figures show a trained one. Each is written as one page, one JSON and its pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from latens.data.images import PICTURE_ENDINGS, Pixels, read_picture
from latens.data.inputs import find_inputs
from latens.errors import LatensError, UsageError
from latens.inference.demo import photographs
from latens.inference.reproduction import Reproduction, scale_of
from latens.systems.parts.dataset import first_few
from latens.systems.parts.experiments import SCALES, Laboratory, check_applies, check_scale
from latens.systems.parts.figures import FIGURES
from latens.systems.parts.predict import Parts
from latens.systems.parts.sources import open_set
from latens.systems.parts.tables import TABLES, write_scenes

TRAINED_HERE = frozenset(TABLES)
"""Names that need no trained model: the command trains its own (see `train_and_reproduce`)."""
NAMES = (*TABLES, *FIGURES)
MOST_PICTURES = 500


def train_and_reproduce(
    name: str,
    data: Path | None,
    out: Path,
    *,
    recipe: str = "desk",
    settings: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda line: None,
    device: str = "auto",
) -> Reproduction:
    """A table, saved into `out`; `settings` change values of the recipe's `Scale`. What was trained before is found again.

    Raises UsageError for an unknown name or recipe, and where a data set is needed and `data` is None.
    """
    scale = scale_of("parts", name, TABLES, recipe, SCALES, settings)
    check_scale(scale)
    check_applies(name, settings)
    if name == "discovery":
        data = write_scenes(scale.scenes, out / f"scenes-{scale.scenes}.npz")
    if data is None:
        hint = "the paper used cifar100:PATH, indoor67:PATH, places205:PATH and imagenet:PATH"
        raise UsageError(f"{name} is measured on labelled pictures", where="--data", hint=hint)
    lab = Laboratory(data, scale, out, progress, device)
    found = Reproduction(
        name,
        f"{lab.train_set.name}, {len(lab.train_set)} training and {len(lab.test_set)} test pictures; recipe {scale.recipe}.",
        {"data": str(data), "recipe": recipe, "scale": asdict(scale)},
        tuple(TABLES[name](lab)),
    )
    found.save(out)
    return found


def reproduce(
    name: str,
    parts: Parts,
    data: Path | None,
    out: Path,
    *,
    recipe: str = "desk",
    settings: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda line: None,
) -> Reproduction:
    """A figure of a trained model on pictures (by default photographs that are installed with latens), saved into `out`."""
    scale = scale_of("parts", name, FIGURES, recipe, SCALES, settings)
    check_scale(scale)
    check_applies(name, settings)
    pictures, names = read_all(data, scale.pictures or MOST_PICTURES, progress)
    progress(f"{name}: {len(pictures)} pictures")
    found = Reproduction(
        name,
        f"{len(pictures)} pictures; model {parts.name}, weights {parts.model_id[:12]}, shorter side {parts.resolution} pixels.",
        {"model": parts.name, "model_id": parts.model_id, "recipe": recipe, "pictures": list(names)},
        tuple(FIGURES[name](parts, pictures, names)),
    )
    found.save(out)
    return found


def read_all(data: Path | None, most: int, tell: Callable[[str], None]) -> tuple[list[Pixels], Sequence[str]]:
    """Pictures and their names (classes, where a data set has them); those that cannot be read are told and left out.

    Of a data set with classes at most `most` of the test split, or of the whole where it has none, mixed by name; of a plain
    folder the first. Raises the error of the first where none can be read.
    """
    if data is None:
        return [read_picture(photo.path).pixels for photo in photographs()], [photo.name for photo in photographs()]
    found = open_set(data, "test", hold_out=False)
    if data.is_dir() and not found.classes and not list(data.glob("*.npz")):
        files = find_inputs([data], PICTURE_ENDINGS)[:most]
        return _readable([file.relative.stem for file in files], lambda i: read_picture(files[i].path).pixels, tell)
    chosen = found.subset(first_few(found, most))
    names = [chosen.classes[label] if label >= 0 else key for label, key in zip(chosen.labels, chosen.keys, strict=True)]
    return _readable(names, chosen.read, tell)


def _readable(
    names: Sequence[str], read: Callable[[int], Pixels], tell: Callable[[str], None]
) -> tuple[list[Pixels], Sequence[str]]:
    pictures, kept, first = [], [], None
    for number, name in enumerate(names):
        try:
            pictures.append(read(number))
            kept.append(name)
        except LatensError as error:
            first = first or error
            tell(f"left out: {str(error).splitlines()[0]}")
    if first is not None and not pictures:
        raise first
    return pictures, kept
