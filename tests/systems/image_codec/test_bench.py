"""The bench measures what it names."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from latens.errors import UsageError
from latens.systems.image_codec import bench
from latens.systems.image_codec.predict import ImageCodec


def test_every_part_is_timed(codec: ImageCodec) -> None:
    report = bench.run(codec, repeats=2, size=(96, 64))
    names = [timing.part.strip() for timing in report.timings]
    assert names[0] == "compress"
    assert {"decompress", "analysis", "synthesis", "entropy encoding", "entropy decoding"} < set(names)
    assert all(0 < timing.best <= timing.wall for timing in report.timings)
    assert (report.width, report.height, report.threads) == (96, 64, torch.get_num_threads())
    assert report.bytes == len(codec.compress(bench.photograph((96, 64)), quality=report.quality))
    assert report.peak_memory > 50e6  # torch alone needs more
    assert json.loads(json.dumps(report.to_dict()))["timings"][0]["part"] == "compress"


def test_a_slow_part_is_found(codec: ImageCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = codec.latent

    def slow(pixels: np.ndarray) -> torch.Tensor:
        time.sleep(0.3)
        return torch.as_tensor(honest(pixels))

    monkeypatch.setattr(codec, "latent", slow)
    report = bench.run(codec, repeats=1, size=(96, 64))
    timings = {timing.part.strip(): timing for timing in report.timings}
    assert timings["analysis"].wall >= 0.3
    assert timings["compress"].wall >= 0.3
    assert timings["analysis"].cpu < timings["analysis"].wall  # sleeping costs no CPU time
    line = next(line for line in report.table().splitlines() if line.startswith("  analysis"))
    assert f"{1e3 * timings['analysis'].wall:.1f}" in line


def test_repeats_must_be_positive(codec: ImageCodec) -> None:
    with pytest.raises(UsageError):
        bench.run(codec, repeats=0)
