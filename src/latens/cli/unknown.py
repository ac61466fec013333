"""Hints for options that a verb does not have, and for words in the wrong place."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches

CLOSE = 0.75  # smallest difflib ratio of two names, without dashes, for one to count as a misspelling of the other
SHOWN_VERBS = 4  # that a hint names
FORMATS = {"jpeg": "jpg", "tif": "tiff"} | {name: name for name in ("png", "webp", "avif", "jpg", "tiff")}
INSTEAD = {  # option of other programs: the option that a verb must have for the hint, and the hint
    **dict.fromkeys(("emit", "ext", "type"), ("--to", "--to selects the format of the images, as in --to png")),
    **{word: ("--to", f"write --to {name}") for word, name in FORMATS.items()},
    **dict.fromkeys(("output", "output-dir", "outdir", "dest"), ("-o", "-o names the output")),
    "to": ("-o", "-o names the output"),
    **dict.fromkeys(("overwrite", "yes", "y", "f"), ("--force", "--force replaces existing files")),
    **dict.fromkeys(("json", "jsonl"), ("--format", "write --format json")),
    **dict.fromkeys(("quiet", "silent"), ("--format", "write --format quiet")),
    **dict.fromkeys(("verbose", "v"), ("--debug", "--debug adds the traceback to an error")),
    **{word: ("--device", f"write --device {word}") for word in ("cuda", "cpu")},
    "gpu": ("--device", "write --device cuda"),
    "q": ("--quality", "write --quality"),
    **dict.fromkeys(("jobs", "j", "parallel", "num-workers"), ("--threads", "--threads sets the number of CPU threads")),
    **dict.fromkeys(("recursive", "recurse", "r"), ("-o", "folders are read recursively")),
    **dict.fromkeys(("input", "in", "i"), ("-o", "name the inputs without an option")),
}


def hint_for(word: str, known: Collection[str], others: Callable[[], Iterable[tuple[str, Collection[str]]]]) -> str:
    """What to write in place of the option `word`; "" if no rule applies.

    `known` are the options of the verb; `others` returns the other verbs with their options, and is called only if needed.
    """
    option = word.partition("=")[0]
    name = option.lstrip("-").lower()
    needed, hint = INSTEAD.get(name, ("", ""))
    if needed in known:
        return hint
    long = {other.lstrip("-"): other for other in known if other.startswith("--")}
    if close := get_close_matches(name, long, n=1, cutoff=CLOSE):
        return f"Did you mean {long[close[0]]}?"
    owners = [f"`latens {verb}`" for verb, options in others() if option in options]
    if not owners:
        return ""
    more = " and others" if len(owners) > SHOWN_VERBS else ""
    return f"{option} is an option of {', '.join(owners[:SHOWN_VERBS])}{more}"


def moved_behind(tokens: Sequence[str], verbs: Collection[str]) -> Iterator[list[str]]:
    """The command line with the words before its verb at the end, for every word that may be the verb."""
    for verb in verbs:
        first, *second = verb.split()
        for at in (index for index, word in enumerate(tokens) if word == first):
            after = tokens[at + 1 :]
            below = after.index(second[0]) if second and second[0] in after else 0
            if not second or second[0] in after:
                yield [*verb.split(), *after[below + bool(second) :], *tokens[:at], *after[:below]]


def hint_for_early(tokens: Sequence[str], verbs: Collection[str], parses: Callable[[Sequence[str]], bool]) -> str:
    """What to write for options before the verb."""
    own = [word for token in tokens for word in _own_words(token)]
    lines = [*moved_behind(tokens, verbs), *moved_behind(own, verbs)]
    found = next(filter(parses, lines), None)
    if found is not None:
        return f"options follow the verb: {shown(found)}"
    return "options follow the verb, as in `latens compress photo.jpg --format json`" if lines else ""


def _own_words(token: str) -> list[str]:
    """The words that replace an option of other programs, such as --format json for --json."""
    _, hint = INSTEAD.get(token.lstrip("-").lower(), ("", "")) if token.startswith("-") else ("", "")
    return hint.removeprefix("write ").split() if hint.startswith("write ") else [token]


def hint_for_unused(word: str, tokens: Sequence[str], verb: str, parses: Callable[[Sequence[str]], bool]) -> str:
    """What to write for a word that no parameter of the verb takes."""
    at = len(tokens) - 1 - list(reversed(tokens)).index(word)
    if at > 1 and tokens[at - 2].startswith("-") and tokens[at - 1][:1].isdigit():
        joined = tokens[at - 1] + word
        if parses([*tokens[: at - 1], joined, *tokens[at + 1 :]]):
            return f"write {tokens[at - 2]} {joined}, without a space"
    start = len(verb.split())
    if os.path.exists(word) and parses([*tokens[:start], word, *tokens[start:at], *tokens[at + 1 :]]):
        return f"write it before the options: latens {verb} {shlex.quote(word)} ..."
    return "leave it out; a name with spaces needs quotes"


def shown(tokens: Sequence[str]) -> str:
    """A command line to copy; a standard stream is a path in the tokens."""
    return "latens " + shlex.join("-" if token == "./-" else token for token in tokens)
