"""Limits of image packs."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from latens.data.packs import read_pack
from latens.errors import LimitExceeded


def bomb(path: Path, size: int) -> None:
    """A compressed pack of zeros."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))


@pytest.mark.parametrize("only", [(), ("images",)])
def test_a_pack_that_expands_without_bound_is_refused_before_it_is_read(tmp_path: Path, only: tuple[str, ...]) -> None:
    bomb(tmp_path / "bomb.npz", 320 << 20)
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded, match=r"335,\d+,\d+ bytes"):
            read_pack(tmp_path / "bomb.npz", only)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_packs_of_usual_size_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((400, 64, 64), np.uint8), labels=np.arange(400))
    arrays = read_pack(tmp_path / "x.npz")
    assert arrays["images"].shape == (400, 64, 64)
    assert list(read_pack(tmp_path / "x.npz", ("labels",))) == ["labels"]
