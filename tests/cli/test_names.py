"""Names of files: bytes that are not UTF-8, control characters, 251 bytes, pipes and closed streams, over the verbs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latens
from latens.cli.common import OutputOptions, Reporter
from latens.cli.main import main
from latens.data.files import MAX_NAME, fitting_name, write_atomic, writing
from latens.data.inputs import find_inputs
from latens.data.output_paths import plan_outputs
from latens.data.splits import place_of
from latens.errors import InputError, one_line, printable
from latens.inference.page import Page, Section

Capture = pytest.CaptureFixture[str]

RAW = os.fsdecode(b"caf\xe9 \x1b[31m\n.png")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    return kept | {"PYTHONIOENCODING": "utf-8:strict", "OMP_NUM_THREADS": "1"} | more


def command(*words: str | bytes, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "latens", *words], capture_output=True, env=environment(), **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images; the name of one has a byte that is not UTF-8, an escape sequence and a line end."""
    place = tmp_path / "images"
    place.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    for name in (RAW, "b.png"):
        Image.fromarray(pixels).save(place / "new.png")
        (place / "new.png").rename(place / name)
    return place


def test_text_for_terminals_is_escaped() -> None:
    assert printable("a\x1b[2J\udcff\u202e\n\tä") == "a\\x1b[2J\\xff\\u202e\n\tä"
    assert one_line("a\nb\tc") == "a\\x0ab\\x09c"
    error = InputError("no image", where=RAW, hint="look")
    assert str(error) == "caf\\xe9 \\x1b[31m\\x0a.png: no image\nlook"


def test_names_in_hashes_and_pages(tmp_path: Path) -> None:
    assert 0 <= place_of(RAW) < 1
    assert place_of("ä.png") == int.from_bytes(hashlib.sha256("ä.png".encode()).digest()[:4], "big") / 2**32
    Page(RAW, [Section(RAW, [])], lead=RAW).save(tmp_path / "page.html")
    assert "caf\\xe9 \\x1b[31m" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("form", ["human", "json"])
def test_folder_jobs_go_on_where_stdout_is_strict(form: str, folder: Path, tmp_path: Path) -> None:
    done = command("compress", str(folder), "-o", str(tmp_path / "out"), "--format", form)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.ltn"))) == 2
    assert b"\x1b" not in done.stdout + done.stderr
    if form == "json":
        inputs = {json.loads(line)["input"] for line in done.stdout.decode().splitlines()}
        assert inputs == {str(folder / RAW), str(folder / "b.png")}


def test_density_writes_scores_of_any_name(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert main(["density", str(folder), "-o", str(tmp_path / "out"), "--draws", "1", "--device", "cpu"]) == 0
    names = {json.loads(path.read_bytes())["file"] for path in (tmp_path / "out").glob("*.json")}
    assert names == {RAW, "b.png"}
    assert len((tmp_path / "out" / "scores.csv").read_text().splitlines()) == 3


def test_lines_of_json_are_json_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", written)
    Reporter(OutputOptions(format="json")).result({"input": "ä\U0001f600.png"}, "")
    assert json.loads(written.buffer.getvalue()) == {"input": "ä\U0001f600.png"}


def test_segment_writes_tables_of_any_name(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (folder / "b.png").rename(folder / "=cmd.png")
    assert main(["segment", str(folder), "-o", str(tmp_path / "out")]) == 0
    tables = [list(csv.reader(path.open(newline="")))[1][0] for path in sorted((tmp_path / "out").glob("*.frames.csv"))]
    assert sorted(tables) == ["'=cmd.png", "caf\\xe9 \\x1b[31m\\x0a.png"]
    assert "\x1b" not in "".join(capsys.readouterr())


def test_segment_keeps_subfolders(folder: Path, tmp_path: Path) -> None:
    (folder / RAW).unlink()
    for day in ("day1", "day2"):
        (folder / day).mkdir()
        (folder / day / "t0.png").write_bytes((folder / "b.png").read_bytes())
    (folder / "b.png").unlink()
    assert main(["segment", str(folder), "-o", str(tmp_path / "out")]) == 0
    for day in ("day1", "day2"):
        found = json.loads((tmp_path / "out" / day / "t0.json").read_text())
        assert found["images"][0]["file_name"] == f"{day}/t0.png"
        rows = list(csv.reader((tmp_path / "out" / day / "t0.frames.csv").open(newline="")))
        assert rows[1][0] == f"{day}/t0.png"
    # The results of a folder are one data set, with or without objects.
    together = ["convert", f"coco:{tmp_path / 'out'},{folder}", "--to", "coco", "-o", str(tmp_path / "all.json")]
    assert main(together) == 0
    assert [image["file_name"] for image in json.loads((tmp_path / "all.json").read_text())["images"]] == [
        "day1/t0.png",
        "day2/t0.png",
    ]


def test_long_names(tmp_path: Path) -> None:
    name = "ä" * 123 + "x.png"  # 251 bytes
    assert len(os.fsencode(name)) == 251
    long = fitting_name("ä" * 123 + "x", ".overlay.png")
    assert len(os.fsencode(long)) <= MAX_NAME
    assert long != fitting_name("ä" * 123 + "y", ".overlay.png")
    assert fitting_name("a", ".overlay.png") == "a.overlay.png"
    Image.new("RGB", (40, 40)).save(tmp_path / name)
    assert main(["segment", str(tmp_path / name)]) == 0
    assert len(list(tmp_path.glob("*.overlay.png"))) == 1
    (output,) = plan_outputs(find_inputs([tmp_path / name], frozenset({".png"})), None, ".clear.png")
    write_atomic(output, b"")


def test_pipes_as_outputs(tmp_path: Path, folder: Path) -> None:
    read, write = os.pipe()
    write_atomic(Path(f"/dev/fd/{write}"), b"abc")
    with writing(Path(f"/dev/fd/{write}")) as stream:
        stream.write(b"def")
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"abcdef"
    script = '"$0" -m latens compress "$1" -o /dev/stdout | wc -c; "$0" -m latens compress "$1" -o >(cat > "$2"); sleep 1'
    words = ["bash", "-c", script, sys.executable, str(folder / "b.png"), str(tmp_path / "copy.ltn")]
    done = subprocess.run(words, capture_output=True, env=environment(), check=False)
    assert int(done.stdout.split()[0]) == (tmp_path / "copy.ltn").stat().st_size > 0, done.stderr


def test_closed_stdin_is_one_clear_error(tmp_path: Path) -> None:
    words = ["bash", "-c", '"$0" -m latens compress - <&-', sys.executable]
    done = subprocess.run(words, capture_output=True, env=environment(), check=False)
    assert done.returncode == 3, done.stderr
    assert b"internal" not in done.stderr


def test_the_python_interface_takes_what_users_give() -> None:
    import torch

    from latens.errors import UsageError

    codec = latens.load("image_codec", device=torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    blob = codec.compress(pixels, refine=2)
    for data in (bytearray(blob), memoryview(blob)):
        assert np.array_equal(np.asarray(codec.decompress(data)), np.asarray(codec.decompress(blob)))
    with pytest.raises(UsageError, match="refine"):
        codec.compress(pixels, refine="much")


def test_a_line_end_in_a_name_does_not_split_a_message(tmp_path: Path, capsys: Capture) -> None:
    """Messages of all verbs pass names as paths; other values keep their line ends, as those before a hint."""
    folder = tmp_path / "a\nb"
    for name in ("c.png", "c.clear.png", "d.dng"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 32), (90, 120, 150)).save(folder / name, format="PNG")
    for _ in range(2):
        assert main(["dehaze", str(folder), "--method", "dcp", "-o", str(folder / "out"), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    for text in ("1 .dng", "took 1 file named like a result", "skipped, finished", "left out 2 files"):
        assert any("a\\x0ab" in line and text in line for line in said.splitlines()), text
    assert "a\nb" not in said


@pytest.mark.parametrize(
    "words", [["compress"], ["dehaze"], ["haze"], ["parts", "-o", "out"], ["density", "-o", "s.csv"], ["segment"]]
)
def test_a_line_end_in_a_name_does_not_split_a_result(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 32), (90, 120, 150)).save(tmp_path / "a\nb.png")
    assert main([words[0], "a\nb.png", *words[1:], "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "a\\x0ab" in printed.out
    assert "a\nb" not in printed.out + printed.err
