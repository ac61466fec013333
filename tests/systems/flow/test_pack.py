"""The packer: a bijection of integers, streams that are the same everywhere, files that come back, damage that stays local."""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from latens.cli.main import main
from latens.codes import stream as container
from latens.codes.integer import IntegerNetwork
from latens.data.source import parse_source
from latens.errors import ModelError, ModelMismatch, NotOurFile, Truncated, UnsupportedFeature, UnsupportedVersion, UsageError
from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.flow.config import CropsConfig, IntegerFlow
from latens.systems.flow.pack import archive, codec
from latens.systems.flow.pack.archive import Member, Opened
from latens.systems.flow.pack.color import to_pixels, to_planes
from latens.systems.flow.pack.files import plain_image
from latens.systems.flow.pack.frozen import FrozenFlow, coded_groups, freeze
from latens.systems.flow.pack.model import IntegerFlowNet, logistic_bits
from latens.systems.flow.pack.packer import Packed, Packer, Restored, Source, load
from latens.systems.flow.pack.phases import PHASES
from latens.systems.flow.pack.stack import ESCAPE_BITS
from latens.systems.flow.pack.training import CodeLength, CropData


def smooth(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random images of low frequencies."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 3, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in small])


@pytest.fixture(scope="module")
def net() -> IntegerFlowNet:
    torch.manual_seed(0)
    return IntegerFlowNet(IntegerFlow(levels=2, width=8, depth=1))


@pytest.fixture(scope="module")
def flow(net: IntegerFlowNet) -> FrozenFlow:
    return freeze(net, torch.from_numpy(smooth(8, 32, 32).transpose(0, 3, 1, 2).copy()))


@pytest.fixture(scope="module")
def packer(flow: FrozenFlow) -> Packer:
    return Packer(flow, name="test", sha256="0123456789abcdef")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, net: IntegerFlowNet, flow: FrozenFlow) -> Path:
    place = tmp_path_factory.mktemp("model")
    config = {"system": "flow", "model": to_dict(net.config), "coding": flow.spec()}
    save_model(place, config, net.state_dict(), flow.tensors())
    return place


def png(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_the_color_transform_is_a_bijection() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0, 1, 127, 128, 254, 255])] * 3).to(torch.uint8)
    pixels = corners.T.reshape(1, 3, 6, 36)
    planes = to_planes(pixels)
    assert torch.equal(to_pixels(planes), pixels.to(torch.int32))
    assert 0 <= planes[:, 0].min()
    assert planes.abs().max() <= 255


def test_a_phase_is_predicted_from_earlier_phases_alone() -> None:
    before = {(0, 0)}
    for phase in PHASES:
        assert {((phase.row + y) % 2, (phase.column + x) % 2) for y, x in phase.known} == before
        assert all(y * y + x * x <= 2 for y, x in phase.nearest)
        before.add((phase.row, phase.column))


def test_logistic_bits_are_probabilities() -> None:
    errors = torch.arange(-400, 401, dtype=torch.float64) - 0.3
    for level in (0.0, 10.0, 25.0):
        mass = torch.exp2(-logistic_bits(errors, torch.full_like(errors, level)))
        assert float(mass.sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shape", [(32, 32), (33, 17), (1, 1), (1, 7), (5, 1), (2, 2), (3, 40)])
@pytest.mark.parametrize("gray", [False, True])
def test_images_of_any_size_are_restored(flow: FrozenFlow, shape: tuple[int, int], gray: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1, *shape, 3), dtype=np.uint8)
    pixels = np.concatenate([smooth(2, *shape), noise])
    pixels = np.repeat(pixels[..., :1], 3, axis=3) if gray else pixels
    streams = codec.encode(flow, pixels, gray=gray)
    decoded = codec.decode(flow, streams, *shape, gray=gray)
    assert all(found is not None and np.array_equal(found, image) for found, image in zip(decoded, pixels, strict=True))
    assert streams == [codec.encode(flow, one[None], gray=gray)[0] for one in pixels]
    assert streams == codec.encode(flow.reference(), pixels, gray=gray)


def ideal_bits(flow: FrozenFlow, pixels: np.ndarray) -> np.ndarray:
    """Bits of every image by the probabilities of its symbols."""
    tables, bits = flow.tables, np.zeros(len(pixels))
    for symbols, levels in coded_groups(flow, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), gray=False):
        index, escape = symbols.numpy() - tables.lows[levels], tables.sizes[levels] - 1
        escaped = (index < 0) | (index >= escape)
        counts = tables.counts[tables.starts[levels] + np.where(escaped, escape, index)]
        bits += (24 - np.log2(counts) + ESCAPE_BITS * escaped).sum((1, 2, 3))
    return bits


def test_stream_lengths_match_the_tables_and_the_loss(net: IntegerFlowNet, flow: FrozenFlow) -> None:
    pixels = smooth(8, 64, 64, seed=3)
    bits = [8 * len(stream) for stream in codec.encode(flow, pixels)]
    tables = ideal_bits(flow, pixels)
    assert all(0 <= have - ideal <= 72 for have, ideal in zip(bits, tables, strict=True))
    with torch.no_grad():
        loss = float(net(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).sum())
    assert sum(tables) <= 1.01 * loss + 8 * 40  # the tables are fitted; the last pixel is not in the loss


def test_threads_do_not_change_streams(flow: FrozenFlow) -> None:
    pixels, threads = smooth(4, 40, 24), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = codec.encode(flow, pixels)
        torch.set_num_threads(2)
        assert codec.encode(flow, pixels) == one
    finally:
        torch.set_num_threads(threads)


def test_a_saved_flow_is_the_same(flow: FrozenFlow) -> None:
    again = FrozenFlow.from_tensors(flow.spec(), flow.tensors())
    assert again.hash() == flow.hash()
    assert codec.encode(again, smooth(1, 9, 9)) == codec.encode(flow, smooth(1, 9, 9))


def test_a_damaged_stream_leaves_the_others(flow: FrozenFlow) -> None:
    pixels = smooth(3, 16, 16)
    streams = codec.encode(flow, pixels)
    decoded = codec.decode(flow, [streams[0], streams[1][:8], streams[2]], 16, 16)
    assert decoded[1] is None
    assert np.array_equal(np.asarray(decoded[0]), pixels[0])
    assert np.array_equal(np.asarray(decoded[2]), pixels[2])


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


def test_images_that_latens_does_not_read_are_stored(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "photos"
    place.mkdir()
    files = {"a.png": png(smooth(1, 12, 12)[0]), "b.HEIC": b"\0\0\0\x18ftypheic" + bytes(40), "c.nef": b"raw" * 20}
    for name, data in {**files, ".hidden.png": b"x"}.items():
        (place / name).write_bytes(data)
    out = tmp_path / "photos.ltp"
    assert main(["density", "pack", str(place), "-o", str(out), "--model", str(folder)]) == 0
    assert any("1 file left out (hidden, or without the name of an image)" in line for line in caplog.messages)
    assert main(["density", "unpack", str(out), "-o", str(tmp_path / "back"), "--model", str(folder)]) == 0
    found = {path.name: path.read_bytes() for path in (tmp_path / "back").rglob("*") if path.is_file()}
    assert {name: found.get(name) for name in files} == files


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


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for number, pixels in enumerate(smooth(3, 20, 20)):
        (images / "sub" / f"ü {number}.png").write_bytes(png(pixels))
    os.utime(images / "sub" / "ü 0.png", ns=(1, 1_234_567_890_123_456_789))
    packed, out = tmp_path / "images.ltp", tmp_path / "out"
    options = ["--model", str(folder), "--threads", "1"]
    assert main(["density", "pack", str(images), "-o", str(packed), *options]) == 0
    assert main(["density", "pack", str(images), "-o", str(packed), *options]) == 2
    assert main(["density", "unpack", str(packed), "-o", str(out), *options]) == 0
    for path in (images / "sub").iterdir():
        again = out / "sub" / path.name
        assert again.read_bytes() == path.read_bytes()
        assert again.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert main(["density", "unpack", str(packed), "-o", str(out), *options]) == 0  # as after an interruption: nothing changes
    (out / "sub" / "ü 0.png").write_bytes(b"edited")
    assert main(["density", "unpack", str(packed), "-o", str(out), *options]) == 2
    assert (out / "sub" / "ü 0.png").read_bytes() == b"edited"
    (images / "empty.png").write_bytes(b"")
    capsys.readouterr()
    assert (
        main(["density", "pack", str(images / "empty.png"), "-o", str(tmp_path / "e.ltp"), *options, "--format", "json"]) == 0
    )
    shown = capsys.readouterr()
    assert json.loads(shown.out.splitlines()[0])["notes"] == ["the file is empty; it is packed as it is"]
    assert "empty.png: the file is empty" in shown.err
    packed.write_bytes(packed.read_bytes()[:-1])
    assert main(["density", "unpack", str(packed), "-o", str(tmp_path / "rest"), *options]) == 4
    assert "index" in capsys.readouterr().err
    assert len(list((tmp_path / "rest" / "sub").iterdir())) == 3
    packed.write_bytes(packed.read_bytes()[:-250])
    assert main(["density", "unpack", str(packed), "-o", str(tmp_path / "cut"), *options]) == 4
    assert "is lost" in capsys.readouterr().err
    assert main(["density", "unpack", str(images / "sub" / "ü 0.png"), "-o", str(out), *options]) == 3


def test_larger_crops_join_every_batch(tmp_path: Path) -> None:
    for number, pixels in enumerate([*smooth(3, 80, 100), *smooth(3, 20, 20)]):
        (tmp_path / f"{number}.png").write_bytes(png(pixels))
    config = CropsConfig(batch=8, size=16, large=32, crops=4, validation_share=0.3)
    data = CropData([parse_source(tmp_path)], config, seed=0)
    batch = data.batch(0, 0)
    assert {kind: tuple(pixels.shape) for kind, pixels in batch.items()} == {"pixels": (8, 3, 16, 16), "large": (2, 3, 32, 32)}
    sizes = IntegerFlow(levels=1, width=4, depth=1)
    objective, net = CodeLength(sizes, config), IntegerFlowNet(sizes)
    (step,) = objective(net, batch, 0)
    logged = [torch.as_tensor(value).detach().item() for value in step.logs.values()]
    assert step.loss.detach().item() == pytest.approx(sum(logged) / 2)
    exported = objective.export(net, [batch])
    assert FrozenFlow.from_tensors(exported.config["coding"], exported.coding).hash()
    with pytest.raises(UsageError, match="sides of at least"):
        CropData([parse_source(tmp_path)], CropsConfig(large=500), seed=0)


def test_a_residual_flow_cannot_pack(tmp_path: Path) -> None:
    save_model(tmp_path, {"system": "flow", "model": {"kind": "image"}}, {"a": torch.zeros(1)})
    with pytest.raises(UsageError, match="packing needs an integer flow"):
        load(tmp_path)


def test_sides_that_webp_cannot_hold(tmp_path: Path) -> None:
    """A panorama above the limits is stored as it is; with raised limits no WebP is made of it. Both are restored."""
    Image.new("L", (17_000, 8), 90).save(tmp_path / "pano.png")
    for limit in ([], ["--limit", "side=20000"]):
        packed, out = tmp_path / f"{len(limit)}.ltp", tmp_path / f"out{len(limit)}"
        assert main(["density", "pack", str(tmp_path / "pano.png"), "-o", str(packed), *limit]) == 0
        assert main(["density", "unpack", str(packed), "-o", str(out), *limit]) == 0
        with Image.open(out / "pano.png") as made:
            assert made.size == (17_000, 8)
            assert made.getextrema() == (90, 90)
