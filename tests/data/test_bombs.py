"""Small files that promise huge images: every reader refuses them before it takes memory, twice in a row."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clip_maker import make_clip
from image_maker import raw_png

from latens.data.clips.reader import is_clip, open_clip
from latens.data.depth import read_depth
from latens.data.images import read_image
from latens.data.instances import scene_of
from latens.data.labels import read_label_folder, read_labels
from latens.data.packs import read_pack
from latens.data.stacks import count_frames, read_frames
from latens.errors import InputError, LimitExceeded

ALLOWED = 60 << 20  # bytes of Python and NumPy
SIDE = 30_000


def png(width: int = SIDE, height: int = SIDE) -> bytes:
    return bytes(raw_png(width, height, 8, 0, bytes(1000)))


def gif() -> bytes:
    size = struct.pack("<HH", 65_535, 65_535)
    return b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + size + b"\0\x02\x02\x4c\x01\0;"


def ppm() -> bytes:
    return f"P5 {SIDE} {SIDE} 255\n".encode() + bytes(100)


def tiff(pages: int = 1, side: int = SIDE, bits: int = 8) -> bytes:
    """Pages that share one compressed strip; the values are the same number everywhere."""
    packer = zlib.compressobj(9)
    strip = b"".join([packer.compress(bytes(side)) for _ in range(side if side < SIDE else 1)]) + packer.flush()
    strip += bytes(len(strip) % 2)
    out = bytearray(b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip)
    for number in range(pages):
        numbers = {256: side, 257: side, 258: bits, 259: 8, 262: 1, 273: 8, 277: 1, 278: side, 279: len(strip)}
        end = len(out) + 2 + 12 * len(numbers) + 4
        out += struct.pack("<H", len(numbers)) + b"".join(
            struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items()
        )
        out += struct.pack("<I", end if number < pages - 1 else 0)
    return bytes(out)


def npy(shape: str, kind: str = "'<f4'") -> bytes:
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + bytes(64)


def exr(width: int, offset: int = 0) -> bytes:
    def attribute(name: bytes, kind: bytes, value: bytes) -> bytes:
        return name + b"\0" + kind + b"\0" + struct.pack("<I", len(value)) + value

    channels = attribute(b"channels", b"chlist", b"Z\0" + struct.pack("<iIii", 2, 0, 1, 1) + b"\0")
    window = attribute(b"dataWindow", b"box2i", struct.pack("<4i", 0, 0, width - 1, width - 1))
    packed = attribute(b"compression", b"compression", b"\3")
    return b"\x76\x2f\x31\x01" + struct.pack("<I", 2) + channels + packed + window + b"\0" + struct.pack("<Q", offset) * 9


def npz(array: bytes) -> bytes:
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("pixels.npy", array)
    return stream.getvalue()


def every(found: Iterable[object]) -> None:
    for _ in found:
        pass


def pages_of(path: Path) -> None:
    count_frames(path)
    every(read_frames(path))


def labeled(path: Path) -> None:
    (path.parent / "labels").mkdir()
    (path.parent / "images").mkdir()
    (path.parent / "images" / "a.png").write_bytes(png(8, 8))
    path.rename(path.parent / "labels" / f"a{path.suffix}")
    try:
        read_label_folder(path.parent, how="masks")
    finally:
        (path.parent / "labels" / f"a{path.suffix}").rename(path)
        (path.parent / "labels").rmdir()
        (path.parent / "images" / "a.png").unlink()
        (path.parent / "images").rmdir()


BOMBS: list[tuple[str, bytes, Callable[[Path], object]]] = [
    *((name, blob, read_image) for name, blob in (("a.png", png()), ("a.gif", gif()), ("a.ppm", ppm()), ("a.tif", tiff()))),
    *((name, blob, read_depth) for name, blob in (("a.png", png()), ("a.pgm", ppm()), ("a.tif", tiff()))),
    *((name, blob, read_labels) for name, blob in (("a.png", png()), ("a.ppm", ppm()), ("a.tif", tiff()))),
    ("a.tif", tiff(pages=200, side=4096), read_labels),  # 3.4 GB of pages within the limit
    ("a.tif", tiff(pages=200, side=4096), labeled),
    ("a.tif", tiff(bits=64), read_labels),  # read by tifffile
    ("a.tif", tiff(), pages_of),
    *(("a.npy", npy(shape), read_depth) for shape in ("(1000000, 1000000)", "(-1, 5)", "(9**9**9,)")),
    ("a.npy", npy("(4, 4)", "[('a', '<f4', (1000000, 100000))]"), read_depth),
    ("a.exr", exr(2**30), read_depth),
    ("a.exr", exr(16, offset=2**63), read_depth),
    ("a.npz", npz(npy("(1000000, 1000, 1000)", "'|u1'")), read_pack),
]


@pytest.mark.parametrize(("name", "blob", "read"), BOMBS, ids=[f"{read.__name__}-{name}" for name, _, read in BOMBS])
def test_bombs_take_no_memory(name: str, blob: bytes, read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(blob)
    tracemalloc.start()
    try:
        for _ in range(2):
            with pytest.raises((LimitExceeded, InputError)):
                read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < ALLOWED
    finally:
        tracemalloc.stop()


def test_a_gif_bomb_is_refused_by_the_reader_that_it_gets(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(gif())
    assert not is_clip(tmp_path / "a.gif")


def test_many_objects_in_a_large_label_map_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One mask for every object of a map of 4,096 x 4,096 pixels with 65,535 objects would take a terabyte."""
    from PIL import Image

    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "a.png")
    scene = scene_of(read_labels(tmp_path / "a.png"))
    assert len(scene.instances) == 64 * 64 - 1
    monkeypatch.setattr("latens.data.instances.MAX_MASKS", 2**23)
    with pytest.raises(LimitExceeded, match="4,095 objects of 64 x 64 pixels"):
        read_labels(tmp_path / "a.png")
    with pytest.raises(LimitExceeded, match="objects of 64 x 64 pixels"):
        scene.layers()


def test_a_clip_of_huge_frames_is_refused(tmp_path: Path) -> None:
    data = bytearray(make_clip(tmp_path / "a.avi", library="png", format="rgb24", times=range(2)).read_bytes())
    start = data.find(b"IHDR") - 4
    data[start + 8 : start + 16] = struct.pack(">II", SIDE, SIDE)
    data[start + 21 : start + 25] = struct.pack(">I", zlib.crc32(data[start + 4 : start + 21]))
    (tmp_path / "a.avi").write_bytes(data)
    for _ in range(2):
        with pytest.raises((LimitExceeded, InputError)), open_clip(tmp_path / "a.avi") as clip:
            every(clip.frames())
