"""Settings of the service, and what it offers: one endpoint for each verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Query = Sequence[tuple[str, str]]  # parameters of an address in their order


@dataclass(frozen=True, kw_only=True)
class Option:
    """A query parameter."""

    name: str
    help: str
    kind: Literal["number", "integer", "string", "boolean"]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """POST /v1/NAME: a body in, a body out.

    `words` makes the task of a query; it raises UsageError. `media_type` is that of a result, by its words and first bytes.
    Tasks with the same words may be worked on `together`.
    """

    name: str
    help: str
    options: tuple[Option, ...]
    words: Callable[[Query], list[str]]
    media_type: Callable[[Sequence[str], bytes], str]
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits of the service and its workers.

    `target` is "module:function": in a worker the function gets `prepare` (JSON) and returns the function that answers tasks
    (`latens.serve.worker`).
    """

    target: str
    prepare: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 2
    queue: int = 64  # largest number of accepted requests that wait for a worker
    deadline: float = 60.0  # seconds for a body to arrive, for the work with its wait, and for an answer to be taken
    batch: int = 1  # largest number of tasks that a worker takes at once, of endpoints that allow it
    body_bytes: int = 100_000_000
    token: str | None = None
    names: frozenset[str] | None = None  # hosts by which the service may be called; None: all
    threads: int = 1  # of a worker
    version: str = "0"  # of latens
