"""Help is instant, because torch and numpy are not imported: `benchmarks/import_cost.py` has the times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import latens
from latens.cli.doctor import torch_advice
from latens.cli.main import GROUPS, VERBS, main, unwrapped

# Runs the command, then reports on stderr which heavy modules it loaded.
REPORTING = """
import sys
from pathlib import Path
from latens.cli.main import main
status = main(sys.argv[1:])
heavy = {"torch", "numpy", "PIL", "torchvision", "matplotlib"} & set(sys.modules)
print("heavy:", *sorted(heavy), file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize(
    "words", [(), ("video",), *(tuple(verb.name.split()) for verb in VERBS)], ids=lambda words: " ".join(words) or "latens"
)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", REPORTING, *words, "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert f"Usage: latens {' '.join(words)}".strip() in ended.stdout
    assert ended.stderr == "heavy:\n"


def test_root_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {verb.name} " in shown and verb.help[:40] in shown for verb in VERBS if " " not in verb.name)
    assert all(f" {group} " in shown and text in shown for group, text in GROUPS.items())


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_verb_help_gives_an_example_and_the_global_options(verb: object, capsys: pytest.CaptureFixture[str]) -> None:
    name = verb.name  # type: ignore[attr-defined]
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--format" in shown
    assert "--debug" in shown
    if name not in ("models", "doctor"):
        assert f"latens {name} " in shown.partition("\n")[2]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == latens.__version__


def test_completion_is_installed_for_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    assert main(["--install-completion"]) == 0
    script = (tmp_path / ".local/share/bash-completion/completions/latens").read_text()
    assert all(word in script for word in ("decompress", "--settle", "--to"))


@pytest.mark.parametrize(
    ("cuda", "gpu", "system", "words"),
    [
        (True, False, "Linux", "whl/cpu"),
        (False, True, "Linux", "--force-reinstall torch torchvision"),
        (False, True, "Windows", "whl/CUDA"),
        (True, True, "Linux", "fits"),
        (False, False, "Darwin", "fits"),
    ],
)
def test_doctor_names_the_build_of_torch_for_a_machine(cuda: bool, gpu: bool, system: str, words: str) -> None:
    assert words in torch_advice(cuda=cuda, gpu=gpu, system=system)


def test_paragraphs_of_help_are_joined_and_commands_are_kept() -> None:
    text = """Do it.

    One line that
    goes on.

        latens compress a \\
            -o b
    """
    assert unwrapped(text) == "Do it.\n\nOne line that goes on.\n\n    latens compress a \\\n        -o b"
