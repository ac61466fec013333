"""Length of the campaigns, and the undisturbed runs that disturbed ones are compared with."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from .faults import NONE, Fault, Run, run
from .verbs import Case, names_and_bytes


class Reference(NamedTuple):
    """A case that was run undisturbed: `inputs` is the state of the folder before, `results` the new files after it."""

    case: Case
    work: Path  # every run of the case uses this path, since some results name it
    template: Path
    inputs: dict[str, bytes]
    results: dict[str, bytes]
    run: Run

    def start(self) -> None:
        """Put the inputs, and nothing else, into the working folder and change to it."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.template, self.work)  # with their times, which archives hold
        os.chdir(self.work)

    def again(self, fault: Fault = NONE, words: Sequence[str] = ()) -> Run:
        return run(list(words or self.case.words), self.work, self.work.parent / "log", fault)

    def found(self) -> dict[str, bytes]:
        """The files that are not inputs. Fails if an input was changed."""
        after = names_and_bytes(self.work)
        assert {name: after.get(name) for name in self.inputs} == self.inputs, "an input was changed"
        return {name: data for name, data in after.items() if name not in self.inputs}


@pytest.fixture(scope="session")
def reference_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Case], Reference]]:
    made: dict[str, Reference] = {}
    home = Path.cwd()

    def reference(case: Case) -> Reference:
        if case.name not in made:
            folder = tmp_path_factory.mktemp("case")
            template, work = folder / "template", folder / "work"
            template.mkdir()
            case.prepare(template)
            empty = Reference(case, work, template, names_and_bytes(template), {}, Run(0, "", 0))
            empty.start()
            done = empty.again()
            assert done.status == 0, done.messages
            made[case.name] = empty._replace(results=empty.found(), run=done)
        return made[case.name]

    yield reference
    os.chdir(home)


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Callable[[Sequence[Fault]], Iterator[Fault]]:
    """Yields the given faults in a seeded order until the time is over, at least one of them."""
    seconds = float(request.config.getoption("--campaign-seconds"))
    if not seconds and request.node.callspec.params["case"].long:
        pytest.skip("only in a long campaign: make kill, make diskfault")
    seed = f"{request.config.getoption('--campaign-seed')}{request.node.name}"

    def chosen(faults: Sequence[Fault]) -> Iterator[Fault]:
        end = time.monotonic() + seconds
        for fault in random.Random(seed).sample(faults, len(faults)):
            yield fault
            if time.monotonic() > end:
                return

    return chosen
