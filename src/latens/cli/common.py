"""Code of all verbs: global options, results, messages and parsers of values. Batches of files are in `cli.batch`."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from latens.arguments import byte_size
from latens.errors import CONTROL, UsageError, one_line, printable
from latens.progress import OnProgress

NAME = "latens: "  # begins every message
GLOBAL = Group("Global options", sort_key=100)

Format = Literal["human", "json", "quiet"]


@Parameter(name="*", group=GLOBAL)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Options of every verb."""

    format: Annotated[
        Format, Parameter(help="Results as text, as JSON (one object per line), or none; quiet prints errors only.")
    ] = "human"
    debug: Annotated[bool, Parameter(show_default=False, help="Show the traceback of an error.")] = False


@Parameter(name="*", group=GLOBAL)
@dataclass(frozen=True, kw_only=True)
class ComputeOptions(OutputOptions):
    """Options of every verb that runs a model."""

    device: Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N; only auto may fall back.")] = "auto"
    threads: Annotated[int | None, Parameter(help="CPU threads.  [default: all cores]")] = None


@Parameter(name="*", group=GLOBAL)
@dataclass(frozen=True, kw_only=True)
class ReadOptions(OutputOptions):
    """Options of every verb that reads images or decodes files of images."""

    limit: Annotated[
        list[str],
        Parameter(
            show_default=False,
            help="Raise a limit of images you trust: side=65500 (default 16,384 pixels), pixels=3e8 (default 67 million) or "
            "file_bytes=4e9. Files made with raised limits need them to be read.",
        ),
    ] = field(default_factory=list)


@Parameter(name="*", group=GLOBAL)
@dataclass(frozen=True, kw_only=True)
class ImageOptions(ReadOptions):
    """Options of every verb that reads images."""

    channel: Annotated[
        str | None, Parameter(help="Read one channel of every image: a number from 1, or a name of OME-TIFF such as DAPI.")
    ] = None

    def choice(self) -> dict[str, str]:
        """The channel as a part of the request of a folder of results; empty without one."""
        return {} if self.channel is None else {"channel": self.channel}


@Parameter(name="*", group=GLOBAL)
@dataclass(frozen=True, kw_only=True)
class ReadComputeOptions(ReadOptions, ComputeOptions):
    """Options of every verb that runs a model on files of its own."""


@Parameter(name="*", group=GLOBAL)
@dataclass(frozen=True, kw_only=True)
class ImageComputeOptions(ImageOptions, ComputeOptions):
    """Options of every verb that runs a model on images."""


PARTIAL = 4  # exit status for partial results of damaged inputs
NAMES = ("input", "output", "file")  # keys of records that hold names of files
Output = Annotated[Path | None, Parameter(name=["--out", "-o"], help="File or folder of the result.")]
Force = Annotated[bool, Parameter(show_default=False, help="Replace existing files and finished results.")]
To = Annotated[
    Literal["png", "webp", "avif", "tiff", "jpg"] | None,
    Parameter(
        name="--to",
        help="Format of the images: png, webp and tiff are lossless, avif and jpg have quality 95.  [default: the ending of "
        "OUT, else png]",
    ),
]
Model = Annotated[str, Parameter(help="A name from `latens models`, the folder of a trained model, or hub:OWNER/NAME.")]


class StderrHandler(logging.Handler):
    """Handler of log messages: lines on stderr. Warnings begin with the name of the program and are shown once."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()  # a file may be read in several passes

    def emit(self, record: logging.LogRecord) -> None:
        text = message_of(record)
        if record.levelno >= logging.WARNING:
            if text in self._warned:
                return
            self._warned.add(text)
            text = NAME + text
        say(text)

    def has_shown(self, note: str) -> bool:
        """True if a warning about a file was this note."""
        return any(text.endswith(f": {note}") for text in self._warned)


def without_shown(text: str, notes: Sequence[str]) -> str:
    """The text of a result without the notes that a terminal shows already, if it shows both warnings and results."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return text
    handlers = [handler for handler in logging.getLogger("latens").handlers if isinstance(handler, StderrHandler)]
    for note in notes:
        if any(handler.has_shown(note) for handler in handlers):
            text = text.replace(f"; {note}", "", 1)
    return text


def last_message(lines: Sequence[str]) -> str:
    """The last message among the lines that a command printed on stderr, with its hint; empty without lines."""
    first = max((number for number, line in enumerate(lines) if line.startswith(NAME)), default=0)
    return "\n".join(lines[first:]).removeprefix(NAME)


def say(text: str) -> None:
    """Print a message on stderr. A full disk, a closed pipe or terminal there loses the message, not the work."""
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def message_of(record: logging.LogRecord) -> str:
    """The text of a record, with the line ends in paths escaped: they would split the line of a message."""
    if not isinstance(record.args, tuple) or not record.args:
        return record.getMessage()
    return str(record.msg) % tuple(one_line(str(value)) if isinstance(value, PurePath) else value for value in record.args)


@contextmanager
def messages(format: Format) -> Iterator[None]:
    """Print the log messages of the library on stderr while a verb runs; `quiet` prints errors only."""
    root, handler = logging.getLogger("latens"), StderrHandler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.ERROR if format == "quiet" else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def on_one_line(text: str, record: Mapping[str, Any]) -> str:
    """The text of a record, with the line ends in names of files escaped: they would split the line of a result."""
    for name in (str(record[key]) for key in NAMES if key in record):
        text = text.replace(name, one_line(name)) if "\n" in name else text
    return text


class Reporter:
    """Results on stdout in the format of --format, and progress bars. Everything else is logged.

    `results_to_stderr` is set if stdout carries the output file itself.
    """

    def __init__(self, options: OutputOptions, *, results_to_stderr: bool = False) -> None:
        self.format = options.format
        self.debug = options.debug
        self._results_to_stderr = results_to_stderr

    def result(self, record: dict[str, Any], text: str) -> None:
        """One result: the record as a line of JSON, or the text for people."""
        stream = sys.stderr if self._results_to_stderr else sys.stdout
        if self.format == "json":
            ascii_only = not str(stream.encoding).lower().startswith("utf")
            line = json.dumps(record, ensure_ascii=ascii_only, default=str)
            print(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line), file=stream, flush=True)
        elif self.format == "human":
            text = without_shown(text, record.get("notes", ()))
            print(printable(on_one_line(text, record)), file=stream, flush=True)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[OnProgress]:
        """Yield the callback that draws a bar of length `total`, on a terminal and in the format `human` only."""
        if total < 2 or self.format != "human" or not sys.stderr.isatty():
            yield lambda done, note="": None
            return
        from rich.console import Console
        from rich.progress import Progress

        # Lines printed meanwhile go above the bar; a stdout that is a file or a pipe is left alone.
        bar = Progress(console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
        with bar:
            task = bar.add_task(what, total=total)
            yield lambda done, note="": bar.update(task, completed=done, description=f"{what} {note}".rstrip())


def parse_settings(settings: list[str]) -> dict[str, str]:
    """{"optim.lr": "1e-4"} of ["optim.lr=1e-4"]. Raises UsageError."""
    parsed: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"'{setting}' is not key=value", where="--set", hint="write, for example, --set optim.lr=1e-4")
        parsed[key.strip()] = value.strip()
    return parsed


def human_size(size: int) -> str:
    """1234 -> "1.2 kB"; thousands, not 1024s."""
    scaled, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if scaled < 999.95 or unit == "GB":
            break
        scaled /= 1000
    return f"{scaled:.0f} B" if unit == "B" else f"{scaled:.1f} {unit}"


def parse_size(text: str, option: str = "--size") -> int:
    """Whole bytes of `arguments.byte_size`. Raises UsageError that names the option."""
    return int(byte_size(text, option))
