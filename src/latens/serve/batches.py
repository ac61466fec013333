"""Tasks with the same words that wait at the same time: one worker takes several of them at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable
from typing import Any

from latens.serve.pool import Pool, WorkerDied


class Batch:
    """Tasks that wait for one worker, or are at work."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.taken = False
        self.wanted = 0  # tasks whose clients still wait
        self.work: asyncio.Task[list[dict[str, Any]]] | None = None


class Batches:
    """Gives tasks to a pool, at most `most` at once."""

    def __init__(self, pool: Pool, most: int) -> None:
        self._pool, self._most = pool, most
        self._open: dict[Hashable, Batch] = {}  # by words: batches that no worker has taken, with room

    async def run(self, task: dict[str, Any], words: Hashable | None) -> dict[str, Any]:
        """The answer to a task; `words` is None for one that is worked on alone.

        Raises WorkerDied. Cancelling takes the task out of a batch that waits; it ends the worker if no task of the batch is
        wanted any more.
        """
        batch = self._open.get(words) if words is not None else None
        if batch is None:
            batch = Batch()
            batch.work = asyncio.create_task(self._pool.run(lambda: self._taken(words, batch)))
            if words is not None:
                self._open[words] = batch
        assert batch.work is not None
        batch.tasks.append(task)
        if len(batch.tasks) >= self._most:
            self._open.pop(words, None)
        batch.wanted += 1
        try:
            answers = await asyncio.shield(batch.work)
            return answers[batch.tasks.index(task)]
        finally:
            batch.wanted -= 1
            if not batch.taken:
                batch.tasks.remove(task)
            if not batch.wanted and not batch.work.done():
                self._taken(words, batch)
                batch.work.cancel()
                with contextlib.suppress(asyncio.CancelledError, WorkerDied):
                    await batch.work  # its worker has ended then, and writes no more files

    def _taken(self, words: Hashable | None, batch: Batch) -> list[dict[str, Any]]:
        """The tasks of a batch, which takes no further ones."""
        batch.taken = True
        if self._open.get(words) is batch:
            del self._open[words]
        return batch.tasks
