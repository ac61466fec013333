"""Parsers of values, reporter and log messages of the command line."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from latens.cli.batch import FileBatch
from latens.cli.common import OutputOptions, Reporter, human_size, messages, parse_settings, parse_size
from latens.durations import parse_duration
from latens.errors import UsageError
from latens.inference.batch import Job
from latens.inference.finished import Request


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("45s", 45), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "soon", "-5m", "5d", "30m1h"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3 * 10**12, "3000.0 GB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text


def test_settings_keep_everything_after_the_first_equals_sign() -> None:
    assert parse_settings(["run.steps=5", " a = b=c "]) == {"run.steps": "5", "a": "b=c"}
    with pytest.raises(UsageError):
        parse_settings(["=5"])


@pytest.mark.parametrize("chosen", ["human", "json", "quiet"])
def test_results_and_messages_use_separate_streams(chosen: str, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(OutputOptions(format=chosen))  # type: ignore[arg-type]
    logger = logging.getLogger("latens.somewhere")
    with messages(chosen):  # type: ignore[arg-type]
        logger.info("talk")
        logger.warning("left out")
        logger.error("failed")
        reporter.result({"größe": 1}, "größe 1")
    logger.error("after the verb")
    shown = capsys.readouterr()
    talk = "" if chosen == "quiet" else "talk\nlatens: left out\n"
    assert shown.err == f"{talk}latens: failed\n"
    if chosen == "json":
        assert json.loads(shown.out) == {"größe": 1}
    else:
        assert shown.out == {"human": "größe 1\n", "quiet": ""}[chosen]


def test_a_bar_is_drawn_on_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(OutputOptions()).progress(3, "working") as show:
        show(1, "(loss 0.5)")
    assert capsys.readouterr() == ("", "")


def test_a_bar_shows_the_parts_of_a_file_and_a_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    (tmp_path / "a").write_text("a")
    job = Job(tmp_path / "a", tmp_path / "b", named=True)

    def work(job: Job, on_progress: Callable[[int, str], None]) -> dict[str, str]:
        on_progress(50, "(loss 0.1234)")
        time.sleep(0.3)  # the bar is drawn ten times a second
        job.output.write_text("b")
        return {"text": "done"}

    batch = FileBatch([job], None, OutputOptions(), force=False)
    assert batch.run(work, Request("refining"), parts=200).exit_status == 0
    shown = capsys.readouterr()
    assert "refining (loss 0.1234)" in shown.err
    assert "25%" in shown.err
    assert shown.out == "done\n"


def test_sizes_are_parsed() -> None:
    assert [parse_size(text) for text in ("8MB", "500kB", "1200", "1.5m")] == [8_000_000, 500_000, 1200, 1_500_000]
    for wrong in ("big", "0", "0.4", "-1", "8TB"):
        with pytest.raises(UsageError):
            parse_size(wrong)
