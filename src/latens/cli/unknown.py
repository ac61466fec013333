"""Hints for options that a verb does not have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
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
