"""Data sources of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from latens.data.source import Source, one_source, parse_source
from latens.errors import UsageError


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("photos", Source("", "photos")),
        ("hazy:fog", Source("hazy", "fog")),
        ("kins:a.json,images", Source("kins", "a.json,images")),
        ("simulated:opaque", Source("simulated", "opaque")),
        ("./a:b", Source("", "./a:b")),
        (Path("photos"), Source("", "photos")),
    ],
)
def test_parsed_values(word: str | Path, found: Source) -> None:
    assert parse_source(word) == found
    assert str(found) == str(word)


def test_an_existing_path_takes_precedence_over_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30").mkdir()
    assert parse_source("12:30") == Source("", "12:30")
    assert parse_source("12:31") == Source("12", "31")


def test_several_data_sets_are_refused() -> None:
    assert one_source([]) is None
    assert one_source([Source("", "a")]) == Source("", "a")
    with pytest.raises(UsageError, match="one data set"):
        one_source([Source("", "a"), Source("", "b")])
