"""The laboratory of tables and figures: models trained once, measurements made once, both shared between processes.

One folder holds everything: trained models in runs/, measurements in journal.jsonl. Both are found by the settings that
determine them, compared after decoding, so records stay valid when a setting with a default is added. A stopped command
continues. Several processes may work in one folder: each claims its task, and a claim ends with its process.
"""

from __future__ import annotations

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
from latens.experiments.journal import Journal, digest, plain_of, same
from latens.hub import load_model
from latens.training.config import AnyTrainConfig
from latens.training.objective import Trainable

logger = logging.getLogger(__name__)

L = TypeVar("L")  # what a system's `load` returns
S = TypeVar("S")  # settings of an artifact's scale
JOURNAL, RUNS, CLAIMS, DONE, WHAT = "journal.jsonl", "runs", "claims", "done", "run.json"


class Claimed(Exception):
    """Another process works on this task."""


class ExperimentRunner(Generic[L, S]):
    """Data, scale and folder of an experiment with one system.

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
        """The user's model, loaded at the first access."""
        return self.open_model(None)

    # ------------------------------------------------------------------------------------------------------ measurements

    def once(self, key: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The JSON-able value of `measure`, read from the journal if it was measured before.

        `key` holds all that determines the value: instances of settings classes and JSON-able values.
        """
        found = self.recorded(key)
        if found is None:
            with self._claimed(self.folder / CLAIMS / digest(key)):
                return self.journal.once(key, measure)  # another process may have measured it in the meantime
        return found[0]

    def recorded(self, key: Mapping[str, Any]) -> list[Any] | None:
        """[value] of a recorded measurement, or None."""
        return self.journal.recorded(key)

    def complete(self, tasks: Iterable[Callable[[], object]]) -> None:
        """Run all tasks. Tasks claimed by another process come last, and are run here if that process ends without a result."""
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
        with claim(folder, wait=self.waits) as claimed:
            if not claimed:
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
        """The model folder of a finished run of this configuration; a missing run is started or continued.

        `identity` distinguishes data sets of one name. If `max_time` (seconds) stops the run, its best weights so far are
        returned, and the next call continues it. Raises UsageError if there are no weights yet.
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
            what_failed = "the run ended without weights, as no validation loss was finite"
            hint = "remove this folder and run the command again with other settings"
            raise UsageError(what_failed, where=str(folder), hint=hint)
        return folder / "best"

    def find_run(self, what: Mapping[str, Any]) -> Path | None:
        """The folder of the run with the key `what`, or None."""
        for record in sorted((self.folder / RUNS).glob(f"*/{WHAT}")):
            try:
                found = json.loads(record.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(found, dict) and same(what, found):
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

        logger.info("training %s ...", name)
        write_atomic(folder / WHAT, json.dumps(plain_of(what), indent=1).encode())
        resume = holds_run(folder)
        result = train(self.build, config, sources, folder, max_time=max_time, resume=resume, init=init, device=self.device)
        if result.ended == "finished":
            (folder / DONE).touch()
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # several times larger than the rest of the run
