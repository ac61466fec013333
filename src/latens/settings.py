"""Settings: frozen, validated data classes, and their construction from text and JSON.

A class decorated with `settings` is a strict pydantic data class: unknown names, values out of range, NaN and wrong types are
refused in Python, in `dataclasses.replace`, in JSON and in `--set key=value`. Choices are `Literal`s, ranges `Annotated` types;
several classes for one field are a union with the discriminator `kind`. The comment after a field (or above it) is its meaning,
which `latens train --show-config` prints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

import annotated_types
import pydantic
import pydantic.dataclasses

from latens.errors import UsageError, did_you_mean

T = TypeVar("T")

Positive = Annotated[float, annotated_types.Gt(0)]
NonNegative = Annotated[float, annotated_types.Ge(0)]
Share = Annotated[float, annotated_types.Ge(0), annotated_types.Le(1)]
Count = Annotated[int, annotated_types.Ge(1)]
Natural = Annotated[int, annotated_types.Ge(0)]

_CONFIG = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


validator = pydantic.model_validator(mode="after")
"""Decorator for rules between fields: a method that returns self or raises ValueError."""


class SettingsError(UsageError):
    """A setting has an unknown name or a value that it cannot have."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, pydantic.Field))
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only data class that checks every value; invalid values raise SettingsError."""
    made = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=_CONFIG)
    validate = made.__init__

    @functools.wraps(validate)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except pydantic.ValidationError as error:
            raise _explained(error, made, values, cls.__name__) from None

    made.__init__ = init  # type: ignore[method-assign]
    return cast("type[T]", made)


def is_settings(value: object) -> bool:
    """True if `value` is an instance of a settings class."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "__pydantic_validator__")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-able values of a settings instance; tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def decode(kind: Any, plain: Mapping[str, Any], *, where: str = "settings", path: str = "") -> Any:
    """An instance of a settings class (or of a union of them) from JSON-able values. Raises SettingsError.

    `where` names the source, a file or an option; `path` is the dotted name of the group in it.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(plain, allow_nan=True))
    except pydantic.ValidationError as error:
        raise _explained(error, kind, plain, where, path) from None


@functools.cache  # building an adapter takes longer than using it
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def decode_like(template: T, plain: Mapping[str, Any], *, where: str = "settings") -> T:
    """`decode` for the class of `template`; groups whose type is a parameter have the class of the template's group.

    Names that `plain` lacks take their default, not the template's value. Raises SettingsError.
    """
    cls: Any = type(template)
    types = field_types(cls)
    groups = {hint: type(getattr(template, name)) for name, hint in types.items() if isinstance(hint, TypeVar)}
    kind = cls[tuple(groups[parameter] for parameter in cls.__parameters__)] if groups else cls
    return cast(T, decode(kind, plain, where=where))


def override(config: T, changes: Mapping[str, str], *, where: str = "--set") -> T:
    """A configuration with dotted names replaced by text, e.g. {"run.steps": "500"}; all changes apply at once.

    A changed `kind` selects another class of a union; the settings that both classes have are kept. Raises SettingsError for
    an unknown name (naming the closest one), for values that do not fit, alone or together, and for a change without effect.
    """
    if not changes:
        return config
    plain = to_dict(config)
    ordered = sorted(changes.items(), key=lambda item: not item[0].endswith(".kind"))  # first, because it determines the names
    for path, text in ordered:
        _change(config, plain, path.split("."), text, path, where)
    made = decode_like(config, plain, where=where)
    for path, reason in without_effect(made).items():
        changed = next((name for name in changes if f"{name}.".startswith(f"{path}.")), None)
        if changed is not None:
            raise SettingsError(f"this setting has no effect: {reason}", where=f"{where} {changed}", hint="leave it out")
    return made


def without_effect(config: Any, group: str = "") -> dict[str, str]:
    """Dotted names of the settings and groups that have no effect given the others, with the reason.

    A settings class lists its own in a method `without_effect`; names with a leading dot are relative to the outermost class.
    """
    found: dict[str, str] = {}
    if hasattr(config, "without_effect"):
        own: Mapping[str, str] = config.without_effect()
        found |= {name[1:] if name.startswith(".") else f"{group}{name}": reason for name, reason in own.items()}
    for name in field_types(type(config)):
        value = getattr(config, name)
        if is_settings(value):
            found |= without_effect(value, f"{group}{name}.")
    return found


def _change(template: Any, plain: dict[str, Any], names: Sequence[str], text: str, path: str, where: str) -> None:
    head, *rest = names
    hints = field_types(type(template))
    if head not in hints:
        raise _unknown(path, head, type(template), where)
    value = getattr(template, head)
    if rest:
        if not is_settings(value):
            raise SettingsError(f"'{head}' is not a group", where=f"{where} {path}", hint=f"write {head}=VALUE")
        chosen = _chosen(hints[head], plain[head], value)
        if rest == ["kind"] and len(_classes(hints[head])) > 1:
            plain[head] = _of_kind(_classes(hints[head]), plain[head], text)
        else:
            _change(chosen, plain[head], rest, text, path, where)
    elif is_settings(value):
        inner = ", ".join(f"{path}.{name}" for name in field_types(type(value)))
        raise SettingsError(f"'{path}' is a group", where=where, hint=f"set one of {inner}")
    else:
        plain[head] = parse_text(hints[head], text)


def _chosen(hint: Any, plain: Mapping[str, Any], value: Any) -> Any:
    """The template for the settings of a field: its value, or an instance of the class that a change of `kind` has selected."""
    for cls in _classes(hint):
        if "kind" in plain and plain["kind"] in typing.get_args(field_types(cls).get("kind")) and not isinstance(value, cls):
            return cls()
    return value


def _of_kind(classes: Sequence[type], plain: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Settings for another class of a union: those shared with the present class, and the new `kind`."""
    for cls in classes:
        if kind in typing.get_args(field_types(cls)["kind"]):
            return {name: value for name, value in plain.items() if name in field_types(cls)} | {"kind": kind}
    return {**plain, "kind": kind}  # unknown; the validator raises the error


def parse_text(hint: Any, text: str) -> Any:
    """The value of `--set name=text` for a field of this type: the text itself for strings, otherwise JSON.

    A list may be written without brackets, "a,b"; a whole number as 1e3 or 1_000; a fraction as .5. Other text is returned
    unchanged, and the validator refuses it.
    """
    options = options_of(hint)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    if all(option is str or isinstance(option, str) for option in options if option is not type(None)):
        return text
    value = _json(text.lower() if bool in options else text)
    if any(typing.get_origin(option) is tuple for option in options):
        if not isinstance(value, list):
            parts = text.removeprefix("[").removesuffix("]").split(",")
            value = [_listed(hint, part.strip()) for part in parts if part.strip()]
        return value
    if value is None:
        return text
    whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
    return int(value) if whole and int in options and float not in options else value


def _listed(hint: Any, text: str) -> Any:
    """One element of a list that is written without brackets."""
    element = next(typing.get_args(option)[0] for option in options_of(hint) if typing.get_origin(option) is tuple)
    return parse_text(element, text)


def _json(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return _number(text)


def _number(text: str) -> int | float | None:
    """A number that Python reads and JSON does not: .5, 5., +1, 1_000. None for other text and for infinity and NaN."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            value = kind(text)
            return value if math.isfinite(value) else None
    return None


def options_of(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type: members of a union, values of a Literal, without their ranges."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return options_of(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(option for member in typing.get_args(hint) for option in options_of(member))
    if origin is Literal:
        return typing.get_args(hint)
    return (hint,)


def _classes(hint: Any) -> list[type]:
    """The settings classes among the alternatives of a type."""
    return [option for option in options_of(hint) if isinstance(option, type) and dataclasses.is_dataclass(option)]


def field_types(cls: type) -> Mapping[str, Any]:
    """The declared type of every field, ranges included."""
    hashable: Any = cls  # mypy considers data classes unhashable
    types_of: Mapping[str, Any] = _field_types(hashable)
    return types_of


@functools.cache
def _field_types(cls: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


# ------------------------------------------------------------------------------------------------------------- errors


def _unknown(path: str, name: str, cls: type, where: str) -> SettingsError:
    """The error for `name`, one of the names in the dotted `path`, which `cls` lacks."""
    known, names = field_types(cls), path.split(".")
    inside = [f"{group}.{name}" for group, hint in known.items() for part in _classes(hint) if name in field_types(part)]
    close = inside or difflib.get_close_matches(name, known, n=1)
    if close:
        names[names.index(name)] = close[0]
    hint = f"did you mean '{'.'.join(names)}'?" if close else f"known here: {', '.join(known)}"
    return SettingsError(f"no setting '{path}'", where=where, hint=hint)


def _explained(
    error: pydantic.ValidationError, kind: Any, plain: Mapping[str, Any], where: str, group: str = ""
) -> SettingsError:
    """The first error: setting, value, and allowed values."""
    first = error.errors(include_url=False)[0]
    absent = first["type"] in ("missing", "missing_argument", "unexpected_keyword_argument")
    names, value = _place(first["loc"], plain, absent)
    path = ".".join(filter(None, [group, *names]))
    if first["type"] == "unexpected_keyword_argument":
        return _unknown(path, names[-1], _class_at(kind, plain, names[:-1]), where)
    place = f"{where} {path}".rstrip()
    if first["type"] in ("literal_error", "union_tag_invalid"):
        known = first.get("ctx", {}).get("expected") or first["ctx"]["expected_tags"]
        if first["type"] == "union_tag_invalid":
            place, value = f"{place}.kind", value.get("kind") if isinstance(value, Mapping) else value
        words = [word.strip(" '") for word in known.replace(" or ", ",").split(",")]
        hint = did_you_mean(str(value), words, "choose one of those")
        return SettingsError(f"{_shown(value)} is none of {known}", where=place, hint=hint)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if first["type"] == "value_error":  # of a rule between fields
        return SettingsError(message, where=place)
    return SettingsError(f"{_shown(value)} does not fit: {message[:1].lower()}{message[1:]}", where=place)


def _place(loc: Sequence[int | str], plain: Any, absent: bool) -> tuple[list[str], Any]:
    """The setting names in the location of an error, and the value there; pydantic adds names of classes in a union.

    With `absent`, the last name is a setting that has no value.
    """
    path: list[str] = []
    value: Any = plain
    for number, name in enumerate(loc):
        value = _plain(value)
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list | tuple) and isinstance(name, int) and name < len(value):
            value = value[name]
        elif number < len(loc) - 1 or not (absent and isinstance(value, Mapping)):
            continue
        else:
            value = None
        path.append(str(name))
    return path, value


def _plain(value: Any) -> Any:
    return vars(value) if is_settings(value) else value


def _class_at(kind: Any, plain: Any, path: Sequence[str]) -> type:
    """The settings class at the location of an error."""
    classes = _classes(typing.get_origin(kind) if dataclasses.is_dataclass(typing.get_origin(kind)) else kind)
    fitting = [cls for cls in classes if "kind" in plain and plain["kind"] in typing.get_args(field_types(cls).get("kind"))]
    cls = (fitting or classes)[0]
    if not path:
        return cls
    inner = field_types(cls)[path[0]]
    if isinstance(inner, TypeVar):  # of a generic class, whose arguments `kind` holds
        inner = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(kind), strict=True))[inner]
    return _class_at(inner, _plain(plain[path[0]]), path[1:])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
