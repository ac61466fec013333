"""Splits by hashes of names, so that an image stays in its split when others are added."""

from __future__ import annotations

import hashlib


def place_of(name: str) -> float:
    """A number in [0, 1), evenly spread over names: the first 32 bits of their SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
