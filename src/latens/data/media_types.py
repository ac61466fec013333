"""Media types of images by their first bytes."""

from __future__ import annotations

STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


def image_media_type(start: bytes) -> str | None:
    """The media type of a PNG, JPEG, GIF, TIFF, WebP or AVIF file by its first 12 bytes or more; None for other files."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return next((name for signature, name in STARTS if start.startswith(signature)), None)
