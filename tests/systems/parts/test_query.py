"""Questions about shares of names."""

from __future__ import annotations

import pytest

from latens.errors import UsageError
from latens.systems.parts.naming.query import parse

SHARES = {"sky": 0.4, "tree": 0.005, "oak tree": 0.2, "car": 0.0, "not": 0.3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sky", True),
        ("tree", False),  # below 1 %
        ("sky and not tree", True),
        ("car or sky", True),
        ("car or sky and tree", False),  # and binds more strongly
        ("(car or sky) and not tree", True),
        ("not (sky or car)", False),
        ("not not sky", True),
        ("'oak tree' > 10%", True),
        ('"oak tree">0.25', False),
        ("car < 1% and sky > 30 %".replace(" %", "%"), True),
        ("tree > 0", True),
        ("'not'", True),
        ("SKY".lower() + " AND sky", True),
    ],
)
def test_questions(text: str, expected: bool) -> None:
    assert parse(text, list(SHARES))(SHARES) is expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a name is missing"),
        ("sky and", "a name is missing"),
        ("sky tree", "'tree' is unexpected"),
        ("(sky", "not closed"),
        ("sky)", r"'\)' is unexpected"),
        ("and sky", "a name is expected"),
        ("skyy", "is it 'sky'"),
        ("sky > many", "'many' is not a share"),
        ("sky > 120%", "impossible"),
        ("sky >", "is not a share"),
        ("'sky", "cannot be read"),
    ],
)
def test_other_texts_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text, list(SHARES))
