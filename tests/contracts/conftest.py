"""Each system once: its example data, and a `tiny` training run that the promises share."""

from __future__ import annotations

import pytest

from latens.catalogue import SYSTEMS
from latens.contract import AnySystem, open_system

from .workshop import Workshop


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All promises of one system run in one worker, which trains it once."""
    for item in items:
        call = getattr(item, "callspec", None)
        name = call and call.params.get("system_name")
        if name:
            item.add_marker(pytest.mark.xdist_group(f"contract-{name}"))


@pytest.fixture(params=SYSTEMS, scope="session")
def system_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def system(system_name: str) -> AnySystem:
    return open_system(system_name)


@pytest.fixture(scope="session")
def workshop(system: AnySystem, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(system, tmp_path_factory.mktemp(f"contract-{system.name}"))
