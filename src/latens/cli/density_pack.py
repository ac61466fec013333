"""`latens density pack` and `latens density unpack`"""

from __future__ import annotations

import io
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.batch import Readable
from latens.cli.common import PARTIAL, Force, Model, ReadOptions, Reporter, human_size
from latens.errors import OutputExists, StreamError, UnreadableInput, UsageError, counted
from latens.launch import announce

if TYPE_CHECKING:
    from latens.data.inputs import InputFile
    from latens.systems.flow.pack.archive import Member
    from latens.systems.flow.pack.packer import Packed, Restored, Source

logger = logging.getLogger(__name__)

COARSE = 2 * 10**9  # nanoseconds: the step of times on FAT
Threads = Annotated[int | None, Parameter(validator=Number(gte=1, lte=1024), help="CPU threads.  [default: all cores]")]


def pack(
    inputs: Annotated[list[str], Parameter(help="Images, folders of images, patterns.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="The archive, as images.ltp.")],
    model: Model = "flow_pack",
    threads: Threads = None,
    force: Force = False,
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> int:
    """Pack images into one smaller file without loss; every pixel, name and time is restored.

    An image is stored in the smallest of four forms: coded by the model, lossless WebP, its pixels, the file itself. Palettes,
    alpha, 16 bits, JPEG and other coded files are stored unchanged. Every image is decoded again before it is written.
    Folders may hold any number of files of at most 240 MiB each; memory holds one group of them at a time.

        latens density pack images/ -o images.ltp
        latens density unpack images.ltp -o images/
    """
    from latens.data.files import STANDARD_STREAM, writing
    from latens.data.folders import FILE_ENDINGS
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.data.other_formats import UNREAD
    from latens.data.placing import only_new
    from latens.inference.batch import SOME_FAILED
    from latens.systems.flow.pack.packer import load

    if out == STANDARD_STREAM:
        raise UsageError("an archive cannot go to standard output", where="-o -", hint="name a file with -o, as images.ltp")
    if out.is_dir():
        raise UsageError("this is a folder", where=str(out), hint="name a file with -o, as images.ltp")
    if out.suffix.lower() in FILE_ENDINGS - {".ltp"}:
        raise UsageError("archives have a format of their own", where=str(out), hint="name a file with -o, as images.ltp")
    refuse_existing(out, force)
    endings = IMAGE_ENDINGS | UNREAD.keys()  # what cannot be decoded here is stored as it is
    files = [file for file in find_inputs(inputs, endings, skip_drawn=False) if force or file.path.absolute() != out.absolute()]
    warn_of_other_files(inputs, {file.path.resolve() for file in files})
    packer = load(model, threads=threads)
    announce(packer)
    started = time.perf_counter()
    reporter, summary = Reporter(options), Totals()
    reading = Readable(files, read_source, reporter)
    with only_new(() if force else (out,)), writing(out) as stream:
        for one in packer.pack((source for _, source in reading), stream):
            report(one, reporter)
            summary.add(one)
        if not summary.files:
            raise UnreadableInput("none of the files can be read", where=str(files[0].path))
        size = stream.tell()
    text = f"{out}: {counted(summary.files, 'file')}, {human_size(size)}{summary.text()}, {time.perf_counter() - started:.1f} s"
    reporter.result({"output": str(out), "files": summary.files, "bytes": size, **summary.record()}, text)
    return SOME_FAILED if reading.failed else 0


def refuse_existing(out: Path, force: bool) -> None:
    if os.path.lexists(out) and not force:
        raise OutputExists("the archive exists already", where=str(out), hint="--force overwrites it; -o names another")


def read_source(file: InputFile) -> Source:
    """A file with its name and time. Raises InputError or LimitExceeded, UsageError for standard input."""
    from latens.data.files import STANDARD_STREAM, read_bytes, reading
    from latens.systems.flow.pack.archive import MAX_BYTES
    from latens.systems.flow.pack.packer import Source

    if file.path == STANDARD_STREAM:
        raise UsageError("standard input has no file name to restore", where="-", hint="name files or folders")
    data = read_bytes(file.path, limit=MAX_BYTES)
    with reading(file.path):
        changed = os.stat(file.path).st_mtime_ns
    return Source(file.relative.as_posix(), changed, data)


def warn_of_other_files(inputs: list[str], taken: set[Path]) -> None:
    """Warn of files in the folders that are hidden or whose names are not those of images; they are not packed."""
    folders = [Path(word) for word in inputs if Path(word).is_dir()]
    inside = chain.from_iterable(folder.rglob("*") for folder in folders)
    others = sorted(path for path in inside if path.is_file() and path.resolve() not in taken)
    if others:
        why = "hidden, or without the name of an image"
        logger.warning("%s left out (%s); the first is %s", counted(len(others), "file"), why, others[0])


def report(one: Packed, reporter: Reporter) -> None:
    """Print the record of a file in JSON; log its notes."""
    for note in one.notes:
        logger.warning("%s: %s", one.name, note)
    if reporter.format == "json":
        record = {"file": one.name, "form": one.form, "bytes": one.bytes_after, "file_bytes": one.bytes_before}
        reporter.result({**record, "webp_bytes": one.webp_bytes, "notes": list(one.notes)}, "")


class Totals:
    """Forms and sizes of all files."""

    def __init__(self) -> None:
        self.forms: Counter[str] = Counter()
        self.files = self.files_bytes = self.images = self.images_bytes = self.webp_bytes = 0

    def add(self, one: Packed) -> None:
        self.forms[one.form] += 1
        self.files += 1
        self.files_bytes += one.bytes_before
        if one.webp_bytes is not None:
            self.images += 1
            self.images_bytes += one.bytes_after
            self.webp_bytes += one.webp_bytes

    def record(self) -> dict[str, Any]:
        return {
            "forms": dict(self.forms),
            "files_bytes": self.files_bytes,
            "images": self.images,
            "images_bytes": self.images_bytes,
            "webp_bytes": self.webp_bytes,
        }

    def text(self) -> str:
        """A summary line of the totals."""
        words = f" of {human_size(self.files_bytes)}"
        if self.images:
            share = 100 * (1 - self.images_bytes / self.webp_bytes)
            side = "above" if share < 0 else "below"
            words += f"; images {human_size(self.images_bytes)}, {abs(share):.1f} % {side} lossless WebP"
        forms = ", ".join(f"{count} {form}" for form, count in sorted(self.forms.items()))
        return f"{words} ({forms})"


def unpack(
    archive: Annotated[Path, Parameter(help="An archive of `latens density pack`.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the files.")],
    model: Model = "flow_pack",
    threads: Threads = None,
    force: Force = False,
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> int:
    """Unpack an archive into its files, with their names and times.

    PNG files hold the same pixels and chunks but are compressed anew; all other files have the same bytes. Of a damaged
    archive, all intact files are written, the others are listed, and the exit status is 4.

        latens density unpack images.ltp -o images/
    """
    from latens.data.folders import check_writable
    from latens.systems.flow.pack.packer import load

    if out.is_file():
        raise UsageError("this is a file", where=str(out), hint="name a folder with -o")
    reporter = Reporter(options)
    with opened(archive) as stream:
        try:
            refuse_overwriting(stream, out, force)
            check_writable(out)
            packer = load(model, threads=threads)
            announce(packer)
            stream.seek(0)
            counts = restore(packer.unpack(stream), out, archive, force, reporter)
        except StreamError as error:
            raise error.at(str(archive)) from None
    text = f"{out}: {counted(counts['written'], 'file')}"
    text += f"; {counted(counts['lost'], 'file')} lost" if counts["lost"] else ""
    text += f"; {counts['renamed']} without their names" if counts["renamed"] else ""
    reporter.result(
        {"output": str(out), "files": counts["written"], "lost": counts["lost"], "renamed": counts["renamed"]}, text
    )
    return PARTIAL if counts["lost"] or counts["renamed"] or counts["damage"] else 0


@contextmanager
def opened(archive: Path) -> Iterator[BinaryIO]:
    """An archive as a seekable stream. Raises UnreadableInput."""
    from latens.codes.stream import StreamLimits
    from latens.data.files import STANDARD_STREAM, read_bytes, reading

    if archive == STANDARD_STREAM or (archive.exists() and not archive.is_file()):
        yield io.BytesIO(read_bytes(archive, limit=StreamLimits().file_bytes))
        return
    with reading(archive):
        stream = open(archive, "rb")
    with stream:
        yield stream


def refuse_overwriting(stream: BinaryIO, out: Path, force: bool) -> None:
    """Raise OutputExists if the folder holds a file with the name, but not the time, of a file of the archive.

    A file of the same time is that of an interrupted run; `target` compares its contents.
    """
    from latens.systems.flow.pack.archive import groups, is_safe, open_archive

    open_archive(stream)
    if force or not out.exists():
        return
    members = (member for group in groups(stream) for member in group.members if is_safe(member.name))
    existing = next((out / one.name for one in members if os.path.lexists(out / one.name) and not has_time(out, one)), None)
    if existing is not None:
        raise OutputExists(
            "a file of the archive exists already",
            where=str(existing),
            hint="--force overwrites it; -o names another folder",
        )


def has_time(out: Path, member: Member) -> bool:
    """True if the file of a member has the time of the archive, as exactly as file systems store it."""
    return member.time is not None and abs((out / member.name).lstat().st_mtime_ns - member.time) <= COARSE


def restore(files: Iterator[Restored], out: Path, archive: Path, force: bool, reporter: Reporter) -> Counter[str]:
    """Write the files; log and count those that are lost, renamed or damaged."""
    counts: Counter[str] = Counter()
    for one in files:
        if one.data is None:
            what = f"{one.name or f'file {one.number}'} is lost: {one.reason}" if one.number else one.reason
            logger.error("%s: %s", archive, what)
            counts["lost" if one.number else "damage"] += 1
            continue
        place = target(out, one, force)
        renamed = place != out / one.name
        if renamed:
            why = f"the name {one.name!r} is taken or unsafe" if one.name else f"the name of file {one.number} is lost"
            logger.warning("%s: %s; it is written as %s", archive, why, place.name)
            counts["renamed"] += 1
        try:
            write(place, one)
        except UsageError as error:  # for example a name that is too long for this file system
            logger.error(str(error))
            counts["lost"] += 1
            continue
        counts["written"] += 1
        if reporter.format == "json":
            reporter.result({"output": str(place), "bytes": len(one.data), "renamed": renamed}, "")
    return counts


def target(out: Path, one: Restored, force: bool) -> Path:
    """Path of a file: its name, or its number if the name is lost, leads out of the folder or is taken."""
    from latens.systems.flow.pack.archive import is_safe

    if is_safe(one.name) and (force or not os.path.lexists(out / one.name) or holds(out / one.name, one.data or b"")):
        return out / one.name
    stem, suffix = f"file-{one.number:06d}", ending(one.data or b"")
    numbered = (out / f"{stem}{extra}{suffix}" for extra in chain([""], map("-{}".format, count(2))))
    return next(place for place in numbered if force or not os.path.lexists(place))


def holds(path: Path, data: bytes) -> bool:
    """True for a regular file, not a link, of these contents."""
    with suppress(OSError):
        return not path.is_symlink() and path.stat().st_size == len(data) and path.read_bytes() == data
    return False


def ending(data: bytes) -> str:
    """Ending of a file, from its first bytes."""
    known = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"BM": ".bmp", b"GIF8": ".gif", b"II*": ".tif"}
    return next((name for start, name in known.items() if data.startswith(start)), ".ppm" if data[:1] == b"P" else "")


def write(place: Path, one: Restored) -> None:
    """Write a file and set its time. A link at its path is replaced, not followed. Raises UsageError or StorageFull."""
    from latens.data.files import write_atomic, write_error

    try:
        if os.path.islink(place):
            os.unlink(place)
    except OSError as error:
        raise write_error(place, error) from error
    write_atomic(place, one.data or b"", time=one.time)
    if one.time is not None and abs(place.lstat().st_mtime_ns - one.time) > COARSE:
        logger.warning("%s: its time, %d ns, cannot be set here", place, one.time)
