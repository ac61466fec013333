"""Packer of folders of images into archives and back. Each file is stored in the smallest of several forms."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from latens.data.images import Pixels
from latens.errors import Corrupt, LatensError, LimitExceeded, ModelError, ModelMismatch, UsageError
from latens.hub import fitting, load_model, locate
from latens.inference.device import choose_device
from latens.systems.flow.pack import archive, codec
from latens.systems.flow.pack.archive import DEFLATED, GROUP_FILES, MAX_BYTES, MODEL, RAW, STORED, WEBP, Member, Opened
from latens.systems.flow.pack.description import Description, describe, described, number, parsed
from latens.systems.flow.pack.files import PlainImage, pixels_of_webp, plain_image, webp_of
from latens.systems.flow.pack.frozen import FrozenFlow

logger = logging.getLogger(__name__)

NAME = "flow_pack"
CHUNK_IMAGES, CHUNK_PIXELS = 64, 1 << 17  # maximum number of images and pixels coded in one batch
BAND_PIXELS = 1 << 20  # larger images are coded as independent bands of rows
BAND_ROWS = 64  # band heights are multiples of it
GROUP_BYTES = 64 << 20  # maximum size of files and pixels of a group in memory; a larger image forms its own group
FORMS = {MODEL: "model", WEBP: "webp", RAW: "raw", STORED: "stored", DEFLATED: "deflated"}


class Source(NamedTuple):
    """A file to pack."""

    name: str  # relative path with slashes
    time: int  # modification time in nanoseconds
    data: bytes


@dataclass(frozen=True)
class Packed:
    """Result of packing one file."""

    name: str
    form: str  # model, webp, raw, stored or deflated
    bytes_before: int
    bytes_after: int
    webp_bytes: int | None  # size as lossless WebP; None for files that are not handled as images
    notes: tuple[str, ...] = ()


class Restored(NamedTuple):
    """A file of an archive. `data` is None for a damaged file, and `reason` describes the damage. A lost name is "".

    `number` counts from 1. Damage that belongs to no single file has number 0.
    """

    number: int
    name: str
    time: int | None  # None: lost
    data: bytes | None
    reason: str


class Packer:
    """A frozen flow that packs and unpacks files. It runs on the CPU."""

    def __init__(self, flow: FrozenFlow, *, name: str, sha256: str) -> None:
        self.flow, self.name, self.model_id = flow, name, sha256
        self.device, self.precision = torch.device("cpu"), "integers"
        self.slow = flow.reference()
        self.flow_hash, self.table_hash = flow.hash(), flow.table_hash()

    def __repr__(self) -> str:
        return f"Packer({self.name}, weights {self.model_id[:12]}, {self.device}, {self.precision})"

    def pack(self, sources: Iterable[Source], stream: BinaryIO) -> Iterator[Packed]:
        """Writes an archive and yields the result of every file. Streams of the model are verified by decoding them.

        Memory holds one group of files at a time. The archive is complete when the iterator ends. Raises LimitExceeded for a
        file larger than `archive.MAX_BYTES`.
        """
        writer = archive.Writer(stream, Opened(self.flow_hash, self.table_hash, bytes.fromhex(self.model_id)[:8]))
        for group in grouped(sources):
            members, done = self._members(group)
            writer.append(members)
            yield from done
        writer.close()

    def _members(self, group: list[tuple[Source, PlainImage | None]]) -> tuple[list[Member], list[Packed]]:
        """Archive members of a group, and their results."""
        coded: dict[int, bytes] = {}
        for places in chunks({i: image for i, (_, image) in enumerate(group) if image is not None}):
            streams = self._verified([group[i][1] for i in places], [group[i][0].name for i in places])  # type: ignore[misc]
            coded |= {i: stream for i, stream in zip(places, streams, strict=True) if stream is not None}
        members, done = [], []
        for i, (source, image) in enumerate(group):
            member, size, webp = smallest(source, image, coded.get(i))
            notes = () if image is None or i in coded else ("verification of the model's stream failed",)
            notes = notes if source.data else ("the file is empty; it is packed as it is",)
            members.append(member)
            done.append(Packed(source.name, FORMS[member.kind], len(source.data), size, webp, notes))
        return members, done

    def unpack(self, stream: BinaryIO) -> Iterator[Restored]:
        """Files of an archive in a seekable stream; damaged files have no data. Raises StreamError and ModelMismatch."""
        opened = archive.open_archive(stream)
        if not opened.flow_hash:
            yield Restored(0, "", None, None, f"the header is damaged; the images are assumed to be packed with {self.name}")
        elif (opened.flow_hash, opened.table_hash) != (self.flow_hash, self.table_hash):
            what = "the archive was packed with another model"
            ids = f"its hash begins with {opened.model_id.hex()}, that of {self.name} with {self.model_id[:16]}"
            hint = f"give the other model with --model; {ids}"
            raise ModelMismatch(what, where=self.name, hint=hint)
        for group in archive.groups(stream):
            if group.damage:
                yield Restored(0, "", None, None, group.damage)
            found = self._restored(group.members)
            for i, member in enumerate(group.members):
                content = found[i]
                lost = isinstance(content, str)
                yield Restored(group.first + i + 1, member.name, member.time, *((None, content) if lost else (content, "")))

    def _restored(self, members: tuple[Member, ...]) -> dict[int, bytes | str]:
        """Bytes of every file, or a description of its damage, by index."""
        found: dict[int, bytes | str] = {}
        images: dict[int, tuple[Description, bytes]] = {}
        for i, member in enumerate(members):
            try:
                if member.payload is None:
                    found[i] = member.reason
                elif member.kind == MODEL:
                    images[i] = described(member.payload)
                else:
                    found[i] = _simple_file(member.kind, member.payload)
            except (LatensError, zlib.error, ValueError) as error:
                found[i] = " ".join(str(error).split())
        for places in chunks({i: description for i, (description, _) in images.items()}):
            descriptions = [images[i][0] for i in places]
            decoded = self._decode([images[i][1] for i in places], descriptions[0])
            for i, description, pixels in zip(places, descriptions, decoded, strict=True):
                found[i] = "the coded pixels are damaged" if pixels is None else _image_of(description, pixels).file()
        return found

    def _verified(self, images: list[PlainImage], names: list[str]) -> list[bytes | None]:
        """Payloads of images of one size and kind; None where decoding gives other pixels.

        The first image is also coded with int64 arithmetic.
        """
        payloads = self._encode(images, self.flow)
        self._check_int64(images[0], payloads[0])
        first = Description(images[0].pixels.shape[1], images[0].pixels.shape[0], images[0].gray, "", b"", b"")
        decoded = self._decode(payloads, first)
        checked: list[bytes | None] = []
        for image, name, payload, pixels in zip(images, names, payloads, decoded, strict=True):
            good = pixels is not None and np.array_equal(pixels, image.pixels)
            if not good:
                logger.warning("%s: decoding gave different pixels; the file is stored in another form", name)
            checked.append(describe(image) + payload if good else None)
        return checked

    def _check_int64(self, image: PlainImage, payload: bytes) -> None:
        """Codes an image with int64 arithmetic. Raises ModelError if the streams differ."""
        if self._encode([image], self.slow) != [payload]:
            what = "the integer networks are not exact on this machine"
            raise ModelError(what, where=self.name, hint="please report the processor and the torch version")

    def _encode(self, images: list[PlainImage], flow: FrozenFlow) -> list[bytes]:
        """Concatenated bands of every image; several bands are each preceded by their length."""
        pixels, gray = np.stack([image.pixels for image in images]), images[0].gray
        payloads = [b""] * len(images)
        for top, bottom in bands(*pixels.shape[1:3]):
            streams = codec.encode(flow, pixels[:, top:bottom], gray=gray)
            alone = (top, bottom) == (0, pixels.shape[1])
            payloads = [p + (b"" if alone else number(len(s))) + s for p, s in zip(payloads, streams, strict=True)]
        return payloads

    def _decode(self, payloads: list[bytes], size: Description) -> list[Pixels | None]:
        parts: list[list[Pixels | None]] = [[] for _ in payloads]
        found = bands(size.height, size.width)
        places = [0] * len(payloads)
        for top, bottom in found:
            streams = []
            for i, payload in enumerate(payloads):
                start, stop = 0, len(payload)
                if len(found) > 1:
                    try:
                        length, start = parsed(payload, places[i])
                        stop = start + length
                    except IndexError:
                        start = stop = len(payload)
                places[i] = stop
                streams.append(payload[start:stop])
            for part, pixels in zip(
                parts, codec.decode(self.flow, streams, bottom - top, size.width, gray=size.gray), strict=True
            ):
                part.append(pixels)
        return [None if any(p is None for p in part) else np.concatenate(part) for part in parts]  # type: ignore[arg-type]


def bands(height: int, width: int) -> list[tuple[int, int]]:
    """Row range [top, bottom) of every band."""
    rows = max(BAND_PIXELS // (width * BAND_ROWS), 1) * BAND_ROWS
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def chunks(sized: dict[int, Any]) -> Iterator[list[int]]:
    """Keys of images in batches of one size and kind."""
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for i, one in sized.items():
        height, width = one.pixels.shape[:2] if isinstance(one, PlainImage) else (one.height, one.width)
        groups.setdefault((height, width, one.gray), []).append(i)
    for (height, width, _), members in groups.items():
        count = max(1, min(CHUNK_IMAGES, CHUNK_PIXELS // (height * width)))
        for start in range(0, len(members), count):
            yield members[start : start + count]


def grouped(sources: Iterable[Source]) -> Iterator[list[tuple[Source, PlainImage | None]]]:
    """Groups of files with their images (None for other files). Raises LimitExceeded."""
    held: list[tuple[Source, PlainImage | None]] = []
    size = 0
    for source in sources:
        if len(source.data) > MAX_BYTES:
            raise LimitExceeded(f"the file has {len(source.data):,} bytes; the limit is {MAX_BYTES:,}", where=source.name)
        image = plain_image(source.data)
        own = len(source.data) + (0 if image is None else image.pixels.nbytes)
        if held and (len(held) == GROUP_FILES or size + own > GROUP_BYTES):
            yield held
            held, size = [], 0
        held.append((source, image))
        size += own
    if held:
        yield held


def smallest(source: Source, image: PlainImage | None, coded: bytes | None) -> tuple[Member, int, int | None]:
    """Member with the fewest bytes, its size, and for an image the size as lossless WebP."""
    forms = [(STORED, source.data), (DEFLATED, zlib.compress(source.data, 9))]
    webp: int | None = None
    if image is not None:
        head, lossless = describe(image), webp_of(image)
        if lossless is not None:
            webp = len(lossless)
            forms.append((WEBP, head + lossless))
        forms += [(RAW, head + image.pixels[..., : 1 if image.gray else 3].tobytes())]
    if coded is not None:
        forms.append((MODEL, coded))
    kind, payload = min(forms, key=lambda form: len(form[1]))
    return Member(source.name, source.time, kind, payload), len(payload), webp


def _simple_file(kind: int, payload: bytes) -> bytes:
    """File of a part that is not coded by the model. Raises LatensError, zlib.error, ValueError."""
    if kind == STORED:
        return payload
    if kind == DEFLATED:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(payload, MAX_BYTES)
        if not unpacker.eof:
            raise Corrupt("the deflated data are incomplete")
        return plain
    if kind not in (WEBP, RAW):
        raise Corrupt(f"a part has the unknown kind {kind}")
    description, rest = described(payload)
    if kind == WEBP:
        pixels = pixels_of_webp(rest)
    else:
        channels = 1 if description.gray else 3
        flat = np.frombuffer(rest, dtype=np.uint8).reshape(description.height, description.width, channels)
        pixels = np.repeat(flat, 3, axis=2) if description.gray else flat
    if pixels.shape != (description.height, description.width, 3):
        raise Corrupt("the size of the stored image differs from its description")
    return _image_of(description, pixels).file()


def _image_of(description: Description, pixels: Pixels) -> PlainImage:
    return PlainImage(pixels, description.gray, description.format, description.before, description.behind)


def load(place: str | Path = NAME, *, threads: int | None = None) -> Packer:
    """Loads a packer by name or model folder. Raises ModelMissing, ModelError, DeviceMismatch; UsageError for other flows."""
    choose_device("cpu", threads)
    folder = locate(place)
    found = load_model(folder)
    if found.config["system"] != "flow":
        raise ModelError(f"the model belongs to the system {found.config['system']}, not to flow", where=str(folder))
    if found.config.get("model", {}).get("kind") != "integer":
        what = "packing needs an integer flow: the inverse of residual blocks is not exact"
        raise UsageError(what, where=str(place), hint=f"leave --model out, or give a model of the recipe pack such as {NAME}")
    try:
        spec = found.config["coding"]
    except KeyError:
        raise ModelError("the model has no frozen integer networks", where=str(folder), hint="train it again") from None
    with fitting(folder):
        return Packer(FrozenFlow.from_tensors(spec, found.coding), name=Path(folder).name, sha256=found.sha256)
