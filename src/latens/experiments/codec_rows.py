"""Measurements of codecs, one row per file, and their journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from latens.experiments.journal import Journal

OURS = "latens"  # name of the codec under test


class CodecRow(NamedTuple):
    """One input, one codec, one setting. Rates come from the bytes of the file; seconds are wall-clock."""

    name: str  # of the input
    digest: str  # of its pixels, so that a changed input is measured again
    codec: str
    version: str  # of the weights, or the library and its options
    setting: float  # quality on the codec's own scale
    bytes: int
    bpp: float
    psnr: float  # dB
    ms_ssim: float | None  # None: too small for five scales, or not measured
    encode_seconds: float
    decode_seconds: float
    estimated_bytes: float | None = None  # code length by the model's own probabilities; None for other codecs
    ssimulacra2: float | None = None  # None: not measured
    encode_cpu: float | None = None  # seconds of the processor, of all threads; None: not measured
    decode_cpu: float | None = None

    @property
    def pixels(self) -> float:
        """Number of pixels, of a clip in all frames."""
        return 8 * self.bytes / self.bpp

    @property
    def key(self) -> tuple[str, str, str, float]:
        return (self.digest, self.codec, self.version, self.setting)


class RowLog:
    """The rows of an evaluation, stored as they are measured and reused by later runs."""

    def __init__(self, path: Path | None) -> None:
        self.journal = Journal(path)
        self._rows = {row.key: row for row in _rows(self.journal)}

    def find(self, digest: str, codec: str, version: str, settings: Sequence[float]) -> dict[float, CodecRow]:
        """The known rows of one input and codec, by setting."""
        found = {setting: self._rows.get((digest, codec, version, setting)) for setting in settings}
        return {setting: row for setting, row in found.items() if row is not None}

    def add(self, rows: Iterable[CodecRow]) -> None:
        """Store new rows; they are on the disk when this returns. Raises StorageFull or UsageError."""
        rows = list(rows)
        self._rows.update((row.key, row) for row in rows)
        self.journal.append(row._asdict() for row in rows)


def _rows(journal: Journal) -> Iterator[CodecRow]:
    for record in journal.read():
        try:
            yield CodecRow(**record)
        except TypeError:  # written by another version of latens; the input is measured again
            continue
