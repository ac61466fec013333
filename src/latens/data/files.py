"""Reading of files within size limits, and atomic writing.

Standard library only. The path `-` is standard input for reading and standard output for writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from latens.data.placing import place
from latens.errors import LatensError, LimitExceeded, StorageFull, UnreadableInput, UsageError

STANDARD_STREAM = Path("-")
READ_CHUNK = 1 << 20
WRITE_ATTEMPTS = 3
SWEPT_LIMIT = 10_000
MAX_NAME = 255  # bytes of a name on most file systems
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_swept: set[Path] = set()  # folders that this process has swept
TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)-[0-9a-f]{8}\.tmp")


def fitting_name(stem: str, ending: str) -> str:
    """The name `stem` + `ending`. A stem too long for file systems is cut, and a hash of it keeps names distinct."""
    if len(os.fsencode(stem + ending)) <= MAX_NAME:
        return stem + ending
    mark = f"~{zlib.crc32(os.fsencode(stem)):08x}"
    while len(os.fsencode(stem + mark + ending)) > MAX_NAME and stem:
        stem = stem[:-1]
    return stem + mark + ending


def is_special(path: Path) -> bool:
    """True for a pipe, a socket or a device, such as /dev/fd/63 of the shell's >(command)."""
    return is_file(path) and not os.path.isfile(path)


def is_file(path: Path) -> bool:
    """True if the path exists and is not a folder; pipes and devices count as files."""
    return os.path.exists(path) and not os.path.isdir(path)


# ---------------------------------------------------------------------------------------------------------- reading


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert OSError on reading a file or folder to UnreadableInput."""
    try:
        yield
    except OSError as error:
        raise UnreadableInput(_why_unreadable(path, error), where=str(path), hint=_hint(error)) from error
    except ValueError as error:  # a null character in the name
        raise UnreadableInput(f"this name cannot be opened: {error}", where=repr(str(path))) from error


def _why_unreadable(path: Path, error: OSError) -> str:
    kind = "folder" if os.path.isdir(path) else "file"
    match error:
        case FileNotFoundError():
            return "this link leads nowhere" if os.path.islink(path) else "no such file or folder"
        case PermissionError():
            return f"no permission to read this {kind}"
        case IsADirectoryError():
            return "this is a folder, not a file" if os.access(path, os.R_OK | os.X_OK) else "no permission to read it"
    return f"this {kind} cannot be read: {error.strerror or error}"


def _hint(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "check the spelling and the folder"
        case PermissionError():
            return "check its permissions, or run as a user who may read it"
    return "check the path and the disk"


def read_bytes(path: Path, *, limit: int) -> bytes:
    """The contents of a file. Raises UnreadableInput, or LimitExceeded before reading more than `limit` bytes."""
    with reading(path):
        if path == STANDARD_STREAM:
            data = _read_stream(sys.stdin.buffer, limit)
        else:
            with open(path, "rb") as stream:
                status = os.fstat(stream.fileno())
                if stat.S_ISREG(status.st_mode):
                    data = stream.read() if status.st_size <= limit else None
                else:
                    data = _read_stream(stream, limit)
    if data is None or len(data) > limit:
        raise LimitExceeded(f"this file is larger than the limit of {limit:,} bytes", where=str(path))
    return data


def _read_stream(stream: BinaryIO, limit: int) -> bytes | None:
    """The contents of a pipe; None as soon as they exceed `limit` bytes."""
    data = bytearray()
    while chunk := stream.read(READ_CHUNK):
        data += chunk
        if len(data) > limit:
            return None
    return bytes(data)


# ---------------------------------------------------------------------------------------------------------- writing


def write_atomic(path: Path, data: bytes, *, time: int | None = None) -> None:
    """Write a file atomically, even through a kill or a loss of power. `time` is its modification time in nanoseconds.

    A temporary file in the same folder is written, synchronized and renamed to `path`; missing folders are created. The target
    of a symbolic link is replaced; devices and pipes are written directly, `-` is standard output. Raises StorageFull if the
    disk or quota is full, UsageError if the path cannot be written, OutputExists for a file that appeared meanwhile
    (`latens.data.placing.only_new`); no temporary file remains.
    """
    try:
        if path == STANDARD_STREAM:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        if is_special(path):  # the target of a link to a pipe has no path
            _write_into(os.open(path, os.O_WRONLY), data, durable=False)
            return
        target = Path(os.path.realpath(path))
        prepare_folder(target.parent)
        _replace(target, data, time)
    except OSError as error:
        raise write_error(path, error) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file that replaces `path` at the end of the block and is deleted if the block raises.

    For files that do not fit into memory; other files use `write_atomic`, which raises the same errors. The contents go into a
    pipe or a device at the end of the block.
    """
    if is_special(path):
        with tempfile.TemporaryFile() as stream:
            yield stream
            stream.seek(0)
            try:
                with open(path, "wb") as target_stream:
                    shutil.copyfileobj(stream, target_stream)
            except OSError as error:
                raise write_error(path, error) from error
        return
    try:
        target = Path(os.path.realpath(path))
        prepare_folder(target.parent)
        temporary = temporary_beside(target)
        stream = open(temporary, "x+b")
    except OSError as error:
        raise write_error(path, error) from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        place(temporary, target)
    except BaseException as error:
        discard(temporary)
        if isinstance(error, OSError) and error.errno in FULL:
            raise write_error(path, error) from error
        raise
    synchronize_folder(target.parent)


def prepare_folder(folder: Path) -> None:
    """Make a folder for outputs. This process's first output in it removes the temporary files of killed processes."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _swept:
        if len(_swept) >= SWEPT_LIMIT:  # a service writes into a new folder for every request
            _swept.clear()
        sweep_stale(folder)
        _swept.add(folder)


def temporary_beside(path: Path) -> Path:
    """A new temporary name in the same folder; `sweep_stale` removes such files of killed processes."""
    return path.with_name(f".{path.name[:50]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def discard(temporary: Path) -> None:
    """Remove a temporary file, if it exists, even if Ctrl-C comes meanwhile."""
    try:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def replace_durably(temporary: Path, target: Path) -> None:
    """Rename a finished temporary file to `target` and synchronize the folder; permissions of `target` are kept."""
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    place(temporary, target)
    synchronize_folder(target.parent)


def write_error(path: Path, error: OSError) -> LatensError:
    """The error of a failed write of `path`: StorageFull, or UsageError for a path that cannot be written."""
    if error.errno in FULL:
        return StorageFull(
            f"the disk is full or a quota is exceeded ({error.strerror})",
            where=str(path),
            hint="free some space and run again: finished results are kept, and no partial file remains",
        )
    reason = error.strerror or str(error)
    if isinstance(error, NotADirectoryError | FileExistsError):
        reason = "a file exists where a folder is needed"
    return UsageError(f"cannot be written: {reason}", where=str(path), hint="choose another output with -o")


def has_temporary(path: Path) -> bool:
    """True if a temporary file of `path` is there: it is being written, or the process that wrote it was killed."""
    start = f".{path.name[:50]}."
    try:
        return any(name.startswith(start) and TEMPORARY.fullmatch(name) for name in os.listdir(path.parent))
    except OSError:
        return False


def sweep_stale(folder: Path, name: str = "") -> None:
    """Remove the temporary files and folders of killed latens processes in `folder`, or only those of the output `name`.

    Processes of another machine that shares the folder look dead from here; `write_atomic` on that machine tries again.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for entry in names:
        found = TEMPORARY.fullmatch(entry)
        if found and (not name or entry.startswith(f".{name}.")) and not is_alive(int(found["pid"])):
            with contextlib.suppress(OSError):
                _remove(folder / entry)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_alive(pid: int) -> bool:
    """True if a process with this number runs."""
    if os.name != "posix":
        return True  # on other systems signal 0 is not harmless
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _replace(target: Path, data: bytes, time: int | None) -> None:
    for attempt in range(1, WRITE_ATTEMPTS + 1):
        temporary = temporary_beside(target)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            _write_into(descriptor, data, durable=True)
            if time is not None:
                with contextlib.suppress(OSError, OverflowError, ValueError):
                    os.utime(temporary, ns=(time, time))
            place(temporary, target)
        except FileNotFoundError:  # removed by `sweep_stale` on another machine, or the folder was deleted
            if attempt == WRITE_ATTEMPTS:
                raise
            continue
        except BaseException:
            discard(temporary)
            raise
        synchronize_folder(target.parent)
        return


def _write_into(descriptor: int, data: bytes, *, durable: bool) -> None:
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def synchronize_folder(folder: Path) -> None:
    """Make a rename durable. File systems that do not support this for folders are ignored."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
