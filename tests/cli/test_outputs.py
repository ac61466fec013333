"""Output folders of the verbs: unwritable folders and results of another model or other options are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from latens.catalogue import SYSTEMS
from latens.cli.main import main
from latens.contract import open_system

Capture = pytest.CaptureFixture[str]

VERBS = [
    *(["train", system, "--recipe", "tiny"] for system in SYSTEMS),
    *(["evaluate", system] for system in SYSTEMS),
    *(["reproduce", system] for system in SYSTEMS),
    ["demo"],
    ["int8", "haze_dehazenet"],
    ["import", "x.pth"],
    ["convert", "labelme:labels", "--to", "coco"],
    *([verb, "a.png", "a.png"] for verb in ("parts", "segment", "dehaze", "haze", "compress", "decompress")),
    ["video", "compress", "a.mp4", "a.mp4"],
]


@pytest.mark.parametrize("place", ["file/x/", "/proc/x/"])
@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_unwritable_outputs_are_refused_before_any_work(
    words: list[str], place: str, album: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album)
    (album / "file").write_text("no folder")
    (album / "labels").mkdir()
    (album / "x.pth").touch()
    (album / "a.mp4").touch()
    before = sorted(album.rglob("*"))
    target = f"{place}a.json" if "convert" in words else place
    assert main([*words, "-o", target]) in ((2, 3) if "convert" in words else (2,))
    shown = capsys.readouterr().err
    assert "internal error" not in shown
    assert "convert" in words or "cannot be written" in shown
    assert sorted(album.rglob("*")) == before


@pytest.mark.parametrize("words", [words for words in VERBS if "convert" not in words], ids=" ".join)
def test_a_folder_does_not_get_the_name_of_a_file(
    words: list[str], album: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-o out.png` for several images made a folder of this name."""
    monkeypatch.chdir(album)
    (album / "x.pth").touch()
    (album / "a.mp4").touch()
    (album / "b.mp4").touch()
    before = sorted(album.rglob("*"))
    others = {"a.png": "b.png", "a.mp4": "b.mp4"} if "a.png" in words or "a.mp4" in words else {}
    named = [*words[:-1], others.get(words[-1], words[-1])]
    for ending in ("png", "json", "mp4", "zip"):
        assert main([*named, "-o", f"out.{ending}"]) == 2
        assert "the name of a file" in capsys.readouterr().err
    assert sorted(album.rglob("*")) == before


SECOND = [  # a command, its output, and a folder for its second output that is a file, is named as one, or gets the output
    *((words, out, second)
      for words, out in ((["segment", "a.png", "--save-maps"], "x.json"), (["dehaze", "a.png", "--save-maps"], "x.png"),
                         (["haze", "a.png", "--visibility", "99", "--save-depth"], "x.png"),
                         (["video", "compress", "a.mp4", "--roi", "box:0,0,9,9", "--save-masks"], "x.mp4"))
      for second in (out, f"{out}/maps", f"link/{out}", "new.tif", "b.png")),
    *((["parts", "a.png", "--save-maps"], "x", second) for second in ("new.tif", "b.png")),
    (["dehaze", "a.png", "--save-maps"], "a_maps65535.tif", "."),
    (["haze", "a.png", "--visibility", "99", "--save-depth"], "a_depth256.png", "."),
]  # fmt: skip


@pytest.mark.parametrize(("words", "out", "second"), SECOND, ids=lambda one: one if isinstance(one, str) else one[0])
def test_two_outputs_of_a_command_do_not_share_a_path(
    words: list[str], out: str, second: str, album: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album)
    (album / "a.mp4").touch()
    (album / "link").symlink_to(album)
    before = sorted(album.rglob("*"))
    assert main([*words, second, "-o", out]) == 2
    shown = capsys.readouterr().err
    assert f"latens: {words[-1]} {second}: " in shown
    assert "appeared" not in shown
    assert sorted(album.rglob("*")) == before


def test_an_archive_does_not_get_the_name_of_another_format(album: Path, capsys: Capture) -> None:
    assert main(["density", "pack", str(album), "-o", str(album / "all.zip")]) == 2
    assert "as images.ltp" in capsys.readouterr().err


def test_results_of_two_requests_do_not_mix(album: Path, tiny_model: Path, capsys: Capture) -> None:
    (album / "c.jpg").unlink()
    out = album.parent / "small"
    command = ["compress", str(album), "-o", str(out), "--model", str(tiny_model), "--device", "cpu"]
    assert main([*command, "--quality", "1"]) == 0
    (out / "a.ltn").unlink()
    capsys.readouterr()
    assert main([*command, "--quality", "2"]) == 2
    assert "quality was 1.0 and is 2.0" in capsys.readouterr().err
    assert not (out / "a.ltn").exists()
    assert main([*command, "--quality", "1"]) == 0
    assert main([*command, "--quality", "2", "--force"]) == 0
    assert main([*command, "--quality", "2"]) == 0


def test_a_report_is_not_replaced_by_that_of_another_request(album: Path, tiny_model: Path, capsys: Capture) -> None:
    (album / "c.jpg").unlink()
    out = album.parent / "report"
    words = ["evaluate", "image_codec", "--model", str(tiny_model), "--data", str(album), "-o", str(out), "--device", "cpu"]
    fewer = [*words, "--set", "baselines=JPEG"]
    assert main(words) == 0
    before = (out / "evaluation.json").read_bytes()
    assert main(words) == 0
    assert main(fewer) == 2
    assert "options.baselines differ by WebP" in capsys.readouterr().err
    assert (out / "evaluation.json").read_bytes() == before
    assert main([*fewer, "--force"]) == 0
    assert (out / "evaluation.json").read_bytes() != before


@pytest.mark.parametrize("system", SYSTEMS)
def test_files_of_the_user_are_not_replaced_by_a_report(system: str, tmp_path: Path, capsys: Capture) -> None:
    evaluation = open_system(system).evaluation
    name = evaluation.name
    files = [f"{name}.html", f"{name}.json", f"{name}-rows.jsonl", f"{name}.png", f"{name}-2.png", "made-with.json"]
    files += [pattern.replace("*", "1") for pattern in evaluation.files]
    for file in files:
        out = tmp_path / file
        out.mkdir()
        (out / file).write_text("mine")
        assert main(["evaluate", system, "-o", str(out)]) == 2
        assert "--force" in capsys.readouterr().err
        assert [(path.name, path.read_text()) for path in out.iterdir()] == [(file, "mine")]


@pytest.mark.parametrize("name", ["index.html", "haze/mine.png", "made-with.json"])
def test_files_of_the_user_are_not_replaced_by_the_demo(name: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert main(["demo", "-o", str(tmp_path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["mine"]


def test_a_reproduction_does_not_write_into_a_journal_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("{}")
    assert main(["reproduce", "amodal/table3", "--recipe", "tiny", "-o", str(tmp_path)]) == 2
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("journal.jsonl", "{}")]


def test_an_evaluation_that_fails_binds_no_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_text("no image")
    for out in (tmp_path / "new", tmp_path / "old"):
        if out.name == "old":
            out.mkdir()
        assert main(["evaluate", "image_codec", "--data", str(tmp_path / "data"), "-o", str(out)]) != 0
        assert not (out / "made-with.json").exists()


def test_a_failed_reproduction_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "tables"
    assert main(["reproduce", "parts/table1", "-o", str(out)]) == 2
    assert not out.exists()
