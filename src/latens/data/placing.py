"""The last step of a write: a finished temporary file takes the name of its target.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from latens.errors import OutputExists

_absent: set[str] = set()  # outputs of work in progress at which no file was


@contextlib.contextmanager
def only_new(paths: Iterable[Path]) -> Iterator[None]:
    """Protect files that appear at `paths` during the block, which other programs write: `place` does not replace them.

    Paths at which something exists at the start are not protected, nor is a path once this process has written it.
    """
    own = {os.path.realpath(path) for path in paths if not os.path.lexists(path)} - _absent
    _absent.update(own)
    try:
        yield
    finally:
        _absent.difference_update(own)


def is_unwritten(path: Path) -> bool:
    """True within `only_new`, if nothing was at `path` at the start and this process has not written it."""
    return os.path.realpath(path) in _absent


def place(temporary: Path, target: Path) -> None:
    """Rename a finished file to `target`, whose permissions are kept.

    Raises OutputExists if `target` is protected by `only_new` and exists now. Only the microseconds between this test and the
    rename are without protection: a link would have none, but file systems without links exist.
    """
    if str(target) in _absent and os.path.lexists(target):
        what = "this file appeared while latens worked on its result, and is kept"
        raise OutputExists(what, where=str(target), hint="name another output with -o, or add --force to replace it")
    _keep_mode(target, temporary)
    _absent.discard(str(target))  # before the rename: Ctrl-C after it must not make the result a file of others
    os.replace(temporary, target)


def _keep_mode(target: Path, temporary: Path) -> None:
    """Copy the permissions of `target` to the temporary file."""
    if target.exists():
        with contextlib.suppress(OSError):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
