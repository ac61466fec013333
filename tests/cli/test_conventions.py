"""Rules for all verbs: no flags of one system in generic verbs, no negative flags, silence under --format quiet."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latens
from latens.cli.common import ComputeOptions, OutputOptions
from latens.cli.main import GROUPS, VERBS, main

PACKAGE = Path(latens.__file__).parent

GENERIC = {  # every parameter of the verbs that serve all systems
    "train": {
        *(
            "system",
            "recipe",
            "data",
            "out",
            "settings",
            "show_config",
            "init",
            "branch",
            "decay",
            "max_time",
            "resume",
            "workers",
        ),
        "options",
    },
    "evaluate": {"system", "model", "data", "settings", "show_config", "out", "force", "options"},
    "reproduce": {"what", "listed", "recipe", "model", "data", "out", "settings", "force", "options"},
    "bench": {"system", "model", "repeats", "history", "options"},
    "recipes": {"system", "options"},
    "demo": {"out", "force", "options"},
}


def function_of(name: str) -> Callable[..., Any]:
    module, _, function = next(verb.target for verb in VERBS if verb.name == name).partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


@pytest.mark.parametrize("name", GENERIC)
def test_generic_verbs_have_no_flags_of_one_system(name: str) -> None:
    assert set(inspect.signature(function_of(name)).parameters) == GENERIC[name]


def test_options_of_all_verbs() -> None:
    assert {field.name for field in dataclasses.fields(OutputOptions)} == {"format", "debug"}
    assert {field.name for field in dataclasses.fields(ComputeOptions)} == {"format", "debug", "device", "threads"}


@pytest.mark.parametrize("name", ["", *GROUPS, *(verb.name for verb in VERBS)])
def test_no_help_shows_a_negative_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    assert "latens" in words
    assert not [word for word in words if word.startswith(("--no-", "--empty-"))]


@pytest.mark.parametrize("flag", ["--no-force", "--empty-data", "--no-resume", "--no-debug"])
def test_negative_flags_are_unknown(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "image_codec", "--show-config", flag]) == 2
    assert flag in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ quiet


def prints_in(path: Path) -> list[str]:
    """Calls that write to the terminal, and warnings that bypass the log."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "warnings.warn", "sys.stdout.write", "sys.stderr.write", "tqdm", "Progress", "Console"):
                found.append(name)
    return found


def test_only_the_reporter_prints() -> None:
    printing = {path.relative_to(PACKAGE).as_posix(): prints_in(path) for path in PACKAGE.rglob("*.py")}
    printing = {name: calls for name, calls in printing.items() if calls}
    # A worker answers with lines on a pipe; the script may be stopped while the reporter is imported.
    assert set(printing) == {"cli/common.py", "jobs/worker.py", "__main__.py"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of all verbs: an image, a compressed image, annotations."""
    place = tmp_path_factory.mktemp("quiet")
    waves = np.add.outer(np.arange(96), np.arange(120))[..., None] * np.array([2, 3, 5]) % 256
    Image.fromarray(waves.astype(np.uint8)).save(place / "a.png")
    (place / "images").mkdir()
    Image.fromarray(waves.astype(np.uint8)).save(place / "images" / "a.png")
    (place / "labels").mkdir()
    Image.fromarray((waves[..., 0] // 64).astype(np.uint8)).save(place / "labels" / "a.png")
    Image.fromarray(waves.astype(np.uint8)).save(place / "labels" / "a.jpg")
    assert main(["density", "pack", str(place / "images"), "-o", str(place / "packed.ltp"), "--format", "quiet"]) == 0
    assert main(["compress", str(place / "a.png"), "-o", str(place / "a.ltn"), "--device", "cpu"]) == 0
    return place


COMMANDS = (
    "compress a.png -o b.ltn --device cpu",
    "decompress a.ltn -o b.png --device cpu",
    "inspect a.ltn",
    "segment a.png -o cells/ --device cpu",
    "dehaze a.png -o clear.png --method dcp --device cpu",
    "haze a.png -o hazy.png --device cpu",
    "parts images/ -o found/ --device cpu",
    "density images/ -o scores.csv --draws 1 --device cpu",
    "density --certify --model flow_moons --device cpu",
    "density --sample 4 -o samples.csv --model flow_moons --device cpu",
    "density pack images/ -o images.ltp",
    "density unpack packed.ltp -o unpacked/",
    "train image_codec --recipe tiny --show-config",
    "evaluate haze --show-config",
    "recipes",
    "models",
    "int8 haze_dehazenet -o small",
    "train flow --recipe toy --data moons -o run --set run.steps=2 --device cpu",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_quiet_verbs_print_nothing(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main([*command.split(), "--format", "quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_quiet_verbs_print_errors(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert main(["compress", "missing.png", "--format", "quiet"]) == 3
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("latens: ")
    assert "missing.png" in shown.err


def test_a_library_call_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without the command no handler is installed: warnings alone reach stderr, by the rule of `logging`."""
    codec = latens.load("image_codec", device="cpu")
    codec.decompress(codec.compress(folder / "a.png"))
    calls: list[tuple[int, str]] = []
    latens.train(
        "flow",
        recipe="toy",
        data=["moons"],
        out=folder / "called",
        settings={"run.steps": "3", "run.log_every": "1"},
        device="cpu",
        on_progress=lambda done, note="": calls.append((done, note)),
    )
    assert capfd.readouterr() == ("", "")
    assert [done for done, _ in calls] == [1, 2, 3]
    assert all("loss" in note for _, note in calls)
