"""Speed and size of the entropy coder: 294,912 symbols (the latent of a 768x512 image), log-uniform scales 0.11..2.

    python benchmarks/coder.py                       # ours, one JSON line
    python benchmarks/coder.py --against compressai  # CompressAI's, on the same symbols, if it is installed

Both runs draw the same symbols and print the same fields, so they can use different environments. Times are for one thread:
the fastest and the median call, and the mean process time of all calls, which is the most reliable number on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

COUNT = 192 * 48 * 32
LEVELS = 64
SCALE_MIN, SCALE_MAX = 0.11, 256.0
MODES = ("gaussian", "outliers")


class Sample(NamedTuple):
    symbols: np.ndarray  # int32 (n,)
    levels: np.ndarray  # uint8 (n,)
    scales: np.ndarray  # float64 (64,)


def main() -> None:
    arguments = parse_arguments()
    coders = {"latens": latens_coder, "compressai": compressai_coder}
    for mode in MODES:
        sample = draw(mode)
        encode, decode = coders[arguments.against or "latens"](sample)
        ideal = gaussian_bits(sample) if mode == "gaussian" else None
        what = {"coder": arguments.against or "latens", "symbols": mode}
        print(json.dumps(what | measure(sample, encode, decode, ideal, arguments.repeats)), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", choices=["compressai"], help="measure this coder instead of ours")
    parser.add_argument("--repeats", type=int, default=30)
    return parser.parse_args()


def draw(mode: str) -> Sample:
    """Rounded Gaussians; with `outliers`, one value in a thousand is ten times too large and needs an escape."""
    rng = np.random.default_rng(7)
    scales = np.exp(np.linspace(math.log(SCALE_MIN), math.log(SCALE_MAX), LEVELS))
    wanted = np.exp(rng.uniform(math.log(SCALE_MIN), math.log(2.0), COUNT))
    levels = np.searchsorted(scales, wanted).clip(0, LEVELS - 1).astype(np.uint8)
    values = rng.standard_normal(COUNT) * scales[levels]
    if mode == "outliers":
        values[rng.random(COUNT) < 1e-3] *= 10
    return Sample(np.rint(values).astype(np.int32), levels, scales)


def latens_coder(sample: Sample) -> tuple[Callable[[], bytes], Callable[[bytes], Any]]:
    from latens.codes.coder import decode, encode
    from latens.codes.tables import gaussian_tables

    tables = gaussian_tables(sample.scales)
    symbols, levels, _ = sample
    return lambda: encode(symbols, levels, tables), lambda data: decode(data, levels, tables)


def compressai_coder(sample: Sample) -> tuple[Callable[[], bytes], Callable[[bytes], Any]]:
    """The path of a CompressAI model: tensors to lists to its C++ coder, and back."""
    import torch
    from compressai.entropy_models import GaussianConditional

    torch.set_num_threads(1)
    model = GaussianConditional(None)
    model.update_scale_table(sample.scales.tolist(), force=True)
    values = torch.from_numpy(sample.symbols).float()[None, None]
    indexes = torch.from_numpy(sample.levels.astype(np.int32))[None, None]
    return (
        lambda: model.compress(values, indexes)[0],
        lambda data: model.decompress([data], indexes)[0, 0].numpy(),
    )


def gaussian_bits(sample: Sample) -> float:
    """Code length under the Gaussians of the symbols, the lower bound of the mean length of any coder."""
    distance, spread = np.abs(sample.symbols).astype(float), sample.scales[sample.levels] * math.sqrt(2)
    erfc = np.vectorize(math.erfc)
    mass = 0.5 * (erfc((distance - 0.5) / spread) - erfc((distance + 0.5) / spread))
    return float(-np.log2(mass).sum())


def measure(
    sample: Sample, encode: Callable[[], bytes], decode: Callable[[bytes], Any], ideal: float | None, repeats: int
) -> dict[str, Any]:
    data = encode()
    assert np.array_equal(np.asarray(decode(data)).astype(np.int32), sample.symbols), "the round trip failed"
    encoding, decoding = timings(encode, repeats), timings(lambda: decode(data), repeats)
    return {
        "count": COUNT,
        "bytes": len(data),
        "ideal_bytes": ideal and round(ideal / 8, 1),
        "overhead_percent": ideal and round(100 * (len(data) * 8 / ideal - 1), 4),
        "encode": encoding,
        "decode": decoding,
    }


def timings(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    call()
    walls = []
    before = time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        walls.append(time.perf_counter() - start)
    cpu = (time.process_time() - before) / repeats
    million = COUNT / 1e6
    return {
        "best_msym_s": round(million / min(walls), 1),
        "median_msym_s": round(million / statistics.median(walls), 1),
        "cpu_msym_s": round(million / cpu, 1),
        "cpu_ms": round(cpu * 1e3, 3),
    }


if __name__ == "__main__":
    main()
