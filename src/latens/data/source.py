"""Data sources as given to `--data`: a path, or KIND:PATH."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from latens.errors import UsageError


class Source(NamedTuple):
    """A data source. `kind` determines how `place` is read; "" is a plain path, or a keyword of a system."""

    kind: str
    place: str

    @property
    def path(self) -> Path:
        return Path(self.place)

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}" if self.kind else self.place


def parse_source(word: str | Path) -> Source:
    """Parse a value of `--data`. An existing path takes precedence over KIND:PATH."""
    text = str(word)
    kind, colon, place = text.partition(":")
    if not colon or os.path.exists(text) or os.sep in kind:
        return Source("", text)
    return Source(kind, place)


def parse_sources(words: Iterable[str | Path]) -> list[Source]:
    """`parse_source` for several values."""
    return [parse_source(word) for word in words]


def split_place(place: str) -> tuple[str, str]:
    """PATH and the word after it of PATH,WORD; the word may be "". Names have commas: the longest existing path wins."""
    ends = [index for index, character in enumerate(place) if character == ","]
    for end in (len(place), *reversed(ends)):
        if os.path.exists(place[:end]):
            return place[:end], place[end + 1 :]
    path, _, word = place.partition(",")
    return path, word


def one_source(sources: Sequence[Source]) -> Source | None:
    """The only source, or None without sources. Raises UsageError for several sources."""
    if len(sources) > 1:
        raise UsageError("only one data set is possible", where="--data", hint="run the command once for each")
    return sources[0] if sources else None


def plain_paths(sources: Iterable[Source], owner: str) -> list[Path]:
    """Paths of sources, for a system (`owner`) that supports only paths. Raises UsageError for KIND:PATH."""
    found = []
    for source in sources:
        if source.kind:
            what = f"{owner} does not support data of the kind '{source.kind}'"
            raise UsageError(what, where=f"--data {source}", hint="give a path")
        found.append(source.path)
    return found
