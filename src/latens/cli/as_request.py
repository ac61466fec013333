"""Verbs as endpoints of `latens serve`: models, options, and command lines of queries. `cli.request_worker` runs them."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from latens.catalogue import MODELS, SYSTEMS, default_model, system_of
from latens.cli.common import ImageOptions
from latens.data.media_types import image_media_type
from latens.errors import UsageError, did_you_mean
from latens.serve.settings import Endpoint, Option, Query

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "compress": ("quality", "bpp", "psnr", "size", "refine", "method", "classes", "strip", "name", "channel"),
    "decompress": ("to", "partial", "name"),
    "segment": ("emit", "score", "diameter", "name", "channel"),
    "dehaze": ("to", "method", "strength", "keep_brightness", "strip", "name", "channel"),
    "haze": ("to", "visibility", "beta", "max_depth", "airlight", "method", "strip", "name", "channel"),
    "parts": ("emit", "most", "resolution", "name", "channel"),
    "density": ("draws", "name", "channel"),
    "grade": ("emit", "sown", "day", "accept", "rows", "cols", "corners", "trays", "tray", "method", "name", "channel"),
}
"""Options that a request may have. All others name files of the service, or settings that are those of the operator."""

VERBS_OF = {
    "image_codec": ("compress", "decompress"),
    "amodal": ("segment",),
    "haze": ("dehaze", "haze"),
    "parts": ("parts",),
    "flow": ("density",),
    "seedlings": ("grade",),
}
MODELS_OF = {  # of a name of a system
    "image_codec": ("image_codec_joint", "image_codec_perceptual", "image_codec_context", "image_codec"),
    "amodal": ("cells", "embryo"),
}
TARGET = "latens.cli.request_worker:open_worker"
TOGETHER = "density"  # the verb whose network takes several images at once
TABLES = frozenset({"cells", "frames", "plants", "lots"})  # results of --emit that are CSV
STARTS = (
    (b"PK\x03\x04", "application/zip"),
    (b"<!doctype html", "text/html; charset=utf-8"),
    (b"{", "application/json"),
)
CACHED = 256  # command lines whose arguments are kept


class Served(NamedTuple):
    """A model that the service has, with the verbs that use it."""

    model: str  # as requests name it
    place: str  # the same, or the absolute path of a folder: workers run in another folder
    system: str
    verbs: tuple[str, ...]


def served_models(names: Iterable[str]) -> list[Served]:
    """The models that --models names; the name of a system adds its bundled models. Raises ModelMissing and UsageError."""
    found: dict[str, Served] = {}
    for name in names:
        system = system_of(name)
        if system not in VERBS_OF:
            raise UsageError(
                f"models of {system} are not served", where=f"--models {name}", hint=f"known: {', '.join(VERBS_OF)}"
            )
        for model in MODELS_OF.get(name, (default_model(name) if name == system and name != "haze" else name,)):
            place = model if model in MODELS or model in SYSTEMS else str(Path(model).absolute())
            found.setdefault(model, Served(model, place, system, VERBS_OF[system]))
    if not found:
        raise UsageError("no model is named", where="--models", hint=f"known: {', '.join(VERBS_OF)}")
    return list(found.values())


def endpoints(models: Sequence[Served], settings: Sequence[str]) -> list[Endpoint]:
    """The endpoints of these models. `settings` are words of every command line, such as --limit."""
    named = dict.fromkeys(verb for each in models for verb in each.verbs)
    return [endpoint(verb, {each.model: each.place for each in models if verb in each.verbs}, settings) for verb in named]


def endpoint(verb: str, models: Mapping[str, str], settings: Sequence[str]) -> Endpoint:
    """The endpoint of a verb, with the places of its models by name; the first is the default."""
    function = _function(verb)
    found = {name: option for name, option in options_of(function) if name.replace("-", "_") in OPTIONS[verb]}
    if "emit" in found:
        products = tuple(_module(verb).PRODUCTS)
        found["emit"] = Option(name="emit", help=f"The result.  [default: {products[0]}]", kind="string", choices=products)
    default = next(iter(models))
    found["model"] = Option(name="model", help=f"The model.  [default: {default}]", kind="string", choices=tuple(models))
    cached = functools.lru_cache(CACHED)(functools.partial(words_of, verb, found, models, settings))
    return Endpoint(
        name=verb,
        help=next(line for line in inspect.getdoc(function).splitlines() if line),  # type: ignore[union-attr]
        options=tuple(found.values()),
        words=lambda query: cached(tuple(query)),
        media_type=functools.partial(media_type, verb),
        together=verb == TOGETHER,
    )


def _module(verb: str) -> Any:
    return importlib.import_module(f"latens.cli.{verb}")


def _function(verb: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(_module(verb), verb)
    return found


def options_of(function: Callable[..., Any]) -> Iterator[tuple[str, Option]]:
    """The options of a verb with one value, as query parameters, by their names without the leading dashes."""
    hints = get_type_hints(function, include_extras=True) | {
        "channel": get_type_hints(ImageOptions, include_extras=True)["channel"]
    }
    for name, hint in hints.items():
        parts = get_args(hint)
        text = next((part.help for part in parts if isinstance(part, Parameter) and part.help), None)
        if text is None:
            continue
        types = [kind for kind in (get_args(parts[0]) or parts[:1]) if kind is not type(None)]
        choices = next((get_args(kind) for kind in (parts[0], *types) if get_origin(kind) is Literal), ())
        kind: Literal["number", "integer", "string", "boolean"] = "string"
        if len(types) == 1 and not choices:
            kind = {float: "number", int: "integer", bool: "boolean"}.get(types[0], "string")  # type: ignore[assignment]
        word = name.replace("_", "-")
        yield word, Option(name=word, help=text, kind=kind, choices=choices)


def words_of(
    verb: str, options: Mapping[str, Option], models: Mapping[str, str], settings: Sequence[str], query: Query
) -> list[str]:
    """The command line of a query, checked by the parser of the command line. Raises UsageError."""
    from latens.cli import main

    words = [verb, "./-", "-o", "./-", "--format", "json", *settings]
    given: dict[str, str] = {}
    for name, value in query:
        if name not in options:
            hint = did_you_mean(name, options, f"known: {', '.join(options)}")
            raise UsageError(f"{verb} has no option {name} here", where=name, hint=hint)
        if name in given:
            raise UsageError("this option is given twice", where=name, hint="give it once")
        given[name] = value
        words += _words(options[name], value)
    words.append(f"--model={models[given.get('model', next(iter(models)))]}")
    main.parsed(words)
    return words


def _words(option: Option, value: str) -> list[str]:
    if "\0" in value or not (value or option.kind == "boolean"):
        raise UsageError("this option has no value", where=option.name, hint="give one, or leave the option out")
    if option.name == "model":
        if value not in option.choices:
            hint = f"served: {', '.join(option.choices)} (latens serve --models)"
            raise UsageError(f"the model {value} is not served", where="model", hint=hint)
        return []  # its place is the last word
    if option.kind == "boolean":
        if value.lower() not in ("", "1", "true", "0", "false"):
            raise UsageError(f"'{value}' is not true or false", where=option.name)
        return [f"--{option.name}"] if value.lower() in ("", "1", "true") else []
    if option.name == "airlight":
        numbers = value.split(",")
        if any(number.startswith("-") for number in numbers):  # it would be another option, such as one of the operator
            raise UsageError(f"'{value}' is not three numbers in 0..1", where=option.name, hint="write, for example, 1,0.9,0.8")
        return ["--airlight", *numbers]
    return [f"--{option.name}={value}"]


def media_type(verb: str, words: Sequence[str], head: bytes) -> str:
    """The media type of a result, by its first bytes; tables are known by their name."""
    found = image_media_type(head) or next((kind for start, kind in STARTS if head.lower().startswith(start.lower())), None)
    emit = next((word.partition("=")[2] for word in words if word.startswith("--emit=")), "")
    if found is None and (verb == "density" or emit in TABLES or (verb == "grade" and not emit)):
        return "text/csv; charset=utf-8"
    return found or "application/octet-stream"
