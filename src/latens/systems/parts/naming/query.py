"""Questions about named images, as `sky and not tree` or `(cat or dog) and grass > 20%`.

    question := all ("or" all)*      all := one ("and" one)*      one := "not" one | "(" question ")" | name [("<" | ">") share]

A name alone means that it covers at least 1 % of the image. Names with spaces or signs are quoted.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

from latens.errors import UsageError

PRESENT = 0.01  # share of the area
TOKEN = re.compile(r"""\s*(?:(?P<sign>[()<>])|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<word>[^\s()<>"']+))""")
WORDS = ("and", "or", "not")

Shares = Mapping[str, float]  # of the area, in [0, 1]
Question = Callable[[Shares], bool]


def parse(text: str, names: Sequence[str]) -> Question:
    """The question of a text about `names`. Raises UsageError for a text that is none and for an unknown name."""
    reader = _Reader(text, names)
    found = reader.question()
    reader.expect_end()
    return found


class _Reader:
    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text, self.names = text, names
        self.tokens: list[tuple[str, bool]] = []  # and whether it is quoted
        position = 0
        while text[position:].strip():
            match = TOKEN.match(text, position)
            if match is None:
                raise self.error(f"it cannot be read from {text[position : position + 20]!r} on")
            quoted = match["double"] if match["double"] is not None else match["single"]
            self.tokens.append((quoted, True) if quoted is not None else (match["sign"] or match["word"], False))
            position = match.end()

    def error(self, what: str) -> UsageError:
        hint = f"write names joined by and, or, not, such as 'a and not b > 20%'; the names are {_listed(self.names)}"
        return UsageError(what, where=f"--find {self.text!r}", hint=hint)

    def next_is(self, *words: str) -> bool:
        """Take the next token if it is one of these words, unquoted."""
        if self.tokens and not self.tokens[0][1] and self.tokens[0][0].lower() in words:
            self.tokens.pop(0)
            return True
        return False

    def expect_end(self) -> None:
        if self.tokens:
            raise self.error(f"{self.tokens[0][0]!r} is unexpected")

    def question(self) -> Question:
        parts = [self.every()]
        while self.next_is("or"):
            parts.append(self.every())
        return lambda shares: any(part(shares) for part in parts)

    def every(self) -> Question:
        parts = [self.one()]
        while self.next_is("and"):
            parts.append(self.one())
        return lambda shares: all(part(shares) for part in parts)

    def one(self) -> Question:
        if self.next_is("not"):
            inner = self.one()
            return lambda shares: not inner(shares)
        if self.next_is("("):
            inner = self.question()
            if not self.next_is(")"):
                raise self.error("a parenthesis is not closed")
            return inner
        name = self.name()
        if self.next_is("<"):
            most = self.share()
            return lambda shares: shares[name] < most
        if self.next_is(">"):
            least = self.share()
            return lambda shares: shares[name] > least
        return lambda shares: shares[name] >= PRESENT

    def name(self) -> str:
        if not self.tokens:
            raise self.error("a name is missing at its end")
        word, quoted = self.tokens.pop(0)
        if not quoted and (word in "()<>" or word.lower() in WORDS):
            raise self.error(f"a name is expected, not {word!r}")
        if word not in self.names:
            near = difflib.get_close_matches(word, self.names, 1)
            raise self.error(f"there is no name {word!r}" + (f"; is it {near[0]!r}?" if near else ""))
        return word

    def share(self) -> float:
        """A share in percent (20%) or from 0 to 1 (0.2)."""
        word = self.tokens.pop(0)[0] if self.tokens else ""
        percent = word.endswith("%")
        try:
            value = float(word.removesuffix("%")) / (100 if percent else 1)
        except ValueError:
            raise self.error(f"{word!r} is not a share; write 20% or 0.2") from None
        if not 0 <= value <= 1:
            raise self.error(f"a share of {word} is impossible; write 20% or 0.2")
        return value


def _listed(names: Sequence[str]) -> str:
    """Names as they are written in a question."""
    return ", ".join(name if re.fullmatch(r"[^\s()<>\"']+", name) and name not in WORDS else f'"{name}"' for name in names)
