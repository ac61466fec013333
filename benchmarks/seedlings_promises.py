"""Accuracy of the seedling system on simulated trays: grids, emergence, times of lots, usable shares, speed.

python benchmarks/seedlings_promises.py [--model MODEL] [--trays 500] [--only grid,kinds,...] (all parts: see PARTS)
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from latens.data.images import read_image
from latens.errors import InputError
from latens.systems.seedlings.crops import concatenate
from latens.systems.seedlings.dataset import tray_crops
from latens.systems.seedlings.evaluate import lot_times
from latens.systems.seedlings.foreground import find_leaves
from latens.systems.seedlings.lattice import NoLattice
from latens.systems.seedlings.lots import Counts, corrected_share, indices
from latens.systems.seedlings.predict import SeedlingGrader, load
from latens.systems.seedlings.reading import read_tray, read_trays
from latens.systems.seedlings.reference import Reference
from latens.systems.seedlings.rim import common_rim, rim_of
from latens.systems.seedlings.simulator.photograph import Camera, TrayPhotograph, draw_camera, photograph
from latens.systems.seedlings.thesis_grid import thesis_lattice

SEED = 3000  # seed of trays that no model was trained on
DAYS = (4, 5, 6, 7)


def empty_borders(tray: int, share: float = 0.4) -> np.ndarray:
    """Mask of sown cells: up to `share` of the border cells are empty."""
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
            thesis = thesis_lattice(find_leaves(read_image(made.pixels)).mask, 10, 15, day)
            errors["Algorithm 1"].append(np.linalg.norm(thesis.centers() - made.centers, axis=-1).ravel())
        except NoLattice:
            pass
    for name, parts in errors.items():
        joined = np.concatenate(parts)
        high = np.percentile(joined, 95)
        print(f"{name}: mean {joined.mean():.2f} px, 95 % {high:.2f}, largest {joined.max():.1f}, {len(parts)} trays")
    print(f"refused {refused}, off by a row or column {off_by_one}")


def purple(made: TrayPhotograph) -> np.ndarray:
    """A color photograph with purple plants on light soil."""
    pixels = 0.5 * made.pixels.astype(float) + 110
    leaf = made.owner >= 0
    pixels[leaf] = np.array([95, 40, 105]) + 0.2 * (made.pixels[leaf].astype(float) - 120)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def kinds(trays: int, model: str) -> None:
    """Center errors on other kinds of photographs, days 4 to 7 in turn."""
    del model
    errors: dict[str, list[float]] = {}
    for tray in range(trays):
        day = DAYS[tray % len(DAYS)]
        camera = draw_camera(SEED, tray, day)._replace(tilt=(0.08, -0.06))
        gray, color = photograph(SEED, tray, day), photograph(SEED, tray, day, color=True)
        hard, tilted = photograph(SEED, tray, day, preset="hard"), photograph(SEED, tray, day, camera=camera)
        cases: dict[str, tuple[np.ndarray, TrayPhotograph]] = {
            "color": (color.pixels, color),
            "16 bits": (gray.pixels.astype(np.uint16) * 257, gray),
            "preset hard": (hard.pixels, hard),
            "perspective": (tilted.pixels, tilted),
            "purple on light soil": (purple(color), color),
            "dark on light": (255 - gray.pixels, gray),
        }
        for name, (pixels, made) in cases.items():
            try:
                centers = read_tray(pixels).lattice.centers()
            except InputError as error:
                print(f"{name}, tray {tray}, day {day}: {error.what}")
                continue
            errors.setdefault(name, []).append(float(np.linalg.norm(centers - made.centers, axis=-1).max()))
    for name, largest in errors.items():
        shown = f"largest error of a tray {np.median(largest):.1f} px (median), {max(largest):.1f} (of all)"
        print(f"{name}: {len(largest)} of {trays} read, {shown}")


def rims(trays: int, model: str) -> None:
    """Center errors on empty trays, located by the rim of three other trays."""
    del model
    known = []
    for tray in range(3):
        reading = read_tray(photograph(SEED, tray, 6).pixels)
        known.append(rim_of(reading.lattice, reading.foreground))
    rim = common_rim([one for one in known if one is not None])
    errors = []
    for tray in range(trays):
        made = photograph(SEED, 100 + tray, 4, keep=np.zeros((10, 15), bool))
        try:
            centers = read_tray(made.pixels, reference=Reference(None, rim)).lattice.centers()
        except InputError as error:
            print(f"tray {tray}: {error.what}")
            continue
        errors.append(np.linalg.norm(centers - made.centers, axis=-1).ravel())
    joined = np.concatenate(errors)
    shown = f"mean {joined.mean():.2f} px, 95 % {np.percentile(joined, 95):.2f}, largest {joined.max():.1f}"
    print(f"empty trays: {len(errors)} of {trays} placed, {shown}")


def several(trays: int, model: str) -> None:
    """Photographs of one to four trays next to and above each other, with gaps of 0.2 to 1.5 cells."""
    del model
    right, errors = 0, []
    for number in range(trays):
        rng = np.random.default_rng([SEED, number])
        across, down = [(1, 1), (2, 1), (1, 2), (2, 2)][number % 4]
        rows, cols = [(5, 7), (6, 6), (4, 6)][number % 3]
        pixels, truth = bench(rng, across, down, rows, cols, DAYS[number // 4 % 4])
        try:
            found = read_trays(pixels, rows=rows, cols=cols, trays=across * down)
        except InputError as error:
            print(f"photograph {number}, {down} x {across} trays: {error.what}")
            continue
        right += 1
        errors += [np.linalg.norm(one.lattice.centers() - t, axis=-1).max() for one, t in zip(found, truth, strict=True)]
    print(f"several trays: number right on {right} of {trays}; largest error of a tray {np.median(errors):.1f} px (median)")
    print(f"trays off by more than 16 px: {int((np.array(errors) > 16).sum())} of {len(errors)}")


def bench(
    rng: np.random.Generator, across: int, down: int, rows: int, cols: int, day: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """down x across trays, each rotated slightly; returns pixels, and centers in reading order."""
    gap, turn, pitch = rng.uniform(0.2, 1.5, 2), rng.uniform(-2, 2), 70
    half = [round(pitch * (count + extra) / 2) for count, extra in zip((cols, rows), gap, strict=True)]
    lines, centers = [], []
    for row in range(down):
        parts = []
        for col in range(across):
            camera = Camera(pitch=pitch, rotation=turn + rng.uniform(-0.4, 0.4))
            made = photograph(SEED, int(rng.integers(10**6)), day, rows=rows, cols=cols, camera=camera)
            parts.append(made.pixels[512 - half[1] : 512 + half[1], 640 - half[0] : 640 + half[0]])
            corner = [2 * half[0] * col - 640 + half[0], 2 * half[1] * row - 512 + half[1]]
            centers.append(made.centers + corner)
        lines.append(np.concatenate(parts, axis=1))
    pixels = np.pad(np.concatenate(lines), 30, constant_values=18)
    return pixels, [part + 30 for part in centers]


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
            seen = grader.predict_crops(reading.crops, day).seen
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
    """T50 and MGT of each tray as a lot against the simulated emergence, counted from day 3 and from day 4 on."""
    grader = load(model)
    errors: dict[str, list[float]] = {}
    for tray in range(trays):
        seen: dict[int, np.ndarray] = {}
        reference = None
        for day in (*DAYS[::-1], 3):
            made = photograph(SEED, tray, day)
            graded = grader.grade(made.pixels, day=day, reference=reference)
            reference = reference or Reference(graded.lattice, None)
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
    """Coverage of the corrected usable share: one tray per lot, at 70, 90 and 95 % and on every day."""
    grader = load(model)
    for true in (0.70, 0.90, 0.95):
        hits, raw = dict.fromkeys(DAYS, 0), []
        values: dict[int, list[float]] = {day: [] for day in DAYS}
        for tray in range(trays):
            for day in DAYS:
                made = photograph(SEED + round(1000 * true), tray, day, success=true)
                called = int((grader.predict_crops(read_tray(made.pixels).crops, day).classes[:, 1] >= 0.5).sum())
                rates = grader.rates_of(day)
                assert rates is not None
                share = corrected_share(called, 150, rates)
                hits[day] += share.interval.low <= true <= share.interval.high
                values[day].append(share.value)
                raw.append(called / 150)
        shown = ", ".join(f"day {day}: {100 * hits[day] / trays:.0f} % (mean {np.mean(values[day]):.3f})" for day in DAYS)
        print(f"true {true:.0%}: covered {shown}; uncorrected mean {np.mean(raw):.3f}")


def speed(trays: int, model: str) -> None:
    """Seconds per tray, from a photograph in memory to grades."""
    grader: SeedlingGrader = load(model)
    pixels = photograph(SEED, 0, 6).pixels
    grader.grade(pixels, day=6)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(5):
        grader.grade(pixels, day=6)
    print(f"one tray: {(time.perf_counter() - wall) / 5:.2f} s wall, {(time.process_time() - cpu) / 5:.2f} s CPU")


def folder(trays: int, model: str) -> None:
    """All trays on four days as PNG files through one `latens grade`: CPU seconds, peak memory, rows of the table."""
    with tempfile.TemporaryDirectory() as spare:
        place, out = Path(spare) / "trays", Path(spare) / "out"
        place.mkdir()
        for tray in range(trays):
            for day in DAYS:
                Image.fromarray(photograph(SEED, tray, day).pixels).save(place / f"tray{tray:03}_day{day}.png")
        command = [sys.executable, "-m", "latens", "grade", str(place), "-o", str(out), "--model", model, "--threads", "1"]
        started = time.perf_counter()
        status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = len((out / "plants.csv").read_text().splitlines()) - 1
        wall = time.perf_counter() - started
        print(
            f"{4 * trays} photographs: status {status}, {used.ru_utime + used.ru_stime:.1f} s CPU ({wall:.1f} s wall),", end=" "
        )
        print(f"peak memory {used.ru_maxrss / 1024:.0f} MB, {rows} rows of plants.csv")


PARTS: Mapping[str, Callable[[int, str], None]] = {
    "grid": grid, "kinds": kinds, "rims": rims, "several": several,
    "lots": lots, "times": times, "shares": shares, "speed": speed, "folder": folder,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="seedlings")
    parser.add_argument("--trays", type=int, default=500)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    for name in given.only.split(","):
        PARTS[name](given.trays, given.model)
