"""Records where versions, verbs and default models change: what was made before stays finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.recorded import coded, coded_clip, photo, pixels, state

from latens.cli.main import main
from latens.data.folders import note_request
from latens.data.records import RECORDS, Records, fingerprint

Capture = pytest.CaptureFixture[str]


def test_folders_of_earlier_versions_are_continued(tmp_path: Path, tiny_model: Path, capsys: Capture) -> None:
    """They hold made-with.json and no record; what is made now is recorded."""
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("ab"):
        photo(tmp_path / "in" / f"{name}.png", seed)
    out = tmp_path / "out"
    words = ["compress", str(tmp_path / "in"), "-o", str(out), "--model", str(tiny_model), "--quality"]
    assert main([*words, "1"]) == 0
    (entry,) = {json.dumps(line["request"]) for line in map(json.loads, filter(None, (out / RECORDS).read_text().split("\n")))}
    note_request(out, "compressing", json.loads(entry))
    (out / RECORDS).unlink()
    (out / "b.ltn").unlink()
    before = state(out)
    capsys.readouterr()
    assert main([*words, "1"]) == 0
    said = capsys.readouterr().err
    assert "a.ltn: skipped, an earlier version wrote it, and no record names its input" in said
    assert "1 done, 1 skipped" in said
    assert main([*words, "2"]) == 2
    assert "quality was 1.0 and is 2.0" in capsys.readouterr().err
    photo(tmp_path / "in" / "b.png", 7)
    assert main([*words, "1"]) == 3  # b is recorded
    assert {name: found for name, found in state(out).items() if name in before} == before
    assert main([*words[:1], str(tmp_path / "in" / "b.png"), *words[2:], "2", "--force"]) == 0
    assert main([*words, "1"]) == 2  # the record of b is its own
    assert "b.ltn: this result was made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["density", "in", "-o", "x.csv"],
        ["density", "--sample", "2", "-o", "x.png"],
        ["density", "pack", "in", "-o", "x.ltp"],
        ["convert", "labels:masks,components", "--to", "coco", "-o", "x.json"],
        ["compress", "in/a.png", "-o", "x.ltn"],
        ["dehaze", "in/a.png", "-o", "x.png"],
        ["haze", "in/a.png", "-o", "x.png"],
        ["segment", "in/a.png", "-o", "x.json"],
    ],
    ids=" ".join,
)
def test_a_named_output_is_refused(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "masks/images", "masks/labels"):
        Path(folder).mkdir(parents=True)
    for place in ("in", "masks/images"):
        photo(Path(place, "a.png"), 0)
    Image.fromarray(np.eye(40, 48, dtype=np.uint8) * 255).save("masks/labels/a.png")
    Path(words[-1]).write_text("mine")
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert Path(words[-1]).read_text() == "mine"


def test_verbs_do_not_take_the_results_of_each_other(tmp_path: Path, cell_model: Path, capsys: Capture) -> None:
    """In one folder, in every round all results stay next to their photograph."""
    Image.fromarray(pixels(0)).save(tmp_path / "a.jpg")
    np.save(tmp_path.parent / "depth.npy", np.full((40, 48), 50, dtype=np.float32))
    haze = ["haze", "--depth", str(tmp_path.parent / "depth.npy")]
    verbs = [["compress"], ["decompress"], ["dehaze", "--method", "dcp"], haze, ["segment", "--model", str(cell_model)]]
    for words in verbs:
        assert main([*words, str(tmp_path)]) == 0
    before = state(tmp_path)
    assert {"a.ltn", "a.png", "a.clear.png", "a.hazy.png", "a.json"} <= {Path(name).name for name in before}
    assert not [name for name in before if ".clear.hazy" in name or ".hazy.clear" in name]
    for words in verbs:
        assert main([*words, str(tmp_path)]) == 0
        assert state(tmp_path) == before
    assert main(["compress", str(tmp_path / "a.clear.png")]) == 0  # named alone
    assert (tmp_path / "a.clear.ltn").is_file()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_a_stop_between_depth_and_image_is_continued(
    stop: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png", 0)
    words = ["haze", str(tmp_path / "a.png"), "--save-depth", str(tmp_path / "depth"), "-o", f"{tmp_path}/out/"]
    with monkeypatch.context() as patch:
        patch.setattr("latens.cli.haze.save_image", lambda *_: (_ for _ in ()).throw(stop))
        assert main(words) != 0
    assert (tmp_path / "depth" / "a_depth256.png").is_file()
    assert not (tmp_path / "out" / "a.png").exists()
    assert main(words) == 0
    assert (tmp_path / "out" / "a.png").is_file()


@pytest.mark.parametrize(
    ("make", "name", "verb", "what", "settings"),
    [
        (coded, "a.ltn", ["decompress"], "decompressing", {"partial": False}),
        (coded_clip, "a.ltv", ["video", "decompress"], "decompressing clips", {}),
    ],
)
def test_decompressed_files_stay_finished_when_the_default_model_changes(
    make: Callable[[Path, int], None],
    name: str,
    verb: list[str],
    what: str,
    settings: dict[str, bool],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every file names its model, so that the default of the version that decompressed it changes nothing."""
    source = tmp_path / "in" / name
    source.parent.mkdir()
    make(source, 1)
    words = [*verb, str(source.parent), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    (result,) = (tmp_path / "out").glob("a.*")
    Records().finish("done", [result], what, source, fingerprint([source]), {"model": "1b0d5e8db3bc", **settings})
    capsys.readouterr()
    assert main(words) == 0
    assert f"{result.name}: skipped, finished" in capsys.readouterr().err


def test_another_request_of_decompress_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    coded(tmp_path / "in" / "a.ltn", 1)
    words = ["decompress", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    assert main([*words, "--model", "image_codec"]) == 0
    assert main([*words, "--partial"]) == 2
    assert "partial was" in capsys.readouterr().err
