"""A discrete simulation of a job: workers that die, slow machines, a store with a limited rate. Prints a table, draws a plot.

python benchmarks/job_simulation.py [--files 10000000] [--workers 2000] [-o docs/images/job-simulation.webp]
"""

from __future__ import annotations

import argparse
import heapq
from pathlib import Path
from typing import NamedTuple

import numpy as np

DAY = 24 * 3600.0


class Cluster(NamedTuple):
    """Seconds are of one core; the defaults are measured or, where marked, assumed."""

    workers: int = 2000
    file_seconds: float = 4.7  # compress, 12 megapixels, one thread
    spread: float = 0.4  # of the logarithm of these seconds (assumed)
    start_seconds: float = 10.0  # a worker: Python, torch, the model
    shard_seconds: float = 0.5  # a shard: list, journal
    file_bytes: float = 5e6  # read; results are a tenth of it (assumed)
    store_rate: float = 10e9  # bytes a second of the whole store (assumed)
    worker_rate: float = 50e6  # bytes a second of a worker (assumed)
    life: float = 7 * DAY  # mean time until a worker dies (assumed)
    replacement: float = 120.0  # until another takes its place (assumed)
    slow_share: float = 0.02  # of the machines (assumed)
    slow_factor: float = 4.0  # (assumed)


class Outcome(NamedTuple):
    hours: float
    ideal_hours: float
    repeated: float  # share of the files that were worked on twice
    deaths: int
    waited: float  # share of the worker time spent at the end, without work
    shards: int


def simulate(files: int, shard: int, cluster: Cluster, seed: int = 0) -> Outcome:
    """One job, shard by shard: every worker takes the next shard as soon as it is free."""
    rng = np.random.default_rng(seed)
    count = -(-files // shard)
    slow = np.where(rng.random(cluster.workers) < cluster.slow_share, cluster.slow_factor, 1.0)
    rate = min(cluster.worker_rate, cluster.store_rate / cluster.workers)
    transfer = 1.1 * cluster.file_bytes / rate
    mean = cluster.file_seconds * np.exp(cluster.spread**2 / 2)
    deviation = mean * np.sqrt(np.exp(cluster.spread**2) - 1)
    free = [(cluster.start_seconds, worker) for worker in range(cluster.workers)]
    death = rng.exponential(cluster.life, cluster.workers)
    waiting, deaths, lost, end = count, 0, 0.0, 0.0
    last = np.zeros(cluster.workers)
    returned: list[float] = []  # times at which shards of dead workers are free again
    while waiting or returned:
        now, worker = heapq.heappop(free)
        if not waiting:
            now = max(now, heapq.heappop(returned))
        else:
            waiting -= 1
        compute = max(rng.normal(shard * mean, np.sqrt(shard) * deviation), 0.0) * slow[worker]
        seconds = cluster.shard_seconds + compute + shard * transfer
        if death[worker] < now + seconds:
            gone = max(death[worker], now)
            deaths += 1
            lost += (gone - now) / seconds * shard
            heapq.heappush(returned, gone)
            back = gone + cluster.replacement + cluster.start_seconds
            death[worker] = back + rng.exponential(cluster.life)
            heapq.heappush(free, (back, worker))
            continue
        end, last[worker] = max(end, now + seconds), now + seconds
        heapq.heappush(free, (now + seconds, worker))
    ideal = files * (mean + transfer) / cluster.workers
    return Outcome(end / 3600, ideal / 3600, lost / files, deaths, float((end - last).mean() / end), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2000)
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    usual = Cluster(workers=given.workers)
    cases = {
        "usual": usual,
        "workers die after a day": usual._replace(life=DAY),
        "workers die after an hour": usual._replace(life=3600.0),
        "slow store, 1 GB/s": usual._replace(store_rate=1e9),
    }
    sizes = (10, 100, 1000, 5000)
    columns = ("shard", "hours", "ideal", "deaths", "repeated", "idle at the end")
    print(f"| {given.files:,} files, {given.workers:,} workers | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|")
    curves: dict[str, list[float]] = {}
    for name, cluster in cases.items():
        for shard in sizes:
            made = simulate(given.files, shard, cluster)
            curves.setdefault(name, []).append(made.hours / made.ideal_hours)
            times = f"{made.hours:.1f} | {made.ideal_hours:.1f}"
            print(f"| {name} | {shard:,} | {times} | {made.deaths:,} | {made.repeated:.2%} | {made.waited:.1%} |")
    if given.out is not None:
        draw(given.out, sizes, curves)


def draw(path: Path, sizes: tuple[int, ...], curves: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for name, values in curves.items():
        axes.plot(sizes, values, marker="o", label=name)
    axes.set(xscale="log", xlabel="files in a shard", ylabel="time over ideal time")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
