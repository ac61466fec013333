"""Records of results: the last line of a name holds, and lines of other content are passed over."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from latens.data.inputs import find_inputs
from latens.data.records import RECORDS, Records, fingerprint, hash_of, stamp_of
from latens.errors import StorageFull, UnreadableInput, UsageError


def test_lines_of_a_record(tmp_path: Path) -> None:
    """A torn line is ignored, and the last line of a name holds."""
    records, source, output = Records(), tmp_path / "a.txt", tmp_path / "out" / "a.up"
    source.write_text("a")
    output.parent.mkdir()
    output.write_text("A")
    records.start([output], "raising", source, None, {"x": 1})
    with (output.parent / RECORDS).open("a") as file:
        file.write('\n{"latens": 1, "state": "do')
    records.finish("done", [output], "raising", source, None, {"x": 2})
    found = Records().entry(output)
    assert found is not None
    assert (found.state, found.request, found.input) == ("done", {"x": 2}, source)
    assert found.is_unchanged(output)
    os.utime(output, (1, 1))
    assert found.is_unchanged(output)  # by content
    output.write_text("B")
    assert not found.is_unchanged(output)
    records.start([output], "raising", source, None, {"x": 3})
    records.release([output])
    again = Records().entry(output)
    assert again == found  # the line before the failed work
    assert len([line for line in (output.parent / RECORDS).read_text().splitlines() if json_or_none(line)]) == 4


def json_or_none(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def test_a_folder_with_a_hostile_record(tmp_path: Path) -> None:
    """Lines of any content are passed over, and no pipe is opened."""
    (tmp_path / "a.png").write_bytes(b"image")
    os.mkfifo(tmp_path / "pipe")
    line = {"latens": 1, "state": "done", "what": "x", "input": "pipe", "source": ["1", "2"], "request": {}}
    lines = [line | {"outputs": {"a.png": ["1", "2"], "pipe": ["1", "2"]}}, line | {"outputs": 5}, {"latens": 1}, [], None]
    text = "\n".join([*map(json.dumps, lines), "[" * 100_000, '{"latens": 1, "state": "done"', "\0\0"])
    (tmp_path / RECORDS).write_text(text + "\n")
    assert [file.path.name for file in find_inputs([tmp_path], frozenset({".png"}), skip_results=True)] == ["a.png"]
    entry = Records().entry(tmp_path / "a.png")
    assert entry is not None
    assert not entry.is_unchanged(tmp_path / "pipe")


def test_fingerprints(tmp_path: Path) -> None:
    """A stamp differs after every change of a file, also where size and time are kept; a hash only if the content does."""
    file, folder = tmp_path / "a.txt", tmp_path / "frames"
    file.write_text("one")
    os.utime(file, (1, 1))
    before = fingerprint([file])
    assert before is not None
    file.write_text("two")
    os.utime(file, (1, 1))
    assert stamp_of([file]) != before.stamp
    assert hash_of([file]) != before.sha256
    file.write_text("one")
    assert hash_of([file]) == before.sha256
    folder.mkdir()
    (folder / "1.png").write_text("x")
    (folder / ".hidden").write_text("x")
    first = fingerprint([folder])
    (folder / ".hidden").write_text("y")
    assert fingerprint([folder]) == first
    (folder / "1.png").rename(folder / "2.png")
    assert hash_of([folder]) != (first and first.sha256)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("-")):
        assert fingerprint([path]) is None
        assert fingerprint([file, path]) is None
    with pytest.raises(UnreadableInput):
        fingerprint([tmp_path / "none"])


@pytest.mark.parametrize("content", ["", "\n", '\n{"lat', "mine\n", '{"other": 1}\n'])
def test_a_file_of_another_program_is_kept(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / RECORDS).write_text(content)
    output = tmp_path / "a.up"
    output.write_text("A")
    records, foreign = Records(), "mine" in content or "other" in content
    for _ in range(2):
        records.finish("done", [output], "raising", tmp_path / "a", None, {})
    assert (Records().entry(output) is None) is foreign
    assert ((tmp_path / RECORDS).read_text() == content) is foreign
    assert caplog.text.count("no results are recorded in this folder") == (2 if foreign else 0)  # once for each reader


def test_a_record_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the work as well as after it: without a record, the result would be refused by the same command."""
    output, records = tmp_path / "a.up", Records()
    output.write_text("A")

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails)
        with pytest.raises(UsageError, match=r"\.latens\.jsonl: cannot be written: Input/output error"):
            records.start([output], "raising", tmp_path / "a", None, {})
    records.start([output], "raising", tmp_path / "a", None, {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: len(data) // 2)
        with pytest.raises(StorageFull):
            records.finish("done", [output], "raising", tmp_path / "a", None, {})
    entry = Records().entry(output)
    assert entry is not None
    assert entry.state == "started"
