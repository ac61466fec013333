"""Files are created whole and once; addresses differ from paths."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from obstore import store as stores

from latens.errors import InputError, UnreadableInput, UsageError
from latens.jobs.cloud import CloudStore
from latens.jobs.store import FolderStore, Store, open_store, uri_of


@pytest.fixture(params=["folder", "cloud"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    memory = stores.MemoryStore()
    monkeypatch.setattr(stores, "from_url", lambda *_, **__: memory)
    return CloudStore("s3://archive/folder/")


def test_files_are_created_once(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"second")
    assert store.read("day/a") is None
    assert store.digest("day/a") is None
    assert store.create("day/a", b"first")
    assert not store.create("day/a", path)
    assert store.read("day/a") == b"first"
    assert store.digest("day/a") == hashlib.sha256(b"first").hexdigest()
    assert store.create("b", path)
    store.replace("day/a", path)
    assert store.read("day/a") == b"second"
    assert sorted(store.names()) == ["b", "day/a"]
    assert list(store.names("day")) == ["day/a"]


def test_files_are_fetched(store: Store, tmp_path: Path) -> None:
    store.create("day/a", b"text")
    store.fetch("day/a", tmp_path / "local")
    assert (tmp_path / "local").read_bytes() == b"text"
    with pytest.raises(UnreadableInput):
        store.fetch("gone", tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_repeated_request_meets_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may be lost after the file is there; the next request finds an equal one."""
    memory = stores.MemoryStore()
    monkeypatch.setattr(stores, "from_url", lambda *_, **__: memory)
    store = CloudStore("s3://archive")
    assert store.create("a", b"text")
    assert store.create("a", b"text")
    assert not store.create("a", b"other")


@pytest.mark.parametrize(
    ("kind", "answer", "message"),
    [
        ("NotFoundError", "gone", "no such bucket"),
        ("GenericError", "404 Not Found: <Error><Code>NoSuchBucket</Code></Error>", "no such bucket"),
        ("GenericError", "404: <Error><Code>ContainerNotFound</Code></Error>", "no such bucket"),
        ("PermissionDeniedError", "403", "no permission"),
        ("UnauthenticatedError", "401", "credentials"),
        ("GenericError", "500 Internal Server Error", "cannot be used: 500"),
    ],
)
def test_what_a_store_refuses_is_an_error(kind: str, answer: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore import exceptions

    def refuse(*_: object, **__: object) -> None:
        raise getattr(exceptions, kind)(answer)

    monkeypatch.setattr(stores, "from_url", lambda *_, **__: stores.MemoryStore())
    monkeypatch.setattr("obstore.put", refuse)
    monkeypatch.setattr("obstore.list", refuse)
    store = CloudStore("s3://archive")
    with pytest.raises(InputError, match=message):
        store.create("a", b"text")
    with pytest.raises(InputError, match=message):
        list(store.names())


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("s3://archive/a", "s3://archive/a"),
        (Path("s3://archive/a"), "s3://archive/a"),
        ("az://box/", "az://box/"),
        ("photos/a.jpg", None),
        ("/photos/a:b.jpg", None),
        ("C:/photos", None),
    ],
)
def test_addresses(place: str | Path, address: str | None) -> None:
    assert uri_of(place) == address


def test_unknown_addresses_are_refused() -> None:
    with pytest.raises(UsageError, match="known: s3://"):
        open_store("ftp://host/a")
