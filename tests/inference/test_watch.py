"""Watched folders: which files are taken, and when."""

from __future__ import annotations

import os
from pathlib import Path

from latens.inference.batch import Job
from latens.inference.watch import Watch, Watching


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def names(found: set[str]) -> list[str]:
    return sorted(os.path.basename(path) for path in found)


def test_a_file_is_taken_once_when_it_has_not_changed(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch([tmp_path], 2.0, clock=clock)
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "a.png"
    file.write_bytes(b"1")
    assert names(watch.settled()) == []
    clock.now = 1.9
    file.write_bytes(b"12")  # it grows
    assert names(watch.settled()) == []
    clock.now = 3.8
    assert names(watch.settled()) == []
    clock.now = 3.9
    assert names(watch.settled()) == ["a.png"]
    clock.now = 9.0
    assert names(watch.settled()) == []
    os.utime(file, ns=(1, 1))  # the same size at another time
    assert names(watch.settled()) == []
    clock.now = 11.0
    assert names(watch.settled()) == ["a.png"]


def test_a_file_that_is_renamed_when_it_is_complete_waits_under_its_own_name(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch([tmp_path], 2.0, clock=clock)
    for name in ("a.png.part", "b.TMP", "c.jpg.crdownload", ".d.png"):
        (tmp_path / name).write_bytes(b"1")
    for clock.now in (0.0, 5.0):
        assert names(watch.settled()) == []
    (tmp_path / "a.png.part").rename(tmp_path / "a.png")
    assert names(watch.settled()) == []
    clock.now = 7.0
    assert names(watch.settled()) == ["a.png"]


def test_links_in_circles_and_folders_that_vanish_are_survived(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "in" / "a.png").write_bytes(b"1")
    watch = Watch([tmp_path / "in", tmp_path / "gone"], 0.0)
    assert names(watch.settled()) == ["a.png"]


def test_jobs_come_in_the_order_of_the_plan(tmp_path: Path) -> None:
    for name in ("a2.png", "a10.png", "b.txt"):
        (tmp_path / name).write_bytes(b"1")
    jobs = [Job(tmp_path / name, tmp_path / "out" / name) for name in ("a2.png", "a10.png")]
    assert next(Watching(Watch([tmp_path], 0.0), lambda: jobs).groups()) == jobs
