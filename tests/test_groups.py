"""Tests of one group run in one worker, which makes their fixtures once."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("a-group")
def test_the_scheduler_sees_groups(request: pytest.FixtureRequest) -> None:
    if getattr(request.config, "workerinput", None) is None or not request.config.getvalue("loadgroup"):
        pytest.skip("needs -n 2 --dist loadgroup")
    assert request.node.nodeid.endswith("@a-group")
