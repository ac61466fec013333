"""A job whose workers and drivers are killed, against the same job undisturbed: rows, checksums, files, throughput.

The images are small and made here; 1 of 100 is damaged. A worker is killed only while it works on a shard (its folder of that
shard is there), a driver at a random moment, and the next driver starts at once, beside the workers that outlived it, perhaps
with the other engine and another number of workers. The throughput is that of the undisturbed run.

python benchmarks/job_campaign.py FOLDER [--images 20000] [--engine local] [--kills 10] [--driver-kills 2] [--shard 100]
python benchmarks/job_campaign.py FOLDER --next-engine ray --next-workers 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latens.jobs import job as jobs
from latens.jobs.shard import OPEN
from latens.jobs.store import open_store

SIDE = 48
DAMAGED = 100  # every so many images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--engine", default="local", choices=["local", "ray"])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--driver-kills", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--next-engine", choices=["local", "ray"], help="of the drivers after a kill; default: the same")
    parser.add_argument("--next-workers", type=int, help="of the drivers after a kill; default: the same number")
    parser.add_argument("--shard", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make_images(given.folder / "images", given.images)
    quiet, loud = given.folder / f"{given.engine}-quiet", given.folder / f"{given.engine}-killed"
    if given.next_engine or given.next_workers:
        loud = given.folder / f"{given.engine}-changed"
    if not (quiet / jobs.STATE).exists():
        driver(given, quiet, given.engine, given.workers).wait()
    hits = killed_run(given, loud)
    expected, found = results(quiet), results(loud)
    print(
        json.dumps(
            {
                "images": given.images,
                "engine": given.engine,
                "undisturbed, a second without the start": round(throughput(quiet), 2),
                **hits,
                "rows": len(found),
                "states": Counter(state for state, _ in found.values()),
                "equal": found == expected,
                "same files": files(loud) == files(quiet),
                "verified": verified(loud),
                "left in temporary folder": len(list(Path(tempfile.gettempdir()).glob(f"{OPEN}*"))),
            },
            indent=1,
        )
    )


def make_images(folder: Path, count: int) -> None:
    if folder.exists():
        return
    noise = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(100, 140, (SIDE, SIDE, 3), np.uint8)).save(path)
        if number % DAMAGED == 0:
            path.write_bytes(path.read_bytes()[: 100 + number % 900])


def driver(given: argparse.Namespace, out: Path, engine: str, workers: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "latens", "compress", str(given.folder / "images"), "-o", str(out), "--quality", "1"]
    words += ["--engine", engine, "--workers", str(workers), "--shard", str(given.shard), "--format", "quiet"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def killed_run(given: argparse.Namespace, out: Path) -> dict[str, int]:
    """Run the job; kill workers and drivers at random moments until all kills are done and it ends."""
    choice = random.Random(given.seed)
    events = ["worker"] * given.kills + ["driver"] * given.driver_kills
    choice.shuffle(events)
    hits: Counter[str] = Counter()
    process = driver(given, out, given.engine, given.workers)
    while process.poll() is None:
        time.sleep(choice.uniform(0.5, 3.0))
        if not events:
            continue
        if events[-1] == "driver":
            if not open_shards():
                continue
            process.kill()
            process.wait()
            process = driver(given, out, given.next_engine or given.engine, given.next_workers or given.workers)
        elif not kill_one(choice):
            continue
        hits[events.pop()] += 1
    return {"workers killed in a shard": hits["worker"], "drivers killed": hits["driver"], "kills left": len(events)}


def open_shards() -> list[int]:
    """Processes that work on a shard."""
    return [int(path.name.removeprefix(OPEN).partition("-")[0]) for path in Path(tempfile.gettempdir()).glob(f"{OPEN}*")]


def kill_one(choice: random.Random) -> bool:
    for pid in choice.sample(found := open_shards(), len(found)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        return True
    return False


def results(out: Path) -> dict[str, tuple[str, Any]]:
    """State and outputs of every input; raises if one has two rows in the journals of the list."""
    seen: Counter[str] = Counter(row.id for journal in jobs.journals(open_store(out)) for row in journal.rows)
    if set(seen.values()) != {1}:
        raise SystemExit(f"inputs with several rows: {sum(count > 1 for count in seen.values())}")
    return {row.id: (row.error or row.state, row.outputs) for row in jobs.rows(open_store(out)).values()}


def throughput(out: Path) -> float:
    """Inputs a second between the start of the first shard and the end of the last one."""
    found = list(jobs.journals(open_store(out)))
    rows = sum(len(journal.rows) for journal in found)
    return rows / (max(journal.finished for journal in found) - min(journal.started for journal in found))


def files(out: Path) -> list[str]:
    return sorted(name for name in open_store(out).names() if not name.startswith(f"{jobs.STATE}/inputs"))


def verified(out: Path) -> bool:
    return (
        subprocess.run([sys.executable, "-m", "latens", "jobs", str(out), "--verify"], stdout=subprocess.DEVNULL).returncode
        == 0
    )


if __name__ == "__main__":
    main()
