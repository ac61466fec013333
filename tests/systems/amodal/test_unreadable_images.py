"""Training data with a damaged image: every reader leaves it out with a warning, and none stops a run later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli.main import main
from latens.data.source import Source
from latens.systems.amodal.cells.fields import read_collection_fields, read_fields
from latens.systems.amodal.dataset import open_source

COUNT = 6
SQUARE = [[4, 4], [40, 4], [40, 40], [4, 40]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labelme and label maps of COUNT images, of which the third is cut and the fourth is missing or of another size."""
    folder = tmp_path_factory.mktemp("damaged")
    rng = np.random.default_rng(0)
    for kind in ("labelme", "labels"):
        (folder / kind).mkdir()
        for number in range(COUNT):
            path = folder / kind / f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
            if kind == "labelme":
                shape: dict[str, object] = {
                    "label": "cell",
                    "points": SQUARE,
                    "shape_type": "polygon",
                    "group_id": None,
                    "flags": {},
                }
                written = {"shapes": [shape], "imagePath": path.name, "imageHeight": 48, "imageWidth": 48}
                path.with_suffix(".json").write_text(json.dumps(written))
            else:
                labels = np.zeros((48, 48), np.uint8)
                labels[4:40, 4:40] = 1
                Image.fromarray(labels).save(folder / kind / f"{number}_masks.png")
        damaged = folder / kind / "2.png"
        damaged.write_bytes(damaged.read_bytes()[:3000])
        Image.new("RGB", (40, 30)).save(folder / kind / "3.png")
    return folder


@pytest.mark.parametrize("kind", ["labelme", "labels"])
def test_a_damaged_image_is_left_out(kind: str, folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_source(Source(kind, str(folders / kind)))
    rng = np.random.default_rng(1)
    drawn = [source.draw(rng, 48) for _ in range(40)]
    assert len({sample.image.tobytes() for sample in drawn}) > 2
    held_out = [sample for split in ("validation", "test", "all") for sample in source.held_out(split, COUNT, 48)]
    assert len(source.held_out("all", COUNT, 48)) == COUNT - 2
    assert held_out
    reported = [record.getMessage() for record in caplog.records if record.getMessage().startswith("left out")]
    assert sorted(Path(line.split(": ")[1]).name for line in reported) == ["2.png", "3.png"]


def test_the_reader_of_the_cells_leaves_it_out(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(read_collection_fields(f"labelme:{folders / 'labelme'}")) == COUNT - 2
    assert len(read_fields(folders / "labels")) == COUNT - 2
    assert caplog.text.count("left out") == 4


def test_an_evaluation_reports_what_it_leaves_out(folders: Path, tmp_path: Path) -> None:
    words = ["evaluate", "amodal", "--model", "embryo", "--data", f"labels:{folders / 'labels'}", "-o", str(tmp_path)]
    assert main([*words, "--device", "cpu"]) == 3
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"2.png", "3.png"} == {Path(line.partition(": ")[0]).name for line in report["failures"]}
