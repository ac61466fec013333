"""Archives of the packer: files that come back, damage that stays local, and forged parts."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from latens.codes import stream as container
from latens.codes.integer import IntegerNetwork
from latens.errors import ModelError, ModelMismatch, NotOurFile, Truncated, UnsupportedFeature, UnsupportedVersion
from latens.systems.flow.pack import archive
from latens.systems.flow.pack.archive import Member, Opened
from latens.systems.flow.pack.files import plain_image
from latens.systems.flow.pack.frozen import FrozenFlow, freeze
from latens.systems.flow.pack.model import IntegerFlowNet
from latens.systems.flow.pack.packer import Packed, Packer, Restored, Source

from .conftest import png, smooth


def test_other_files_than_plain_images_are_stored() -> None:
    pixels = smooth(1, 12, 12)[0]
    assert plain_image(png(pixels)) is not None
    palette = io.BytesIO()
    Image.fromarray(pixels).convert("P").save(palette, "PNG")
    alpha = png(np.dstack([pixels, pixels[..., 0]]))
    wide = png(pixels[..., 0].astype(np.uint16) * 257)
    assert [plain_image(data) for data in (palette.getvalue(), alpha, wide, png(pixels)[:-20], b"text", b"")] == [None] * 6


def test_png_chunks_are_restored() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("title", "a boat")
    data = png(smooth(1, 12, 12)[0], pnginfo=text, dpi=(300, 300))
    image = plain_image(data)
    assert image is not None
    with Image.open(io.BytesIO(image.file())) as again, Image.open(io.BytesIO(data)) as first:
        assert again.info == first.info
        assert again.info["title"] == "a boat"


def archived(packer: Packer, sources: list[Source]) -> tuple[bytes, list[Packed]]:
    stream = io.BytesIO()
    done = list(packer.pack(sources, stream))
    return stream.getvalue(), done


def restored(packer: Packer, data: bytes) -> list[Restored]:
    return list(packer.unpack(io.BytesIO(data)))


def test_every_file_is_restored_and_none_grows(packer: Packer) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    images = [*smooth(5, 24, 24), noise, np.zeros((30, 31, 3), np.uint8)]
    sources = [Source(f"a/{i}.png", 10**18 + i, png(pixels)) for i, pixels in enumerate(images)]
    sources.append(Source("b.jpg", 5, b"\xff\xd8\xff not an image"))
    data, packed = archived(packer, sources)
    for source, one, found in zip(sources, packed, restored(packer, data), strict=True):
        assert (found.name, found.time, found.data) == (source.name, source.time, source.data)
        assert one.bytes_after <= len(source.data)
        assert one.webp_bytes is None or one.bytes_after <= one.webp_bytes + 4
    assert packed[-1].form in ("stored", "deflated")


@pytest.fixture(scope="module")
def damageable(packer: Packer) -> tuple[bytes, list[Source]]:
    """An archive of three groups of two small files."""
    sources = [Source(f"{i}.png", i - 2, png(pixels)) for i, pixels in enumerate(smooth(6, 12, 12))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latens.systems.flow.pack.packer.GROUP_FILES", 2)
        return archived(packer, sources)[0], sources


def test_any_flipped_bit_is_reported_and_loses_one_group_at_most(
    packer: Packer, damageable: tuple[bytes, list[Source]]
) -> None:
    data, sources = damageable
    for place in range(0, len(data), 3):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        try:
            found = restored(packer, bytes(broken))
        except UnsupportedVersion:
            assert place in (8, 9)  # the version is read before anything is checked
            continue
        intact = {one.data for one in found if one.data is not None}
        files = [one for one in found if one.number]
        missing = [source for source in sources if source.data not in intact]
        assert len(files) == 6, place
        assert len(missing) <= 2, place
        lost = [one.name for one in files if one.data is None]
        assert [name or source.name for name, source in zip(lost, missing, strict=True)] == [source.name for source in missing]
        assert missing or any(not one.number or not one.name for one in found), place  # all damage is reported


def test_a_truncated_archive_restores_the_intact_files(packer: Packer, damageable: tuple[bytes, list[Source]]) -> None:
    data, sources = damageable
    before = 0
    for end in range(0, len(data), 5):
        try:
            found = restored(packer, data[:end])
        except (NotOurFile, Truncated):
            assert end < 150
            continue
        intact = [one.data for one in found if one.data is not None]
        assert intact == [source.data for source in sources[: len(intact)]]
        assert len(intact) >= before
        assert any(one.data is None for one in found)  # the damage is reported
        before = len(intact)
    assert before == 6


def test_damage_in_two_places(packer: Packer, damageable: tuple[bytes, list[Source]]) -> None:
    data, sources = damageable
    broken = bytearray(data[: len(data) - 5])  # the index is truncated
    marks = [place for place in range(len(data)) if data[place : place + 4] == b"\xc5LTS"]
    broken[marks[1] + 6] ^= 1  # the head of the second group
    found = restored(packer, bytes(broken))
    assert [one.data for one in found if one.data] == [source.data for source in (*sources[:2], *sources[4:])]
    assert [one.number for one in found if one.data is None and one.number] == [3, 4]
    broken[30] ^= 1  # and the header
    assert [one.data for one in restored(packer, bytes(broken)) if one.data] == [s.data for s in (*sources[:2], *sources[4:])]


def test_forged_parts_raise_clear_errors(packer: Packer) -> None:
    bomb = zlib.compress(bytes(10**6))
    forged = [
        Member("short", 0, archive.MODEL, b"\0"),
        Member("huge", 0, archive.MODEL, b"\0" + 5 * b"\xff" + b"\x01"),
        Member("kind", 0, 99, b"abc"),
        Member("cut", 0, archive.DEFLATED, bomb[:-9]),
        Member("raw", 0, archive.RAW, bytes([0, 4, 4]) + bytes(47)),
        Member("webp", 0, archive.WEBP, bytes([0, 4, 4]) + b"RIFF"),
        Member("a.png", 1 << 90, archive.STORED, b"fine"),
    ]
    stream = io.BytesIO()
    writer = archive.Writer(stream, Opened(packer.flow_hash, packer.table_hash, bytes(8)))
    writer.append(forged)
    writer.close()
    found = restored(packer, stream.getvalue())
    assert [one.data for one in found] == [None] * 6 + [b"fine"]
    assert all(one.reason for one in found[:6])


def test_another_model_and_other_files_are_refused(packer: Packer, flow: FrozenFlow) -> None:
    data, _ = archived(packer, [Source("a.png", 0, png(smooth(1, 8, 8)[0]))])
    torch.manual_seed(1)
    other = freeze(IntegerFlowNet(flow.config), torch.from_numpy(smooth(4, 32, 32).transpose(0, 3, 1, 2).copy()))
    with pytest.raises(ModelMismatch):
        restored(Packer(other, name="other", sha256="00" * 8), data)
    earlier = container.pack(container.Container("LTP1", bytes(8), bytes(68), ()))
    with pytest.raises(UnsupportedVersion, match="earlier"):
        restored(packer, earlier)
    with pytest.raises(UnsupportedFeature, match="this latens file is an image"):
        restored(packer, earlier.replace(b"LTP1", b"IMG1"))
    with pytest.raises(NotOurFile, match="not an archive"):
        restored(packer, b"no archive at all")


def test_inexact_sums_are_detected(flow: FrozenFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole images are coded in int64: a difference in the last pixel's sums is found."""
    packer = Packer(flow, name="test", sha256="00" * 8)
    network = packer.flow.networks["luma_0_2"]
    right = IntegerNetwork.forward

    def wrong(self: IntegerNetwork, z: torch.Tensor) -> torch.Tensor:
        found = right(self, z)
        if self is network:
            found[..., -1, -1] += 1 << 10
        return found

    monkeypatch.setattr(IntegerNetwork, "forward", wrong)
    with pytest.raises(ModelError, match="not exact on this machine"):
        archived(packer, [Source("a.png", 0, png(smooth(1, 90, 90)[0]))])


def test_names_stay_within_the_folder() -> None:
    good, bad = ("a/b.png", "a..b.png", "..a/b"), ("../a", "/a", "a/../../b", "", "a\0b", ".", "..")
    assert [archive.is_safe(name, windows=windows) for windows in (False, True) for name in good] == [True] * 6
    assert [archive.is_safe(name, windows=windows) for windows in (False, True) for name in bad] == [False] * 14
    there = ("a\\..\\b", "C:x", "\\a", "a:b", "NUL", "a/con.txt")
    assert [archive.is_safe(name, windows=windows) for windows in (False, True) for name in there] == [True] * 6 + [False] * 6
