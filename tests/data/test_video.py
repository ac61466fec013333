"""Clips are written whole, read back, and refused in words."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from latens.data.video import clip_info, read_clip, write_clip
from latens.errors import UnreadableInput, UsageError


def frames(count: int = 5, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    return [
        np.stack([rows * 4 % 256, columns * 3 % 256, np.full_like(rows, 40 * i)], -1).astype(np.uint8) for i in range(count)
    ]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm", ".avi", ".mov"])
def test_what_is_written_comes_back(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{ending}"
    assert write_clip(path, iter(frames()), Fraction(12)) == 5
    info = clip_info(path)
    assert (info.width, info.height, info.rate) == (64, 48, 12)
    found = list(read_clip(path))
    assert len(found) == 5
    for before, after in zip(frames(), found, strict=True):
        assert np.abs(before.astype(int) - after).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing temporary is left


def test_odd_sides_are_padded_by_a_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    write_clip(path, frames(3, (33, 47)), Fraction(30000, 1001))
    assert next(read_clip(path)).shape == (34, 48, 3)


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing():  # type: ignore[no-untyped-def]
        yield from frames(2)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_clip(tmp_path / "clip.mp4", failing(), Fraction(10))
    with pytest.raises(UsageError, match="no frames"):
        write_clip(tmp_path / "clip.mp4", iter([]), Fraction(10))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match=r"\.txt"):
        write_clip(tmp_path / "clip.txt", frames(1), Fraction(10))


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no clip")
    with pytest.raises(UnreadableInput, match="known kind"):
        clip_info(tmp_path / "a.mp4")
    with pytest.raises(UnreadableInput, match="no such file"):
        list(read_clip(tmp_path / "missing.mp4"))
