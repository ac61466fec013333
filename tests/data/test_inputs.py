from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from latens.data.files import read_bytes
from latens.data.inputs import InputFile, find_inputs
from latens.data.output_paths import output_path, plan_outputs
from latens.errors import UnreadableInput, UsageError

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


def test_names_with_non_ascii_digits_are_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "m².jpg", "m3.jpg", "7.jpg", "x.jpg")
    assert relatives(tmp_path) == ["7.jpg", "m3.jpg", "m².jpg", "x.jpg"]


def test_a_named_file_may_have_any_ending(tmp_path: Path) -> None:
    touch(tmp_path, "scan")
    assert find_inputs([str(tmp_path / "scan")], ENDINGS) == [InputFile(tmp_path / "scan", Path("scan"), named=True)]


def test_standard_input() -> None:
    assert find_inputs(["-"], ENDINGS) == [InputFile(Path("-"), Path("stdin"), named=True)]


def test_files_are_distinct(tmp_path: Path) -> None:
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


def test_an_existing_name_with_brackets_is_not_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "photo[1].jpg", "photo1.jpg")
    assert relatives(tmp_path / "photo[1].jpg") == ["photo[1].jpg"]


def test_several_folders_keep_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "one/x.jpg", "two/x.jpg")
    assert relatives(tmp_path / "one", tmp_path / "two") == ["one/x.jpg", "two/x.jpg"]


def test_equal_names_keep_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/p/x.jpg", "b/p/x.jpg", "b/p/y.jpg")
    named = [tmp_path / name for name in ("a/p/x.jpg", "b/p/x.jpg", "b/p/y.jpg")]
    assert relatives(*named) == ["a/p/x.jpg", "b/p/x.jpg", "y.jpg"]


def test_results_of_earlier_runs_are_omitted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    album, out = tmp_path / "album", tmp_path / "album" / "out"
    touch(album, "a.png", "out/a.png", "out/deep/b.png", "output.png")
    assert [file.path for file in find_inputs([album], ENDINGS, out)] == [album / "a.png", album / "output.png"]
    assert "left out 2 files" in caplog.text
    assert len(find_inputs([album, out / "a.png"], ENDINGS, out)) == 3  # named
    assert len(find_inputs([out], ENDINGS, out)) == 2  # results beside their inputs
    (album / "a.png").unlink()
    (album / "output.png").unlink()
    with pytest.raises(UnreadableInput, match="earlier runs"):
        find_inputs([album], ENDINGS, out)


def test_images_of_other_kinds_are_counted_with_their_packages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latens.data.heic.is_installed", lambda: False)
    touch(tmp_path, "a.jpg", "b.HEIC", "sub/c.heic", "d.dng", ".hidden.heic", "notes.txt")
    assert relatives(tmp_path) == ["a.jpg"]
    (message,) = caplog.messages
    assert "left out 3 images" in message
    assert "1 .dng (rawpy), 2 .heic (latens[heic])" in message
    caplog.clear()
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UnreadableInput):
        relatives(tmp_path)
    assert "2 .heic" in caplog.messages[0]
    caplog.clear()
    touch(tmp_path, "x.ltn")
    assert len(find_inputs([tmp_path], frozenset({".ltn"}))) == 1
    assert not caplog.messages
    monkeypatch.setattr("latens.data.heic.is_installed", lambda: True)
    assert relatives(tmp_path) == ["b.HEIC", "sub/c.heic"]
    assert "1 .dng" in caplog.messages[0]
    assert "heic" not in caplog.messages[0]


def test_cyclic_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert relatives(tmp_path) == ["a/x.jpg"]
    assert relatives(tmp_path / "**" / "*.jpg") == ["a/x.jpg"]


def test_pipes_are_omitted_and_broken_links_are_returned(tmp_path: Path) -> None:
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
def test_inputs_without_files_are_reported(tmp_path: Path, name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latens.data.heic.is_installed", lambda: False)  # its endings would be listed, too
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "x.tga")
    with pytest.raises(UnreadableInput, match=what) as caught:
        find_inputs([str(tmp_path / name)], ENDINGS)
    assert caught.value.where is not None


def test_no_input_at_all() -> None:
    with pytest.raises(UsageError):
        find_inputs([], ENDINGS)


def test_a_missing_file_among_others_is_returned(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    assert relatives(tmp_path / "missing.jpg", tmp_path / "a.jpg") == ["missing.jpg", "a.jpg"]


def test_a_folder_without_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_output_next_to_the_input(tmp_path: Path) -> None:
    assert output_path(InputFile(tmp_path / "a" / "x.jpg", Path("x.jpg")), None, ".ltn", False) == tmp_path / "a/x.ltn"
    assert output_path(InputFile(Path("-"), Path("stdin")), None, ".ltn", False) == Path("-")


def test_output_name_of_one_file(tmp_path: Path) -> None:
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
def test_outputs_are_distinct(tmp_path: Path, out: str | None) -> None:
    touch(tmp_path, "photo.jpg", "photo.png", "photo.jpg.png", "other.png")
    found = find_inputs([tmp_path], ENDINGS)
    names = {file.path.name: path.name for file, path in zip(found, plan_outputs(found, out, ".ltn"), strict=True)}
    assert names == {
        "photo.jpg": "photo.jpg.ltn",
        "photo.png": "photo.png.ltn",
        "photo.jpg.png": "photo.jpg.png.ltn",  # photo.jpg.ltn is taken
        "other.png": "other.ltn",
    }


def test_invalid_outputs(tmp_path: Path) -> None:
    file = InputFile(tmp_path / "x.png", Path("x.png"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="several"):
        output_path(file, tmp_path / "file", ".ltn", True)
    with pytest.raises(UsageError, match="several"):
        output_path(file, "-", ".ltn", True)
    with pytest.raises(UsageError, match=r"(?s)overwrite the input.*ends in \.png, as results of this command do"):
        output_path(file, None, ".png", False)
