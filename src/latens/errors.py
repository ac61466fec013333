"""All errors that users see, with the exit status of the command line.

LatensError
 |- UsageError              2   the request contradicts itself or names something unknown
 |   `- OutputExists        2   the output exists and may not be overwritten
 |- InputError              3   the input cannot be used
 |   |- UnreadableInput     3   missing, not permitted, or not an image, clip or table
 |   `- StreamError         3   a latens file cannot be decoded
 |       |- NotOurFile          3   the signature is absent
 |       |- UnsupportedVersion  3   written by a newer latens
 |       |- UnsupportedFeature  3   a required part is unknown to this version
 |       |- Truncated           3   the file ends early
 |       `- Corrupt             3   a checksum or the entropy coder shows damaged bytes
 |- LimitExceeded           5   a limit of size, memory or work is exceeded; nothing was allocated
 |   `- StorageFull         5   the disk or quota is full; no partial file remains
 |- ModelError              6   a model cannot be used
 |   |- ModelMissing        6   the model is unknown or not on this machine
 |   `- ModelMismatch       6   the file was written with other weights
 |- DeviceError             7   the requested device cannot be used
 |   |- DeviceUnavailable   7   this machine does not have it
 |   `- DeviceMismatch      7   it computes entropy parameters that differ from those of the file
 `- TrainingError          70   training cannot continue
     `- Diverged           70   a loss or a gradient is not finite

Any other exception that reaches a user is an internal error (exit status 70).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class LatensError(Exception):
    """An error message of at most three lines.

    `what` is one sentence on the error, `where` names the file, section or option, `hint` is the next step.
    """

    exit_status = 70

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:  # pickling, without a call of the constructor: some need keywords
        return _restored, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        first = f"{one_line(self.where)}: {self.what}" if self.where else self.what
        return printable(f"{first}\n{self.hint}" if self.hint else first)

    def at(self, where: str) -> LatensError:
        """The same error with `where` set, unless it is already: for callers that know the file name."""
        if self.where is None:
            self.where = where
        return self

    def of(self, part: str) -> LatensError:
        """The same error with `part` before its sentence: for callers that know the object of the file."""
        self.what = f"{part}: {self.what}"
        return self


def _restored(kind: type[LatensError], args: tuple[Any, ...], state: dict[str, Any]) -> LatensError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(LatensError):
    exit_status = 2


class OutputExists(UsageError):
    pass


class InputError(LatensError):
    exit_status = 3


class UnreadableInput(InputError):
    pass


class StreamError(InputError):
    pass


class NotOurFile(StreamError):
    pass


class UnsupportedVersion(StreamError):
    pass


class UnsupportedFeature(StreamError):
    pass


class Truncated(StreamError):
    """The file ends early. `have` and `need` are bytes; `intact` names the sections that can still be read."""

    def __init__(
        self,
        what: str,
        *,
        have: int,
        need: int,
        intact: tuple[str, ...] = (),
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.have = have
        self.need = need
        self.intact = intact


class Corrupt(StreamError):
    """The bytes are damaged. `section` names the part, `offset` is its position in the file in bytes."""

    def __init__(
        self,
        what: str,
        *,
        section: str = "",
        offset: int = 0,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.section = section
        self.offset = offset


class LimitExceeded(LatensError):
    exit_status = 5


class StorageFull(LimitExceeded):
    pass


class ModelError(LatensError):
    exit_status = 6


class ModelMissing(ModelError):
    pass


class ModelMismatch(ModelError):
    pass


class DeviceError(LatensError):
    exit_status = 7


class DeviceUnavailable(DeviceError):
    pass


class DeviceMismatch(DeviceError):
    pass


class TrainingError(LatensError):
    exit_status = 70


class Diverged(TrainingError):
    pass


def printable(text: str) -> str:
    """The text with control characters, marks that reverse its direction, and bytes of names that are not UTF-8 escaped.

    Line ends and tabs are kept. Any stream can encode the result if it can encode the rest of the text.
    """
    return CONTROL.sub(lambda found: _escaped(ord(found[0])), text)


def one_line(name: str) -> str:
    """`printable` text of a file name, with its line ends and tabs escaped."""
    return printable(name).replace("\n", "\\x0a").replace("\t", "\\x09")


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """A hint with the known word closest to `word`, or `otherwise` if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else otherwise
