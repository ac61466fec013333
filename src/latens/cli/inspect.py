"""`latens inspect`"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from latens.catalogue import bundled_with_id
from latens.cli.common import PARTIAL, ReadOptions, Reporter
from latens.errors import LatensError


def inspect(
    file: Annotated[Path, Parameter(help="A .ltn or .ltv file, or - for a .ltn file.")],
    /,
    *,
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> int:
    """Show the contents of a .ltn or .ltv file: model, sizes, bits of every part.

    Of a truncated or damaged file, the damaged parts are named, with exit status 4.

    latens inspect photo.ltn
    latens inspect clip.ltv
    """
    try:
        found = inspect_clip(file) if is_clip(file) else inspect_image(file)
    except LatensError as error:
        raise error.at(str(file)) from error
    record = {"file": str(file), **found}
    Reporter(options).result(record, "\n".join(lines(record)))
    return PARTIAL if record.get("damage") else 0


def is_clip(file: Path) -> bool:
    """True if a file has the signature of a clip; False for pipes, which are read once."""
    from latens.codes.clip_stream import SIGNATURE
    from latens.data.files import STANDARD_STREAM, is_special, reading

    if file == STANDARD_STREAM or is_special(file):
        return False
    with reading(file), open(file, "rb") as stream:
        return stream.read(4) == SIGNATURE[:4]


def inspect_clip(file: Path) -> dict[str, Any]:
    from latens.systems.video_codec.contents import inspect_stream

    with open(file, "rb") as stream:
        return inspect_stream(stream).to_dict()


def inspect_image(file: Path) -> dict[str, Any]:
    from latens.codes.stream import StreamLimits
    from latens.data.files import read_bytes
    from latens.systems.image_codec.format import inspect_stream

    found = inspect_stream(read_bytes(file, limit=StreamLimits().file_bytes), partial=True).to_dict()
    found = {"model": bundled_with_id("image_codec", found["model_id"]), **found}
    intact, bands = found.pop("intact_bands"), found.pop("bands")
    if not found["damage"]:
        return {**found, "damage": []}
    kept = f"{intact} of {bands} bands of rows are intact"
    return {**found, "next_step": f"latens decompress {shlex.quote(str(file))} --partial: {kept}, the rest becomes gray"}


def lines(record: dict[str, Any], indent: str = "") -> list[str]:
    """A nested record as aligned lines of text."""
    width = max((len(name) for name in record), default=0)
    shown: list[str] = []
    for name, value in record.items():
        label = f"{indent}{name.replace('_', ' '):<{width}}"
        if isinstance(value, dict):
            shown += [label.rstrip(), *lines(value, indent + "  ")]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            shown += [label.rstrip(), *(line for item in value for line in [row(item, indent + "  ")])]
        else:
            shown.append(f"{label}  {_plain(value)}")
    return shown


def row(item: dict[str, Any], indent: str) -> str:
    """One record on one line."""
    return indent + "  ".join(f"{name} {_plain(value)}" for name, value in item.items())


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "-"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
