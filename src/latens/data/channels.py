"""Choice of one channel of images with several, such as the stains of a microscope.

Channels are numbered from 1; OME-TIFF also names them. `chosen_channel` sets the choice for all reading of a process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from latens.errors import InputError, UsageError

_chosen: list[str] = []


def current_channel() -> str | None:
    """The channel that readers take: a number from 1, or a name; None for the rules of each format."""
    return _chosen[-1] if _chosen else None


@contextlib.contextmanager
def chosen_channel(channel: int | str) -> Iterator[None]:
    """Context in which all images are read as the gray image of one channel, in all threads. Raises UsageError."""
    text = str(channel).strip()
    if not text or text.startswith("-") or text == "0":
        raise UsageError(f"'{channel}' is not a channel", where="--channel", hint="give a number from 1, or a name")
    _chosen.append(text)
    try:
        yield
    finally:
        _chosen.remove(text)


def pick(values: np.ndarray, channel: str, names: Sequence[str] = ()) -> np.ndarray:
    """The channel (H, W) of values (H, W) or (H, W, channels). Raises InputError for one that does not exist."""
    count = 1 if values.ndim == 2 else values.shape[2]
    number = index_of(channel, count, names)
    return values if values.ndim == 2 else values[..., number]


def index_of(channel: str, count: int, names: Sequence[str] = ()) -> int:
    """The index from 0 of a channel by name (not by case) or number. Raises InputError that lists the channels."""
    lower = [name.lower() for name in names]
    if lower.count(channel.lower()) == 1 and lower.index(channel.lower()) < count:
        return lower.index(channel.lower())
    if channel.isdecimal() and 1 <= int(channel) <= count:
        return int(channel) - 1
    raise InputError(f"there is no channel {channel}", hint=f"its channels are {listing(count, names)}")


def listing(count: int, names: Sequence[str] = ()) -> str:
    """The channels for a message: numbers, with names where they are known."""
    shown = [f"{n + 1} ({names[n]})" if n < len(names) and names[n] else str(n + 1) for n in range(min(count, 8))]
    return ", ".join(shown) + (", ..." if count > 8 else "")
