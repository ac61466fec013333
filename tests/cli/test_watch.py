"""--watch: folders whose files are taken while the verb runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from latens.cli.main import main

Capture = pytest.CaptureFixture[str]
Steps = Callable[[list[Callable[[], object]]], None]


@pytest.fixture
def between_looks(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Sets what happens after each look at the watched folders; after the last, Ctrl-C."""

    def script(steps: list[Callable[[], object]]) -> None:
        remaining: Iterator[Callable[[], object]] = iter(steps)

        def sleep(seconds: float) -> None:
            step = next(remaining, None)
            if step is None:
                raise KeyboardInterrupt
            step()

        monkeypatch.setattr("latens.inference.watch.sleep", sleep)

    return script


def statuses(text: str) -> list[tuple[str, str]]:
    return [(Path(record["input"]).name, record["status"]) for record in map(json.loads, text.splitlines())]


def test_files_are_taken_when_they_come_and_again_when_they_change(
    album: Path, tiny_model: Path, capsys: Capture, between_looks: Steps
) -> None:
    out, other = album.parent / "out", album / "trip" / "b.jpg"
    words = [
        "compress",
        str(album),
        "-o",
        str(out),
        "--watch",
        "--settle",
        "0s",
        "--model",
        str(tiny_model),
        "--format",
        "json",
    ]
    between_looks(
        [
            lambda: shutil.copy(other, album / "new.jpg"),
            lambda: shutil.copy(album / "a.png", album / "c.jpg"),  # the broken one
            lambda: shutil.copy(other, album / "new.jpg.part"),
            lambda: shutil.copy(album / "a.png", album / "new.jpg"),
            lambda: (out / "a.ltn").write_bytes(b"edited by hand"),
            lambda: shutil.copy(other, album / "a.png"),
        ]
    )
    assert main(words) == 3
    shown = capsys.readouterr()
    first = [("a.png", "done"), ("c.jpg", "failed"), ("b.jpg", "done")]
    later = [("new.jpg", "done"), ("c.jpg", "done"), ("new.jpg", "done"), ("a.png", "failed")]
    assert statuses(shown.out) == first + later
    assert "stopped watching" in shown.err
    assert "5 done, 1 failed" in shown.err
    assert [json.loads(line)["input"] for line in (out / "failures.jsonl").open()] == [str(album / "a.png")]

    between_looks([])
    assert main(words) == 3  # a restart
    assert statuses(capsys.readouterr().out) == [
        ("a.png", "failed"),
        ("c.jpg", "skipped"),
        ("new.jpg", "skipped"),
        ("b.jpg", "skipped"),
    ]


def test_an_empty_folder_is_watched(
    tmp_path: Path, tiny_model: Path, album: Path, capsys: Capture, between_looks: Steps
) -> None:
    (tmp_path / "in").mkdir()
    between_looks([lambda: shutil.copy(album / "a.png", tmp_path / "in")])
    words = ["compress", f"{tmp_path}/in", "-o", f"{tmp_path}/out", "--watch", "--settle", "0s", "--model", str(tiny_model)]
    assert main(words) == 0
    assert "1 done" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["compress", "decompress", "dehaze", "haze", "segment", "parts", "grade", "density"])
def test_what_cannot_be_watched_is_refused(verb: str, album: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album)
    for words, message in (
        (["a.png", "-o", "../out", "--watch"], "only folders"),
        (["-", "-o", "../out", "--watch"], "only folders"),
        *([] if verb in ("parts", "grade") else [([".", "--watch"], "name a folder with -o")]),
        ([".", "--watch", "-o", "-"], "several results"),
        ([".", "--watch", "-o", "trip"], "the results would be in the watched folder"),
        ([".", "--watch", "-o", "."], "the results would be in the watched folder"),
        ([".", "--watch", "-o", "../out", "--settle", "soon"], "not a duration"),
        ([".", "--settle", "1s", "-o", "../out"], "add --watch"),
    ):
        assert main([verb, *words]) == 2
        assert message in capsys.readouterr().err
    option = {"haze": "--save-depth", "dehaze": "--save-maps", "segment": "--save-maps", "parts": "--save-maps"}.get(verb)
    if option is not None:
        assert main([verb, ".", "--watch", "-o", "../out", option, "trip"]) == 2
        assert f"{option} trip: the results would be in the watched folder" in capsys.readouterr().err


def test_new_photographs_join_the_tables(tmp_path: Path, capsys: Capture, between_looks: Steps) -> None:
    from PIL import Image

    from latens.systems.seedlings.simulator.photograph import photograph

    for day in (5, 6):
        Image.fromarray(photograph(1, 0, day).pixels).save(tmp_path / f"tray_day{day}.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken_day4.png").write_text("no image")
    between_looks([partial(shutil.move, tmp_path / f"tray_day{day}.png", tmp_path / "in") for day in (5, 6)])
    assert main(["grade", f"{tmp_path}/in", "-o", f"{tmp_path}/out", "--watch", "--settle", "0s"]) == 3
    assert "stopped watching: 3 photographs" in capsys.readouterr().err
    days = {line.split(",")[1] for line in (tmp_path / "out" / "plants.csv").read_text().splitlines()[1:]}
    assert days == {"5", "6"}


def test_the_summary_of_parts_is_written_at_the_end(album: Path, capsys: Capture, between_looks: Steps) -> None:
    (album / "c.jpg").unlink()
    out = album.parent / "out"
    words = ["parts", str(album), "-o", str(out), "--watch", "--settle", "0s", "--device", "cpu"]
    between_looks([lambda: shutil.copy(album / "a.png", album / "new.png")])
    assert main(words) == 0
    assert "3 done" in capsys.readouterr().err
    assert (out / "index.html").is_file()
    between_looks([lambda: shutil.copy(album / "a.png", album / "newer.png")])
    assert main(words) == 0
    assert "1 done, 3 skipped" in capsys.readouterr().err


def test_the_table_of_scores_grows_with_the_folder(album: Path, capsys: Capture, between_looks: Steps) -> None:
    (album / "c.jpg").unlink()
    out, seen = album.parent / "out", list[int]()
    words = ["density", str(album), "-o", str(out), "--watch", "--settle", "0s", "--draws", "1", "--device", "cpu"]
    between_looks(
        [
            lambda: seen.append(len((out / "scores.csv").read_text().splitlines())),
            lambda: shutil.copy(album / "a.png", album / "new.png"),
        ]
    )
    assert main(words) == 0
    assert "3 done" in capsys.readouterr().err
    assert seen == [3]
    assert [line.split(",")[0] for line in (out / "scores.csv").read_text().splitlines()] == [
        "file",
        "a.png",
        "new.png",
        "trip/b.jpg",
    ]
    between_looks([])
    assert main(words) == 0  # a restart
    assert "0 done, 3 skipped" in capsys.readouterr().err
    assert main([*words[:3], "scores.csv", "--watch"]) == 2
    assert "scores of a watched folder go into a folder" in capsys.readouterr().err
    assert main(["density", "--sample", "2", "-o", str(out), "--watch"]) == 2
