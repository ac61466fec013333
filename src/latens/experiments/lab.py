"""The laboratory of tables and figures: models trained once, measurements made once, both shared between processes.

Everything lives in one folder: runs/ holds trained models, journal.jsonl measurements. Both are looked up by the settings
that determine them, compared after decoding: a new setting with a default orphans nothing. A stopped command
continues where it was. Several processes may work in one folder: each claims what it does, and a claim ends with its process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from latens.data.files import write_atomic
from latens.data.folders import claim
from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.journal import Journal
from latens.hub import load_model
from latens.legacy import upgrade_run
from latens.settings import SettingsError, decode_like, is_settings, to_dict
from latens.training.config import AnyTrainConfig
from latens.training.objective import Trainable

logger = logging.getLogger(__name__)

L = TypeVar("L")  # what a system's `load` returns
S = TypeVar("S")  # settings of an artifact's scale
JOURNAL, RUNS, CLAIMS, DONE, WHAT = "journal.jsonl", "runs", "claims", "done", "run.json"


class Claimed(Exception):
    """Another process is doing this."""


class Lab(Generic[L, S]):
    """A system, its data, a scale and a folder.

    `open_model(None)` loads the model given by --model, or the bundled one.
    """

    def __init__(
        self,
        *,
        build: Callable[[Any, Sequence[Source]], Trainable],
        open_model: Callable[[Path | None], L],
        sources: Sequence[Source],
        scale: S,
        recipe: str,
        folder: Path,
        device: str = "auto",
    ) -> None:
        self.build, self.open_model, self.device = build, open_model, device
        self.sources, self.scale, self.recipe, self.folder = list(sources), scale, recipe, folder
        self.journal = Journal(folder / JOURNAL)
        self.waits = True

    @cached_property
    def loaded(self) -> L:
        """The user's model, loaded when it is first asked for."""
        return self.open_model(None)

    def one_source(self) -> Source | None:
        """The single data set, or None. Raises UsageError for several."""
        if len(self.sources) > 1:
            raise UsageError("one data set is needed", where="--data", hint="run the command once for each")
        return self.sources[0] if self.sources else None

    # ------------------------------------------------------------------------------------------------------ measurements

    def once(self, key: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The JSON-able value of `measure`, from the journal where it has been made before.

        `key` holds all that decides the value: settings instances and JSON-able values.
        """
        found = self.recorded(key)
        if found is None:
            with self._claimed(self.folder / CLAIMS / digest(key)):
                found = self.recorded(key)  # another process may have made it before the claim was ours
                if found is None:
                    found = [measure()]
                    self.journal.append([{"key": _plain(key), "value": found[0]}])
        return found[0]

    def recorded(self, key: Mapping[str, Any]) -> list[Any] | None:
        """[value] of a measurement that has been made, or None."""
        for record in self.journal.read():  # read anew: another process may have added it
            if isinstance(record.get("key"), dict) and "value" in record and _same(key, record["key"]):
                return [record["value"]]
        return None

    def complete(self, tasks: Iterable[Callable[[], object]]) -> None:
        """Does every task; those that another process has claimed come last, and are done here if that process dies."""
        later = []
        self.waits = False
        try:
            for task in tasks:
                try:
                    task()
                except Claimed:
                    later.append(task)
        finally:
            self.waits = True
        for task in later:
            task()

    @contextmanager
    def _claimed(self, folder: Path) -> Iterator[None]:
        with claim(folder, wait=self.waits) as ours:
            if not ours:
                raise Claimed
            yield

    # -------------------------------------------------------------------------------------------------------------- runs

    def trained(
        self,
        config: AnyTrainConfig,
        *,
        name: str = "run",
        sources: Sequence[Source] | None = None,
        identity: Sequence[str] = (),
        init: Path | None = None,
        max_time: float = float("inf"),
    ) -> Path:
        """The model folder of a finished run of this configuration, which is started or continued where it is missing.

        `identity` distinguishes data sets of one name. A run that `max_time` (seconds) stops is continued by the next call;
        until it has finished its best weights so far are given. Raises UsageError where there are none yet.
        """
        sources = self.sources if sources is None else sources
        what = {"config": config, "data": [str(source) for source in sources], "identity": list(identity)}
        what["init"] = None if init is None else load_model(init).sha256
        folder = self.find_run(what) or self.folder / RUNS / f"{name}-{digest(what)[:8]}"
        if not (folder / DONE).is_file():
            with self._claimed(folder):
                if not (folder / DONE).is_file():
                    self._train(folder, what, config, sources, init, max_time, name)
        if not (folder / "best").is_dir():
            what_failed = f"{max_time:g} seconds did not reach the first validation"
            raise UsageError(what_failed, where=str(folder), hint="run the same command again, or allow more time")
        return folder / "best"

    def find_run(self, what: Mapping[str, Any]) -> Path | None:
        """The folder of a run that all of `what` decides, or None."""
        for record in sorted((self.folder / RUNS).glob(f"*/{WHAT}")):
            try:
                found = json.loads(record.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(found, dict) and _same(what, found):
                return record.parent
        return None

    def _train(
        self,
        folder: Path,
        what: Mapping[str, Any],
        config: AnyTrainConfig,
        sources: Sequence[Source],
        init: Path | None,
        max_time: float,
        name: str,
    ) -> None:
        from latens.training.run import holds_run, train  # accelerate takes a second to import

        logger.info("training %s", name)
        write_atomic(folder / WHAT, json.dumps(_plain(what), indent=1).encode())
        going_on = holds_run(folder)
        result = train(self.build, config, sources, folder, max_time=max_time, resume=going_on, init=init, device=self.device)
        if result.ended == "finished":
            (folder / DONE).touch()
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # several times as large as what is kept


def digest(key: Mapping[str, Any]) -> str:
    """A name for a key: 20 hexadecimal digits."""
    return hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()[:20]


def _plain(key: Mapping[str, Any]) -> dict[str, Any]:
    return {name: to_dict(value) if is_settings(value) else value for name, value in key.items()}


def _same(key: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a record was written for this key.

    Settings are compared after decoding, so records made before a setting was added or renamed still count.
    """
    if key.keys() != record.keys():
        return False
    settings = {name: value for name, value in key.items() if is_settings(value)}
    plain = {name: value for name, value in key.items() if name not in settings}
    if json.loads(json.dumps(plain)) != {name: record[name] for name in plain}:
        return False  # before any decoding: most records differ here
    return all(_decodes_to(value, record[name]) for name, value in settings.items())


def _decodes_to(value: Any, plain: Any) -> bool:
    if to_dict(value) == plain:
        return True
    try:
        return bool(decode_like(value, upgrade_run(plain)) == value)
    except (SettingsError, TypeError, ValueError, AttributeError):
        return False
