"""Average precision against pycocotools on random cases; other metrics against hand-computed values."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace

import numpy as np
import pytest

from latens.data.instances import Layers, Scene, paint, scene_of
from latens.errors import InputError
from latens.metrics.instances import (
    DEGREES,
    ImageScores,
    Quality,
    average_precision,
    coco_tables,
    diameter,
    mask_iou,
    match,
    score_image,
    summarize,
    symmetry,
)

SIZE = 24


def random_case(rng: np.random.Generator, classes: int) -> tuple[list[Scene], list[Scene]]:
    """A few small images: true boxes, and shifted, missing and spurious results with tied scores."""
    truth, found = [], []
    for _ in range(rng.integers(1, 4)):
        true: list[tuple[int, ...]] = []
        seen: list[tuple[int, ...]] = []
        for _ in range(rng.integers(0, 5)):
            y, x = rng.integers(0, 14, 2).tolist()
            h, w = rng.integers(3, 10, 2).tolist()
            true.append((y, x, h, w, int(rng.integers(classes))))
            for _ in range(rng.integers(0, 3)):
                dy, dx = rng.integers(-1, 2, 2).tolist()
                seen.append((max(y + dy, 0), max(x + dx, 0), h, w, true[-1][4] if rng.random() < 0.9 else 0))
        for _ in range(rng.integers(0, 3)):
            seen.append((*rng.integers(0, 14, 2).tolist(), *rng.integers(2, 10, 2).tolist(), int(rng.integers(classes))))
        scores = rng.integers(1, 8, len(seen)) / 8
        truth.append(scene_of(boxes(true, rng)))
        found.append(scene_of(boxes(seen, rng), scores=scores.tolist()))
    return truth, found


def boxes(entries: list[tuple[int, ...]], rng: np.random.Generator) -> Layers:
    masks = np.zeros((len(entries), SIZE, SIZE), dtype=bool)
    for mask, (y, x, h, w, _) in zip(masks, entries, strict=True):
        mask[y : y + h, x : x + w] = True
    return paint(masks, rng.permutation(len(entries)), np.array([entry[4] for entry in entries], dtype=np.int64))


def pycocotools_precision(truth: list[Scene], found: list[Scene], classes: int, part: str) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset, results = coco_tables(truth, found, classes, part)  # type: ignore[arg-type]
    with contextlib.redirect_stdout(io.StringIO()):
        table = COCO()
        table.dataset = {**dataset, "info": {}}
        table.createIndex()
        loaded = table.loadRes(results) if results else COCO()
        evaluation = COCOeval(table, loaded, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][:, :, :, 0, 2])


def mean(values: np.ndarray) -> float:
    return float(values[values > -1].mean()) if (values > -1).any() else math.nan


@pytest.mark.filterwarnings("ignore")
def test_average_precision_equals_pycocotools_on_a_thousand_cases() -> None:
    rng = np.random.default_rng(0)
    cases = 0
    while cases < 1000:
        classes = int(rng.integers(1, 4))
        truth, found = random_case(rng, classes)
        if not any(scene.instances for scene in found):
            continue  # pycocotools cannot load an empty list of results
        part = "amodal" if cases % 2 else "visible"
        expected = pycocotools_precision(truth, found, classes, part)
        ours = average_precision(truth, found, classes, part=part)  # type: ignore[arg-type]
        # The mean of the same values in another memory order may differ in the last bit.
        np.testing.assert_allclose([*ours], [mean(expected), mean(expected[:1]), mean(expected[5:6])], rtol=1e-14)
        cases += 1


def layers(*masks: tuple[slice, slice]) -> Layers:
    """Boxes, the first in front."""
    stack = np.zeros((len(masks), SIZE, SIZE), dtype=bool)
    for mask, place in zip(stack, masks, strict=True):
        mask[place] = True
    return paint(stack, np.arange(len(masks)))


FRONT, BEHIND, APART = (slice(0, 10), slice(0, 10)), (slice(0, 10), slice(4, 14)), (slice(14, 24), slice(0, 10))


def test_degrees_ignore_other_objects_and_keep_false_alarms() -> None:
    truth = [scene_of(layers(FRONT, BEHIND, APART))]  # BEHIND is hidden by 60 %
    nothing_behind = [scene_of(layers(FRONT, APART), scores=[0.9, 0.8])]
    assert average_precision(truth, nothing_behind, 1, degree=DEGREES["free"]).ap == 1
    assert average_precision(truth, nothing_behind, 1, degree=DEGREES["mostly hidden"]).ap == 0
    assert math.isnan(average_precision(truth, nothing_behind, 1, degree=DEGREES["partly hidden"]).ap)
    # A false alarm with the highest score halves the precision in every degree.
    alarm = (slice(14, 24), slice(12, 24))
    with_alarm = [scene_of(layers(FRONT, BEHIND, APART, alarm), scores=[0.9, 0.8, 0.8, 0.95])]
    assert average_precision(truth, with_alarm, 1, degree=DEGREES["mostly hidden"]).ap == pytest.approx(0.5)
    assert average_precision(truth, with_alarm, 1, degree=DEGREES["free"]).ap < 1


def test_no_detections_score_zero_and_mismatches_are_refused() -> None:
    truth = [scene_of(layers(FRONT))]
    empty = [Scene(file="", height=SIZE, width=SIZE)]
    assert average_precision(truth, empty, 1).ap == 0
    with pytest.raises(InputError, match="0 results"):
        average_precision(truth, [], 1)
    with pytest.raises(InputError, match="size"):
        average_precision(truth, [Scene(file="", height=5, width=5)], 1)
    with pytest.raises(InputError, match="class"):
        average_precision([scene_of(layers(FRONT)._replace(category=np.array([1])))], empty, 1)


def test_scores_of_an_image() -> None:
    truth = layers(FRONT, BEHIND, APART)
    shorter = (slice(0, 10), slice(4, 12))  # BEHIND, two columns short
    found = layers(shorter, FRONT)  # and in front of what hides it
    scores = score_image(truth, found)
    assert scores.iou_full == pytest.approx([1, 0.8, 0])
    # Hidden part of BEHIND: columns 4..10. Found outside its visible part (10..14): columns 4..10.
    assert scores.iou_hidden == pytest.approx([1.0])
    assert (scores.order_right, scores.order_pairs) == (0, 1)
    assert scores.count_error == -1
    assert sorted(scores.area_errors) == pytest.approx([0, 0.2])
    assert scores.symmetry_error == pytest.approx(1 - math.sqrt(0.8))
    perfect = summarize([score_image(truth, truth)])
    assert list(perfect.values()) == pytest.approx([1, 1, 1, 1, 0, 0])


def test_matching_symmetry_and_quality() -> None:
    assert match(np.array([[0.9, 0.8], [0.85, 0.1]])) == [(0, 0)]
    assert match(np.zeros((0, 3))) == []
    assert symmetry([int(layers(FRONT).amodal.sum())]) is None
    assert symmetry([int(mask.sum()) for mask in layers(FRONT, (slice(0, 5), slice(0, 5))).amodal]) == pytest.approx(0.5)
    truth = layers(FRONT, APART).amodal
    assert mask_iou(truth, truth).tolist() == [[1, 0], [0, 1]]
    assert Quality().value == 1
    # One match of IoU 1, one miss: 1 / (1 + 1/2).
    assert Quality().plus(truth, layers(FRONT).amodal).value == pytest.approx(2 / 3)


def test_messages_say_which_image() -> None:
    truth = [scene_of(layers(FRONT)), scene_of(layers(FRONT))]
    small = Scene(file="", height=5, width=5)
    with pytest.raises(InputError) as caught:
        average_precision(truth, [truth[0]], 1)
    assert str(caught.value) == "1 results for 2 images"
    for scene, where in ((truth[1], "image 2"), (replace(truth[1], file="b.png"), "b.png")):
        with pytest.raises(InputError) as caught:
            average_precision([truth[0], scene], [truth[0], small], 1)
        assert str(caught.value) == f"{where}: the result has another size than its image"
    with pytest.raises(InputError) as caught:
        average_precision([scene_of(layers(FRONT)._replace(category=np.array([3])))], [truth[0]], 2)
    assert str(caught.value) == "an object has class 3, but there are 2 classes"


def test_the_tables_of_coco() -> None:
    """Ids from 1, the box as x, y, width and height, and the hidden fraction of the truth; empty parts are left out."""
    two = layers(FRONT, BEHIND)
    two.visible[0] = False  # fully hidden
    truth = replace(scene_of(two._replace(category=np.array([1, 0]))), file="a.png")
    found = scene_of(layers(BEHIND), scores=[0.25])
    data, results = coco_tables([truth], [found], 2, "amodal")
    assert data["images"] == [{"id": 1, "height": SIZE, "width": SIZE, "file_name": "a.png"}]
    assert data["categories"] == [{"id": 1, "name": "0"}, {"id": 2, "name": "1"}]
    (first, second) = data["annotations"]
    area = int(two.amodal[0].sum())
    rows, columns = np.flatnonzero(two.amodal[0].any(1)), np.flatnonzero(two.amodal[0].any(0))
    assert [first[name] for name in ("image_id", "category_id", "id", "iscrowd", "area", "hidden_fraction")] == [
        1,
        2,
        1,
        0,
        area,
        1,
    ]
    assert first["bbox"] == [columns[0], rows[0], len(columns), len(rows)]
    assert second["id"] == 2
    assert [(result["score"], result["category_id"], result["image_id"]) for result in results] == [(0.25, 1, 1)]
    (only,) = coco_tables([truth], [found], 2, "visible")[0]["annotations"]
    assert (only["id"], only["category_id"], only["area"]) == (1, 1, int(two.visible[1].sum()))


def test_summaries_by_hand() -> None:
    """Means over objects, pairs and images; NaN where nothing is counted."""
    first = ImageScores([1.0, 0.5], [0.25], 1, 2, 0, [0.1], 0.2)
    second = ImageScores([0.0], [], 1, 1, -1, [0.3, 0.5], None)
    assert summarize([first, second]) == pytest.approx({
        "mean IoU": 0.5, "mean IoU of hidden parts": 0.25, "order accuracy": 2 / 3, "count accuracy": 0.5,
        "mean area error": 0.3, "mean symmetry error": 0.2,
    })  # fmt: skip
    assert all(math.isnan(value) for value in summarize([]).values())
    total = Quality(0.5, 1, 2, 3).plus(layers(FRONT, APART).amodal, layers(FRONT).amodal)
    assert total == Quality(1.5, 2, 3, 3)
    assert total.value == pytest.approx(1.5 / (2 + 3))
    assert match(np.array([[0.5, 0.4], [0.6, 0.49]])) == [(1, 0)]
    assert match(np.array([[0.3, 0.4], [0.6, 0.49]]), 0.35) == [(1, 0), (0, 1)]
    assert diameter(math.pi) == pytest.approx(2)
    assert symmetry([4.0, 9.0, 16.0]) == pytest.approx(0.5)
    assert symmetry([0.0, 0.0]) is None
