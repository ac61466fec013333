"""Inputs that are the same as an earlier one. An evaluation counts each only once."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from latens.data.files import read_bytes
from latens.errors import LatensError

logger = logging.getLogger(__name__)
FILE_LIMIT = 2**30  # bytes


class Distinct:
    """Names of inputs by their contents. `lines` has one line per input that was left out."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self.lines: list[str] = []

    def is_new(self, digest: str, name: str) -> bool:
        """True for contents that were not seen before; otherwise a warning names both inputs."""
        first = self._names.setdefault(digest, name)
        if first is name:
            return True
        line = f"{name}: the same as {first}, counted once"
        self.lines.append(line)
        logger.warning("left out: %s", line)
        return False


def digest_of(*arrays: np.ndarray) -> str:
    """A hash of the shapes and values of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(repr((array.shape, array.dtype.str)).encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def digest_of_files(*paths: Path) -> str:
    """A hash of the bytes of files; of their names if one cannot be read, which its reader reports."""
    total = hashlib.sha256()
    try:
        for path in paths:
            total.update(hashlib.sha256(read_bytes(path, limit=FILE_LIMIT)).digest())
    except LatensError:
        return repr(paths)
    return total.hexdigest()
