"""Workers of the service without a server."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from latens.errors import ModelError
from latens.serve.pool import Pool, Worker
from latens.serve.settings import Settings

SETTINGS = Settings(target="tests.serve.capitals:open_worker", workers=1)


class Failing(Pool):
    """The system has no process for some starts of a worker."""

    failures: tuple[int, ...] = ()
    starts = 0

    async def _start(self) -> Worker:
        self.starts += 1
        if self.starts in self.failures:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return await super()._start()


def test_a_first_worker_that_the_system_refuses_is_an_error(tmp_path: Path) -> None:
    pool = Failing(SETTINGS, tmp_path)
    pool.failures = (1,)
    with pytest.raises(ModelError, match="Resource temporarily unavailable"):
        asyncio.run(asyncio.wait_for(pool.start(), 60))


def test_a_worker_that_the_system_refuses_later_is_started_again(tmp_path: Path) -> None:
    async def replaced(pool: Failing) -> int:
        await pool.start()
        try:
            (worker,) = pool._all
            worker.process.kill()
            async with asyncio.timeout(60):
                while pool.starts < 3 or not pool.ready:
                    await asyncio.sleep(0.02)
            return pool.ready
        finally:
            await pool.close()

    pool = Failing(SETTINGS, tmp_path)
    pool.failures = (2,)
    assert asyncio.run(replaced(pool)) == 1


def test_a_worker_whose_service_ends_at_once_says_nothing() -> None:
    words = [sys.executable, "-m", "latens.serve.worker", SETTINGS.target]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
