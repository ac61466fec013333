from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from latens.data.files import read_bytes, write_atomic
from latens.data.inputs import find_inputs
from latens.data.placing import is_unwritten, only_new
from latens.data.records import RECORDS
from latens.errors import LimitExceeded, OutputExists, StorageFull, UnreadableInput
from latens.inference.batch import Job, Outcome, plan_jobs, run_batch


def jobs_of(folder: Path, contents: dict[str, bytes]) -> list[Job]:
    for name, data in contents.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(data)
    return plan_jobs(find_inputs([folder / "in"], frozenset({".txt"})), folder / "out", ".up")


def upper(job: Job) -> dict[str, Any]:
    """The work of these tests: upper case; the content selects an error."""
    data = read_bytes(job.input, limit=100)
    match data:
        case b"bad":
            raise UnreadableInput("bad content")
        case b"bug":
            raise KeyError("oops")
        case b"full":
            raise OSError(errno.ENOSPC, "No space left on device")
        case b"memory":
            raise MemoryError
        case b"torch":
            torch.empty(2**60, dtype=torch.uint8)
        case b"stop":
            raise KeyboardInterrupt
    write_atomic(job.output, data.upper())
    return {"bytes": len(data)}


def failures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "failures.jsonl").read_text("utf-8").splitlines()]


def listed(folder: Path) -> list[str]:
    """Sorted names in a folder without the record of the results."""
    return sorted(name for name in os.listdir(folder) if name != RECORDS)


def test_jobs_mirror_the_inputs(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"a.txt": b"a", "d/b.txt": b"b"})
    assert jobs == [
        Job(tmp_path / "in" / "a.txt", tmp_path / "out" / "a.up", named=False, relative="a.txt"),
        Job(tmp_path / "in" / "d" / "b.txt", tmp_path / "out" / "d" / "b.up", named=False, relative="d/b.txt"),
    ]


def test_all_good(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    jobs = jobs_of(tmp_path, {"a.txt": b"a", "b.txt": b"bb"})
    report = run_batch(jobs, upper, on_result=outcomes.append)
    assert (report.done, report.skipped, report.failed, report.not_done, report.exit_status) == (2, 0, (), 0, 0)
    assert [(outcome.status, outcome.record) for outcome in outcomes] == [
        ("done", {"bytes": 1}),
        ("done", {"bytes": 2}),
    ]
    assert (tmp_path / "out" / "b.up").read_bytes() == b"BB"
    assert listed(tmp_path / "out") == ["a.up", "b.up"]


def test_bad_files_are_listed_and_skipped(tmp_path: Path) -> None:
    contents = {"1.txt": b"one", "2.txt": b"bad", "3.txt": b"bug", "4.txt": b"x" * 101, "ü.txt": b"last"}
    outcomes: list[Outcome] = []
    report = run_batch(jobs_of(tmp_path, contents), upper, on_result=outcomes.append)
    assert (report.done, len(report.failed), report.exit_status) == (2, 3, 3)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "failed", "failed", "done"]
    assert isinstance(outcomes[2].error, KeyError)
    assert report.log == tmp_path / "out" / "failures.jsonl"
    lines = failures(tmp_path)
    assert lines == [failure._asdict() for failure in report.failed]
    assert [(line["error"], line["exit_status"]) for line in lines] == [
        ("UnreadableInput", 3),
        ("KeyError", 70),
        ("LimitExceeded", 5),
    ]
    assert lines[0]["message"] == f"{tmp_path / 'in' / '2.txt'}: bad content"  # placed by the batch


def test_a_second_run_skips_what_is_finished_and_clears_the_list(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"a.txt": b"good", "b.txt": b"bad"})
    assert run_batch(jobs, upper).exit_status == 3
    again = run_batch(jobs, upper)
    assert (again.done, again.skipped, len(again.failed)) == (0, 1, 1)
    assert len(failures(tmp_path)) == 1  # begun anew, not added to
    (tmp_path / "in" / "b.txt").write_bytes(b"mended")
    mended = run_batch(jobs, upper)
    assert (mended.done, mended.skipped, mended.exit_status) == (1, 1, 0)
    assert listed(tmp_path / "out") == ["a.up", "b.up"]
    assert run_batch(jobs, upper, force=True).done == 2


def test_a_full_disk_stops_the_batch(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"1.txt": b"one", "2.txt": b"bad", "3.txt": b"full", "4.txt": b"four", "5.txt": b"five"})
    report = run_batch(jobs, upper)
    assert (report.done, len(report.failed), report.not_done, report.exit_status) == (1, 2, 2, 5)
    assert isinstance(report.stopped, StorageFull)
    assert not (tmp_path / "out" / "4.up").exists()


@pytest.mark.parametrize("content", [b"memory", b"torch"])
def test_too_little_memory_for_one_file(tmp_path: Path, content: bytes) -> None:
    report = run_batch(jobs_of(tmp_path, {"1.txt": content, "2.txt": b"two"}), upper)
    assert report.done == 1
    assert [(failure.error, failure.exit_status) for failure in report.failed] == [("LimitExceeded", 5)]


@pytest.mark.parametrize("content", [b"bad", b"bug", b"full", b"memory"])
def test_a_single_named_file_raises_its_own_error(tmp_path: Path, content: bytes) -> None:
    expected = {b"bad": UnreadableInput, b"bug": KeyError, b"full": StorageFull, b"memory": LimitExceeded}[content]
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(expected):
        run_batch([Job(tmp_path / "x.txt", tmp_path / "out" / "x.up")], upper)
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_folder_of_one_is_a_batch(tmp_path: Path) -> None:
    report = run_batch(jobs_of(tmp_path, {"only.txt": b"bad"}), upper)
    assert report.exit_status == 3


def test_an_interrupt_passes_through_and_keeps_what_is_done(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"1.txt": b"bad", "2.txt": b"two", "3.txt": b"stop", "4.txt": b"four"})
    with pytest.raises(KeyboardInterrupt):
        run_batch(jobs, upper)
    assert listed(tmp_path / "out") == ["2.up", "failures.jsonl"]
    (tmp_path / "in" / "3.txt").write_bytes(b"three")
    assert run_batch(jobs, upper).done == 2


def test_a_list_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"1.txt": b"bad", "2.txt": b"two"})
    (tmp_path / "out" / "failures.jsonl").mkdir(parents=True)
    report = run_batch(jobs, upper)
    assert (report.done, len(report.failed), report.log) == (1, 1, None)


def test_no_jobs() -> None:
    assert run_batch([], upper).exit_status == 0


def test_a_killed_batch_continues_where_it_stopped(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {f"{number}.txt": b"text" for number in range(4)})
    script = f"""
import os, signal
from pathlib import Path
from latens.data import files
from latens.inference.batch import Job, run_batch
jobs = [Job(Path(i), Path(o), False) for i, o in {[(str(job.input), str(job.output)) for job in jobs]}]
write = os.write
def work(job):
    if job is jobs[2]:
        def die(descriptor, data):
            write(descriptor, data[:2])
            os.kill(os.getpid(), signal.SIGKILL)
        files.os.write = die
    files.write_atomic(job.output, files.read_bytes(job.input, limit=100).upper())
    return {{}}
run_batch(jobs, work)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    left = listed(tmp_path / "out")
    assert left[1:] == [".latens-claims", "0.up", "1.up"]
    assert left[0].startswith(".2.up.")
    report = run_batch(jobs, upper)
    assert (report.done, report.skipped) == (2, 2)
    assert listed(tmp_path / "out") == ["0.up", "1.up", "2.up", "3.up"]
    assert {path.read_bytes() for path in (tmp_path / "out").glob("*.up")} == {b"TEXT"}


def test_two_processes_share_a_batch(tmp_path: Path) -> None:
    """A job that another process has claimed is done last, and only if that process leaves no output."""
    jobs = jobs_of(tmp_path, {f"{number}.txt": b"text" for number in range(3)})
    script = f"""
import sys
import threading
from pathlib import Path
from latens.data.files import write_atomic
from latens.inference.batch import Job, run_batch
jobs = [Job(Path(i), Path(o), False) for i, o in {[(str(job.input), str(job.output)) for job in jobs]}]
def work(job):
    print(job.input.stem, flush=True)
    if sys.stdin.readline() == "write\\n":
        write_atomic(job.output, b"theirs")
    return {{}}
run_batch(jobs, work)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "0\n"  # claimed by the other process, not written
        order: list[str] = []

        def work(job: Job) -> dict[str, Any]:
            order.append(job.input.stem)
            if job.input.stem == "2":
                assert other.stdin is not None
                other.stdin.write("write\n")  # the other process ends job 0; its other jobs are done
                other.stdin.flush()
            return upper(job)

        report = run_batch(jobs, work)
        other.communicate()
    assert other.returncode == 0
    assert order == ["1", "2"]
    assert (report.done, report.skipped) == (2, 1)
    assert (tmp_path / "out" / "0.up").read_bytes() == b"theirs"
    assert listed(tmp_path / "out") == ["0.up", "1.up", "2.up"]


def test_a_job_of_a_killed_process_is_done(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"0.txt": b"a", "1.txt": b"b"})
    script = f"""
import os, signal
from pathlib import Path
from latens.inference.batch import Job, run_batch
jobs = [Job(Path(i), Path(o), False) for i, o in {[(str(job.input), str(job.output)) for job in jobs]}]
run_batch(jobs, lambda job: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert run_batch(jobs, upper).done == 2


def test_a_file_that_appears_during_the_work_is_kept(tmp_path: Path) -> None:
    """It is the user's: the job fails, also the next time, until force replaces the file."""
    jobs = jobs_of(tmp_path, {"0.txt": b"zero", "1.txt": b"one"})

    def slow(job: Job) -> dict[str, Any]:
        if job is jobs[0]:
            job.output.write_bytes(b"of the user")
        return upper(job)

    report = run_batch(jobs, slow)
    assert (report.done, [failure.error for failure in report.failed]) == (1, ["OutputExists"])
    assert "appeared" in failures(tmp_path)[0]["message"]
    again = run_batch(jobs, upper)
    assert (again.done, again.skipped, len(again.failed)) == (0, 1, 1)
    assert jobs[0].output.read_bytes() == b"of the user"
    assert listed(tmp_path / "out") == ["0.up", "1.up", "failures.jsonl"]
    assert run_batch(jobs, upper, force=True).done == 2
    assert jobs[0].output.read_bytes() == b"ZERO"


def test_work_may_write_its_output_twice(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"0.txt": b"zero"})

    def twice(job: Job) -> dict[str, Any]:
        write_atomic(job.output, b"a first result")
        return upper(job)

    assert run_batch(jobs, twice).done == 1
    assert jobs[0].output.read_bytes() == b"ZERO"


@pytest.mark.parametrize("names", [("0.txt", "0.txt"), ("0.txt", "1.txt")])
def test_two_commands_with_one_output(tmp_path: Path, names: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """The second one waits, and then finds its own result, or the result of another input, which it keeps."""
    caplog.set_level(logging.INFO)
    jobs_of(tmp_path, {"0.txt": b"zero", "1.txt": b"one"})
    out = tmp_path / "out.up"
    first, second = (Job(tmp_path / "in" / name, out) for name in names)
    script = f"""
import sys
import threading
from pathlib import Path
from latens.data import files
from latens.inference.batch import Job, run_batch
def work(job):
    print("working", flush=True)
    sys.stdin.readline()
    files.write_atomic(job.output, files.read_bytes(job.input, limit=100).upper())
    return {{}}
run_batch([Job(Path({str(first.input)!r}), Path({str(out)!r}))], work)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "working\n"
        release = threading.Timer(0.5, other.stdin.close)  # while the second command waits
        release.start()
        if names[0] == names[1]:
            assert run_batch([second], upper).skipped == 1
        else:
            with pytest.raises(OutputExists, match="the result of working"):
                run_batch([second], upper)
        release.join()
        assert f"{out}: waiting for another process" in caplog.text
        assert other.wait() == 0
    assert out.read_bytes() == b"ZERO"
    assert sorted(os.listdir(tmp_path)) == [".latens.jsonl", "in", "out.up"]


def test_files_that_appear_are_kept_until_this_process_has_written_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with only_new([out]):
        out.write_bytes(b"of the user")
        with pytest.raises(OutputExists, match="appeared while"):
            write_atomic(out, b"result")
        assert is_unwritten(out)
        out.unlink()
        write_atomic(out, b"result")
        assert not is_unwritten(out)
        write_atomic(out, b"a second result")
    assert listed(tmp_path) == ["out.txt"]


def test_a_new_file_of_the_same_stem_leaves_finished_results(tmp_path: Path) -> None:
    """Results keep their names, whether another file of their stem comes or goes."""
    (tmp_path / "in").mkdir()
    endings = frozenset({".jpg", ".png", ".webp"})

    def made(*names: str) -> dict[str, str]:
        for path in (tmp_path / "in").iterdir():
            path.unlink()
        for name in names:
            (tmp_path / "in" / name).write_bytes(name.encode())
        outcomes: dict[str, str] = {}
        run_batch(
            plan_jobs(find_inputs([tmp_path / "in"], endings), tmp_path / "out", ".up"),
            upper,
            on_result=lambda outcome: outcomes.update({outcome.job.output.name: outcome.status}),
        )
        return outcomes

    assert made("a.jpg", "b.jpg") == {"a.up": "done", "b.up": "done"}
    assert made("a.jpg", "a.png", "b.jpg") == {"a.up": "skipped", "a.png.up": "done", "b.up": "skipped"}
    assert made("a.png", "b.jpg") == {"a.png.up": "skipped", "b.up": "skipped"}
    assert made("c.jpg", "c.png") == {"c.jpg.up": "done", "c.png.up": "done"}
    assert made("c.png", "c.webp") == {"c.png.up": "skipped", "c.up": "done"}
