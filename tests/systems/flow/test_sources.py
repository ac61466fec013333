"""Names of simulated distributions as data, with and without a folder of the same name."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from latens.data.source import Source, parse_source
from latens.errors import UsageError
from latens.systems.flow.config import PointsConfig
from latens.systems.flow.dataset import SimulatedPoints, TableData, open_points, points_name, require_images


def test_a_name_means_points_even_where_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert points_name([parse_source("moons")]) == "moons"
    assert not caplog.records
    Path("moons").mkdir()
    with caplog.at_level(logging.WARNING):
        assert isinstance(open_points([parse_source("moons")], PointsConfig(), 0), SimulatedPoints)
    assert [record.message for record in caplog.records] == [
        "--data moons: simulated points are used, not the path moons; for the path write ./moons"
    ]


def test_a_separator_means_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moons").mkdir()
    np.save("moons/rows.npy", np.random.default_rng(0).standard_normal((50, 3)))
    for word in ("./moons", "moons/", str(tmp_path / "moons")):
        assert points_name([parse_source(word)]) is None
    table = open_points([parse_source("moons/rows.npy")], PointsConfig(), 0)
    assert isinstance(table, TableData)
    assert len(table.columns) == 3


def test_points_are_refused_where_images_or_one_source_are_needed() -> None:
    with pytest.raises(UsageError, match="simulated points, not images"):
        require_images([Source("", "circles")])
    with pytest.raises(UsageError, match="not mixed"):
        points_name([Source("", "circles"), Source("", "table.csv")])
