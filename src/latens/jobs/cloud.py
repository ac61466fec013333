"""Object stores: S3, Azure Blob Storage and Google Cloud Storage (not tested), through obstore.

Credentials, region and endpoint come from the environment, the profile or the machine, as for other tools of these stores; none
is printed. Requests are repeated with growing pauses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latens.errors import InputError, UnreadableInput, UsageError
from latens.jobs.store import digest_of

RETRIES: Any = {"max_retries": 10}
WORDS = {
    "PermissionDeniedError": "no permission",
    "UnauthenticatedError": "the credentials are missing or wrong",
    "NotFoundError": "there is no such bucket or container",
}
MISSING = ("NoSuchBucket", "ContainerNotFound")  # codes in answers that obstore has no class for
HINT = "check the address, the credentials (AWS_PROFILE, AZURE_STORAGE_..., ...) and the rights"


class CloudStore:
    """A prefix of a bucket or container."""

    def __init__(self, address: str) -> None:
        try:
            import obstore
            from obstore import exceptions, store
        except ImportError as error:
            raise UsageError(
                "addresses are read by another package", where=address, hint="pip install 'latens[cloud]'"
            ) from error
        self.place = address.rstrip("/")
        self._obstore: Any = obstore
        self._errors: Any = exceptions
        with self._translated():
            self._store: Any = store.from_url(self.place, retry_config=RETRIES)

    def names(self, prefix: str = "") -> Iterator[str]:
        with self._translated(needed=True):
            for batch in self._obstore.list(self._store, prefix=prefix or None):
                yield from (entry["path"] for entry in batch)

    def read(self, name: str) -> bytes | None:
        try:
            with self._translated(name):
                return bytes(self._obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None

    def digest(self, name: str) -> str | None:
        digest = hashlib.sha256()
        try:
            with self._translated(name):
                for chunk in self._obstore.get(self._store, name).stream():
                    digest.update(chunk)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def create(self, name: str, source: bytes | Path) -> bool:
        try:
            with self._translated(name, needed=True):
                self._obstore.put(self._store, name, source, mode="create")
        except FileExistsError:
            # A repeated request may meet the file that the first one created, so an equal file is this one.
            return self.digest(name) == digest_of(source)
        return True

    def replace(self, name: str, source: bytes | Path) -> None:
        with self._translated(name, needed=True):
            self._obstore.put(self._store, name, source)

    def sweep(self) -> None:
        """A store shows only whole files."""

    def fetch(self, name: str, to: Path) -> None:
        try:
            with self._translated(name), to.open("wb") as stream:
                for chunk in self._obstore.get(self._store, name).stream():
                    stream.write(chunk)
        except FileNotFoundError as error:
            to.unlink(missing_ok=True)
            raise UnreadableInput("no such file", where=f"{self.place}/{name}") from error

    @contextmanager
    def _translated(self, name: str = "", *, needed: bool = False) -> Iterator[None]:
        """Errors of the store as errors of latens. A file that exists, or is missing and not `needed`, raises one of Python."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except self._errors.NotFoundError as error:
            if not needed:
                raise FileNotFoundError(name) from error
            raise InputError(WORDS["NotFoundError"], where=self.place, hint=HINT) from error
        except self._errors.AlreadyExistsError as error:
            raise FileExistsError(name) from error
        except self._errors.BaseError as error:
            missing = any(code in str(error) for code in MISSING)
            kind = "NotFoundError" if missing else type(error).__name__
            what = WORDS.get(kind) or f"the store cannot be used: {' '.join(str(error).split())[:200]}"
            raise InputError(what, where=f"{self.place}/{name}".rstrip("/"), hint=HINT) from error
