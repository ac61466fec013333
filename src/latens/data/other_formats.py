"""Kinds of images that latens does not read, by the endings of their files, and the packages that read them."""

from __future__ import annotations

from pathlib import Path

from latens.data.heic import HEIC_ENDINGS

READERS = {
    "latens[heic]": HEIC_ENDINGS,
    "pillow-jxl-plugin": (".jxl",),
    "rawpy": (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    "psd-tools": (".psd", ".psb"),
    "glymur": (".jp2", ".j2k"),
    "bioio": (".czi", ".nd2", ".lif", ".oib", ".oif", ".ims", ".vsi", ".dv"),
    "pydicom": (".dcm",),
}
UNREAD = {ending: package for package, endings in READERS.items() for ending in endings}


def reader_hint(path: Path) -> str | None:
    """What to do with a file of one of these kinds; None for other endings."""
    package = UNREAD.get(path.suffix.lower())
    return None if package is None else f"the package {package} reads {path.suffix.lower()}; save it as TIFF or PNG"
