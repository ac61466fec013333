"""A process that dies, or is stopped by Ctrl-C, at any call that changes files leaves complete results or none.

The same command finishes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from .conftest import Reference
from .faults import INTERRUPTED, KILLED, Fault
from .verbs import CASES, Case, differences, is_temporary, unfinished

REFUSED = 2  # to replace a named output
Sample = Callable[[Sequence[Fault]], Iterator[Fault]]


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.xdist_group(case.name), id=case.name) for case in CASES])
def test_a_killed_verb_is_finished_by_the_same_command(
    case: Case, reference_of: Callable[[Case], Reference], sample: Sample
) -> None:
    reference = reference_of(case)
    for fault in sample([Fault(kind, at) for at in range(reference.run.calls) for kind in ("kill", "torn", "interrupt")]):
        reference.start()
        stopped = reference.again(fault)
        assert stopped.status == (INTERRUPTED if fault.kind == "interrupt" else KILLED), (fault, stopped.messages)
        found = reference.found()
        assert not unfinished(found, reference.results), fault
        if fault.kind == "interrupt":
            assert not [name for name in found if is_temporary(name)], fault
        rerun = reference.again()
        assert rerun.status in (0, REFUSED), (fault, rerun.messages)  # refused only if the result is there, as is tested next
        assert not differences(reference.found(), reference.results), fault
