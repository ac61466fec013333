"""Objects from maps: suppression that spares overlaps, tiles and blocks that change nothing, results and files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.cli.main import main
from latens.data.instances import Placed, layers_of_placed, placed_of, scene_of
from latens.data.labels import read_label_map
from latens.data.masks import decode, encode, encode_window
from latens.errors import LimitExceeded, UsageError
from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.amodal.cells import frame as frames
from latens.systems.amodal.cells import objects as blocks
from latens.systems.amodal.cells.config import STRIDE, StarConfig
from latens.systems.amodal.cells.decode import Candidates, refined, relative_distance, suppressed
from latens.systems.amodal.cells.fields import Contrast
from latens.systems.amodal.cells.frame import Frame, computed
from latens.systems.amodal.cells.network import StarNet, fused
from latens.systems.amodal.cells.objects import objects_of
from latens.systems.amodal.cells.predict import CellSegmenter, checked_diameter
from latens.systems.amodal.cells.result import CellSegmentation
from latens.systems.amodal.predict import load

SIZE = (80, 120)


def discs(
    centers: list[tuple[float, float]], radius: float, scores: list[float], overlap: np.ndarray | None = None
) -> Candidates:
    place = np.array(centers, dtype=np.float32)
    at = (place / STRIDE).astype(int)
    shared = np.zeros(len(place)) if overlap is None else overlap[at[:, 0], at[:, 1]] / 255
    rays = np.full((len(place), 32), radius, dtype=np.float32)
    return Candidates(place, np.array(scores, dtype=np.float32), rays, shared.astype(np.float32))


def lens(centers: list[tuple[float, float]], radius: float, size: tuple[int, int], stride: int) -> np.ndarray:
    """Overlap map (0 or 255) of discs."""
    y, x = np.mgrid[0 : size[0] : stride, 0 : size[1] : stride]
    inside = [(y - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centers]
    return np.where(np.sum(inside, axis=0) > 1, 255, 0).astype(np.uint8)


def test_duplicates_are_suppressed_and_true_overlaps_are_spared() -> None:
    none = np.zeros((40, 60), dtype=np.uint8)
    twice = discs([(40, 40), (42, 43), (40, 80)], 15, [0.9, 0.8, 0.7])
    assert suppressed(twice, none, SIZE).tolist() == [0, 2]
    pair = [(40.0, 40.0), (40.0, 56.0)]  # the overlap is 45 % of each disc
    assert suppressed(discs(pair, 16, [0.9, 0.8]), none, SIZE).tolist() == [0]
    shared = lens(pair, 16, SIZE, STRIDE)
    assert suppressed(discs(pair, 16, [0.9, 0.8], shared), shared, SIZE).tolist() == [0, 1]
    same = discs([*pair, (40.0, 42.0)], 16, [0.9, 0.8, 0.7], shared)  # a duplicate of the first
    assert suppressed(same, shared, SIZE).tolist() == [0, 1]


def test_relative_distance_is_one_on_the_outline() -> None:
    rays = np.full(32, 10, dtype=np.float32)
    found = relative_distance(np.array([5.0, 7.0]), rays, (0, 0, 20, 20))
    y, x = np.mgrid[0:20, 0:20]
    assert np.allclose(found, np.hypot(y - 5, x - 7) / 10, atol=1e-4)


def test_objects_follow_the_foreground_and_share_their_overlap() -> None:
    centers = [(40.0, 40.0), (40.0, 62.0)]
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    inside = [(y - a) ** 2 + (x - b) ** 2 <= 14**2 for a, b in centers]
    foreground = np.where(inside[0] | inside[1], 255, 0).astype(np.uint8)
    overlap = np.where(inside[0] & inside[1], 255, 0).astype(np.uint8)
    rays = np.full((2, 32), 15, dtype=np.float32)  # outlines are a little too large
    pieces = refined(np.array(centers, dtype=np.float32), rays, foreground, overlap)
    for piece, true in zip(pieces, inside, strict=True):
        assert piece is not None
        whole = np.zeros(SIZE, dtype=bool)
        whole[piece.top : piece.top + piece.amodal.shape[0], piece.left : piece.left + piece.amodal.shape[1]] = piece.amodal
        assert (whole & true).sum() / (whole | true).sum() > 0.98
        assert piece.visible.sum() < piece.amodal.sum()
        assert piece.certainty == 1
    empty = refined(np.array(centers, dtype=np.float32), rays, np.zeros_like(foreground), overlap)
    assert empty == [None, None]
    beyond = refined(np.array([(-40.0, 5.0), (5.0, 300.0)], dtype=np.float32), rays, foreground, overlap)
    assert beyond == [None, None]


def network(seed: int = 0) -> StarNet:
    torch.manual_seed(seed)
    net = StarNet(StarConfig(widths=(8, 12), rays=16))
    with torch.no_grad():
        net.out.weight.normal_(0, 1.0)
        net.out.weight[2:18] *= 0.05  # rays of about 10 pixels
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return net


def test_folded_normalizations_give_the_same_maps() -> None:
    net = network().eval()
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        plain, folded = net(image), fused(net)(image)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(plain, folded, strict=True))


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_tiles_give_the_maps_of_the_whole_image(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (150, 203, 3), dtype=np.uint8)
    settings = (fused(network()), pixels, Contrast(0, 255), scale, torch.device("cpu"), torch.float32)
    monkeypatch.setattr(frames, "TILE", 1024)
    whole = computed(*settings)
    monkeypatch.setattr(frames, "TILE", 48)
    monkeypatch.setattr(frames, "CONTEXT", 64)
    tiled = computed(*settings)
    for name in ("foreground", "contact", "overlap"):
        difference = getattr(whole, name).astype(int) - getattr(tiled, name).astype(int)
        assert np.abs(difference).max() <= 1  # rounding
    one, other = (each.candidates.take(np.lexsort(each.candidates.center.T[::-1])) for each in (whole, tiled))
    assert len(one.score)
    assert np.array_equal(one.center, other.center)
    assert np.allclose(one.rays, other.rays, rtol=1e-3)


def scene(rng: np.random.Generator) -> Frame:
    centers = [(float(y), float(x)) for y in range(12, 150, 22) for x in range(12, 200, 22)]
    found = discs(centers, 9, list(rng.uniform(0.5, 1, len(centers))))
    y, x = np.mgrid[0:150, 0:203]
    inside = np.any([(y - a) ** 2 + (x - b) ** 2 <= 81 for a, b in centers], axis=0)
    foreground = np.where(inside, 255, 0).astype(np.uint8)
    return Frame((1.0, 1.0), found, foreground, np.zeros_like(foreground), np.zeros((75, 102), dtype=np.uint8))


def test_blocks_do_not_change_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = scene(np.random.default_rng(0))
    whole = objects_of(frame, (150, 203))
    monkeypatch.setattr(blocks, "BLOCK", 37)
    parts = objects_of(frame, (150, 203))
    assert len(whole.pieces) == len(parts.pieces) == 7 * 9
    for one, other in zip(whole.pieces, parts.pieces, strict=True):
        assert (one.top, one.left) == (other.top, other.left)
        assert np.array_equal(one.amodal, other.amodal)


def test_a_frame_of_half_the_size_gives_objects_of_the_image() -> None:
    frame = scene(np.random.default_rng(0))
    found = objects_of(frame._replace(scale=(0.5, 0.5)), (300, 406))
    area = np.array([p.amodal.sum() for p in found.pieces if p.top + p.amodal.shape[0] < 300])  # others are cut
    assert np.allclose(area, np.pi * 18**2, rtol=0.1)
    first = next(piece for piece in found.pieces if piece.top < 20 and piece.left < 20)
    assert abs(first.top + first.amodal.shape[0] / 2 - 25) < 1.5  # center 12 of the frame is 24.5 of the image


def result() -> CellSegmentation:
    square = np.ones((6, 8), dtype=bool)
    seen = square.copy()
    seen[:, :3] = False
    placed = [Placed(2, 3, square, square), Placed(2, 8, square, seen)]
    return CellSegmentation(size=(20, 30), placed=placed, scores=np.array([0.9, 0.6]), classes=("nucleus",), diameter=8.0)


def test_results_agree_in_all_forms() -> None:
    found = result()
    dense = found.layers
    assert np.array_equal(found.labels > 0, dense.visible.any(0))
    assert np.array_equal(found.coverage, dense.amodal.sum(0))
    assert found.occlusion.sum() == 6 * 3
    coded = found.scene("a.png")
    assert coded == scene_of(dense, "a.png", found.scores.tolist())
    assert found.boxes.tolist() == [[3, 2, 11, 8], [8, 2, 16, 8]]
    again = layers_of_placed(placed_of(dense), found.size)
    assert np.array_equal(again.amodal, dense.amodal)
    with pytest.raises(LimitExceeded, match="2 GB"):
        _ = dataclasses.replace(found, size=(40_000, 40_000)).layers


def test_run_length_codes_of_windows_are_those_of_whole_masks() -> None:
    rng = np.random.default_rng(0)
    for top, left in ((0, 0), (3, 5), (14, 11)):
        mask = rng.random((6, 9)) < 0.5
        whole = np.zeros((20, 20), dtype=bool)
        whole[top : top + 6, left : left + 9] = mask
        code = encode_window(mask, top, left, (20, 20))
        assert code == encode(whole)
        assert np.array_equal(decode(code), whole)
    assert encode_window(np.zeros((2, 2), dtype=bool), 1, 1, (5, 5)) == encode(np.zeros((5, 5), dtype=bool))


@pytest.fixture(scope="module")
def star_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights whose objects are numerous."""
    net = network()
    with torch.no_grad():
        assert net.out.bias is not None
        net.out.bias[0] = 1.0
    folder = tmp_path_factory.mktemp("star") / "tiny"
    save_model(folder, {"system": "amodal", "model": to_dict(net.config)}, net.state_dict())
    return folder


def test_images_of_any_size_and_kind(star_folder: Path) -> None:
    segmenter = load(star_folder, device="cpu")
    assert isinstance(segmenter, CellSegmenter)
    rng = np.random.default_rng(0)
    for size in ((1, 1), (3, 200), (65, 47), (128, 128)):
        found = segmenter.segment(rng.integers(0, 256, size, dtype=np.uint8), least_score=0.05)
        assert found.size == size
        assert found.labels.shape == size
        assert len(found) == len(found.scores) == len(np.unique(found.boxes, axis=0))
        assert (np.diff(found.scores) <= 0).all()
    assert len(found)
    fixed = segmenter.segment_pixels(np.zeros((40, 40, 3), dtype=np.uint8), diameter=12.0)
    assert fixed.diameter == 12


def test_files_of_the_command(star_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 256, (90, 70), dtype=np.uint8)) for _ in range(2)]
    pages[0].save(tmp_path / "s.tif", save_all=True, append_images=pages[1:])
    words = ["segment", str(tmp_path / "s.tif"), "-o", str(tmp_path / "out"), "--model", str(star_folder), "--score", "0.1"]
    assert main([*words, "--diameter", "24", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[0])
    assert record["frames"] == 2
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "s.masks.tif" not in names
    assert {"s.labels.tif", "s.overlap.tif", "s.cells.csv", "s.json", "s.overlay.tif"} <= set(names)
    document = json.loads((tmp_path / "out" / "s.json").read_text())
    assert [image["diameter"] for image in document["images"]] == [24, 24]
    with Image.open(tmp_path / "out" / "s.labels.tif") as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
        assert np.asarray(image).max() == record["objects"][0]


def test_only_models_with_a_scale_take_a_diameter(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert main(["segment", str(tmp_path / "a.png"), "-o", str(tmp_path), "--model", "embryo", "--diameter", "9"]) == 2


def test_label_maps_of_many_objects_are_read_again(tmp_path: Path) -> None:
    from latens.data.stack_writer import StackWriter

    for kind, high in ((np.uint16, 60_000), (np.uint32, 70_000)):
        values = np.arange(0, high, 1000, dtype=kind).reshape(-1, 10)
        with (tmp_path / "a.tif").open("wb") as file:
            StackWriter(file).write(values)
        with Image.open(tmp_path / "a.tif") as image:
            assert np.array_equal(np.asarray(image), values)
    assert read_label_map(tmp_path / "a.tif").max() == values.size - 1


@pytest.mark.parametrize("diameter", [0.001, 0, -4, float("inf"), float("nan"), 1e9])
def test_diameters_beyond_any_memory_are_refused(diameter: float) -> None:
    with pytest.raises(UsageError, match="diameter"):
        checked_diameter(diameter)
