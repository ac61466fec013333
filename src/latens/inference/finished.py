"""Verdicts on outputs that exist: finished, to be made again, or in the way.

An output is finished if its record names this command, this input (by content) and these settings, and the file is unchanged
since. An unfinished or damaged result of the same input is made again. Everything else is replaced by force only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from latens.data.files import STANDARD_STREAM
from latens.data.folders import differences, earlier_request, plain
from latens.data.placing import is_unwritten
from latens.data.records import Entry, Records, fingerprint
from latens.errors import LatensError, OutputExists, counted

if TYPE_CHECKING:
    from latens.inference.batch import Job, Record

NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})
MODEL = frozenset({"model"})  # a setting that does not matter where every file names its model
SOURCES = frozenset({"depth", "depth_given", "roi", "region"})  # paths in settings of earlier versions; now sources
INCOMPLETE = ("damaged", "damage", "missing")  # keys of a record that are not empty for a partial result
REPLACE = "name another output with -o, or add --force to replace it"


def output_only(job: Job) -> Sequence[Path]:
    """The output of a job whose work writes one file."""
    return [job.output]


def input_only(job: Job) -> Sequence[Path]:
    """The input of a job whose work reads one file."""
    return [job.input]


def no_file(job: Job) -> Sequence[Path]:
    """No file: a job whose output alone shows that it is finished."""
    return []


def never(job: Job) -> bool:
    """For results that do not show who wrote them."""
    return False


class Request(NamedTuple):
    """What decides the results of a batch besides the inputs.

    `what` is the command, as "compressing". `settings` are serializable as JSON; those that are missing or None have the values
    of `defaults`. `outputs` are all files that the work on a job may write, `sources` all that it reads. `needed` are the
    outputs besides the first without which a job is not finished, such as maps that an earlier run was not asked for. Settings
    in `ignored` were recorded by earlier versions and do not change results.
    `is_ours` recognizes results of versions that kept no records.
    """

    what: str = "working"
    settings: Mapping[str, Any] = NO_SETTINGS
    outputs: Callable[[Job], Sequence[Path]] = output_only
    sources: Callable[[Job], Sequence[Path]] = input_only
    is_ours: Callable[[Job], bool] = never
    defaults: Mapping[str, Any] = NO_SETTINGS
    needed: Callable[[Job], Sequence[Path]] = no_file
    ignored: frozenset[str] = frozenset()


class Verdict(NamedTuple):
    """What is to be done with a job: work, skip it, or refuse to replace files; and why."""

    do: Literal["work", "skip", "refuse"]
    why: str = ""
    missed: bool | None = None  # of a finished job: whether its result missed the target; None without a target

    def error(self, job: Job) -> OutputExists:
        return OutputExists(self.why, where=str(job.output), hint=REPLACE)


class Results:
    """The outputs of a batch: verdicts before the work, and records of it.

    `folder` is an output folder in which versions without records may have noted their request. With `renew`, results of an
    earlier content of their input are made again instead of refused.
    """

    def __init__(self, request: Request, folder: Path | None = None, *, renew: bool = False) -> None:
        self.request = request
        self.renew = renew
        self._settings = plain(request.settings)
        self._earlier = None if folder is None else earlier_request(folder, request.what)
        self._records = Records()

    def verdict(self, job: Job) -> Verdict:
        """What to do with a job without force. Raises UnreadableInput if its input cannot be compared."""
        if not _is_output(job.output):
            return self._aside(job)
        entry = self._records.entry(job.output)
        if entry is None:
            return self._without_record(job)
        if entry.what != self.request.what:
            return Verdict("refuse", f"this file is the result of {entry.what} {entry.input}")
        if not entry.is_of(job.input, self.request.sources(job)):
            if self._renews(entry, job) and (entry.state == "started" or entry.is_unchanged(job.output)):
                return self._aside(job)._replace(why="the input has changed")
            return Verdict("refuse", self._other_input(entry, job))
        if entry.state != "started" and not entry.is_unchanged(job.output):
            return Verdict("refuse", f"this result of {entry.what} {entry.input} was changed since latens wrote it")
        if entry.state != "done":
            return self._aside(job)._replace(why="an incomplete result is made again")
        changed = self._changed(entry.request)
        if changed:
            return Verdict("refuse", f"this result was made with other settings: {'; '.join(changed)}")
        return self._complete(job, entry)

    def _complete(self, job: Job, entry: Entry) -> Verdict:
        """The verdict on a job whose output is finished, with its entry."""
        lacking = [path for path in self.request.needed(job) if not self._is_finished(path, job)]
        if not lacking:
            return Verdict("skip", "finished; it missed its target" if entry.missed else "finished", entry.missed)
        verdict = self._aside(job)
        return verdict if verdict.do == "refuse" else Verdict("work", f"made again with {_listed(lacking)}")

    def _is_finished(self, path: Path, job: Job) -> bool:
        entry = self._records.entry(path) if _is_output(path) else None
        return (
            entry is not None
            and (entry.what, entry.state) == (self.request.what, "done")
            and entry.is_of(job.input, self.request.sources(job))
            and entry.is_unchanged(path)
            and not self._changed(entry.request)
        )

    def _without_record(self, job: Job) -> Verdict:
        if self._earlier is None and not self.request.is_ours(job):
            return Verdict("refuse", "the file exists already, and no record says that latens made it from this input")
        changed = self._changed_folder()
        if changed:
            return Verdict("refuse", f"this folder holds results of another request: {'; '.join(changed)}")
        return Verdict("skip", "an earlier version wrote it, and no record names its input")

    def _changed_folder(self) -> list[str]:
        """Settings that differ from those that an earlier version noted for the whole folder."""
        if self._earlier is None:
            return []
        return self._changed(self._earlier, without=SOURCES)

    def _changed(self, earlier: Mapping[str, Any], *, without: frozenset[str] = frozenset()) -> list[str]:
        """Settings in which the request differs from an earlier one."""
        both = [
            {**self.request.defaults, **{name: value for name, value in settings.items() if value is not None}}
            for settings in (earlier, self._settings)
        ]
        without |= self.request.ignored
        old, new = ({name: value for name, value in settings.items() if name not in without} for settings in both)
        return differences(old, new)

    def _other_input(self, entry: Entry, job: Job) -> str:
        if entry.source is None:
            return f"this is the result of {entry.what} a stream, which cannot be compared"
        if os.path.abspath(entry.input) == os.path.abspath(job.input):
            files = "the input" if len(self.request.sources(job)) == 1 else "it or a file that belongs to it"
            return f"this is the result of {entry.what} {entry.input}; {files} has changed since"
        return f"this is the result of {entry.what} {entry.input}, not {job.input}"

    def _aside(self, job: Job) -> Verdict:
        """The verdict on the files that the work writes next to its output, when nothing speaks against the output itself."""
        foreign = [path for path in self.request.outputs(job) if path != job.output and not self._may_replace(path, job)]
        if foreign:
            return Verdict("refuse", f"{_listed(foreign)} would be replaced, which latens did not make from this input")
        return Verdict("work")

    def _may_replace(self, path: Path, job: Job) -> bool:
        if not _is_output(path):
            return True
        entry = self._records.entry(path)
        if entry is None or entry.what != self.request.what:
            return False
        if not entry.is_of(job.input, self.request.sources(job)) and not self._renews(entry, job):
            return False
        if entry.state == "started":
            return True
        return entry.is_unchanged(path) and (entry.state == "damaged" or not self._changed(entry.request))

    def _renews(self, entry: Entry, job: Job) -> bool:
        """True if this is the result of an earlier content of the input, to be made again."""
        return self.renew and entry.source is not None and os.path.abspath(entry.input) == os.path.abspath(job.input)

    def conflict(self, job: Job) -> list[str]:
        """Settings in which a finished result of the same input differs from the request."""
        if not _is_output(job.output):
            return []
        entry = self._records.entry(job.output)
        if entry is None:
            return self._changed_folder()
        if entry.what != self.request.what or entry.state != "done":
            return []
        changed = self._changed(entry.request)
        try:
            return changed if changed and entry.is_of(job.input, self.request.sources(job)) else []
        except LatensError:  # raised again by the work on this job
            return []

    def lost(self, job: Job) -> list[Path]:
        """Files of other origin, or changed since latens wrote them, that force replaces."""
        return [path for path in self.request.outputs(job) if _is_output(path) and self._is_lost(path, job)]

    def _is_lost(self, path: Path, job: Job) -> bool:
        entry = self._records.entry(path)
        if entry is None:
            return not self.request.is_ours(job)
        return entry.state != "started" and not entry.is_unchanged(path)

    def made(self, job: Job, work: Callable[[Job], Record]) -> Record:
        """The result of `work`, with a line in the record before it and one after it.

        Files next to the output that an earlier work wrote and this one did not are removed: they would contradict it.
        """
        outputs = [path for path in self.request.outputs(job) if not _is_special(path)]
        if not outputs:
            return work(job)
        source = fingerprint(self.request.sources(job))
        before = {path: _state(path) for path in outputs}
        self._records.start(outputs, self.request.what, job.input, source, self._settings)
        try:
            record = work(job)
        except BaseException:  # also of Ctrl-C: without this line, a file that the user puts there would be taken for ours
            with contextlib.suppress(LatensError):  # the error of the work counts
                self._records.release(path for path in outputs if _state(path) == before[path] or is_unwritten(path))
            raise
        for path in outputs:
            if path != job.output and before[path] is not None and _state(path) == before[path]:
                path.unlink(missing_ok=True)
        state = "damaged" if any(record.get(name) for name in INCOMPLETE) else "done"
        missed = record.get("missed")
        self._records.finish(state, outputs, self.request.what, job.input, source, self._settings, missed=missed)
        return record


def _is_output(path: Path) -> bool:
    return path != STANDARD_STREAM and os.path.isfile(path)


def _is_special(path: Path) -> bool:
    return path == STANDARD_STREAM or (os.path.exists(path) and not os.path.isfile(path))


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:4]) + (", ..." if len(paths) > 4 else "")
    return f"{counted(len(paths), 'file')} ({shown})"
