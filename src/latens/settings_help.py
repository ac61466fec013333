"""Descriptions of settings for `--show-config`: name, value, type and comment of every field."""

from __future__ import annotations

import dataclasses
import inspect
import io
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from latens.settings import field_types, is_settings


class Setting(NamedTuple):
    """One line of `--show-config`."""

    path: str
    value: Any
    type: str
    meaning: str


def listed(config: Any, prefix: str = "") -> Iterator[Setting]:
    """All settings of a configuration in order, including those of groups."""
    described = meanings(type(config))
    for name, hint in field_types(type(config)).items():
        value = getattr(config, name)
        if is_settings(value):
            yield from listed(value, f"{prefix}{name}.")
        else:
            yield Setting(prefix + name, value, type_text(hint), described.get(name, ""))


def type_text(hint: Any) -> str:
    """A readable type: "int >= 1", "adam | muon", "list of float"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join([type_text(args[0]), *filter(None, map(_range_text, args[1:]))])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(arg) for arg in args)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is tuple:
        return f"list of {type_text(args[0])}"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _range_text(limit: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
    return ", ".join(f"{sign} {getattr(limit, name):g}" for name, sign in signs.items() if hasattr(limit, name))


def meanings(cls: type) -> Mapping[str, str]:
    """The meaning of every field: the comment after it, or the comment lines above it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found |= _comments(base) if dataclasses.is_dataclass(base) else {}
    return {name: found[name] for name in field_types(cls) if name in found}


def _comments(cls: Any) -> dict[str, str]:
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # without source code
        return {}
    names = set(cls.__annotations__)
    found: dict[str, str] = {}
    above: list[str] = []
    name, fresh = "", True
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc("\n" + source)).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ").strip()
            if fresh:
                above.append(text)
            elif name:
                found[name] = text
        elif token.type in (tokenize.NEWLINE, tokenize.NL):
            if token.type == tokenize.NEWLINE:
                if name and name not in found and above:
                    found[name] = " ".join(above)
                above, name = [], ""
            fresh = True
        elif token.type not in (tokenize.INDENT, tokenize.DEDENT):
            if fresh and token.string in names:
                name = token.string
            fresh = False
    return found
