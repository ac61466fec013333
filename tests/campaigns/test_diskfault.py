"""A full or failing disk ends a verb with one clear error; files are complete, and the same command finishes the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from .conftest import Reference
from .faults import Fault
from .verbs import CASES, Case, differences, unfinished

REFUSED = 2  # to replace a named output
Sample = Callable[[Sequence[Fault]], Iterator[Fault]]

ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "short")
CLEAR = {0, 2, 3, 4, 5, 75}  # documented statuses; 0 where the call was not needed for a result


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.xdist_group(case.name), id=case.name) for case in CASES])
def test_a_verb_on_a_failing_disk(case: Case, reference_of: Callable[[Case], Reference], sample: Sample) -> None:
    reference = reference_of(case)
    calls = range(reference.run.calls)
    for fault in sample([Fault(kind, at, lasting) for at in calls for kind in ERRORS for lasting in (False, True)]):
        reference.start()
        done = reference.again(fault)
        assert done.status in CLEAR, (fault, done.status, done.messages)
        assert "internal error" not in done.messages, (fault, done.messages)
        found = reference.found()
        assert not unfinished(found, reference.results), fault
        if done.status == 0:
            assert not differences(found, reference.results), (fault, done.messages)
            continue
        rerun = reference.again()
        assert rerun.status in (0, REFUSED), (fault, rerun.messages)  # refused only if the result is there, as is tested next
        assert not differences(reference.found(), reference.results), fault
