"""`latens inspect`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from latens.cli.common import OutputOptions, Reporter
from latens.errors import LatensError


def inspect(
    file: Annotated[Path, Parameter(help="A .ltn file, or -.")],
    /,
    *,
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """What a .ltn file holds: model, sizes, bits of every part.

    latens inspect photo.ltn
    """
    from latens.codes.stream import StreamLimits
    from latens.data.files import read_bytes
    from latens.systems.image_codec.format import inspect_stream

    blob = read_bytes(file, limit=StreamLimits().file_bytes)
    try:
        info = inspect_stream(blob)
    except LatensError as error:
        raise error.at(str(file)) from error
    record = {"file": str(file), **info.to_dict()}
    Reporter(options).result(record, "\n".join(lines(record)))


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
