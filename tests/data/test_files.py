from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from latens.data import files
from latens.data.files import read_bytes, sweep_stale, write_atomic
from latens.errors import LimitExceeded, StorageFull, UnreadableInput, UsageError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"x")


def raises(code: int, name: str) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code), name)

    return fail


# ---------------------------------------------------------------------------------------------------------- reading


def test_reading_within_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", limit=5) == b"12345"
    with pytest.raises(LimitExceeded, match="limit of 4 bytes"):
        read_bytes(tmp_path / "x", limit=4)


def test_a_huge_file_is_refused_before_reading(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(2**40)  # a hole: takes no room
    with pytest.raises(LimitExceeded):
        read_bytes(tmp_path / "huge", limit=2**30)


def test_a_pipe_is_read_up_to_the_limit() -> None:
    with pytest.raises(LimitExceeded):
        read_bytes(Path("/dev/zero"), limit=3 << 20)


@pytest.mark.parametrize(
    ("code", "what"),
    [(errno.EACCES, "no permission to read this file"), (errno.EIO, "cannot be read"), (errno.ELOOP, "cannot be read")],
)
def test_reasons_of_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str) -> None:
    monkeypatch.setattr(files, "open", raises(code, "x"), raising=False)
    with pytest.raises(UnreadableInput, match=what) as caught:
        read_bytes(tmp_path / "x", limit=5)
    assert caught.value.hint


def test_missing_files_and_folders_as_files(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="no such file"):
        read_bytes(tmp_path / "missing", limit=5)
    with pytest.raises(UnreadableInput, match="folder"):
        read_bytes(tmp_path, limit=5)


# ---------------------------------------------------------------------------------------------------------- writing


def test_writing_creates_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "x.ltn", b"one")
    write_atomic(tmp_path / "a" / "b" / "x.ltn", b"two")
    assert (tmp_path / "a" / "b" / "x.ltn").read_bytes() == b"two"
    assert os.listdir(tmp_path / "a" / "b") == ["x.ltn"]


def test_long_names_can_be_written(tmp_path: Path) -> None:
    name = "ä" * 127  # 254 of the 255 bytes that file systems allow
    write_atomic(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"


def test_modes(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "new", b"x")
    finally:
        os.umask(old)
    touch(tmp_path, "private")
    (tmp_path / "private").chmod(0o600)
    write_atomic(tmp_path / "private", b"y")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "private")] == [0o640, 0o600]


def test_the_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    touch(tmp_path, "target")
    (tmp_path / "link").symlink_to("target")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_devices_are_written_and_not_replaced() -> None:
    before = os.stat("/dev/null")
    write_atomic(Path("/dev/null"), b"x")
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    with pytest.raises(StorageFull):
        write_atomic(Path("/dev/full"), b"x")


def test_standard_output() -> None:
    script = "from pathlib import Path; from latens.data.files import write_atomic; write_atomic(Path('-'), b'bytes')"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"bytes"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, raises(code, "x"))
        for name in ("old", "new"):
            with pytest.raises(StorageFull) as caught:
                write_atomic(tmp_path / name, b"data")
            assert caught.value.exit_status == 5
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_partial_writes_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_atomic(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_an_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x", b"data")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["file/x", "folder"])
def test_unwritable_paths(tmp_path: Path, place: str) -> None:
    touch(tmp_path, "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomic(tmp_path / place, b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.ltn"
    target.write_bytes(b"old")
    script = f"""
import os, signal
from pathlib import Path
from latens.data import files
write = os.write
def die(descriptor, data):
    write(descriptor, data[:2])
    os.kill(os.getpid(), signal.SIGKILL)
files.os.write = die
files.write_atomic(Path({str(target)!r}), b"new data")
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    sweep_stale(tmp_path)
    assert os.listdir(tmp_path) == ["x.ltn"]


def test_sweeping_keeps_files_of_live_processes_and_other_files(tmp_path: Path) -> None:
    names = [f".x.ltn.{os.getpid()}-0123abcd.tmp", f".x.ltn.{os.getppid()}-0123abcd.tmp", ".x.1.tmp", "x-0123abcd.tmp"]
    touch(tmp_path, *names)
    sweep_stale(tmp_path)
    sweep_stale(tmp_path / "missing")
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_removed_temporary_file_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine that shares the folder does not see this process and may remove its file."""
    fsync = os.fsync
    swept: list[Path] = []

    def sweep_once(descriptor: int) -> None:
        fsync(descriptor)
        if not swept:
            swept.extend(tmp_path.glob(".x*"))
            swept[0].unlink()

    monkeypatch.setattr(os, "fsync", sweep_once)
    write_atomic(tmp_path / "x", b"data")
    assert len(swept) == 1
    assert (tmp_path / "x").read_bytes() == b"data"
