"""docs/format.md suffices to read files: a decoder that was written from it finds the symbols and means that latens finds."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.format_reader import ImageReader, read_ltn, read_ltv

import latens
from latens.catalogue import folder_of
from latens.data.samples import photographs
from latens.systems.image_codec.format import read_coded_image
from latens.systems.image_codec.predict import ImageCodec

CODEC, CONTEXT, BASE = map(folder_of, ("image_codec_joint", "image_codec_context", "image_codec"))


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return latens.load("image_codec_joint", device="cpu")


@pytest.fixture(scope="module")
def reader() -> ImageReader:
    return ImageReader(CODEC, BASE)


def crop(left: int, width: int, height: int) -> Image.Image:
    return Image.open(photographs()[0].path).convert("RGB").crop((left, 100, left + width, 100 + height))


@pytest.mark.parametrize(("image", "quality"), [(crop(200, 100, 60), 2.0), (crop(150, 64, 130), 7.3)])
def test_the_second_decoder_finds_the_same_integers(
    image: Image.Image, quality: float, codec: ImageCodec, reader: ImageReader
) -> None:
    blob = codec.compress(image, quality=quality)
    symbols, _ = codec.decode_symbols(read_coded_image(blob), partial=False)
    found = reader.read(blob)
    assert np.array_equal(found.z, symbols.z[0].numpy())
    assert np.array_equal(found.y, symbols.y[0].numpy())
    assert np.array_equal(found.mean, symbols.parameters.mean[0].double().numpy() * 1024)


def test_escapes_are_read(codec: ImageCodec, reader: ImageReader) -> None:
    noise = Image.fromarray(np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (64, 64, 3)))
    blob = codec.compress(noise, quality=8)
    symbols, _ = codec.decode_symbols(read_coded_image(blob), partial=False)
    y, level = symbols.y[0].numpy(), symbols.parameters.level[0].numpy()
    assert (y > codec.coding.y_tables.highs[level]).any()
    assert np.array_equal(reader.read(blob).y, y)


def test_damage_is_found(codec: ImageCodec, reader: ImageReader) -> None:
    blob = bytearray(codec.compress(crop(0, 64, 64), quality=2))
    blob[-3] ^= 4
    with pytest.raises(ValueError, match="section 1"):
        reader.read(bytes(blob))


GOLDEN = Path(__file__).parent / "golden"
FILES = [
    *((path, path.parent / "model", None) for path in sorted(GOLDEN.glob("image_codec*/*.ltn"))),
    (GOLDEN / "bundled" / "image_codec.ltn", BASE, None),
    (GOLDEN / "bundled" / "image_codec_context.ltn", CONTEXT, BASE),
    (GOLDEN / "bundled" / "image_codec_joint.ltn", CODEC, BASE),
    (GOLDEN / "bundled" / "image_codec_perceptual.ltn", CONTEXT, BASE),  # its integers are those of CONTEXT
]


@pytest.mark.parametrize(("path", "model", "base"), FILES, ids=lambda part: f"{part.parent.name}-{part.stem}" if part else "")
def test_the_second_decoder_reads_every_golden_file(path: Path, model: Path, base: Path | None) -> None:
    record = json.loads((path.parent / "golden.json").read_text())
    expected = record.get("files", record)[path.stem]["latents"]
    found = ImageReader(model, base).read(path.read_bytes())
    assert {
        name: hashlib.sha256(value.astype("<i4").tobytes()).hexdigest() for name, value in found._asdict().items()
    } == expected


def test_every_golden_file_is_given_to_the_second_decoder() -> None:
    assert {path for path, *_ in FILES} == set(GOLDEN.rglob("*.ltn"))


def test_the_model_id_is_the_hash_of_the_files(codec: ImageCodec) -> None:
    parts = read_ltn(codec.compress(crop(0, 64, 64), quality=2))
    assert parts.model_id == model_hash(CODEC)[:8]


def model_hash(folder: Path) -> bytes:
    """As docs/format.md describes it."""
    config = json.loads((folder / "config.json").read_text())
    names = [*config["files"]["model"], *config["files"]["entropy"]]
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    if "base" in config:
        digests.insert(0, model_hash(folder_of(config["base"]["name"])).hex())
    return hashlib.sha256("".join(digests).encode()).digest()


def test_the_container_of_a_clip_is_read() -> None:
    frames = np.stack([np.roll(np.asarray(crop(0, 64, 64)), shift, axis=1) for shift in range(3)])
    stream = io.BytesIO(latens.load("video_codec", device="cpu").compress(frames, quality=2))
    parts = read_ltv(stream.getvalue())
    assert (parts.profile, parts.model_id) == ("VID1", model_hash(folder_of("video_codec"))[:8])
    width, height, quality, amplifier, flags, group, *fractions = struct.unpack("<IIHBBH6I", parts.header)
    assert (width, height, quality, flags & ~3) == (64, 64, 512, 0)
    assert 1 <= group <= 1024
    assert amplifier >= 0
    assert min(fractions) >= 1
    assert [kind for kind, _ in parts.sections] == [1]
