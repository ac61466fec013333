"""Detection of the original CIFAR-10. Published numbers are comparable with its images only, not with JPEG copies."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from latens.data.labeled import open_labeled
from latens.data.packs import read_pack
from latens.data.source import Source

JPEG = b"\xff\xd8"  # first bytes of a JPEG file
NOTHING: Mapping[str, str] = MappingProxyType({})


def published_for(source: Source, published: Mapping[str, str]) -> Mapping[str, str]:
    """The published numbers if the images may be the original CIFAR-10 (ten classes, 32 x 32 pixels, no JPEG), else none."""
    found = open_labeled(source, "train")
    original = len(found.classes) == 10 and found.read(0).shape == (32, 32, 3) and not stored_as_jpeg(source)
    return published if original else NOTHING


def stored_as_jpeg(source: Source) -> bool:
    """True if the first training image is a JPEG file, or was one when it was packed."""
    packs = [source.path] if source.path.suffix == ".npz" else sorted(source.path.glob("*.npz"))
    if packs:
        heads = [read_pack(pack, ("jpeg",)).get("jpeg", np.zeros(2, np.uint8))[:2] for pack in packs]
        return any(head.tobytes() == JPEG for head in heads)
    return open_labeled(source, "train").keys[0].lower().endswith((".jpg", ".jpeg"))
