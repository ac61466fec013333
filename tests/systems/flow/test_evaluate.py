"""A repeated evaluation: of the same images from its record, of others anew, with the files that are left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from latens.data.notes import collecting_left_out
from latens.data.source import Source
from latens.experiments.report import Report
from latens.systems.flow.evaluate import FlowEvaluation, evaluate
from latens.systems.flow.predict import DensityModel

from .conftest import image


def test_changed_images_are_measured_again_and_unreadable_ones_are_reported(
    images: DensityModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for number in range(3):
        Image.fromarray(image(number, 8)).save(data / f"{number}.png")
    (data / "damaged.png").write_bytes((data / "0.png").read_bytes()[:60])

    def measured() -> Report:
        with collecting_left_out() as lines:
            return evaluate(images, [Source("", str(data))], FlowEvaluation(), out).with_failures(lines)

    first = measured()
    assert first.exit_status == 3
    assert [line.partition(": ")[0] for line in first.failures] == [str(data / "damaged.png")]
    with monkeypatch.context() as patched:
        patched.setattr(DensityModel, "scores", None)  # the record answers
        again = measured()
    assert again.to_dict() == json.loads(json.dumps(first.to_dict()))
    Image.fromarray(image(7, 8)).save(data / "1.png")
    assert measured().facts["measured"]["rows"] != first.facts["measured"]["rows"]
