"""Errors for inputs of the other kind: a table for a model of images, images for a model of tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from latens.data.images import IMAGE_ENDINGS
from latens.errors import InputError
from latens.systems.flow.table import TABLE_ENDINGS


def refuse_table(source: Any, size: int) -> None:
    """Raise InputError for a file of a table; the model has images of `size` pixels. For a file that is not an image."""
    if isinstance(source, str | Path) and Path(source).suffix.lower() in TABLE_ENDINGS and os.path.isfile(source):
        what = f"this is a table, and the model expects images, which it resizes to {size} x {size}"
        hint = f"for tables train a model (`latens train flow --recipe toy --data {source} -o mine`) and give --model mine/best"
        raise InputError(what, where=str(source), hint=hint)


def refuse_images(source: Any, model: str, count: int, columns: Sequence[str]) -> None:
    """Raise InputError for an image or a folder; `model` has tables of `count` columns."""
    if isinstance(source, Image.Image):
        found, where = "an image", None
    elif not isinstance(source, str | Path):
        return
    elif os.path.isdir(source):
        found, where = "a folder", str(source)
    elif Path(source).suffix.lower() in IMAGE_ENDINGS and os.path.isfile(source):
        found, where = "an image", str(source)
    else:
        return
    named = f" ({', '.join(columns)})" if columns else ""
    hint = f"give a table ({', '.join(sorted(TABLE_ENDINGS))}); for images use the model flow, or one of your own"
    raise InputError(f"this is {found}, and the model {model} expects tables of {count} columns{named}", where=where, hint=hint)
