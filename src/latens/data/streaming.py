"""Sets of files that are decoded into memory if they fit into a budget, and else at every access.

The budget of decoded data is half of the free memory, or the environment variable LATENS_MEMORY (bytes, or 500MB, 16GB).
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, overload

from latens.errors import UnreadableInput, UsageError

logger = logging.getLogger(__name__)

T = TypeVar("T")
VARIABLE = "LATENS_MEMORY"
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
MEMINFO = Path("/proc/meminfo")
UNKNOWN = 4 * 10**9  # budget in bytes where the system does not tell its free memory
SAMPLE = 32  # files that are decoded to estimate the size of all


class Lazy(Sequence[T], ABC):
    """A sequence whose items are made at every access."""

    @abstractmethod
    def item(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self.item(place) for place in range(len(self))[index]]
        return self.item(range(len(self))[index])


class Streamed(Lazy[T]):
    """Items that are read at every access. An item that cannot be read or used (None) is replaced by the next one.

    Which items are replaced depends on the files alone, so every process gets the same items.
    """

    def __init__(self, count: int, read: Callable[[int], T | None], where: str) -> None:
        self.number, self.read, self.where = count, read, where
        self.unusable: set[int] = set()

    def __len__(self) -> int:
        return self.number

    def item(self, index: int) -> T:
        for offset in range(self.number):
            place = (index + offset) % self.number
            if place in self.unusable:
                continue
            item = self.read(place)
            if item is not None:
                return item
            self.unusable.add(place)
        raise UnreadableInput("none of the files can be used", where=self.where)


class Part(Lazy[T]):
    """The items of a sequence in a range of places."""

    def __init__(self, whole: Sequence[T], places: range) -> None:
        self.whole, self.places = whole, places

    def __len__(self) -> int:
        return len(self.places)

    def item(self, index: int) -> T:
        return self.whole[self.places[index]]


class Chain(Lazy[T]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = [part for part in parts if len(part)]
        self.ends = list(itertools.accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def item(self, index: int) -> T:
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]


def in_memory_or_streamed(
    count: int, read: Callable[[int], T | None], size: Callable[[T], int], where: str, budget: int | None = None
) -> Sequence[T]:
    """The items that can be used: a list if all fit into `budget` bytes (default: `memory_budget`), else `Streamed`.

    `read` returns None for an item that cannot be used, after a warning; `size` is that of an item in bytes. A line of the log
    says that the items are streamed.
    """
    budget = memory_budget() if budget is None else budget
    places = [count * number // SAMPLE for number in range(SAMPLE)] if count > SAMPLE else []  # few files are read whole
    sizes = [size(item) for place in places if (item := read(place)) is not None]
    estimate = sum(sizes) // len(sizes) * count if sizes else 0
    if estimate <= budget:
        return [item for place in range(count) if (item := read(place)) is not None]
    logger.warning(
        "%s: %s files decode to about %.1f GB, more than the %.1f GB for data (%s), so every step reads them; --workers helps",
        *(where, f"{count:,}", estimate / 1e9, budget / 1e9, VARIABLE),
    )
    return Streamed(count, read, where)


def memory_budget() -> int:
    """Bytes for decoded data: LATENS_MEMORY, else half of the free memory. Raises UsageError for an unreadable value."""
    text = os.environ.get(VARIABLE, "")
    if text:
        found = re.fullmatch(r"([0-9.]+) ?([KMGT]?B?)", text.strip().upper())
        unit = "" if found is None else found[2] if found[2].endswith("B") or not found[2] else f"{found[2]}B"
        try:
            return int(float(found[1]) * UNITS["" if unit == "B" else unit])  # type: ignore[index]
        except (TypeError, ValueError, KeyError):
            raise UsageError(f"'{text}' is not a size", where=VARIABLE, hint="write 500MB or 16GB") from None
    if not MEMINFO.is_file():
        return UNKNOWN
    free = re.search(r"MemAvailable: *(\d+) kB", MEMINFO.read_text())
    return int(free[1]) * 1024 // 2 if free else UNKNOWN
