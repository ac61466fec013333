"""Splits by hashes of names, so an image stays in its split when others are added."""

from __future__ import annotations

import hashlib


def place_of(name: str) -> float:
    """Uniform hash of a name in [0, 1): the first 32 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:4], "big") / 2**32
