"""Promises of the seedling system, measured on simulated trays: grids, emergence, times of lots, usable shares, speed.

python benchmarks/seedlings_promises.py [--model MODEL] [--trays 500] [--only grid,lots,times,shares,speed]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import numpy as np

from latens.data.images import read_picture
from latens.errors import InputError
from latens.systems.seedlings.crops import concatenate
from latens.systems.seedlings.dataset import tray_crops
from latens.systems.seedlings.evaluate import lot_times
from latens.systems.seedlings.foreground import find_leaves
from latens.systems.seedlings.lattice import NoLattice
from latens.systems.seedlings.lots import Counts, corrected_share, indices
from latens.systems.seedlings.predict import SeedlingGrader, load
from latens.systems.seedlings.reading import read_tray
from latens.systems.seedlings.simulator.photograph import photograph
from latens.systems.seedlings.thesis_grid import thesis_lattice

SEED = 3000  # of trays that nothing was trained on
DAYS = (4, 5, 6, 7)


def empty_borders(tray: int, share: float = 0.4) -> np.ndarray:
    """Which cells are sown: up to `share` of the border cells are empty."""
    rng = np.random.default_rng([SEED, tray])
    border = np.ones((10, 15), bool)
    border[1:-1, 1:-1] = False
    return ~(border & (rng.random((10, 15)) < rng.uniform(0, share)))


def grid(trays: int, model: str) -> None:
    """Center errors of the lattice and of Algorithm 1: rotation within 3 degrees, days 4 to 7 in turn."""
    errors: dict[str, list[np.ndarray]] = {"lattice": [], "Algorithm 1": []}
    refused = off_by_one = 0
    for tray in range(trays):
        day = DAYS[tray % len(DAYS)]
        made = photograph(SEED, tray, day, keep=empty_borders(tray))
        try:
            lattice = read_tray(made.pixels, day=day).lattice
        except InputError as error:
            refused += 1
            print(f"tray {tray}, day {day}: {error.what}")
            continue
        found = np.linalg.norm(lattice.centers() - made.centers, axis=-1)
        off_by_one += bool(np.median(found) > lattice.pitch / 2)
        errors["lattice"].append(found.ravel())
        try:
            thesis = thesis_lattice(find_leaves(read_picture(made.pixels)).mask, 10, 15, day)
            errors["Algorithm 1"].append(np.linalg.norm(thesis.centers() - made.centers, axis=-1).ravel())
        except NoLattice:
            pass
    for name, parts in errors.items():
        joined = np.concatenate(parts)
        high = np.percentile(joined, 95)
        print(f"{name}: mean {joined.mean():.2f} px, 95 % {high:.2f}, largest {joined.max():.1f}, {len(parts)} trays")
    print(f"refused {refused}, off by a row or column {off_by_one}")


def lots(trays: int, model: str) -> None:
    """Emergence by day, and T50 and MGT of each tray as a lot, against the truth."""
    grader = load(model)
    parts, called = [], []
    right: dict[int, list[float]] = {day: [] for day in DAYS}
    for tray in range(trays):
        for day in DAYS:
            made = photograph(SEED, tray, day)
            try:
                reading = read_tray(made.pixels)
            except InputError as error:
                print(f"tray {tray}, day {day}: {error.what}")
                continue
            seen = grader.judge(reading.crops, day).seen
            assert seen is not None
            truth = made.seen.ravel().astype(np.int64)
            right[day].append(float(((seen >= 0.5) == truth).mean()))
            label = made.plants.success.astype(np.int64)
            parts.append(
                tray_crops(reading.crops[:, :1, :1], label, truth, day, f"t{tray}", reading.areas, reading.lattice.pitch)
            )
            called.append(seen >= 0.5)
    for day, values in right.items():
        print(f"day {day}: emergence {np.mean(values):.4f}")
    times, censored = lot_times(concatenate(parts), np.concatenate(called))
    for name, (mean, absolute, largest) in times.items():
        print(f"{name}: mean error {mean:+.3f} days, absolute {absolute:.3f}, largest {largest:.3f}")
    print(f"T50 before the first count on {censored} of {trays} trays")


def times(trays: int, model: str) -> None:
    """T50 and MGT of each tray as a lot against the emergence that the simulator drew, from day 3 and from day 4 on."""
    grader = load(model)
    errors: dict[str, list[float]] = {}
    for tray in range(trays):
        seen: dict[int, np.ndarray] = {}
        reference = None
        for day in (*DAYS[::-1], 3):
            made = photograph(SEED, tray, day)
            graded = grader.grade(made.pixels, day=day, reference=reference)
            reference = reference or graded.lattice
            seen[day] = graded.seen
        up = made.plants.emergence[made.plants.emergence < max(DAYS)]
        truth = {"t50_farooq": np.median(up), "t50_censored": np.median(up), "mgt_censored": up.mean()}
        for days in ((3, *DAYS), DAYS):
            ever = np.logical_or.accumulate([seen[day] for day in days])
            new = np.diff(ever.sum(axis=1), prepend=0)
            found = indices(Counts(tuple(map(float, days)), tuple(map(int, new)), 150))
            for name, true in truth.items():
                value = getattr(found, name)
                if value is not None:
                    errors.setdefault(f"{name}, days {days[0]} to {days[-1]}", []).append(value - float(true))
    for name, values in errors.items():
        print(f"{name}: {len(values)} trays, mean error {np.mean(values):+.3f} days, largest {np.abs(values).max():.3f}")


def shares(trays: int, model: str) -> None:
    """Coverage of the corrected usable share: one tray a lot, at 70, 90 and 95 % and on every day."""
    grader = load(model)
    for true in (0.70, 0.90, 0.95):
        hits, raw = dict.fromkeys(DAYS, 0), []
        values: dict[int, list[float]] = {day: [] for day in DAYS}
        for tray in range(trays):
            for day in DAYS:
                made = photograph(SEED + round(1000 * true), tray, day, success=true)
                called = int((grader.judge(read_tray(made.pixels).crops, day).classes[:, 1] >= 0.5).sum())
                rates = grader.rates_of(day)
                assert rates is not None
                share = corrected_share(called, 150, rates)
                hits[day] += share.interval.low <= true <= share.interval.high
                values[day].append(share.value)
                raw.append(called / 150)
        shown = ", ".join(f"day {day}: {100 * hits[day] / trays:.0f} % (mean {np.mean(values[day]):.3f})" for day in DAYS)
        print(f"true {true:.0%}: covered {shown}; uncorrected mean {np.mean(raw):.3f}")


def speed(trays: int, model: str) -> None:
    """Seconds for one tray, photograph in memory to grades."""
    grader: SeedlingGrader = load(model)
    pixels = photograph(SEED, 0, 6).pixels
    grader.grade(pixels, day=6)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(5):
        grader.grade(pixels, day=6)
    print(f"one tray: {(time.perf_counter() - wall) / 5:.2f} s wall, {(time.process_time() - cpu) / 5:.2f} s CPU")


PARTS: Mapping[str, Callable[[int, str], None]] = {"grid": grid, "lots": lots, "times": times, "shares": shares, "speed": speed}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="seedlings")
    parser.add_argument("--trays", type=int, default=500)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    for name in given.only.split(","):
        PARTS[name](given.trays, given.model)
