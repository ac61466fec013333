"""The packer: a bijection of integers, streams that are the same everywhere, and the command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.cli.main import main
from latens.data.source import parse_source
from latens.errors import UsageError
from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.flow.config import CropsConfig, IntegerFlow
from latens.systems.flow.pack import codec
from latens.systems.flow.pack.color import to_pixels, to_planes
from latens.systems.flow.pack.frozen import FrozenFlow, coded_groups
from latens.systems.flow.pack.model import IntegerFlowNet, logistic_bits
from latens.systems.flow.pack.packer import load
from latens.systems.flow.pack.phases import PHASES
from latens.systems.flow.pack.stack import ESCAPE_BITS
from latens.systems.flow.pack.training import CodeLength, CropData

from .conftest import png, smooth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, net: IntegerFlowNet, flow: FrozenFlow) -> Path:
    place = tmp_path_factory.mktemp("model")
    config = {"system": "flow", "model": to_dict(net.config), "coding": flow.spec()}
    save_model(place, config, net.state_dict(), flow.tensors())
    return place


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
