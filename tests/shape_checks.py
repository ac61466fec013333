"""A pytest plugin (`-p tests.shape_checks`): calls of these packages check shape annotations. An int is a float."""

from __future__ import annotations

import pytest
from jaxtyping import install_import_hook

PACKAGES = ["latens.codes", "latens.nn", "latens.training"]

install_import_hook(PACKAGES, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


def pytest_configure(config: pytest.Config) -> None:
    """beartype checks random items of lists, which hypothesis warns of inside its strategies."""
    config.addinivalue_line("filterwarnings", "ignore:Do not use the `random` module:Warning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that pass wrong types on purpose expect the error of latens, and beartype comes first."""
    for item in items:
        if item.get_closest_marker("wrong_types"):
            item.add_marker(pytest.mark.skip(reason="wrong types on purpose"))
