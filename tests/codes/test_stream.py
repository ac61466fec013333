from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latens.codes.stream import (
    SIGNATURE,
    VERSION,
    Container,
    Section,
    StreamLimits,
    Unpacked,
    pack,
    unpack,
)
from latens.errors import (
    Corrupt,
    LimitExceeded,
    NotOurFile,
    StreamError,
    Truncated,
    UnsupportedFeature,
    UnsupportedVersion,
)

NAMES = {1: "hyper-latents", 2: "latents", 7: "alpha"}
SMALL = Container(
    profile="IMG1",
    model_id=bytes(range(8)),
    header=b"\x01\x02\x03\x04\x05",
    sections=(Section(1, b"hyper"), Section(2, bytes(range(40))), Section(7, b"", required=False)),
)
FIRST_PAYLOAD = 34 + len(SMALL.header) + 10 * len(SMALL.sections)

containers = st.builds(
    Container,
    profile=st.text(st.characters(min_codepoint=0, max_codepoint=127), min_size=4, max_size=4),
    model_id=st.binary(min_size=8, max_size=8),
    header=st.binary(max_size=60),
    sections=st.lists(st.builds(Section, st.integers(0, 255), st.binary(max_size=50), st.booleans()), max_size=5).map(tuple),
)


def with_right_crc(data: bytes, sections: int, header: int) -> bytes:
    """The file after an edit of its header, with a corrected header checksum."""
    end = 30 + header + 10 * sections
    return data[:end] + struct.pack("<I", zlib.crc32(data[:end])) + data[end + 4 :]


@settings(max_examples=150, deadline=None)
@given(containers)
def test_round_trip(container: Container) -> None:
    assert unpack(pack(container)) == Unpacked(container, ())


def test_two_sections_cost_54_bytes() -> None:
    # 34 fixed bytes and 10 per section, from the table in the module's docstring.
    container = replace(SMALL, header=b"", sections=(Section(1, b""), Section(2, b"")))
    assert len(pack(container)) == 54


def test_layout_matches_the_documented_table() -> None:
    data = pack(SMALL)
    assert data[:8] == SIGNATURE == bytes([0x89, 0x4C, 0x54, 0x4E, 0x0D, 0x0A, 0x1A, 0x0A])
    assert tuple(data[8:10]) == VERSION
    assert data[10:14] == b"IMG1"
    assert data[14:22] == bytes(range(8))
    assert struct.unpack_from("<IHH", data, 22) == (len(data), 5, 3)
    assert data[30:35] == SMALL.header
    assert struct.unpack_from("<BBII", data, 45) == (2, 1, 40, zlib.crc32(bytes(range(40))))
    assert struct.unpack_from("<I", data, FIRST_PAYLOAD - 4)[0] == zlib.crc32(data[: FIRST_PAYLOAD - 4])
    assert data[FIRST_PAYLOAD:] == b"hyper" + bytes(range(40))


def test_every_prefix_is_truncated_and_lists_intact_sections() -> None:
    data = pack(SMALL)
    for length in range(1, len(data)):
        with pytest.raises(Truncated) as caught:
            unpack(data[:length], known_kinds=NAMES)
        assert caught.value.have == length
        assert caught.value.need == len(data) or length < 34
        if length < FIRST_PAYLOAD:
            assert caught.value.intact == ()
        else:
            # The empty alpha section is at the end of the file and needs no bytes.
            assert caught.value.intact == (("hyper-latents", "alpha") if length >= FIRST_PAYLOAD + 5 else ("alpha",))


def test_no_one_bit_flip_is_accepted() -> None:
    data = bytearray(pack(SMALL))
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            with pytest.raises(StreamError):
                unpack(bytes(data))
            data[position] ^= 1 << bit


def test_mutants_raise_only_stream_errors_and_are_never_accepted() -> None:
    rng = random.Random(20)
    original = pack(SMALL)
    for _ in range(5000):
        mutant = mutate(original, rng)
        if mutant == original:
            continue
        with pytest.raises((StreamError, LimitExceeded)):
            unpack(mutant, known_kinds=NAMES)


def test_partial_reading_of_mutants_returns_only_original_sections() -> None:
    rng = random.Random(21)
    original = pack(SMALL)
    read = 0
    for _ in range(5000):
        try:
            container, damaged = unpack(mutate(original, rng), partial=True)[:2]
        except (StreamError, LimitExceeded):
            continue
        read += 1
        assert replace(container, sections=()) == replace(SMALL, sections=())
        assert set(container.sections) <= set(SMALL.sections)
        assert len(container.sections) + len(damaged) == len(SMALL.sections)
    assert read > 500  # payload damage alone leaves the file partly readable


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place = rng.randrange(len(mutant))
        match rng.randrange(5):
            case 0:
                mutant[place] ^= 1 << rng.randrange(8)
            case 1:
                mutant[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del mutant[place : place + rng.randrange(1, 5)]
            case 3:
                mutant[place:place] = rng.randbytes(rng.randrange(1, 5))
            case _:
                mutant[place : place + 4] = rng.randbytes(4)
        if not mutant:
            return b""
    return bytes(mutant)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_arbitrary_bytes_after_the_signature_raise_only_stream_errors(tail: bytes, partial: bool) -> None:
    with pytest.raises((StreamError, LimitExceeded)):
        unpack(SIGNATURE + b"\x01\x00" + tail, partial=partial)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(100)])
def test_other_files_are_not_ours(data: bytes) -> None:
    with pytest.raises(NotOurFile):
        unpack(data)


def test_a_png_is_named() -> None:
    with pytest.raises(NotOurFile, match="PNG image"):
        unpack(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"\r\n", b"\n"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\r\n", b"\r").replace(b"\n", b"\r"),
        lambda data: bytes(byte & 0x7F for byte in data),
        lambda data: data.decode("latin-1").encode("utf-8"),
        lambda data: data.decode("utf-8", errors="replace").encode("utf-8"),
    ],
    ids=["to LF", "to CR LF", "to CR", "7 bits", "latin-1 as UTF-8", "broken UTF-8"],
)
def test_text_mode_damage_is_recognized(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Corrupt, match="text mode") as caught:
        unpack(damage(pack(SMALL)))
    assert "binary" in (caught.value.hint or "")


def test_a_newer_major_version_names_the_update() -> None:
    data = bytearray(pack(SMALL))
    data[8] = 2
    with pytest.raises(UnsupportedVersion, match=r"newer latens \(format 2\.0, this one reads up to 1\.x\)"):
        unpack(bytes(data))


def test_newer_minor_version_is_read_without_optional_unknown_sections() -> None:
    newer = replace(SMALL, version=(1, 9), sections=(*SMALL.sections, Section(200, b"new", required=False)))
    container, damaged = unpack(pack(newer), known_kinds=NAMES)[:2]
    assert container == replace(SMALL, version=(1, 9))
    assert damaged == ()


@pytest.mark.parametrize("partial", [False, True])
def test_unknown_required_section_is_refused(partial: bool) -> None:
    data = pack(replace(SMALL, sections=(*SMALL.sections, Section(200, b"new"))))
    with pytest.raises(UnsupportedFeature, match="kind 200"):
        unpack(data, known_kinds=NAMES, partial=partial)
    assert len(unpack(data).container.sections) == 4


def test_damage_in_an_ignored_section_still_fails_strictly() -> None:
    newer = replace(SMALL, sections=(*SMALL.sections, Section(200, b"new", required=False)))
    data = bytearray(pack(newer))
    data[-1] ^= 1
    with pytest.raises(Corrupt):
        unpack(bytes(data), known_kinds=NAMES)
    assert unpack(bytes(data), known_kinds=NAMES, partial=True) == Unpacked(SMALL, ())


def test_unknown_flags_are_refused() -> None:
    data = bytearray(pack(SMALL))
    data[36] |= 0x10  # flags of the first entry of the table, which begins at 35
    with pytest.raises(UnsupportedFeature, match="0x11"):
        unpack(with_right_crc(bytes(data), sections=3, header=5))


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(Corrupt, match="2 bytes follow") as caught:
        unpack(pack(SMALL) + b"ab")
    assert caught.value.offset == len(pack(SMALL))


def test_corrupt_names_the_section_and_its_offset() -> None:
    data = bytearray(pack(SMALL))
    data[FIRST_PAYLOAD + 9] ^= 4
    with pytest.raises(Corrupt) as caught:
        unpack(bytes(data), known_kinds=NAMES)
    assert (caught.value.section, caught.value.offset) == ("latents", FIRST_PAYLOAD + 5)


def test_partial_keeps_intact_sections() -> None:
    data = bytearray(pack(SMALL))
    data[FIRST_PAYLOAD] ^= 1
    container, damaged = unpack(bytes(data), partial=True)[:2]
    assert container.sections == SMALL.sections[1:]
    assert [(item.kind, item.index) for item in damaged] == [(1, 0)]
    cut, missing = unpack(pack(SMALL)[: FIRST_PAYLOAD + 5], partial=True)[:2]
    assert cut.sections == (SMALL.sections[0], SMALL.sections[2])
    assert [(item.kind, item.index, item.reason) for item in missing] == [(2, 1, "it is missing")]


@pytest.mark.parametrize(
    "limits",
    [StreamLimits(file_bytes=113), StreamLimits(section_bytes=39), StreamLimits(sections=2)],
    ids=["file", "section", "sections"],
)
def test_limits(limits: StreamLimits) -> None:
    data = pack(SMALL)
    assert len(data) == 114  # 34 + 5 + 3 * 10 + 45
    unpack(data, limits=StreamLimits(file_bytes=114, section_bytes=40, sections=3))
    with pytest.raises(LimitExceeded):
        unpack(data, limits=limits)


def test_inconsistent_lengths_are_refused_despite_a_correct_checksum() -> None:
    data = bytearray(pack(SMALL))
    struct.pack_into("<I", data, 22, len(data) - 1)
    with pytest.raises(Corrupt, match="impossible"):
        unpack(with_right_crc(bytes(data), sections=3, header=5))


@pytest.mark.parametrize(
    "container",
    [
        replace(SMALL, profile="IMAGE"),
        replace(SMALL, profile="IMé1"),
        replace(SMALL, model_id=b"short"),
        replace(SMALL, header=bytes(4097)),
        replace(SMALL, sections=(Section(256, b""),)),
    ],
)
def test_fields_of_the_wrong_size_are_not_packed(container: Container) -> None:
    with pytest.raises(ValueError, match=r"."):
        pack(container)
