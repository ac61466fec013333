"""Standard input and output for verbs that write several files: one image in, one product out."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, TextIO

from cyclopts import Parameter

from latens.errors import LatensError, UsageError

Name = Annotated[str | None, Parameter(help="Name of the image from standard input in results.  [default: stdin]")]
Emit = Annotated[str | None, Parameter(help="Result that -o - writes to standard output.")]

Run = Callable[[list[str], Path | None], int]  # inputs and OUT of a verb -> exit status


def check_name(name: str | None, inputs: Sequence[str]) -> None:
    """Raise UsageError for a --name without standard input, and for one that is too long or leaves the folder of results."""
    from latens.data.files import MAX_NAME, STANDARD_STREAM

    if name is None:
        return
    if all(Path(text) != STANDARD_STREAM for text in inputs):
        raise UsageError("this names an image from standard input", where=f"--name {name}", hint="add - as an input")
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise UsageError("this is not a file name", where=f"--name {name}", hint="give a name such as photo.jpg")
    if any(len(os.fsencode(part)) > MAX_NAME for part in path.parts):
        what = f"a file name has at most {MAX_NAME} bytes"
        raise UsageError(what, where=f"--name {path.name[:20]}...", hint="give a shorter name")


def through_pipe(
    run: Run, inputs: Sequence[str], out: Path | None, products: Mapping[str, str], emit: str | None, name: str | None
) -> int | None:
    """Run a verb on an image from standard input, or for one result on standard output; None if neither is asked for.

    `products` maps the choices of --emit to patterns of file names in the folder of the results; the first is the default. The
    verb works in a temporary folder, whose path is left out of its messages. Raises UsageError for several inputs, and for a
    product that this input does not have.
    """
    from latens.data.files import STANDARD_STREAM

    check_name(name, inputs)
    entering = [Path(text) == STANDARD_STREAM for text in inputs]
    leaving = out == STANDARD_STREAM or (out is None and any(entering))
    if emit is not None and emit not in products:
        raise UsageError("there is no such result", where=f"--emit {emit}", hint=f"choose {', '.join(products)}")
    if emit is not None and not leaving:
        raise UsageError("--emit chooses the result on standard output", where=f"--emit {emit}", hint="add -o -")
    if not leaving and not any(entering):
        return None
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        raise UsageError("a pipe takes one image", where="-", hint="give one image, and a folder with -o for several")
    with tempfile.TemporaryDirectory(prefix="latens-") as place:
        folder = Path(place)
        results = folder / ("out" if PurePath(name or "").parts[:1] != ("out",) else "results")  # another place than the input
        with without_path(folder):
            source = [str(spool(folder, name))] if entering[0] else list(inputs)
            status = run(source, results if leaving else out)
        if leaving:
            send(results, products, emit or next(iter(products)), status)
    return status


def spool(folder: Path, name: str | None) -> Path:
    """Standard input as a file with this name, because verbs read a file several times. A TIFF gets its ending."""
    from latens.data.files import STANDARD_STREAM, fitting_name, read_bytes
    from latens.data.limits import current_limits
    from latens.data.stacks import TIFF_ENDINGS
    from latens.data.tiff import TIFF_START

    data = read_bytes(STANDARD_STREAM, limit=current_limits().file_bytes)
    path = folder / (name or "stdin")
    if data[:4] in TIFF_START and path.suffix.lower() not in TIFF_ENDINGS:
        path = path.with_name(fitting_name(path.name, ".tif"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def send(folder: Path, products: Mapping[str, str], emit: str, status: int) -> None:
    """Copy a product to standard output. Raises UsageError if a successful run did not write it."""
    found = sorted(folder.rglob(products[emit])) if folder.is_dir() else []
    if found:
        with found[0].open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    elif not status:
        there = [product for product, pattern in products.items() if any(folder.rglob(pattern))]
        raise UsageError("this input has no such result", where=f"--emit {emit}", hint=f"it has {', '.join(there)}")


@contextlib.contextmanager
def without_path(folder: Path) -> Iterator[None]:
    """Print everything on stderr, without the path of a temporary folder; also in errors."""
    shown = _Shortened(sys.stderr, f"{folder}{os.sep}")
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            yield
    except LatensError as error:
        error.where = None if error.where is None else error.where.replace(shown.prefix, "")
        raise


class _Shortened(io.TextIOBase):
    """A text stream that leaves out `prefix`."""

    def __init__(self, target: TextIO, prefix: str) -> None:
        self.target, self.prefix = target, prefix

    def write(self, text: str) -> int:
        return self.target.write(text.replace(self.prefix, ""))

    def flush(self) -> None:
        self.target.flush()

    def isatty(self) -> bool:
        return self.target.isatty()
