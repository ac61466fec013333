"""Output of the segmenter: consistent, of the size of the image, readable by other programs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.annotations import read_annotations
from latens.data.instances import Layers, Placed, paint, placed_of
from latens.data.labels import read_labels
from latens.data.masks import decode, paste
from latens.data.source import parse_sources
from latens.errors import InputError, ModelError, ModelMissing, UnreadableInput, UsageError
from latens.hub import load_model, save_model
from latens.metrics.cells import eccentricity
from latens.systems.amodal.config import EmbryoConfig
from latens.systems.amodal.dataset import Simulated
from latens.systems.amodal.draw import overlay
from latens.systems.amodal.evaluate import AmodalEvaluation, digest, evaluate, measured
from latens.systems.amodal.order import SoftMask, front_margins, layers_of, ordered
from latens.systems.amodal.outputs import Frame, add_rois, contour, write_outputs
from latens.systems.amodal.predict import AmodalSegmenter, Segmentation, load
from latens.systems.amodal.simulator.embryos import embryo


def image(height: int = 70, width: int = 90) -> np.ndarray:
    return embryo(np.random.default_rng(0), EmbryoConfig(size=max(height, width, 64))).image[:height, :width]


@pytest.mark.parametrize("size", [(70, 90), (33, 150), (1, 1), (64, 64)])
def test_any_size_of_image(segmenter: AmodalSegmenter, size: tuple[int, int]) -> None:
    found = segmenter.segment(image(*size), least_score=0.05)
    assert found.layers.amodal.shape == (len(found), *size)
    assert not (found.layers.visible & ~found.layers.amodal).any()
    assert (np.diff(found.scores) <= 0).all()
    assert sorted(found.layers.layer) == list(range(len(found)))
    if size == (70, 90):
        assert len(found)
        assert found.codes is not None
        assert found.codes.shape == (len(found), 7, 7)


def test_kinds_of_images_agree(segmenter: AmodalSegmenter, tmp_path: Path) -> None:
    pixels = image()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    results = [
        segmenter.segment(source, least_score=0.05)
        for source in (
            pixels,
            tmp_path / "a.png",
            Image.fromarray(pixels).convert("L"),
            tensor,
        )
    ]
    assert all(np.array_equal(result.layers.amodal, results[0].layers.amodal) for result in results)
    with pytest.raises(InputError):
        segmenter.segment(np.zeros((4, 4, 7)))


def test_pasting_in_windows_equals_pasting_in_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = torch.rand(4, 14, 14, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[3.2, 4.1, 20.7, 30.2], [-5.0, -3.0, 8.0, 9.0], [30.0, 20.0, 60.0, 55.0], [50.0, 50.0, 60.0, 60.0]])
    masks = [SoftMask(grid, box, (40, 48)) for grid, box in zip(grids, boxes, strict=True)]
    whole = np.stack([mask.whole() for mask in masks])
    np.testing.assert_allclose(whole, paste(grids, boxes, (40, 48)).numpy(), atol=1e-4)
    assert np.array_equal(masks[0].values((slice(9, 20), slice(7, 18))), whole[0, 9:20, 7:18])
    monkeypatch.setattr("latens.systems.amodal.order.STRIP", 40)  # two rows at once
    assert np.array_equal(masks[0].whole(), whole[0])


def discs() -> Layers:
    rows, columns = np.mgrid[0:60, 0:80] + 0.5
    masks = np.stack([np.hypot(rows - 30, columns - x) < 18 for x in (25, 45, 60)])
    return paint(masks, np.array([1, 0, 2]))


def dense(amodal: np.ndarray) -> Layers:
    return Layers(amodal, amodal, np.arange(len(amodal)), np.zeros(len(amodal), dtype=np.int64))


def test_order_follows_from_visible_masks() -> None:
    layers = discs()
    margins = front_margins(placed_of(layers), lambda i, part: layers.visible[(i, *part)].astype(float))
    assert margins[1, 0] == 1
    assert margins[0, 1] == -1
    assert layers_of(margins).tolist() == [1, 0, 2]
    rng = np.random.default_rng(0)  # windows give the same as whole images
    amodal, chance = rng.random((5, 12, 14)) > 0.9, rng.random((5, 12, 14))
    found = front_margins(placed_of(dense(amodal)), lambda i, part: chance[(i, *part)])
    for i, j in np.ndindex(5, 5):
        both = amodal[i] & amodal[j]
        expected = chance[i][both].mean() - chance[j][both].mean() if both.any() and i != j else 0
        assert found[i, j] == pytest.approx(expected)
    assert layers_of(np.zeros((0, 0))).shape == (0,)


def test_objects_with_low_scores_hide_nothing() -> None:
    layers = discs()
    chance = layers.visible.astype(float)
    found = ordered(placed_of(layers), lambda i, part: chance[(i, *part)], np.array([0.9, 0.2, 0.8]), (60, 80))
    assert [each.layer for each in found] == [0, 2, 1]
    assert np.array_equal(found[0].visible, found[0].amodal)
    assert np.array_equal(found[1].visible, layers.visible[(1, *found[1].window)])


def result() -> Frame:
    layers = discs()
    found = Segmentation(
        size=(60, 80), placed=placed_of(layers), scores=np.array([0.9, 0.8, 0.7], dtype=np.float32), classes=("cell",)
    )
    return Frame(np.full((60, 80, 3), 90, dtype=np.uint8), found)


def test_files_of_an_image(tmp_path: Path) -> None:
    frame = result()
    paths, objects, left_out = write_outputs([frame], tmp_path / "a.json", "a.png", info={"model": "m"})
    assert objects == [3]
    assert left_out == ()
    assert [path.name for path in paths] == [
        "a.cells.csv", "a.frames.csv", "a.overlay.png", "a.masks.tif", "a.rois.zip", "a.json",
    ]  # fmt: skip
    back = read_annotations(tmp_path / "a.json").scenes[0]
    assert np.array_equal(back.layers().amodal, frame.found.layers.amodal)
    assert np.array_equal(back.layers().visible, frame.found.layers.visible)
    assert back.layers().layer.tolist() == [1, 0, 2]
    written = json.loads((tmp_path / "a.json").read_text())
    assert np.array_equal(decode(written["images"][0]["occlusion"]), frame.found.layers.occlusion)
    assert np.array_equal(read_labels(tmp_path / "a.masks.tif").amodal, frame.found.layers.amodal)
    rows = list(csv.DictReader((tmp_path / "a.cells.csv").read_text().splitlines()))
    assert [float(row["centroid_x"]) for row in rows] == pytest.approx([25, 45, 60], abs=0.3)
    assert float(rows[0]["diameter_px"]) == pytest.approx(36, abs=0.5)
    assert [float(row["hidden"]) for row in rows] == pytest.approx(frame.found.layers.hidden_fraction().tolist(), abs=1e-4)
    (line,) = csv.DictReader((tmp_path / "a.frames.csv").read_text().splitlines())
    assert line["count"] == "3"
    assert float(line["symmetry"]) > 0.9


def test_files_of_a_stack_and_of_an_empty_image(tmp_path: Path) -> None:
    write_outputs([result(), result()], tmp_path / "s.json", "s.tif", count=2)
    written = json.loads((tmp_path / "s.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["s.tif#1", "s.tif#2"]
    assert [entry["id"] for entry in written["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert [entry["image_id"] for entry in written["annotations"]] == [1, 1, 1, 2, 2, 2]
    assert len(read_labels(tmp_path / "s.masks.tif").amodal) == 6
    with zipfile.ZipFile(tmp_path / "s.rois.zip") as archive:
        assert len(archive.namelist()) == 6
    with Image.open(tmp_path / "s.overlay.tif") as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    empty = Segmentation(size=(8, 9), placed=[], scores=np.zeros(0), classes=("cell",))
    paths = write_outputs([Frame(np.zeros((8, 9, 3), dtype=np.uint8), empty)], tmp_path / "e.json", "e.png").files
    assert [path.suffix for path in paths] == [".csv", ".csv", ".png", ".json"]
    assert read_annotations(tmp_path / "e.json").scenes[0].instances == ()


def test_a_frame_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        yield result()
        raise UnreadableInput("page 2 is damaged")

    with pytest.raises(UnreadableInput):
        write_outputs(frames(), tmp_path / "s.json", "s.tif", count=2)
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        frames = (result() for _ in range(count))
        tracemalloc.start()
        write_outputs(frames, tmp_path / f"{count}.json", "s.tif", count=count)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)  # imports
    frame = result()
    kept = frame.pixels.nbytes + frame.found.layers.amodal.nbytes + frame.found.layers.visible.nbytes
    assert peak(60) - peak(6) < 6 * kept  # 54 additional frames


def test_16_bit_images_are_stretched_in_python_as_on_the_command_line(segmenter: AmodalSegmenter, tmp_path: Path) -> None:
    values = image()[..., 0].astype(np.uint16) * 10 + 400
    Image.fromarray(values).save(tmp_path / "a.png")
    ((shown, expected),) = segmenter.segment_frames(tmp_path / "a.png", least_score=0.05)
    assert shown.max() == 255
    assert len(expected)
    deep = (values.astype(np.int16), values.astype(np.float32), Image.fromarray(values), Image.open(tmp_path / "a.png"))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), values, *deep):
        assert np.array_equal(segmenter.segment(source, least_score=0.05).layers.amodal, expected.layers.amodal)


def test_rois_are_read_by_roifile_and_fit_the_masks() -> None:
    import cv2
    from roifile import ImagejRoi

    frame = result()
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        add_rois(archive, frame, 1)
        add_rois(archive, frame, 2)
        read = [ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]
    assert [roi.position for roi in read] == [1, 1, 1, 2, 2, 2]
    for roi, mask in zip(read, frame.found.layers.amodal, strict=False):
        fine = np.zeros((600, 800), dtype=np.uint8)  # ten samples per pixel
        cv2.fillPoly(fine, [np.round(roi.coordinates() * 10).astype(np.int32)], 1)
        truth = mask.repeat(10, 0).repeat(10, 1)
        assert (fine.astype(bool) & truth).sum() / (fine.astype(bool) | truth).sum() > 0.98
    assert contour(Placed(0, 0, np.ones((1, 1), dtype=bool), np.ones((1, 1), dtype=bool))).mean(0) == pytest.approx([0.5, 0.5])


def test_eccentricity_is_that_of_scikit_image() -> None:
    from skimage.measure import regionprops

    for mask in (*discs().visible, np.ones((1, 9), dtype=bool)):
        (region,) = regionprops(mask.astype(np.uint8))
        assert eccentricity(*np.nonzero(mask)[::-1]) == pytest.approx(region.eccentricity, abs=1e-6)
    assert eccentricity(np.array([3]), np.array([4])) == 0


def test_overlay_draws_both_outlines_where_objects_overlap() -> None:
    frame = result()
    drawn = overlay(frame.pixels, frame.found.layers)
    inside_front = frame.found.layers.amodal[0] & frame.found.layers.visible[1]
    changed = (drawn != frame.pixels).any(2)
    assert (changed & inside_front).sum() > 5  # the dashed outline of the object behind
    assert changed.mean() < 0.3


def test_damaged_or_foreign_model_folders_are_refused(amodal_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing):
        load(tmp_path)
    found = load_model(amodal_folder)
    for name, changed in (("classes", ["a", "b"]), ("classes", "a"), ("sise", 64)):
        save_model(tmp_path / "other", {**found.config, "model": {**found.config["model"], name: changed}}, found.weights)
        with pytest.raises(ModelError, match="do not fit"):
            load(tmp_path / "other")
    save_model(tmp_path / "codec", {"system": "image_codec"}, {})
    with pytest.raises(ModelError, match="not of amodal"):
        load(tmp_path / "codec")


def test_evaluation_of_perfect_results_is_perfect() -> None:
    samples = Simulated("embryo").held_out("test", 3, 64)
    perfect = [
        Segmentation(size=(64, 64), placed=placed, scores=np.ones(len(placed)), classes=("cell",))
        for placed in (placed_of(sample.layers) for sample in samples)
    ]
    found = measured(1, zip(samples, perfect, strict=True))
    for name in ("AP", "AP50", "AP of visible parts", "mean IoU", "order accuracy", "count accuracy"):
        assert found.numbers[name] == pytest.approx(1), name
    assert found.numbers["mean area error"] == found.numbers["mean symmetry error"] == 0
    assert found.digest == digest(Simulated("embryo").held_out("test", 3, 64))


def test_evaluation_warns_of_differing_class_names(
    segmenter: AmodalSegmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = AmodalEvaluation(images=2, size=64)
    report = evaluate(segmenter, parse_sources(["simulated:opaque"]), options, tmp_path)
    assert (report.facts["images"], report.facts["data"]) == (2, "simulated:opaque")
    assert 0 <= report.facts["numbers"]["AP"] <= 1
    assert "AP50" in report.table()
    assert (tmp_path / "image-1.png").is_file()
    assert report.facts["compared_classes"] == {"model": ["cell"], "truth": ["shape"]}
    assert "'cell' is compared with 'shape'" in caplog.text
    with pytest.raises(UsageError):
        evaluate(segmenter, parse_sources(["simulated", "simulated:opaque"]), options, None)


def test_without_roifile_the_rois_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    written = write_outputs([result()], tmp_path / "a.json", "a.png")
    assert written.left_out == ("ROIs",)
    assert not (tmp_path / "a.rois.zip").exists()


IMPORT = "import sys, {module}; print(*sys.modules)"


def modules_after(module: str) -> set[str]:
    """The modules that are loaded after an import in a fresh process."""
    ended = subprocess.run([sys.executable, "-c", IMPORT.format(module=module)], capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


def test_the_segmenter_imports_neither_training_nor_simulators() -> None:
    names = modules_after("latens.systems.amodal.predict")
    assert "latens.systems.amodal.pipeline" in names
    unwanted = (
        "latens.training",
        "latens.systems.amodal.simulator",
        "latens.data.convert",
        "latens.data.annotations",
        "accelerate",
    )
    assert not [name for name in names if name.startswith(unwanted) or name == "latens.systems.amodal.dataset"]
