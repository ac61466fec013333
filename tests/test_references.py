"""Every citation in code and documents has an entry in docs/references.md, and every entry is cited."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
REFERENCES = ROOT / "docs/references.md"
CITING = [
    *(ROOT / "src/latens").rglob("*.py"),
    *(ROOT / "src/latens").rglob("README.md"),
    *(path for path in (ROOT / "docs").rglob("*.md") if path != REFERENCES),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]

NAME = r"(?:van den )?[A-Z][a-z][A-Za-z]*(?:-[A-Z][a-z]+)?"
YEAR = r"(?:\(?(?P<year>(?:19[5-9]|20[0-4])\d)\b)"
SEVERAL = re.compile(rf"(?P<first>{NAME}) et al\.,? {YEAR}")
LISTED = re.compile(rf"(?P<first>{NAME})(?:, {NAME})*(?:,|,? and) (?P<last>{NAME}) {YEAR}")
# One author: the year ends the clause, so that ordinary words in front of a number do not match.
ONE = re.compile(rf"(?P<first>{NAME})(?:'s)? {YEAR}(?=\)|,|;|:|\.\s|\.$| \(|$)")
NO_AUTHORS = frozenset(
    "January February March April May June July August September October November December In Since Until".split()
)
ENTRY = re.compile(r"^- \*\*(.+? \d{4})\*\*: ", re.MULTILINE)
LINE_BREAK = re.compile(r"\s*\n\s*(?:# )?")


def citations(text: str) -> set[str]:
    """Keys of the citations in a text, in the form `Author et al. YEAR`, `Author and Author YEAR` or `Author YEAR`."""
    text = LINE_BREAK.sub(" ", text)
    found = {f"{match['first']} et al. {match['year']}" for match in SEVERAL.finditer(text)}
    rest = SEVERAL.sub("", text)
    for match in LISTED.finditer(rest):
        two = match[0].count(",") == 0
        found.add(
            f"{match['first']} and {match['last']} {match['year']}" if two else f"{match['first']} et al. {match['year']}"
        )
    rest = LISTED.sub("", rest)
    return found | {f"{match['first']} {match['year']}" for match in ONE.finditer(rest) if match["first"] not in NO_AUTHORS}


def entries() -> list[str]:
    return ENTRY.findall(REFERENCES.read_text())


def test_forms_of_citations() -> None:
    text = "by Duda 2013, Kingma and\n    # Ba 2015; van den Oord et al. 2016, Perugachi-Diaz 2024 (section 4)"
    text += " and Witten, Neal and Cleary (1987)"
    assert citations(text) == {
        "Duda 2013",
        "Kingma and Ba 2015",
        "van den Oord et al. 2016",
        "Perugachi-Diaz 2024",
        "Witten et al. 1987",
    }
    assert citations("In November 2026, on ImageNet 2012 images, After 2000 steps, limit: Count = 2000") == set()


def test_every_citation_has_an_entry() -> None:
    known = set(entries())
    missing = {
        str(path.relative_to(ROOT)): sorted(unknown) for path in CITING if (unknown := citations(path.read_text()) - known)
    }
    assert not missing, f"add an entry to docs/references.md or repair the citation: {missing}"


def test_every_entry_is_cited_once_listed_and_in_order() -> None:
    cited = set().union(*(citations(path.read_text()) for path in CITING))
    assert sorted(set(entries()) - cited) == []
    assert [key for key, count in Counter(entries()).items() if count > 1] == []
    assert entries() == sorted(entries(), key=str.casefold)
