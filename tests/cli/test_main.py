"""Common behavior of all verbs: usage errors, exit statuses, at most three lines, tracebacks only on request."""

from __future__ import annotations

import errno
import inspect
import io
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from latens import catalogue, errors
from latens.cli import waiting
from latens.cli.common import OutputOptions, messages
from latens.cli.main import main, run

Capture = pytest.CaptureFixture[str]


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def verb(*, options: OutputOptions) -> NoReturn:
        raise error

    return verb


def run_raising(error: BaseException, *, debug: bool = False) -> int:
    verb = raising(error)
    return run(verb, inspect.signature(verb).bind(options=OutputOptions(debug=debug)))


def all_errors() -> list[type[errors.LatensError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, errors.LatensError)]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_has_its_exit_status_and_at_most_three_lines(kind: type[errors.LatensError], capsys: Capture) -> None:
    extra = {"have": 1, "need": 2} if kind is errors.Truncated else {}
    error = kind("what happened", where="photo.ltn", hint="what\nto\ndo\nnext", **extra)
    assert run_raising(error) == kind.exit_status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("latens: photo.ltn: what happened\n")
    assert len(shown.err.splitlines()) <= 3


def test_an_unknown_exception_is_an_internal_error_in_one_line(capsys: Capture) -> None:
    assert run_raising(ValueError("two\nlines")) == 70
    shown = capsys.readouterr().err
    assert shown == "latens: internal error (please report): ValueError: two lines (--debug shows where)\n"


def test_debug_shows_the_traceback_and_nothing_else_does(capsys: Capture) -> None:
    run_raising(errors.UnreadableInput("no such file", where="x"), debug=True)
    assert "Traceback" in capsys.readouterr().err
    run_raising(errors.UnreadableInput("no such file", where="x"))
    assert "Traceback" not in capsys.readouterr().err


def test_an_interrupt_is_one_line_and_130(capsys: Capture) -> None:
    assert run_raising(KeyboardInterrupt()) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_whole_number_may_have_a_point_and_others_a_fraction(tmp_path: Path, capsys: Capture) -> None:
    words = ["density", str(tmp_path / "0.5"), "--draws", "2.0", "--temperature", "0.5"]
    assert main(words) == errors.InputError.exit_status
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["compres", "a.png"], 'Did you mean "compress"?'),
        (["compress", "a.png", "--devcie", "cpu"], "Did you mean --device?"),
        (["decompress", "a.ltn", "-o", "-", "--emit", "png"], "--emit.\n--to selects the format of the images, as in --to png"),
        (["dehaze", "a.png", "--webp"], "--webp.\nwrite --to webp"),
        (["compress", "a.png", "--output=b.ltn"], "--output=b.ltn.\n-o names the output"),
        (["parts", "a.png", "--diameter", "3"], "--diameter.\n--diameter is an option of `latens segment`\n"),
        (["density", "pack", "a", "-o", "b", "--largest", "3"], "--largest is an option of `latens app`\n"),
        (["dehaze", "a.mp4", "--half"], "--half.\nsee `latens dehaze --help`\n"),
        (["compress", "a.png", "--format", "xml"], '"human", "json", "quiet"'),
        (["compress", "a.png", "--quality", "9"], "--quality"),
        (["compress"], "INPUTS"),
        (["compress", "a.png", "--quality", "3", "--bpp", "1"], "exclude each other"),
        (["train", "image_codek"], "image_codec"),
        (["train", "image_codec", "--max-time", "soon"], "30m"),
        (["train", "image_codec", "--set", "lr"], "key=value"),
        (["bench", "photographs"], "image_codec"),
        (["density", "a.png", "--draws", "1.5"], '"1.5" for --draws. Must be a whole number.\nsee `latens density --help`'),
        (["density", "pack", "a", "-o", "b", "--threads=1.5"], '"1.5" for --threads. Must be a whole number'),
    ],
)
def test_usage_errors_end_with_2_and_a_hint(words: list[str], expected: str, capsys: Capture) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("latens: ")
    assert expected in shown.err
    assert len(shown.err.splitlines()) <= 3


@pytest.mark.parametrize("words", [["compress", "{}"], ["decompress", "{}"], ["inspect", "{}"]], ids=lambda words: words[0])
def test_a_missing_file_is_3(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    missing = tmp_path / "missing.ltn"
    assert main([word.format(missing) for word in words]) == 3
    assert str(missing) in capsys.readouterr().err


def test_models_prints_json_lines(capsys: Capture) -> None:
    assert main(["models", "--format", "json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["name"] for record in records] == list(catalogue.MODELS)


def test_a_closed_pipe_is_not_an_internal_error() -> None:
    command = [sys.executable, "-m", "latens", "models"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        shown = process.stderr.read()
    assert shown == ""
    assert process.returncode in (0, 141)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_crosses_processes(kind: type[errors.LatensError]) -> None:
    """Otherwise a pool of workers waits forever."""
    own = {"have": 1, "need": 2, "intact": ("a",)} if kind is errors.Truncated else {}
    error = kind("what", where="here", hint="next", **own)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/out"), 3, "/data/out: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/data/out"), 3, "/data/out: Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/out"), 5, "/data/out: No space left on device"),
    ],
)
def test_errors_of_the_system_are_not_internal_errors(error: OSError, status: int, words: str, capsys: Capture) -> None:
    assert run_raising(error) == status
    assert capsys.readouterr().err.splitlines() == [
        f"latens: {words}",
        "check the disk, its free space and your permissions",
    ]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    ],
)
def test_a_full_folder_of_temporary_files(error: OSError, capsys: Capture) -> None:
    """Graphs, clips and stacks are written there first; stdout was blamed, or the error was internal."""
    assert run_raising(error) == 5
    assert "set TMPDIR" in capsys.readouterr().err


def test_too_little_memory_is_no_internal_error(capsys: Capture) -> None:
    assert run_raising(MemoryError("Unable to allocate 256. MiB")) == 5
    first, second = capsys.readouterr().err.splitlines()
    assert first == "latens: this machine has too little memory for this"
    assert second.startswith("close other programs")


@pytest.mark.parametrize("words", [["compress", ""], ["segment", "a.png", ""], [""]])
def test_an_empty_argument_is_not_the_current_folder(words: list[str], capsys: Capture) -> None:
    assert main(words) == 2
    assert "is a variable of the shell unset?" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["0", "-3", "x", "1"])
def test_a_terminal_without_width_gets_help(columns: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["--help"]) == 0
    assert "compress" in capsys.readouterr().out


def test_a_full_stderr_loses_messages_and_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a closed terminal, whose streams cannot be written."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    with messages("human"):
        logging.getLogger("latens").warning("lost")
    assert main(["no-such-verb"]) == 2


@pytest.mark.parametrize(("redirection", "status"), [(">&-", 0), ("> /dev/full", 5), ("2>&-", 0)])
def test_streams_that_are_closed_or_full(redirection: str, status: int) -> None:
    words = f"{sys.executable} -m latens models {redirection}"
    found = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert found.returncode == status
    assert "internal error" not in found.stderr
    assert ("standard output" in found.stderr or "stdout" in found.stderr) == ("full" in redirection)


@pytest.mark.parametrize(
    ("given", "load", "policy", "spins"),
    [
        (None, "0.79 1.94 1.74 1/321 12345", "PASSIVE", "1000"),
        (None, "0.79 1.94 1.74 2/321 12345", "PASSIVE", None),  # of two cores, another program has one
        (None, "unknown", "PASSIVE", None),
        (None, None, "PASSIVE", None),
        ("ACTIVE", "0.79 1.94 1.74 1/321 12345", "ACTIVE", None),
    ],
)
def test_threads_that_wait_leave_the_cores_to_others(
    given: str | None,
    load: str | None,
    policy: str,
    spins: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    for name, value in (("OMP_WAIT_POLICY", given), ("GOMP_SPINCOUNT", None)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    if load is not None:
        (tmp_path / "load").write_text(load)
    monkeypatch.setattr(waiting, "LOAD", str(tmp_path / "load"))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert main(["models", "--format", "quiet"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == policy
    assert os.environ.get("GOMP_SPINCOUNT") == spins
