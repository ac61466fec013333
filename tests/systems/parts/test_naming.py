"""Names by example: fits, label maps, files, and the reading of marked images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latens.errors import InputError, LatensError, ModelError, UnreadableInput, UsageError
from latens.systems.parts.naming.examples import LABELS, read_examples, read_names
from latens.systems.parts.naming.namer import Marked, cluster, load_namer, logistic_regression, marked_shares, teach
from latens.systems.parts.naming.outputs import collection_of, label_png, measure, npz_bytes, outlying, read_entry
from latens.systems.parts.predict import Parts, load

SIZE = (192, 256)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load(device="cpu")


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright noise above a dark striped field, at another height for every seed; labels 1 and 2."""
    rng = np.random.default_rng(seed)
    horizon = int(rng.integers(60, 140))
    pixels = rng.integers(170, 230, (*SIZE, 3)).astype(np.uint8)
    stripes = ((np.arange(SIZE[1]) // 6 % 2) * 60 + 20).astype(np.uint8)
    pixels[horizon:] = stripes[None, :, None]
    labels = np.where(np.arange(SIZE[0])[:, None] < horizon, 1, 2) * np.ones(SIZE, int)
    return pixels, labels.astype(np.uint8)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> list[Marked]:
    folder = tmp_path_factory.mktemp("marked")
    found = []
    for seed in range(2):
        pixels, labels = scene(seed)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
        found.append(Marked(folder / f"{seed}.png", labels))
    return found


def test_other_images_get_the_names_of_examples(parts: Parts, marked: list[Marked]) -> None:
    namer = teach(parts, marked, ["bright", "striped"])
    for seed in (7, 8):
        pixels, labels = scene(seed)
        found = namer(pixels)
        assert found.labels.shape == SIZE
        assert (found.labels == labels).mean() > 0.97
        assert found.probability.sum(0) == pytest.approx(1, abs=1e-5)
        assert 0.5 < found.certainty <= 1
    assert (namer(scene(9)[0], sure=0.99).labels == 0).any()  # at the border


def test_a_few_strokes_are_enough(parts: Parts, marked: list[Marked]) -> None:
    sparse = np.zeros(SIZE, np.uint8)
    sparse[10:20], sparse[-20:-10] = 1, 2
    pixels, labels = scene(5)
    found = teach(parts, [Marked(marked[0].path, sparse)], ["bright", "striped"])(pixels)
    assert (found.labels == labels).mean() > 0.95


def test_names_are_saved_edited_and_merged(parts: Parts, marked: list[Marked], tmp_path: Path) -> None:
    namer = cluster(parts, [one.path for one in marked], 4)
    namer.save(tmp_path / "names")
    again = load_namer(tmp_path / "names", parts)
    pixels, _ = scene(3)
    assert np.array_equal(again(pixels).labels, namer(pixels).labels)
    assert again.fingerprint() == namer.fingerprint()
    config = json.loads((tmp_path / "names" / "config.json").read_text())
    config["names"] = ["a", "b", "a", "b"]
    (tmp_path / "names" / "config.json").write_text(json.dumps(config))
    merged = load_namer(tmp_path / "names", parts)
    assert merged.distinct == ("a", "b")
    assert merged(pixels).probability.shape[0] == 2
    assert merged.fingerprint() != namer.fingerprint()
    for names in (["a"], ["a", "b", "c", ""], ["a", "b", "c", 4]):
        (tmp_path / "names" / "config.json").write_text(json.dumps(config | {"names": names}))
        with pytest.raises(UsageError, match="must list 4 names"):
            load_namer(tmp_path / "names", parts)


def test_names_belong_to_their_model(parts: Parts, marked: list[Marked], tmp_path: Path) -> None:
    teach(parts, marked, ["a", "b"]).save(tmp_path)
    other = Parts(parts.model, name="other", sha256="0" * 64, device=parts.device)
    with pytest.raises(ModelError, match="belong to another model"):
        load_namer(tmp_path, other)


def test_what_cannot_be_taught_is_refused(parts: Parts, marked: list[Marked]) -> None:
    with pytest.raises(UsageError, match="between 2 and 254"):
        teach(parts, marked, ["all"])
    with pytest.raises(InputError, match="no pixel is marked as ghost"):
        teach(parts, marked, ["bright", "striped", "ghost"])
    with pytest.raises(UsageError, match="1 clusters"):
        cluster(parts, [marked[0].path], 1)


def test_logistic_regression_finds_the_minimum() -> None:
    """At the minimum the gradient vanishes: for one feature, the mean residual times the feature is penalty * weight."""
    torch.manual_seed(0)
    x = torch.randn(400, 1)
    y = torch.nn.functional.one_hot((x[:, 0] + torch.randn(400) > 0).long(), 2).float()
    weight, bias = logistic_regression(x, y, 0.1)
    residual = (x @ weight + bias).softmax(1) - y
    assert residual.mean(0) == pytest.approx([0, 0], abs=2e-3)
    assert (x * residual).mean(0) + 0.1 * weight[0] == pytest.approx([0, 0], abs=2e-3)


def test_shares_of_cells_count_marked_pixels_only() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[:8, :4], labels[8:] = 1, 2
    shares = marked_shares(labels, 2, (2, 2))
    assert shares[0].tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert shares[1].tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_tables_and_exports_hold_the_label_map(parts: Parts, marked: list[Marked], tmp_path: Path) -> None:
    namer = teach(parts, marked, ["bright", "striped"])
    found = namer(marked[0].path)
    entry = measure(found, found.mean, 2)
    assert entry.pixels.sum() == SIZE[0] * SIZE[1]
    assert entry.pieces.tolist() == [1, 1]
    (tmp_path / "a.npz").write_bytes(npz_bytes(found, entry, namer.distinct))
    again = read_entry(tmp_path / "a.npz")
    assert np.array_equal(again.shares, entry.shares)
    assert again.certainty == entry.certainty
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(UnreadableInput):
        read_entry(tmp_path / "a.npz")
    (tmp_path / "a_labels.png").write_bytes(label_png(found.labels, 2))
    with Image.open(tmp_path / "a_labels.png") as stored:
        assert stored.mode == "P"
        assert np.array_equal(np.asarray(stored), found.labels)
    (only,) = collection_of({"a.png": tmp_path / "a_labels.png"}, namer.distinct, tmp_path).scenes
    assert [instance.area for instance in only.instances] == entry.pixels.tolist()


def test_an_image_unlike_the_others_is_an_outlier(parts: Parts, marked: list[Marked]) -> None:
    namer = teach(parts, marked, ["bright", "striped"])
    images = {f"{seed}": scene(seed)[0] for seed in range(8)}
    images["odd"] = np.zeros((*SIZE, 3), np.uint8)
    found = {name: namer(pixels) for name, pixels in images.items()}
    distance, outliers = outlying({name: measure(one, one.mean, 2) for name, one in found.items()})
    assert outliers == {"odd"}
    assert max(distance, key=lambda name: distance[name]) == "odd"


# ----------------------------------------------------------------------------------------------------------- examples


def write_labelme(folder: Path, name: str, shapes: list[dict[str, Any]]) -> None:
    Image.fromarray(scene(0)[0]).save(folder / f"{name}.png")
    document = {"imagePath": f"{name}.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1], "shapes": shapes}
    (folder / f"{name}.json").write_text(json.dumps({"version": "5.5.0", "flags": {}, "imageData": None, **document}))


def test_areas_and_strokes_of_labelme(tmp_path: Path) -> None:
    area: dict[str, Any] = {"label": "sky", "shape_type": "rectangle", "points": [[0, 0], [256, 40]]}
    line: dict[str, Any] = {"label": "field", "shape_type": "linestrip", "points": [[10, 150], [200, 150], [240, 180]]}
    write_labelme(tmp_path, "a", [area, line])
    examples = read_examples(tmp_path)
    assert examples.names == ("field", "sky")
    (one,) = examples.marked
    assert one.path == tmp_path / "a.png"
    assert (one.labels[:40] == 2).all()
    assert one.labels[150, 100] == 1
    assert 190 * 2 < (one.labels == 1).sum() < 260 * 5
    assert one.labels[100, 100] == 0


def test_label_maps_with_and_without_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels, labels = scene(0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(labels * 3).save(tmp_path / "a_label.png")
    examples = read_examples(tmp_path)
    assert examples.names == ("3", "6")
    assert "labels.txt" in caplog.text
    assert np.array_equal(examples.marked[0].labels, labels)
    (tmp_path / LABELS).write_text("# a comment\n3 sky\n6: field of corn\n9 nothing\n")
    named = read_examples(tmp_path)
    assert named.names == ("sky", "field of corn")
    assert "in no label map: nothing" in caplog.text
    (tmp_path / LABELS).unlink()
    Image.fromarray(np.arange(pixels[..., 0].size, dtype=np.uint16).reshape(labels.shape) // 8).save(tmp_path / "a_label.png")
    with pytest.raises(InputError, match="at most 254"):  # a number for every object
        read_examples(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("sky\ntree\n", {1: "sky", 2: "tree"}), ("0 sky\n7 car\n", {0: "sky", 7: "car"}), ("2,oak tree", {2: "oak tree"})],
)
def test_names_of_values(text: str, expected: dict[int, str], tmp_path: Path) -> None:
    (tmp_path / LABELS).write_text(text)
    assert read_names(tmp_path / LABELS) == expected


def test_unusable_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="not a folder"):
        read_examples(tmp_path / "missing")
    with pytest.raises(UnreadableInput, match="no marked images"):
        read_examples(tmp_path)
    (tmp_path / LABELS).write_text("1 a\n1 b\n")
    with pytest.raises(InputError, match="named twice"):
        read_names(tmp_path / LABELS)
    pixels, _ = scene(0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a_label.png")  # colors instead of values
    (tmp_path / LABELS).unlink()
    with pytest.raises(LatensError, match="one channel"):
        read_examples(tmp_path)
    write_labelme(tmp_path, "b", [{"label": "x", "points": [[0, 0], [9, 0], [9, 9]]}])
    with pytest.raises(InputError, match="only one kind"):
        read_examples(tmp_path)
