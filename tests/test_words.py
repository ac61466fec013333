"""Words that are not used: British spellings, old names and phrases, and papers cited by number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "latens"
ENDINGS = {".py", ".md", ".jinja", ".html"}

# Beginnings of words; an identifier is split at its underscores.
BRITISH = ("colour", "neighbour", "grey", "quantis", "normalis", "optimis(?!t|m)", "licence", "behaviour", "labelled")
BRITISH_WORDS = ("centre", "centres", "centred", "metre", "metres", "kilometres", "millimetres")
OLD_WORDS = ("picture", "pictures", "picturelike", "pictured")
PHRASES = (("bug", "of", "ours"), ("in", "the", "box"), ("is", "said"), ("what", "there", "is"))  # words, across line ends

START, END = r"(?<![^\W_])", r"(?![^\W_])"  # of a word; an underscore separates words
FORBIDDEN = re.compile(
    "|".join(
        [
            rf"{START}(?:{'|'.join(BRITISH)})\w*",
            rf"{START}(?:{'|'.join((*BRITISH_WORDS, *OLD_WORDS))}){END}",
            *(START + r"\s+".join(phrase) + END for phrase in PHRASES),
        ]
    ),
    re.IGNORECASE,
)
CONSTANT = re.compile(r"\b(?:MOST|LEAST)_[A-Z]\w*")
# 000, 002, 003 and 004 were numbers of papers. Not: 0.003, .003, 1,000, 003.png, 10-003, x003.
CITATION = re.compile(r"(?<![\w.,/:#=%+-])(?<!\d )(?:000|002|003|004)(?!\w|[.,:/-]\w| \d)")
ID_LIST = re.compile(r"\d+(?:(?:, | and |,)\d+){2,}")  # such as 001, 002, 003

ALLOWED_FILES = {
    "src/latens/legacy.py",  # old names of settings
    "docs/notes/house.md",  # tells of the renaming
    "docs/notes/transcripts.md",  # quotes the old messages
}
ALLOWED = (  # foreign names: of libraries, formats and data sets
    re.compile(r"[Pp]icture[- ]in[- ][Pp]icture"),
    re.compile(r"\bP(?:icture)? ?(?:frame|type|order)s?\b"),  # of video standards
)


def areas() -> list[str]:
    """README, docs, and the folders and files of the package, so that a failure names its area."""
    systems = [f"src/latens/systems/{path.name}" for path in sorted((SOURCE / "systems").iterdir()) if path.is_dir()]
    inside = [f"src/latens/{path.name}" for path in sorted(SOURCE.iterdir()) if path.name != "systems"]
    found = ["README.md", "docs", *inside, "src/latens/systems/__init__.py", *systems]
    return [area for area in found if any(files_of(area))]


def files_of(area: str) -> Iterator[Path]:
    place = ROOT / area
    for path in [place] if place.is_file() else sorted(place.rglob("*")):
        if path.suffix in ENDINGS and path.relative_to(ROOT).as_posix() not in ALLOWED_FILES:
            yield path


def forbidden_in(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and words."""
    for foreign in ALLOWED:
        text = foreign.sub(lambda found: " " * len(found[0]), text)
    without_ids = ID_LIST.sub(lambda found: "1" * len(found[0]), text)
    for pattern, searched in ((FORBIDDEN, text), (CONSTANT, text), (CITATION, without_ids)):
        for found in pattern.finditer(searched):
            yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split())


@pytest.mark.parametrize("area", areas())
def test_words_that_are_gone(area: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in files_of(area)
        for line, word in sorted(forbidden_in(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the colour of a grey neighbourhood", ["colour", "grey", "neighbourhood"]),
        ("def quantised(x): normalise(x); Optimisers", ["quantised", "normalise", "Optimisers"]),
        ("at the centre, centred, 5 metres", ["centre", "centred", "metres"]),
        ("PICTURE_ENDINGS and picture_of", ["PICTURE", "picture"]),
        ("MOST_FILES = 3; LEAST_SIZE", ["MOST_FILES", "LEAST_SIZE"]),
        ("This is\n    said in words", ["is said"]),
        ("(003, section 4.4.4), Eq. 8 of 002; (000), 004's", ["003", "002", "000", "004"]),
        ("[002] and 003.", ["002", "003"]),
        ("0.003, .003, 1,000, 10 000, 003.png, 00003, 2000, -003, x003, 1e-003", []),
        ("kept: 001, 002, 003", []),
        ("parameters, kilometers, centers, entrepreneur, this said, most_recent, Greyhound_", ["Greyhound_"]),
        ("a network, behavior, licensed, gray, optimistic", []),
    ],
)
def test_the_search_finds_words_and_leaves_numbers(text: str, words: list[str]) -> None:
    found = [word for _, word in forbidden_in(text)]
    assert sorted(found) == sorted(words)
