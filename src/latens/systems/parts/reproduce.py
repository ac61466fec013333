"""The tables and figures of 004: `latens reproduce parts/table1 --data cifar100:PATH` trains what is missing.

Tables train their models; figures show a trained one. Each is written as one page, one JSON and its pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from latens.data.files import find_inputs, write_atomic
from latens.data.images import PICTURE_ENDINGS, Pixels, read_picture
from latens.errors import UsageError
from latens.inference.demo import photographs
from latens.inference.report import Block, Figure, Page, Section, Table
from latens.systems.parts.dataset import first_few
from latens.systems.parts.experiments import SCALES, Laboratory, Scale
from latens.systems.parts.figures import FIGURES
from latens.systems.parts.predict import Parts
from latens.systems.parts.sources import open_set
from latens.systems.parts.tables import TABLES, write_scenes
from latens.training.config import override

TRAINED_HERE = frozenset(TABLES)
"""Names that need no trained model: the command trains its own (see `train_and_reproduce`)."""
NAMES = (*TABLES, *FIGURES)
MOST_PICTURES = 500


@dataclass(frozen=True)
class Reproduction:
    """A table or figure with what it was made of."""

    name: str
    setting: str  # data, models and scale, in a sentence
    facts: Mapping[str, Any]
    blocks: tuple[Block, ...]

    def table(self) -> str:
        """For a terminal: the tables, and where there are none, the captions."""
        shown = [block.text() for block in self.blocks if isinstance(block, Table)]
        shown += [f"{block.title}: {block.caption}" for block in self.blocks if isinstance(block, Figure)]
        return "\n\n".join([f"{self.name}: {self.setting}", *shown])

    def to_dict(self) -> dict[str, Any]:
        found = [
            {"caption": block.caption, "columns": list(block.columns), "rows": [list(row) for row in block.rows]}
            for block in self.blocks
            if isinstance(block, Table)
        ]
        return {"name": self.name, **self.facts, "tables": found}

    def save(self, out: Path) -> None:
        """NAME.html, NAME.json and the figures as NAME.png, NAME-2.png, ..."""
        out.mkdir(parents=True, exist_ok=True)
        Page(self.name, [Section(self.name, list(self.blocks))], lead=self.setting).save(out / f"{self.name}.html")
        write_atomic(out / f"{self.name}.json", json.dumps(self.to_dict(), indent=2).encode())
        images = [block.image for block in self.blocks if isinstance(block, Figure)]
        for number, image in enumerate(images, start=1):
            write_atomic(out / f"{self.name}{f'-{number}' if number > 1 else ''}.png", image)


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
    scale = scale_of(name, TABLES, recipe, settings)
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
    scale = scale_of(name, FIGURES, recipe, settings)
    pictures, names = read_all(data, scale.pictures or MOST_PICTURES)
    progress(f"{name}: {len(pictures)} pictures")
    found = Reproduction(
        name,
        f"{len(pictures)} pictures; model {parts.name}, weights {parts.model_id[:12]}, shorter side {parts.resolution} pixels.",
        {"model": parts.name, "model_id": parts.model_id, "recipe": recipe, "pictures": list(names)},
        tuple(FIGURES[name](parts, pictures, names)),
    )
    found.save(out)
    return found


def scale_of(name: str, known: Mapping[str, Any], recipe: str, settings: Mapping[str, str]) -> Scale:
    if name not in known:
        raise UsageError(f"parts has no '{name}'", hint=f"there are {', '.join(NAMES)}")
    if recipe not in SCALES:
        raise UsageError(f"no recipe '{recipe}'", where="--recipe", hint=f"known: {', '.join(SCALES)}")
    return override(SCALES[recipe], dict(settings))


def read_all(data: Path | None, most: int) -> tuple[list[Pixels], Sequence[str]]:
    """Pictures and their names (classes, where a data set has them)."""
    if data is None:
        return [read_picture(photo.path).pixels for photo in photographs()], [photo.name for photo in photographs()]
    if data.is_dir() and not list(data.glob("*.npz")):
        files = find_inputs([data], PICTURE_ENDINGS)[:most]
        return [read_picture(file.path).pixels for file in files], [file.relative.stem for file in files]
    found = open_set(data, "test")
    found = found.subset(first_few(found, most))
    names = [found.classes[label] if found.classes else key for label, key in zip(found.labels, found.keys, strict=True)]
    return [found.read(i) for i in range(len(found))], names
