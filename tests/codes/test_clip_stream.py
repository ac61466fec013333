"""Clips are written and read section by section; a truncated or damaged file loses only the affected sections."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latens.codes.clip_stream import (
    FOOT_BYTES,
    HEAD_BYTES,
    ClipDamage,
    ClipHeader,
    ClipSection,
    ClipWriter,
    read_header,
    read_index,
    read_sections,
)
from latens.errors import Corrupt, LatensError, NotOurFile, Truncated, UnsupportedFeature, UnsupportedVersion

HEADER = ClipHeader("SSF1", bytes(range(8)), b"\x01\x02\x03")
KINDS = {1: "frames", 2: "sound"}
START = 24 + len(HEADER.header) + 4
GROUPS = [
    ClipSection(2, b"sound", required=False),
    *(ClipSection(1, bytes([group]) * (50 + group), 12 * group, 12) for group in range(5)),
]

sections = st.builds(
    ClipSection,
    st.integers(0, 254),
    st.binary(max_size=60) | st.just(b"\xc5LTS" * 3),  # payloads may hold the mark
    st.integers(0, 2**63),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


def written(groups: list[ClipSection], *, close: bool = True) -> bytes:
    stream = io.BytesIO()
    writer = ClipWriter(stream, HEADER)
    for group in groups:
        writer.append(group)
    if close:
        writer.close()
    assert writer.offset == len(stream.getvalue())
    return stream.getvalue()


def read(data: bytes) -> list[ClipSection | ClipDamage]:
    stream = io.BytesIO(data)
    assert read_header(stream) == HEADER
    return list(read_sections(stream, known_kinds=KINDS))


@settings(max_examples=100, deadline=None)
@given(st.lists(sections, max_size=5))
def test_round_trip(groups: list[ClipSection]) -> None:
    stream = io.BytesIO(written(groups))
    assert read_header(stream) == HEADER
    assert list(read_sections(stream)) == groups
    index = read_index(stream)
    assert [(entry.kind, entry.first, entry.frames) for entry in index] == [(g.kind, g.first, g.frames) for g in groups]
    for entry, group in zip(index, groups, strict=True):
        assert next(read_sections(stream, offset=entry.offset)) == group


def test_without_index_everything_is_read_and_the_end_is_reported() -> None:
    data = written(GROUPS, close=False)
    *found, last = read(data)
    assert found == GROUPS
    assert isinstance(last, ClipDamage)
    assert last.cut
    assert read_index(io.BytesIO(data)) == read_index(io.BytesIO(written(GROUPS)))


def test_a_file_cut_at_any_byte_is_read_up_to_the_cut() -> None:
    data = written(GROUPS)
    ends = [*(entry.offset for entry in read_index(io.BytesIO(data))[1:]), len(written(GROUPS, close=False))]
    for length in range(len(data)):
        if length < START:
            with pytest.raises((Truncated, NotOurFile)):
                read(data[:length])
            continue
        found = read(data[:length])
        whole = sum(end <= length for end in ends)
        assert found[:whole] == GROUPS[:whole]
        assert all(isinstance(item, ClipDamage) and item.cut for item in found[whole:])
        if length < ends[-1] + HEAD_BYTES:
            assert found[whole:], "a cut that is not reported"


def test_a_flipped_bit_damages_one_section_or_the_index_and_is_detected() -> None:
    data = written(GROUPS)
    places = [entry.offset for entry in read_index(io.BytesIO(data))] + [len(written(GROUPS, close=False))]
    for place in range(START, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        hit = max(number for number, start in enumerate(places) if start <= place)
        found = read(bytes(damaged))
        assert [item for item in found if isinstance(item, ClipSection)] == GROUPS[:hit] + GROUPS[hit + 1 :]
        assert sum(isinstance(item, ClipDamage) for item in found) == 1


@pytest.mark.parametrize("place", range(START))
def test_header_damage_is_detected(place: int) -> None:
    damaged = bytearray(written(GROUPS))
    damaged[place] ^= 64
    with pytest.raises((Corrupt, NotOurFile, UnsupportedVersion, Truncated)):
        read(bytes(damaged))


def test_bytes_after_the_end_are_reported() -> None:
    data = written(GROUPS)
    assert read(data + b"12345") == [*GROUPS, ClipDamage(len(data), "5 bytes follow the end of the file")]


def test_a_damaged_index_does_not_matter() -> None:
    data = bytearray(written(GROUPS))
    for place in (len(data) - 1, len(data) - FOOT_BYTES, len(data) - FOOT_BYTES - 3):
        damaged = bytearray(data)
        damaged[place] ^= 1
        assert read_index(io.BytesIO(bytes(damaged))) == read_index(io.BytesIO(bytes(data)))


def test_mutated_files_raise_only_latens_errors() -> None:
    rng = random.Random(0)
    data = written(GROUPS)
    for _ in range(2000):
        mutated = bytearray(data)
        for _ in range(rng.randint(1, 6)):
            choice, place = rng.random(), rng.randrange(len(mutated))
            if choice < 0.6:
                mutated[place] = rng.randrange(256)
            elif choice < 0.8:
                del mutated[place : place + rng.randrange(40)]
            else:
                mutated[place:place] = rng.randbytes(rng.randrange(40))
            mutated = mutated or bytearray(b"\0")
        try:
            stream = io.BytesIO(bytes(mutated))
            read_header(stream)
            found = [item for item in read_sections(stream, known_kinds=KINDS) if isinstance(item, ClipSection)]
            assert all(item in GROUPS for item in found)
            read_index(stream)
        except LatensError:
            continue


def test_unknown_sections_are_skipped_unless_they_are_required() -> None:
    optional = ClipSection(9, b"later", required=False)
    assert read(written([GROUPS[1], optional, GROUPS[2]])) == [GROUPS[1], GROUPS[2]]
    with pytest.raises(UnsupportedFeature):
        read(written([ClipSection(9, b"later")]))


def test_a_newer_major_version_is_refused() -> None:
    data = bytearray(written(GROUPS))
    data[8] = 2
    with pytest.raises(UnsupportedVersion):
        read_header(io.BytesIO(bytes(data)))


def test_fields_of_the_wrong_size_are_refused() -> None:
    writer = ClipWriter(io.BytesIO(), HEADER)
    with pytest.raises(ValueError, match="kinds"):
        writer.append(ClipSection(255, b""))
    with pytest.raises(ValueError, match="profile"):
        ClipWriter(io.BytesIO(), HEADER._replace(model_id=b""))
