"""Rows of finished inputs. A journal holds the rows of one shard; what the journals say is the truth about a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from latens.errors import Corrupt, OutputExists
from latens.jobs.store import Store

FORM = 1  # version of journals


class Output(NamedTuple):
    """A file that a shard made."""

    name: str  # in the output folder
    bytes: int
    sha256: str


class Row(NamedTuple):
    """The result of one input."""

    id: str
    state: Literal["done", "failed"]
    outputs: tuple[Output, ...] = ()
    error: str = ""  # class of the error
    message: str = ""
    result: Mapping[str, Any] = {}

    def same(self, other: Row) -> bool:
        """True for equal results; times may differ."""
        return self[:4] == other[:4]


class Journal(NamedTuple):
    """The rows of one shard."""

    job: str
    shard: int
    started: float  # Unix time
    finished: float
    machine: str
    rows: tuple[Row, ...]
    joint: tuple[Output, ...] = ()  # files of the shard as a whole, such as tables
    messages: tuple[str, ...] = ()

    def dump(self) -> bytes:
        """Lines of JSON: a head, then the rows."""
        head = {"latens_journal": FORM, **self._asdict()}
        del head["rows"]
        lines = [head, *(row._asdict() for row in self.rows)]
        return "".join(json.dumps(line, default=str) + "\n" for line in lines).encode()

    @classmethod
    def parse(cls, data: bytes, name: str) -> Journal:
        """The journal of a file. Raises Corrupt."""
        try:
            head, *lines = (json.loads(line) for line in data.splitlines())
            if head.pop("latens_journal") != FORM:
                raise Corrupt("this journal was written by another version of latens", where=name)
            rows = tuple(Row(**line | {"outputs": _outputs(line["outputs"])}) for line in lines)
            head |= {"rows": rows, "joint": _outputs(head["joint"]), "messages": tuple(head["messages"])}
            return cls(**head)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Corrupt("this is not a journal", where=name, hint="remove it; its shard is then worked on again") from error

    def of(self, job: str, name: str) -> Journal:
        """This journal. Raises OutputExists if it belongs to another job than `job`."""
        if self.job != job:
            raise OutputExists("this journal belongs to another job", where=name, hint="name another folder with -o")
        return self


def _outputs(values: Sequence[Sequence[Any]]) -> tuple[Output, ...]:
    return tuple(Output(*value) for value in values)


def commit(store: Store, name: str, journal: Journal) -> Journal:
    """Write a journal; return the one that stands, which may be the first of two for one shard.

    Raises OutputExists if the one that stands belongs to another job or says something else.
    """
    if store.create(name, journal.dump()):
        return journal
    data = store.read(name)
    first = Journal.parse(data or b"", name).of(journal.job, name)
    differing = [new.id for old, new in zip(first.rows, journal.rows, strict=False) if not old.same(new)]
    if differing or len(first.rows) != len(journal.rows):
        what = f"two workers disagree on shard {journal.shard}, first on {differing[0] if differing else 'its length'}"
        raise OutputExists(what, where=name, hint="machines of different kinds may write different bytes; the first rows stand")
    return first
