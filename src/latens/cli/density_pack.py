"""`latens density pack` and `latens density unpack`"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.common import PARTIAL, Force, Model, OutputOptions, Reporter, human_size
from latens.errors import LatensError, OutputExists, StreamError, UnreadableInput, UsageError, counted
from latens.launch import announce

if TYPE_CHECKING:
    from latens.data.inputs import InputFile
    from latens.systems.flow.pack.packer import Packed, Restored, Source

logger = logging.getLogger(__name__)

Threads = Annotated[int | None, Parameter(validator=Number(gte=1, lte=1024), help="CPU threads.  [default: all cores]")]


def pack(
    inputs: Annotated[list[str], Parameter(help="Images, folders of images, patterns.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="The archive, as images.ltp.")],
    model: Model = "flow_pack",
    threads: Threads = None,
    force: Force = False,
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> int:
    """Images into one smaller file without loss: every pixel, name and time comes back.

    An image is stored in the smallest of four forms: coded by the model, lossless WebP, its pixels, the file itself. Palettes,
    alpha, 16 bits, JPEG and other coded files are stored as they are. The archive is unpacked once before it is written.

        latens density pack images/ -o images.ltp
        latens density unpack images.ltp -o images/
    """
    from latens.data.files import write_atomic
    from latens.data.images import PICTURE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.batch import SOME_FAILED
    from latens.systems.flow.pack.packer import load

    if out.is_dir():
        raise UsageError("this is a folder", where=str(out), hint="name a file with -o, as images.ltp")
    if out.is_file() and not force:
        raise OutputExists("the archive is there already", where=str(out), hint="--force overwrites it; -o names another")
    files = find_inputs(inputs, PICTURE_ENDINGS)
    tell_left_out(inputs, {file.path.resolve() for file in files})
    sources, failed = read_sources(files)
    packer = load(model, threads=threads)
    announce(packer)
    started = time.perf_counter()
    data, packed = packer.pack(sources)
    write_atomic(out, data)
    reporter = Reporter(options)
    for one in packed:
        report(one, reporter)
    summary = totals(packed, len(data))
    text = (
        f"{out}: {counted(len(packed), 'file')}, {human_size(len(data))}{said(summary)}, {time.perf_counter() - started:.1f} s"
    )
    reporter.result({"output": str(out), "files": len(packed), "bytes": len(data), **summary}, text)
    return SOME_FAILED if failed else 0


def read_sources(files: list[InputFile]) -> tuple[list[Source], int]:
    """The files that can be read, and the number of those that cannot, which are logged."""
    from latens.data.files import STANDARD_STREAM, read_bytes, reading
    from latens.data.images import ImageLimits
    from latens.systems.flow.pack.packer import Source

    sources, failed = [], 0
    for file in files:
        if file.path == STANDARD_STREAM:
            raise UsageError("standard input has no name to come back to", where="-", hint="name files or folders")
        try:
            data = read_bytes(file.path, limit=ImageLimits().file_bytes)
            with reading(file.path):
                changed = os.stat(file.path).st_mtime_ns
        except LatensError as error:
            if len(files) == 1:
                raise
            logger.error(str(error.at(str(file.path))))
            failed += 1
            continue
        sources.append(Source(file.relative.as_posix(), changed, data))
    if not sources:
        raise UnreadableInput("none of the files can be read", where=str(files[0].path))
    return sources, failed


def tell_left_out(inputs: list[str], taken: set[Path]) -> None:
    """Warns of files in the folders that are no images by their names, which are not packed."""
    from itertools import chain

    folders = [Path(word) for word in inputs if Path(word).is_dir()]
    inside = chain.from_iterable(folder.rglob("*") for folder in folders)
    others = sorted(path for path in inside if path.is_file() and path.resolve() not in taken)
    if others:
        logger.warning("%s left out, as their names are not of images: %s", counted(len(others), "file"), others[0])


def report(one: Packed, reporter: Reporter) -> None:
    """One file: in JSON all, for people only what was not as expected."""
    for note in one.notes:
        logger.warning("%s: %s", one.name, note)
    if reporter.format == "json":
        record = {"file": one.name, "form": one.form, "bytes": one.bytes_after, "file_bytes": one.bytes_before}
        reporter.result({**record, "webp_bytes": one.webp_bytes}, "")


def totals(packed: list[Packed], size: int) -> dict[str, Any]:
    """Forms and sizes of all files together."""
    images = [one for one in packed if one.webp_bytes is not None]
    return {
        "forms": dict(Counter(one.form for one in packed)),
        "files_bytes": sum(one.bytes_before for one in packed),
        "images": len(images),
        "images_bytes": sum(one.bytes_after for one in images),
        "webp_bytes": sum(one.webp_bytes or 0 for one in images),
    }


def said(summary: dict[str, Any]) -> str:
    """The totals in words."""
    words = f" of {human_size(summary['files_bytes'])}"
    if summary["images"]:
        share = 100 * (1 - summary["images_bytes"] / summary["webp_bytes"])
        words += f"; images {human_size(summary['images_bytes'])}, {share:.1f} % below lossless WebP"
    forms = ", ".join(f"{count} {form}" for form, count in sorted(summary["forms"].items()))
    return f"{words} ({forms})"


def unpack(
    archive: Annotated[Path, Parameter(help="An archive of `latens density pack`.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="The folder that the files go to.")],
    model: Model = "flow_pack",
    threads: Threads = None,
    force: Force = False,
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> int:
    """A packed folder back into its files, with their names and times.

    PNG files hold the same pixels and chunks but are compressed anew; all other files have the same bytes. Of a damaged
    archive, all files that are intact are written, the others are named, and the exit status is 4.

        latens density unpack images.ltp -o images/
    """
    from latens.codes.stream import StreamLimits
    from latens.data.files import read_bytes
    from latens.data.folders import check_writable
    from latens.systems.flow.pack import archive as archives
    from latens.systems.flow.pack.packer import load

    data = read_bytes(archive, limit=StreamLimits().file_bytes)
    try:
        names = [name for name, _ in archives.read(data).names]
    except StreamError as error:
        raise error.at(str(archive)) from None
    if out.is_file():
        raise UsageError("this is a file", where=str(out), hint="name a folder with -o")
    there = next((out / name for name in names if archives.is_safe(name) and (out / name).exists()), None)
    if there is not None and not force:
        raise OutputExists(
            "a file is there already", where=str(there), hint="--force overwrites files; -o names another folder"
        )
    check_writable(out)
    packer = load(model, threads=threads)
    announce(packer)
    reporter, lost = Reporter(options), 0
    written = 0
    for number, one in enumerate(packer.unpack(data)):
        if one.data is None:
            logger.error(f"{archive}: {one.name or f'file {number + 1}'} is lost: {one.reason}")
            lost += 1
            continue
        place = target(out, one, number)
        renamed = place != out / one.name
        if renamed:
            logger.warning("%s: the name of file %d is lost; it is written as %s", archive, number + 1, place.name)
            lost += 1
        write(place, one)
        written += 1
        if reporter.format == "json":
            reporter.result({"output": str(place), "bytes": len(one.data), "renamed": renamed}, "")
    text = f"{out}: {counted(written, 'file')}" + (f"; {lost} lost or without their names" if lost else "")
    reporter.result({"output": str(out), "files": written, "damaged": lost}, text)
    return PARTIAL if lost else 0


def target(out: Path, one: Restored, number: int) -> Path:
    """Where a file goes: its name, or its number where the name is lost or leads out of the folder."""
    from latens.systems.flow.pack.archive import is_safe

    return out / one.name if is_safe(one.name) else out / f"file-{number + 1:06d}{ending(one.data or b'')}"


def ending(data: bytes) -> str:
    """The ending of a file by its first bytes."""
    known = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"BM": ".bmp", b"GIF8": ".gif", b"II*": ".tif"}
    return next((name for start, name in known.items() if data.startswith(start)), ".ppm" if data[:1] == b"P" else "")


def write(place: Path, one: Restored) -> None:
    """Writes a file with its time."""
    from latens.data.files import write_atomic

    write_atomic(place, one.data or b"")
    if one.time >= 0:
        os.utime(place, ns=(one.time, one.time))
