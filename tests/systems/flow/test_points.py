"""Simulated distributions and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latens.errors import InputError, UnreadableInput
from latens.systems.flow.points import ENTROPY, NAMES, PointsName, draw, log_density
from latens.systems.flow.table import read_table, standardization


@pytest.mark.parametrize("name", NAMES)
def test_densities_integrate_to_one_and_have_their_entropies(name: PointsName) -> None:
    grid = np.linspace(-6, 6, 241) + 1e-3
    step = grid[1] - grid[0]
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    logs = log_density(name, points)
    density = np.exp(logs)
    assert density.sum() * step**2 == pytest.approx(1, abs=2e-3)
    inside = density > 0
    assert -(density[inside] * logs[inside]).sum() * step**2 == pytest.approx(ENTROPY[name], abs=2e-3 * 4)


@pytest.mark.parametrize("name", NAMES)
def test_draws_follow_their_density(name: PointsName) -> None:
    points = draw(name, 20_000, np.random.default_rng(1))
    logs = log_density(name, points)
    assert -logs.mean() == pytest.approx(ENTROPY[name], abs=4 * logs.std() / 20_000**0.5 + 1e-4)


def test_tables_are_read_with_and_without_names(tmp_path: Path) -> None:
    for text, columns in (
        ("a,b\n1,2\n3,4\n", ("a", "b")),
        ("1;2\n3;4", ("1", "2")),
        ("# note\n1\t2\n3\t4\n", ("1", "2")),
        ("\ufeffx y\n1 2\n\n3 4", ("x", "y")),
    ):
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        table = read_table(path)
        assert table.columns == columns
        np.testing.assert_array_equal(table.rows, [[1, 2], [3, 4]])
    np.save(tmp_path / "table.npy", np.arange(6).reshape(3, 2))
    assert read_table(tmp_path / "table.npy").rows.shape == (3, 2)
    assert read_table(np.arange(3)).rows.shape == (3, 1)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", UnreadableInput, "empty"),
        ("1,2\n3", InputError, "1 cells where the first row has 2"),
        ("1,2\n3,x", InputError, "'x' is not a number"),
        ("1,2\n3,nan", InputError, "row 2, column 2 is not finite"),
        ("1,2\n3,-1e300", InputError, "-1e.300 is too large"),
        ("1,2\n3,", InputError, "'' is not a number"),
        ("a,b\n", InputError, "not a table"),
    ],
)
def test_bad_tables_raise_clear_errors(text: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(error, match=words):
        read_table(path)


def test_columns_without_a_density_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="constant columns have no density: 2"):
        standardization(read_table(np.array([[1.0, 1e9], [2.0, 1e9]])))
    with pytest.raises(InputError, match="one row"):
        standardization(read_table(np.ones((1, 2))))
    standardization(read_table(np.random.default_rng(0).integers(0, 3, (100, 1))))
    assert "few distinct values" in caplog.text
    mean, deviation = standardization(read_table(1.7e9 + np.random.default_rng(0).normal(size=(1000, 1))))
    assert deviation[0] == pytest.approx(1, abs=0.1)
    assert mean[0] == pytest.approx(1.7e9, abs=0.2)
