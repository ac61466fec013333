"""Claims of outputs: of several processes that run the same jobs, one works on each.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from latens.data.files import STANDARD_STREAM, is_special

if TYPE_CHECKING:
    from latens.inference.batch import Job

logger = logging.getLogger(__name__)

CLAIMS = ".latens-claims"
Claim = Callable[[Path, bool], bool]  # an output, and whether to wait: True if this process may write it


def claim_file(jobs: Sequence[Job], common: Path | None) -> Path | None:
    """The file for claims: in the common folder, or next to the output of a single input if that folder exists."""
    if common is not None:
        return common / CLAIMS
    output = jobs[0].output if jobs else STANDARD_STREAM
    if output == STANDARD_STREAM or is_special(output):
        return None
    folder = Path(os.path.realpath(output)).parent  # of the file that a link such as /dev/stdout leads to
    return folder / CLAIMS if folder.is_dir() else None


@contextmanager
def claims(path: Path | None) -> Iterator[Claim]:
    """Yield a function that claims an output for this process, until the next claim; without `path` every claim succeeds.

    A claim is a lock on one byte of the file `path`, chosen by the hash of the output's path, so the kernel ends the claims of
    a killed process. If the file cannot be made or locked, nothing is claimed: outputs are written atomically all the same.
    """
    stream = None
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("ab")
    if path is None or stream is None:
        yield lambda output, wait: True
        return
    import fcntl

    def claim(output: Path, wait: bool) -> bool:
        fcntl.lockf(stream, fcntl.LOCK_UN)  # the claim before this one
        place = int.from_bytes(hashlib.sha256(os.fsencode(os.path.abspath(output))).digest()[:7], "big")
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError as error:
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    with stream:
        try:
            yield claim
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def unclaimed_first(jobs: Sequence[Job], claim: Claim) -> Iterator[Job]:
    """The jobs in their order, each claimed; those of other processes come last, once they are free."""
    others: list[Job] = []
    for job in jobs:
        if claim(job.output, False):
            yield job
        else:
            others.append(job)
    for job in others:
        if not claim(job.output, False):
            logger.info("%s: waiting for another process that works on it", job.output)
            claim(job.output, True)
        yield job
