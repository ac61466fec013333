"""`--watch` of all verbs for folders of files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from latens.durations import parse_duration
from latens.errors import UsageError

if TYPE_CHECKING:
    from latens.inference.batch import Job
    from latens.inference.watch import Watch, Watching

logger = logging.getLogger(__name__)
SETTLE = "2s"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Options of verbs that can watch folders."""

    watch: Annotated[
        bool, Parameter(show_default=False, help="Do not end: take files that are added to the folders or change.")
    ] = False
    settle: Annotated[
        str | None,
        Parameter(help=f"Time without a change of size or date after which --watch takes a file.  [default: {SETTLE}]"),
    ] = None

    def check(self, inputs: Sequence[str], out: Path | None) -> None:
        """Raise UsageError for watched inputs that are no folders, and for results that would be among them."""
        if not self.watch:
            if self.settle is not None:
                raise UsageError("--settle is an option of --watch", where=f"--settle {self.settle}", hint="add --watch")
            return
        parse_duration(self.settle or SETTLE)
        for name in inputs:
            if not os.path.isdir(name):
                raise UsageError("only folders are watched", where=name, hint="name a folder that exists")
        if out is None:
            raise UsageError(
                "results next to their inputs would be watched, too", where="--watch", hint="name a folder with -o"
            )
        if out == Path("-") or os.path.isfile(out):
            raise UsageError("a watched folder has several results", where=f"-o {out}", hint="name a folder")
        self.check_outside(inputs, out, "-o")

    def check_outside(self, inputs: Sequence[str], folder: Path | None, option: str) -> None:
        """Raise UsageError if files of an option would be in a watched folder."""
        for name in inputs if self.watch and folder is not None else ():
            if os.path.commonpath([os.path.realpath(folder or ""), os.path.realpath(name)]) == os.path.realpath(name):
                what = f"the results would be in the watched folder {name}"
                raise UsageError(what, where=f"{option} {folder}", hint="name a folder outside of it")

    def start(self, inputs: Sequence[str], out: Path | None) -> Watch | None:
        """A watch of the folders `inputs`; None without --watch. Raises UsageError as `check`."""
        from latens.inference.watch import Watch

        self.check(inputs, out)
        if not self.watch:
            return None
        logger.info("watching %s; Ctrl-C ends", ", ".join(inputs))
        return Watch([Path(name) for name in inputs], parse_duration(self.settle or SETTLE))

    def jobs(self, inputs: Sequence[str], out: Path | None, find: Callable[[], list[Job]]) -> list[Job] | Watching:
        """The jobs of a verb, which `find` plans: of all files now, or those that --watch will find. Raises UsageError."""
        from latens.inference.watch import Watching

        watch = self.start(inputs, out)
        return find() if watch is None else Watching(watch, find)
