"""Options that are whole numbers: the parser rounds a fraction, such as `--draws 1.5`, which is refused here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from cyclopts import Argument
from cyclopts.exceptions import CycloptsError

FRACTION = re.compile(r"[+-]?(\d*\.\d+|\d+\.)(e[+-]?\d+)?", re.I)


def has_fraction(word: str) -> bool:
    """True for a number with a decimal point that is not whole, also as a value of `--option=`."""
    value = word.partition("=")[2] or word
    return FRACTION.fullmatch(value) is not None and not float(value).is_integer()


def refuse_fractions(verb: str, words: Sequence[str], arguments: Iterable[Argument]) -> None:
    """Raise CycloptsError if one of the words is a fraction for an option of a verb that is a whole number."""
    whole = {name for one in arguments if one.parse and int in (one.hint, *get_args(one.hint)) for name in one.names}
    for name, value in _values(words):
        if name in whole and has_fraction(value):
            what = f'Invalid value "{value}" for {name}. Must be a whole number.'
            raise CycloptsError(msg=what, command_chain=tuple(verb.split()))


def _values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and the word of their value."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equal, value = word.partition("=")
        yield name, value if equal else following
