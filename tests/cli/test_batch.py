"""Batches exist once: every verb with one output per input lists, skips, runs and reports its files in the same way."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latens.cli
from latens.cli.main import main

CLI = Path(latens.cli.__file__).parent
VERBS = {  # verbs with one output per input, and what they need to be quick
    "compress": (),
    "segment": (),
    "dehaze": ("--method", "dcp"),
    "haze": ("--method", "mmd"),
    "parts": (),
}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def called(path: Path) -> set[str]:
    """Names of the functions and methods that a file calls."""
    calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    return {
        call.attr if isinstance(call, ast.Attribute) else call.id
        for call in calls
        if isinstance(call, ast.Attribute | ast.Name)
    }


def test_only_one_module_runs_batches_and_saves_images() -> None:
    modules = {path.stem: called(path) for path in CLI.glob("*.py")}
    own = modules.pop("batch")
    assert own >= {"run_batch", "check_writable", "write_image"}
    for name, calls in modules.items():
        assert not calls & {"run_batch", "format_exc", "print_exception"}, name
    others = {*VERBS, "decompress", "video", "video_decompress", "parts_names", "density"}
    assert {name for name, calls in modules.items() if "FileBatch" in calls} == others
    assert {name for name, calls in modules.items() if "Readable" in calls} == {"density", "density_pack", "parts"}
    assert {name for name, calls in modules.items() if "save_image" in calls} == {"decompress", "dehaze", "haze", "parts"}
    assert {name for name, calls in modules.items() if "save" in calls} <= {
        "evaluate",
        "reproduce",
        "parts_names",
    }  # of reports, and of names


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_skips_what_is_finished_and_lists_what_fails(
    verb: str, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    waves = np.add.outer(np.arange(96), np.arange(120))[..., None] * np.array([2, 3, 5]) % 256
    Image.fromarray(waves.astype(np.uint8)).save(album / "a.png")
    (album / "b.png").write_text("not an image")
    model = ["--model", str(tiny_model)] if verb == "compress" else []
    words = [verb, str(album), "-o", str(out), *VERBS[verb], *model, "--device", "cpu", "--format", "json"]
    for expected in ("done", "skipped"):
        assert main(words) == 3
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        status = {Path(record["input"]).name: record["status"] for record in shown if "status" in record}
        assert status == {"a.png": expected, "b.png": "failed"}
        (failure,) = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
        assert (failure["input"], failure["exit_status"]) == (str(album / "b.png"), 3)


def test_verbs_without_an_output_per_input_report_failures_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album = tmp_path / "album"
    album.mkdir()
    Image.effect_noise((40, 40), 60).save(album / "a.png")
    (album / "b.png").write_text("not an image")
    for words in (
        ["density", str(album), "-o", str(tmp_path / "scores.csv"), "--draws", "1", "--device", "cpu"],
        ["parts", str(album), "-o", str(tmp_path / "found"), "--device", "cpu"],
    ):
        assert main([*words, "--format", "json"]) == 3
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        (failed,) = [record for record in shown if record.get("status") == "failed"]
        assert (failed["input"], failed["error"], failed["exit_status"]) == (str(album / "b.png"), "UnreadableInput", 3)
