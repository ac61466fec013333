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
from latens.data.files import (
    InputFile,
    find_inputs,
    output_path,
    plan_outputs,
    read_bytes,
    sweep_stale,
    write_atomic,
)
from latens.errors import LimitExceeded, StorageFull, UnreadableInput, UsageError

ENDINGS = frozenset({".jpg", ".png"})


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def relatives(*inputs: str | Path) -> list[str]:
    return [str(file.relative) for file in find_inputs(inputs, ENDINGS)]


def raises(code: int, name: str) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code), name)

    return fail


# ---------------------------------------------------------------------------------------------------------- finding


def test_a_folder_is_searched_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "shot10.jpg", "shot2.JPG", "b/1.png", "notes.txt", ".hidden.png", "._shot2.jpg", ".git/x.png")
    assert relatives(tmp_path) == ["b/1.png", "shot2.JPG", "shot10.jpg"]
    assert not any(file.named for file in find_inputs([tmp_path], ENDINGS))


def test_names_with_odd_digits_sort(tmp_path: Path) -> None:
    touch(tmp_path, "m².jpg", "m3.jpg", "7.jpg", "x.jpg")
    assert relatives(tmp_path) == ["7.jpg", "m3.jpg", "m².jpg", "x.jpg"]


def test_a_named_file_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    touch(tmp_path, "scan")
    assert find_inputs([str(tmp_path / "scan")], ENDINGS) == [InputFile(tmp_path / "scan", Path("scan"), named=True)]


def test_standard_input() -> None:
    assert find_inputs(["-"], ENDINGS) == [InputFile(Path("-"), Path("stdin"), named=True)]


def test_every_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    found = find_inputs([tmp_path / "b.jpg", tmp_path, tmp_path / "x" / ".." / "a.jpg"], ENDINGS)
    assert [file.path.name for file in found] == ["b.jpg", "a.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["1.jpg", "2.jpg"]),
        ("*", ["1.jpg", "2.jpg", "sub/3.jpg", "sub/deep/4.jpg"]),
        ("*/*.jpg", ["sub/3.jpg"]),
        ("**/*.jpg", ["1.jpg", "2.jpg", "sub/3.jpg", "sub/deep/4.jpg"]),
        ("**/deep/*", ["sub/deep/4.jpg"]),
        ("s*/**", ["sub/3.jpg", "sub/deep/4.jpg"]),
        ("[12].jpg", ["1.jpg", "2.jpg"]),
    ],
)
def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "1.jpg", "2.jpg", "sub/3.jpg", "sub/deep/4.jpg", "sub/notes.txt")
    assert relatives(tmp_path / pattern) == expected
    monkeypatch.chdir(tmp_path)
    assert relatives(pattern) == expected


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    touch(tmp_path, "photo[1].jpg", "photo1.jpg")
    assert relatives(tmp_path / "photo[1].jpg") == ["photo[1].jpg"]


def test_several_folders_keep_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "one/x.jpg", "two/x.jpg")
    assert relatives(tmp_path / "one", tmp_path / "two") == ["one/x.jpg", "two/x.jpg"]


def test_equal_names_take_their_folders_along(tmp_path: Path) -> None:
    touch(tmp_path, "a/p/x.jpg", "b/p/x.jpg", "b/p/y.jpg")
    named = [tmp_path / name for name in ("a/p/x.jpg", "b/p/x.jpg", "b/p/y.jpg")]
    assert relatives(*named) == ["a/p/x.jpg", "b/p/x.jpg", "y.jpg"]


def test_links_in_circles_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert relatives(tmp_path) == ["a/x.jpg"]
    assert relatives(tmp_path / "**" / "*.jpg") == ["a/x.jpg"]


def test_pipes_are_passed_over_and_broken_links_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    assert relatives(tmp_path) == ["a.jpg", "broken.jpg"]
    with pytest.raises(UnreadableInput, match="leads nowhere"):
        read_bytes(tmp_path / "broken.jpg", limit=10)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing.jpg", "no such file"),
        ("missing/*.jpg", "no file matches"),
        ("*.tga", r"\.jpg, \.png"),
        ("empty", r"ends in \.jpg, \.png"),
        ("bad\0name.jpg", "cannot be opened"),
    ],
)
def test_nothing_to_work_on_is_said(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "x.tga")
    with pytest.raises(UnreadableInput, match=what) as caught:
        find_inputs([str(tmp_path / name)], ENDINGS)
    assert caught.value.where is not None


def test_no_input_at_all() -> None:
    with pytest.raises(UsageError):
        find_inputs([], ENDINGS)


def test_a_missing_file_among_others_fails_in_its_turn(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    assert relatives(tmp_path / "missing.jpg", tmp_path / "a.jpg") == ["missing.jpg", "a.jpg"]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def guarded(folder: Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UnreadableInput, match="no permission to read this folder"):
        find_inputs([str(tmp_path / "locked")], ENDINGS)
    assert relatives(tmp_path) == ["a.jpg", "locked"]  # fails in its turn, and is not forgotten


# ---------------------------------------------------------------------------------------------------------- placing


def test_beside_the_input(tmp_path: Path) -> None:
    assert output_path(InputFile(tmp_path / "a" / "x.jpg", Path("x.jpg")), None, ".ltn", False) == tmp_path / "a/x.ltn"
    assert output_path(InputFile(Path("-"), Path("stdin")), None, ".ltn", False) == Path("-")


def test_one_file_and_a_name(tmp_path: Path) -> None:
    file = InputFile(tmp_path / "x.jpg", Path("x.jpg"))
    (tmp_path / "v1.0").mkdir()
    (tmp_path / "plain").write_bytes(b"")
    assert output_path(file, tmp_path / "y.ltn", ".ltn", False) == tmp_path / "y.ltn"
    assert output_path(file, tmp_path / "small", ".ltn", False) == tmp_path / "small" / "x.ltn"
    assert output_path(file, tmp_path / "v1.0", ".ltn", False) == tmp_path / "v1.0" / "x.ltn"
    assert output_path(file, f"{tmp_path}/v2.0/", ".ltn", False) == tmp_path / "v2.0" / "x.ltn"
    assert output_path(file, tmp_path / "plain", ".ltn", False) == tmp_path / "plain"
    assert output_path(file, "-", ".ltn", False) == Path("-")


def test_the_tree_is_mirrored(tmp_path: Path) -> None:
    touch(tmp_path, "album/one.jpg", "album/day 2/two.png")
    found = find_inputs([tmp_path / "album"], ENDINGS)
    assert plan_outputs(found, tmp_path / "out", ".ltn") == [tmp_path / "out/day 2/two.ltn", tmp_path / "out/one.ltn"]
    only = find_inputs([tmp_path / "album" / "day 2"], ENDINGS)
    assert plan_outputs(only, tmp_path / "out.d", ".ltn") == [tmp_path / "out.d" / "two.ltn"]  # a folder, though one


@pytest.mark.parametrize("out", [None, "out"])
def test_outputs_never_coincide(tmp_path: Path, out: str | None) -> None:
    touch(tmp_path, "photo.jpg", "photo.png", "photo.jpg.png", "other.png")
    found = find_inputs([tmp_path], ENDINGS)
    names = {file.path.name: path.name for file, path in zip(found, plan_outputs(found, out, ".ltn"), strict=True)}
    assert names == {
        "photo.jpg": "photo.jpg.ltn",
        "photo.png": "photo.png.ltn",
        "photo.jpg.png": "photo.jpg.png.ltn",  # photo.jpg.ltn is taken
        "other.png": "other.ltn",
    }


def test_what_cannot_be_placed(tmp_path: Path) -> None:
    file = InputFile(tmp_path / "x.png", Path("x.png"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="several"):
        output_path(file, tmp_path / "file", ".ltn", True)
    with pytest.raises(UsageError, match="several"):
        output_path(file, "-", ".ltn", True)
    with pytest.raises(UsageError, match="replace its input"):
        output_path(file, None, ".png", False)


# ---------------------------------------------------------------------------------------------------------- reading


def test_reading_within_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", limit=5) == b"12345"
    with pytest.raises(LimitExceeded, match="limit of 4 bytes"):
        read_bytes(tmp_path / "x", limit=4)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
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
def test_why_a_file_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str) -> None:
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


def test_writing_makes_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
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


def test_a_link_keeps_leading_where_it_did(tmp_path: Path) -> None:
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
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, raises(code, "x"))
        for name in ("old", "new"):
            with pytest.raises(StorageFull) as caught:
                write_atomic(tmp_path / name, b"data")
            assert caught.value.exit_status == 5
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_partial_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_atomic(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x", b"data")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["file/x", "folder"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    touch(tmp_path, "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomic(tmp_path / place, b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
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


def test_sweeping_spares_the_living_and_what_is_not_ours(tmp_path: Path) -> None:
    names = [f".x.ltn.{os.getpid()}-0123abcd.tmp", f".x.ltn.{os.getppid()}-0123abcd.tmp", ".x.1.tmp", "x-0123abcd.tmp"]
    touch(tmp_path, *names)
    sweep_stale(tmp_path)
    sweep_stale(tmp_path / "missing")
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_swept_temporary_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that shares the folder cannot see this process, and may take it for dead once."""
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
