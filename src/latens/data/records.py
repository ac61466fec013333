"""Records of results: the file .latens.jsonl in a folder names the input and the settings of every result in this folder.

Standard library only. A line is written before the work ("started") and one after it ("done", "damaged", or "failed"); the last
line that names a file holds for this file. The work renames finished files into place, so a file after a line "started" was
left by a killed process. Several processes may append to one record; unreadable lines are ignored.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from latens.data.files import READ_CHUNK, STANDARD_STREAM, reading, write_error

logger = logging.getLogger(__name__)

RECORDS = ".latens.jsonl"
FORM = 1  # version of the lines
START = b'{"latens": '  # of every line
DRAWING = "drawing"  # of figures of reports and runs, and label maps of converted data
STATES = ("started", "done", "damaged", "failed")


class Fingerprint(NamedTuple):
    """State of a file. The hash decides whether two states are equal; equal stamps of one path make hashing unnecessary."""

    stamp: str  # size, time of the last change of the content, and of the file's entry
    sha256: str


class Entry(NamedTuple):
    """What the record of a folder knows of one result."""

    what: str  # the command, as "compressing"
    state: str  # one of STATES, without "failed"
    input: Path
    source: Fingerprint | None  # of the input; None for a pipe
    request: dict[str, Any]  # settings that decide the result
    output: Fingerprint | None  # None until the work is done
    missed: bool | None = None  # True if the work did not reach its target; None for work without one

    def is_of(self, path: Path, sources: Sequence[Path]) -> bool:
        """True if this result was made from `sources` (the input `path` and other files). Raises UnreadableInput."""
        if self.source is None:
            return False
        same_place = os.path.abspath(path) == os.path.abspath(self.input)
        now = stamp_of(sources)
        return now is not None and ((same_place and now == self.source.stamp) or hash_of(sources) == self.source.sha256)

    def is_unchanged(self, path: Path) -> bool:
        """True if the result `path` is as the work left it."""
        now = stamp_of([path])
        if now is None or self.output is None:
            return False
        return now == self.output.stamp or hash_of([path]) == self.output.sha256


# ------------------------------------------------------------------------------------------------------ fingerprints


def fingerprint(paths: Sequence[Path]) -> Fingerprint | None:
    """State of files and folders together; None if one of them is no file, such as a pipe. Raises UnreadableInput."""
    stamp = stamp_of(paths)  # before the hash: a change in between is seen by the next comparison
    return None if stamp is None else Fingerprint(stamp, hash_of(paths))


def stamp_of(paths: Sequence[Path]) -> str | None:
    """Sizes and times of files; a hash of them for folders and several files. Raises UnreadableInput."""
    stamps = []
    for path in _files_of(paths):
        if path == STANDARD_STREAM:
            return None
        with reading(path):
            status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        stamps.append(f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}")
    if len(stamps) == 1:
        return stamps[0]
    return hashlib.sha256(" ".join(stamps).encode()).hexdigest()


def hash_of(paths: Sequence[Path]) -> str:
    """SHA-256 of the content of a file; of names and contents for folders and several files. Raises UnreadableInput."""
    files = _files_of(paths)
    digests = [_hash_file(path) for path in files]
    if files == list(paths) and len(files) == 1:
        return digests[0]
    named = (os.fsencode(path.name) + b"\0" + digest.encode() for path, digest in zip(files, digests, strict=True))
    return hashlib.sha256(b"\0".join(named)).hexdigest()


def _files_of(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path != STANDARD_STREAM and os.path.isdir(path):
            with reading(path):
                files += sorted(Path(entry) for entry in os.scandir(path) if entry.is_file() and entry.name[:1] != ".")
        else:
            files.append(path)
    return files


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with reading(path), open(path, "rb") as stream:
        while chunk := stream.read(READ_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------------- records


class Records:
    """The records of all folders of a request, each read once and then as far as it grew."""

    def __init__(self) -> None:
        self._folders: dict[str, _Folder] = {}

    def entry(self, output: Path) -> Entry | None:
        """What is known of a result; None without a record."""
        return self.entries(output.parent).get(output.name)

    def entries(self, folder: Path) -> Mapping[str, Entry]:
        """What is known of the results in a folder, by name."""
        return self._of(folder).read()

    def start(self, outputs: Sequence[Path], what: str, path: Path, source: Fingerprint | None, request: Any) -> None:
        """Note that the work on the input `path` begins, which writes `outputs`. Raises StorageFull or UsageError."""
        self._write("started", {output: None for output in outputs}, what, path, source, request)

    def finish(
        self,
        state: str,
        outputs: Iterable[Path],
        what: str,
        path: Path,
        source: Any,
        request: Any,
        *,
        missed: bool | None = None,
    ) -> None:
        """Note the files that the work left, with their fingerprints; `state` is done or damaged. Raises as `start`."""
        found = {output: fingerprint([output]) if output.is_file() else None for output in outputs}
        self._write(state, found, what, path, source, request, {} if missed is None else {"missed": missed})

    def draw(self, outputs: Iterable[Path]) -> None:
        """Note figures, label maps or masks of no single input, which `latens.data.origins.drawn` recognizes."""
        self.finish("done", outputs, DRAWING, STANDARD_STREAM, None, {})

    def release(self, outputs: Iterable[Path]) -> None:
        """Note that the work failed and left these files as they were: the lines before "started" hold again."""
        self._write("failed", {output: None for output in outputs}, "", STANDARD_STREAM, None, {})

    def _of(self, folder: Path) -> _Folder:
        place = os.path.abspath(folder)
        return self._folders.setdefault(place, _Folder(Path(place)))

    def _write(
        self,
        state: str,
        outputs: Mapping[Path, Fingerprint | None],
        what: str,
        path: Path,
        source: Any,
        request: Any,
        more: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        by_folder: dict[str, dict[str, Fingerprint | None]] = {}
        for output, found in outputs.items():
            by_folder.setdefault(os.path.abspath(output.parent), {})[output.name] = found
        for place, names in by_folder.items():
            self._of(Path(place)).append(
                {
                    "latens": FORM,
                    "state": state,
                    "what": what,
                    "input": _portable(path, place),
                    "source": source,
                    "request": request,
                    "outputs": names,
                    **more,
                }
            )


class _Folder:
    """The record of one folder: the last entry of every name, and the one before an unfinished work."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS
        self._entries: dict[str, Entry] = {}
        self._before: dict[str, Entry] = {}
        self._read = (0, 0)  # inode, and bytes of complete lines
        self._foreign = False
        self._made: list[Path] = []  # folders that did not exist

    def read(self) -> dict[str, Entry]:
        """All entries, with those that other processes added meanwhile."""
        try:
            if not stat.S_ISREG(self.path.lstat().st_mode):  # a link may lead to a file of another program
                return self._refuse()
            with self.path.open("rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                if inode != self._read[0]:
                    self._forget(inode)
                stream.seek(self._read[1])
                data = stream.read()
        except FileNotFoundError:
            self._forget(0)
            return self._entries
        except OSError:
            return self._refuse()
        first = data.lstrip().partition(b"\n")[0]
        if not self._read[1] and not START.startswith(first[: len(START)]):
            return self._refuse()
        lines = data[: data.rfind(b"\n") + 1]
        self._read = (inode, self._read[1] + len(lines))
        for line in lines.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                self._take(json.loads(line))
        return self._entries

    def _forget(self, inode: int) -> None:
        self._entries, self._before, self._read = {}, {}, (inode, 0)

    def _refuse(self) -> dict[str, Entry]:
        if not self._foreign:
            logger.warning("%s: no record of latens can be kept there; no results are recorded in this folder", self.path)
        self._foreign = True
        return {}

    def _take(self, line: dict[str, Any]) -> None:
        state, source = line["state"], line["source"]
        if line["latens"] != FORM or state not in STATES:
            return
        for name, output in line["outputs"].items():
            if state == "failed":
                self._entries.pop(name, None)
                if name in self._before:
                    self._entries[name] = self._before.pop(name)
                continue
            if state != "started" and output is None:  # a file that the work did not write
                self._entries.pop(name, None)
                self._before.pop(name, None)
                continue
            entry = Entry(
                str(line["what"]),
                state,
                self.path.parent / line["input"],
                None if source is None else Fingerprint(*source),
                dict(line["request"]),
                None if output is None else Fingerprint(*output),
                line.get("missed"),
            )
            earlier = self._entries.get(name)
            if state == "started" and earlier is not None and earlier.state != "started":
                self._before[name] = earlier
            elif state != "started":
                self._before.pop(name, None)
            self._entries[name] = entry

    def append(self, line: dict[str, Any]) -> None:
        """Append a line in one call. Raises StorageFull or UsageError: a result without a record would not be known as ours."""
        self.read()
        if self._foreign:
            return
        # The leading line break ends a line that a killed process may have left unfinished.
        data = ("\n" + json.dumps(line, default=str) + "\n").encode()
        try:
            with self._locked() as descriptor:
                if os.write(descriptor, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # the line is torn
                if line["state"] != "started":  # a line before the work need not outlive a loss of power
                    os.fsync(descriptor)
                if line["state"] == "failed" and not self.read():
                    self._remove()
        except OSError as error:
            raise write_error(self.path, error) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file for appending, which no other process appends to or removes meanwhile."""
        import fcntl

        missing = [place for place in (self.path.parent, *self.path.parent.parents) if not place.exists()]
        self._made += missing
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                with contextlib.suppress(OSError):  # file systems without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.path.exists(self.path) and os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _remove(self) -> None:
        """Remove a record without entries, and the folders that it needed: failed work leaves nothing."""
        with contextlib.suppress(OSError):
            self.path.unlink()
            for folder in self._made:
                folder.rmdir()
        self._made = []


def _portable(path: Path, folder: str) -> str:
    """An input below the folder as a relative path, so that the folder may move; others as an absolute path."""
    if path == STANDARD_STREAM:
        return "-"
    place = os.path.abspath(path)
    return os.path.relpath(place, folder) if place.startswith(folder.rstrip(os.sep) + os.sep) else place
