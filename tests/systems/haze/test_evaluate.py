"""Table 1 on simulated streets and on a folder: floors, ceilings, missing rows, and how it is trained anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.catalogue import MODELS
from latens.errors import InputError, UnreadableInput, UsageError
from latens.systems.haze import bench
from latens.systems.haze.config import LEARNED, HazeConfig
from latens.systems.haze.evaluate import DEHAZE, PAPER, SYNTHESIS, Protocol, evaluate, protocol_with, show
from latens.systems.haze.predict import Haze, load, network
from latens.systems.haze.reproduce import NAMES, ROWS, reproduce
from latens.systems.haze.scenes import Scene, find_scenes, load_scene
from latens.systems.haze.simulate import street

SMALL = Protocol(side=64, draws=2, simulated=2, reach=120)


@pytest.fixture(scope="module")
def haze() -> Haze:
    torch.manual_seed(0)
    config = HazeConfig(kind="physical", channels=8, work=64)
    return Haze({"physical": network(config)}, name="tiny", sha256="0" * 64, device=torch.device("cpu"))


def test_rows_floors_and_ceilings(haze: Haze, tmp_path: Path) -> None:
    report = evaluate(haze, None, tmp_path, protocol=SMALL)
    means = report.means()
    assert {method for task, method in means if task == DEHAZE} >= {"do nothing", "dcp", "bccr", "physical"}
    assert {method for task, method in means if task == SYNTHESIS} >= {"do nothing", "ramp for depth, mean haze", "physical"}
    assert means[DEHAZE, "do nothing"][0] == pytest.approx(means[SYNTHESIS, "do nothing"][0])
    assert means[DEHAZE, "true transmission and airlight"][0] > 40  # 8 bits are all that is lost
    assert means[DEHAZE, "true depth, mean haze"][0] > means[DEHAZE, "do nothing"][0]
    assert means[SYNTHESIS, "true depth, mean haze"][0] > means[SYNTHESIS, "ramp for depth, mean haze"][0]
    assert len(report.rows) == 2 * 2 * len(means)
    assert set(report.missing) == {kind for kind in LEARNED if not haze.has(kind)} == {"unit", "cyclegan"}
    text = report.table()
    assert "d / 120 m" in text
    assert "Without weights here" in text
    assert f"{PAPER['dcp'][3]:g}" in text
    saved = json.loads((tmp_path / "table1.json").read_text())
    assert len(saved["means"]) == len(means)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(report.rows)


def test_the_same_scene_has_the_same_weather(haze: Haze) -> None:
    made = street(0, (48, 64))
    scene = Scene("s", made.image, made.depth)
    first, again, other = (show(scene, 0, draw, SMALL) for draw in (0, 0, 1))
    assert torch.equal(first.hazy, again.hazy)
    assert not torch.equal(first.hazy, other.hazy)


def test_a_folder_with_a_bad_scene(haze: Haze, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("good", "bad"):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        depth = np.linspace(1, 200, 48)[:, None].repeat(64, 1) * (name == "good")
        Image.fromarray(depth.astype(np.uint8)).save(tmp_path / f"{name}_depth.png")
    report = evaluate(haze, tmp_path, None, protocol=Protocol(side=48, draws=1))
    assert {row.scene for row in report.rows} == {"good"}
    assert "empty" in report.failures[0]
    assert report.exit_status == 3
    with pytest.raises(UnreadableInput):
        evaluate(haze, tmp_path / "nothing", None)


def test_a_white_frame_is_cut_off(haze: Haze, tmp_path: Path) -> None:
    framed = np.full((60, 80, 3), 255, np.uint8)
    framed[6:-6, 6:-6] = 100
    Image.fromarray(framed).save(tmp_path / "a.png")
    Image.fromarray(np.linspace(1, 200, 60)[:, None].repeat(80, 1).astype(np.uint8)).save(tmp_path / "a_depth.png")
    settings = {"border": "6", "draws": "1"}
    report = evaluate(haze, tmp_path, None, protocol=protocol_with(settings, tmp_path))
    assert "6 pixels cut off" in report.setting()
    assert float(show(load_scene(find_scenes(tmp_path)[0], border=6), 0, 0, report.protocol).clear.max()) < 0.5
    with pytest.raises(InputError, match="border of 30"):
        evaluate(haze, tmp_path, None, protocol=protocol_with({"border": "30"}, tmp_path))
    for wrong in ({"draws": "0"}, {"border": "-1"}, {"borders": "1"}):
        with pytest.raises(UsageError):
            protocol_with(wrong, tmp_path)


def test_table_1_trains_what_is_missing_and_goes_on(tmp_path: Path) -> None:
    haze = load("haze", device="cpu")
    torch.manual_seed(0)
    haze.learned["dehazenet"] = network(HazeConfig(kind="dehazenet")).eval()
    lines: list[str] = []
    settings = {"steps": "2", "side": "48"}
    found = reproduce("table1", haze, None, tmp_path, recipe="tiny", settings=settings, progress=lines.append)
    missing = [row for row in ROWS if row != "dehazenet" and f"haze_{row}" not in MODELS]
    assert sum("training" in line for line in lines) == len(missing) >= 2
    again = Haze(dict(list(haze.learned.items())[:1]), name="haze", sha256="none", device=haze.device)
    reproduce("table1", again, None, tmp_path, recipe="tiny", settings=settings, progress=(later := []).append)
    assert not any("training" in line for line in later)
    shown = found.table()
    assert all(f"\n{method} " in shown for method in ("unit", "cyclegan", "mmd", "physical", "dehazenet"))
    assert "27.3772" in shown
    assert json.loads((tmp_path / "table1.json").read_text())["scale"]["steps"] == 2
    assert (tmp_path / "table1.html").is_file()


def test_unknown_tables_are_refused(haze: Haze, tmp_path: Path) -> None:
    assert NAMES == ("table1", "ablation")
    with pytest.raises(UsageError, match="table1, ablation"):
        reproduce("table2", haze, None, tmp_path)
    with pytest.raises(UsageError, match="desk"):
        reproduce("table1", haze, None, tmp_path, recipe="huge")


def test_every_method_is_timed(haze: Haze) -> None:
    report = bench.run(haze, repeats=1, sizes=((64, 48),))
    assert [timing.method for timing in report.timings] == ["dcp", "bccr", *(kind for kind in LEARNED if haze.has(kind))]
    assert all(0 < timing.best <= timing.wall for timing in report.timings)
    assert "64 x 48" in report.table()
    assert json.loads(json.dumps(report.to_dict()))["repeats"] == 1
    with pytest.raises(UsageError):
        bench.run(haze, repeats=0)
