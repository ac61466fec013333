"""A process that dies at any call that changes files leaves complete results or none; the same command finishes the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from .conftest import Reference
from .faults import KILLED, Fault
from .verbs import CASES, Case, differences, unfinished

REFUSED = 2  # to replace a named output
Sample = Callable[[Sequence[Fault]], Iterator[Fault]]


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.xdist_group(case.name), id=case.name) for case in CASES])
def test_a_killed_verb_is_finished_by_the_same_command(
    case: Case, reference_of: Callable[[Case], Reference], sample: Sample
) -> None:
    reference = reference_of(case)
    for fault in sample([Fault(kind, at) for at in range(reference.run.calls) for kind in ("kill", "torn")]):
        reference.start()
        assert reference.again(fault).status == KILLED, fault
        assert not unfinished(reference.found(), reference.results), fault
        rerun = reference.again()
        assert rerun.status in (0, REFUSED), (fault, rerun.messages)  # refused only if the result is there, as is tested next
        assert not differences(reference.found(), reference.results), fault
