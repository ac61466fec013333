"""Files of a user are not replaced, removed or taken for results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latens.data.files import write_atomic
from latens.data.inputs import find_inputs
from latens.errors import InputError, OutputExists
from latens.inference.batch import Job, run_batch
from latens.inference.finished import Request
from latens.systems.amodal.outputs import Frame, check_foreign, family, is_ours, write_outputs
from latens.systems.amodal.predict import Segmentation


def jobs_of(folder: Path) -> list[Job]:
    (folder / "out").mkdir()
    made = []
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(name)
        made.append(Job(folder / f"{name}.txt", folder / "out" / f"{name}.up", False))
    return made


def good(job: Job) -> dict[str, Any]:
    job.output.write_text("done")
    return {}


def bad(job: Job) -> dict[str, Any]:
    raise InputError("not readable", where=str(job.input))


@pytest.mark.parametrize("work", [good, bad])
def test_a_foreign_list_of_failures_is_kept(work: Any, tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path)
    own = tmp_path / "out" / "failures.jsonl"
    own.write_text('{"experiment": 7}\n')
    report = run_batch(jobs, work)
    assert own.read_text() == '{"experiment": 7}\n'
    assert report.log is None


def test_a_list_is_not_written_through_a_link(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path)
    target = tmp_path / "notes.txt"
    target.write_text("mine")
    os.symlink(target, tmp_path / "out" / "failures.jsonl")
    run_batch(jobs, bad)
    assert target.read_text() == "mine"


def test_a_pipe_of_that_name_is_neither_read_nor_removed(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path)
    os.mkfifo(tmp_path / "out" / "failures.jsonl")
    assert run_batch(jobs, bad).log is None
    assert (tmp_path / "out" / "failures.jsonl").is_fifo()


def test_a_list_of_an_earlier_batch_is_replaced_and_removed(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path)
    assert run_batch(jobs, bad).log == tmp_path / "out" / "failures.jsonl"
    assert len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) == 2
    run_batch(jobs, bad)
    assert len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) == 2
    run_batch(jobs, good)
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_the_list_lies_in_the_given_folder(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path)
    (tmp_path / "all").mkdir()
    assert run_batch(jobs, bad, folder=tmp_path / "all").log == tmp_path / "all" / "failures.jsonl"


@pytest.mark.parametrize("mark", [".clear", ".hazy", ".overlay", ".masks", ".small"])
def test_only_recorded_results_are_left_out(mark: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A name is no proof: without a record, a file that is named like a result is an input."""
    names = ["a.jpg", f"a{mark}.png", f"alone{mark}.png", "b.jpg", f"b{mark}.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    endings = frozenset({".jpg", ".png"})

    def found(*inputs: Path) -> list[str]:
        caplog.clear()
        return [file.path.name for file in find_inputs(inputs, endings, skip_results=True, marks=[mark])]

    assert sorted(found(tmp_path)) == sorted(names)
    assert "took 2 files named like a result" in caplog.text
    job = Job(tmp_path / "a.jpg", tmp_path / f"a{mark}.png")
    run_batch([job], good, force=True)
    kept = sorted(set(names) - {job.output.name})
    assert sorted(found(tmp_path)) == kept
    assert "left out 1 file, which latens made from other inputs" in caplog.text
    assert sorted(found(*(tmp_path / name for name in names))) == kept  # as the shell expands *.png
    assert found(job.output) == [job.output.name]  # named alone
    job.output.write_text("mine")
    assert sorted(found(tmp_path)) == sorted(names)


def test_companions_are_no_inputs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "a_depth.png", "b_depth.png"):
        (tmp_path / name).write_bytes(b"x")
    endings = frozenset({".jpg", ".png"})
    assert [file.path.name for file in find_inputs([tmp_path], endings, companions=["_depth"])] == ["a.jpg", "b_depth.png"]
    assert "left out 1 file, which belong" in caplog.text


def test_hand_drawn_annotations_and_foreign_masks_are_named(tmp_path: Path) -> None:
    ours, drawn, masks = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.masks.tif"
    ours.write_text('{"info": {"model": "amodal", "least_score": 0.5}, "categories": []}')
    (tmp_path / "a.masks.tif").write_bytes(b"ours")
    assert is_ours(ours)
    check_foreign([ours])
    drawn.write_text('{"version": "5.0.1", "shapes": []}')
    masks.write_bytes(b"mine")
    with pytest.raises(OutputExists, match=r"2 files .*b\.json, c\.masks\.tif"):
        check_foreign([ours, drawn, tmp_path / "c.json"])
    assert family(tmp_path / "c.json")[4] == masks


def test_results_of_the_python_interface_are_ours(tmp_path: Path) -> None:
    found = Segmentation(size=(8, 9), placed=[], scores=np.zeros(0), classes=("cell",))
    write_outputs([Frame(np.zeros((8, 9, 3), dtype=np.uint8), found)], tmp_path / "a.json", "a.png")
    assert is_ours(tmp_path / "a.json")


@pytest.mark.parametrize("ours", [True, False])
def test_force_removes_what_the_new_run_does_not_make(ours: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Masks of an earlier result would contradict a result without cells, whoever made them."""
    job = Job(tmp_path / "a.png", tmp_path / "a.json")
    job.input.write_text("image")
    sides = [tmp_path / "a.masks.tif", tmp_path / "a.csv"]

    def work(job: Job, *names: str) -> dict[str, Any]:
        for name in (*names, job.output.name):
            write_atomic(tmp_path / name, os.urandom(4))
        return {}

    request = Request("segmenting", {}, lambda job: [*sides, job.output])
    if ours:
        run_batch([job], lambda job: work(job, "a.masks.tif", "a.csv"), request=request)
    else:
        for path in (*sides, job.output):
            path.write_text("mine")
        with pytest.raises(OutputExists):
            run_batch([job], work, request=request)
        assert {path.read_text() for path in (*sides, job.output)} == {"mine"}
    (tmp_path / "a.txt").write_text("other")
    run_batch([job], lambda job: work(job, "a.csv"), request=request, force=True)
    assert not sides[0].exists()
    assert sides[1].is_file()
    assert ("replaced by --force: a.masks.tif, a.csv, a.json" in caplog.text) is not ours


@pytest.mark.parametrize("name", ["a.masks.tif", "a.csv"])
def test_a_file_next_to_a_missing_output_is_kept(name: str, tmp_path: Path) -> None:
    job = Job(tmp_path / "a.png", tmp_path / "a.json")
    job.input.write_text("image")
    (tmp_path / name).write_text("mine")
    request = Request("segmenting", {}, lambda job: [tmp_path / "a.masks.tif", tmp_path / "a.csv", job.output])
    with pytest.raises(OutputExists, match=name):
        run_batch([job], good, request=request)
    assert (tmp_path / name).read_text() == "mine"
    assert not job.output.exists()


def test_a_failed_job_leaves_no_claim_on_its_output(tmp_path: Path) -> None:
    """Neither an error nor Ctrl-C: a file that the user puts there afterwards is not taken for a result."""

    def stopped(job: Job) -> dict[str, Any]:
        raise KeyboardInterrupt

    job = Job(tmp_path / "a.png", tmp_path / "a.up")
    job.input.write_text("image")
    for work, error in ((bad, InputError), (stopped, KeyboardInterrupt)):
        with pytest.raises(error):
            run_batch([job], work)
        assert os.listdir(tmp_path) == ["a.png"]
    job.output.write_text("mine")
    with pytest.raises(OutputExists):
        run_batch([job], good)
    assert job.output.read_text() == "mine"


def test_a_failed_job_with_force_replaces_nothing_and_does_not_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = Job(tmp_path / "a.png", tmp_path / "a.up", named=True)
    for path in job.input, job.output:
        path.write_text("mine")
    with pytest.raises(InputError):
        run_batch([job], bad, force=True)
    assert job.output.read_text() == "mine"
    assert "replaced" not in caplog.text


def test_a_killed_segmentation_may_be_run_again(tmp_path: Path) -> None:
    """Killed between two renames: some files have their names, and the JSON, renamed last, is a temporary file."""
    (tmp_path / "a.masks.tif").write_bytes(b"ours")
    with pytest.raises(OutputExists):
        check_foreign([tmp_path / "a.json"])
    (tmp_path / ".a.json.4194303-0123abcd.tmp").write_bytes(b"{")
    check_foreign([tmp_path / "a.json"])


def test_new_and_finished_results_need_no_list_of_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One list for every file of a batch would take a time that grows with the square of the number of files."""
    finished = tmp_path / "a.json"
    finished.write_text('{"info": {"model": "amodal", "least_score": 0.5}, "categories": []}')
    (tmp_path / "a.masks.tif").write_bytes(b"ours")
    monkeypatch.setattr(
        "latens.systems.amodal.outputs.has_temporary", lambda path: pytest.fail(f"{path}: its folder was listed")
    )
    check_foreign([finished, tmp_path / "b.json", tmp_path / "c.json"])
