"""Places of a job's files: a folder on a disk, or a prefix in an object store (`latens.jobs.cloud`).

Files are created, never replaced: two workers may write the same result, and the first one stands.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from latens.data.files import (
    READ_CHUNK,
    discard,
    prepare_folder,
    reading,
    sweep_stale,
    synchronize_folder,
    temporary_beside,
    write_error,
    writing,
)
from latens.errors import UsageError

URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/(?P<rest>/?[^/].*)")
SCHEMES = ("s3", "az", "gs")
ATTEMPTS = 3  # at creating a file whose temporary file another machine took for one of a dead process


class Store(Protocol):
    """Files by name: parts joined by /, without a leading one."""

    @property
    def place(self) -> str:
        """The folder or address, as `open_store` takes it."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names of all files below a folder of the store, in any order."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None without one. Raises UnreadableInput."""

    def digest(self, name: str) -> str | None:
        """SHA-256 (hexadecimal) of a file; None without one. Raises UnreadableInput."""

    def create(self, name: str, source: bytes | Path) -> bool:
        """Create a file, whole or not at all; False if it exists. Raises StorageFull or UsageError."""

    def replace(self, name: str, source: bytes | Path) -> None:
        """Create or replace a file, whole or not at all. Raises StorageFull or UsageError."""

    def sweep(self) -> None:
        """Remove what killed processes left."""

    def fetch(self, name: str, to: Path) -> None:
        """Make a file readable at a local path. Raises UnreadableInput."""


class FolderStore:
    """A folder that all workers see."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))

    @property
    def place(self) -> str:
        return str(self.folder)

    def names(self, prefix: str = "") -> Iterator[str]:
        for folder, _, files in os.walk(self.folder / prefix):
            for file in files:
                yield (Path(folder) / file).relative_to(self.folder).as_posix()

    def read(self, name: str) -> bytes | None:
        path = self.folder / name
        with reading(path):
            return path.read_bytes() if path.exists() else None

    def digest(self, name: str) -> str | None:
        path = self.folder / name
        if not path.exists():
            return None
        with reading(path):
            return digest_of(path)

    def create(self, name: str, source: bytes | Path) -> bool:
        target = self.folder / name
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return _linked(target, source)
                except FileNotFoundError:
                    if attempt == ATTEMPTS:
                        raise
        except OSError as error:
            raise write_error(target, error) from error
        return False

    def replace(self, name: str, source: bytes | Path) -> None:
        opened = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
        with writing(self.folder / name) as stream, opened as origin:
            shutil.copyfileobj(origin, stream, READ_CHUNK)

    def sweep(self) -> None:
        for folder, _, _ in os.walk(self.folder):
            sweep_stale(Path(folder))

    def fetch(self, name: str, to: Path) -> None:
        with reading(self.folder / name):
            os.stat(self.folder / name)
        to.symlink_to(self.folder / name)


def _linked(target: Path, source: bytes | Path) -> bool:
    """Write a temporary file and link it to its name, which fails if the name exists."""
    prepare_folder(target.parent)
    temporary = temporary_beside(target)
    try:
        with open(temporary, "xb") as stream:
            if isinstance(source, bytes):
                stream.write(source)
            else:
                with open(source, "rb") as origin:
                    shutil.copyfileobj(origin, stream, READ_CHUNK)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
    finally:
        discard(temporary)
    synchronize_folder(target.parent)
    return True


def digest_of(source: bytes | Path) -> str:
    """SHA-256 (hexadecimal) of bytes or of a local file."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def uri_of(place: str | Path) -> str | None:
    """The address that a text or a path names, such as s3://bucket/folder; None for paths of this machine.

    `pathlib` makes one slash of two. Raises UsageError for an unknown kind of address.
    """
    found = URI.fullmatch(str(place))
    if found is None:
        return None
    if found["scheme"] not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"addresses that begin with {found['scheme']}: are not read", where=str(place), hint=f"known: {known}")
    return f"{found['scheme']}://{found['rest'].lstrip('/')}"


def open_store(place: str | Path) -> Store:
    """The store of a folder or address. Raises UsageError."""
    address = uri_of(place)
    if address is None:
        return FolderStore(Path(place))
    from latens.jobs.cloud import CloudStore

    store: Store = CloudStore(address)
    return store


def fetch_input(place: str, to: Path) -> None:
    """Make an input, a local path or an address, readable at a local path. Raises UnreadableInput."""
    address = uri_of(place)
    folder, _, name = (address or os.path.abspath(place)).rpartition("/")
    open_store(folder if address else Path(folder or "/")).fetch(name, to)
