"""Mutation tests: planted mistakes that the tests must find, and a sample of mechanical ones.

    python benchmarks/mutants.py planted [--only WORDS] [-o FILE]     # tests/mutants.toml, a fresh process for each
    python benchmarks/mutants.py sampled [--count 400] [-o FILE]      # mutmut on FILES; needs `pip install mutmut==3.8.1`

The two numbers answer different questions and are never added: the planted mistakes are named and chosen by a person; the
sample is drawn at random from all mutants that mutmut makes of FILES, about half of whose survivors change nothing.
Both work on copies of the sources in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "mutants.toml"
SOURCE = Path("src") / "latens"
LIMIT = 300  # seconds for the tests of one mutant
SEED = 20_261_129  # of the sample
Z = 1.96  # of a 95 % interval

FILES = (
    "codes/annealing.py", "codes/bijector.py", "codes/entropy.py", "codes/gains.py", "codes/gaussian.py", "codes/goals.py",
    "codes/logdet.py", "codes/mmd.py", "codes/parts.py", "codes/refine.py", "codes/rounding.py", "codes/vq.py",
    "experiments/probes.py", "metrics/instances.py", "training/optim.py",
    "systems/amodal/heads.py", "systems/amodal/model.py", "systems/amodal/objective.py", "systems/amodal/pipeline.py",
    "systems/haze/baselines/boundary.py", "systems/haze/baselines/dark_channel.py", "systems/haze/baselines/dehazenet.py",
    "systems/haze/formation.py", "systems/haze/model.py", "systems/haze/objective.py", "systems/haze/protocol.py",
    "systems/parts/baseline_objectives.py", "systems/parts/baselines.py", "systems/parts/discovery.py",
    "systems/parts/model.py", "systems/parts/objective.py",
    "systems/image_codec/model.py", "systems/image_codec/objective.py", "systems/image_codec/passes.py",
    "systems/video_codec/codec.py", "systems/video_codec/model.py", "systems/video_codec/objective.py",
    "systems/flow/model.py", "systems/flow/objective.py",
    "systems/seedlings/calibration.py", "systems/seedlings/model.py", "systems/seedlings/objective.py",
)  # fmt: skip
"""Equations, losses, networks, baselines and measures; recipes and settings are compared with the papers value by value."""

TESTS = (
    "codes/test_bijector.py", "codes/test_entropy.py", "codes/test_gains.py", "codes/test_logdet.py", "codes/test_mmd.py",
    "codes/test_parts.py", "codes/test_refine.py", "codes/test_rounding.py", "codes/test_vq.py",
    "experiments/test_probes.py", "metrics/test_instances.py", "training/test_optim.py", "training/test_selection.py",
    "systems/amodal/test_model.py", "systems/amodal/test_paper.py", "systems/amodal/test_pipeline.py",
    "systems/amodal/test_regions.py", "systems/haze/test_baselines.py", "systems/haze/test_classical.py",
    "systems/haze/test_evaluate.py", "systems/haze/test_formation.py", "systems/haze/test_models.py",
    "systems/haze/test_paper.py", "systems/parts/test_discovery.py", "systems/parts/test_model.py",
    "systems/parts/test_paper.py", "systems/image_codec/test_objective.py", "systems/image_codec/test_paper.py",
    "systems/video_codec/test_model.py", "systems/video_codec/test_objective.py", "systems/video_codec/test_paper.py",
    "systems/flow/test_model.py", "systems/flow/test_paper.py", "systems/seedlings/test_paper.py",
    "systems/seedlings/test_training.py",
)  # fmt: skip
"""Tests of the sample: those that compute, without golden files, the architecture and the command line."""


class Planted(NamedTuple):
    """A mistake: `text` occurs once in `file` and is replaced. `tests` must fail, or `reason` says why none can."""

    name: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...] = ()
    reason: str = ""


class Outcome(NamedTuple):
    name: str
    status: str  # killed, survived, timeout or unusable
    by: str  # the test that failed
    cpu_seconds: float


def table() -> list[Planted]:
    """The entries of tests/mutants.toml."""
    entries = tomllib.loads(TABLE.read_text(encoding="utf-8"))["mutant"]
    return [Planted(**{**entry, "tests": tuple(entry.get("tests", ()))}) for entry in entries]


def mutated(entry: Planted, root: Path = ROOT) -> str:
    """The file of an entry with its mistake. Raises ValueError unless the text occurs once."""
    source = (root / SOURCE / entry.file).read_text(encoding="utf-8")
    if source.count(entry.text) != 1:
        raise ValueError(f"{entry.name}: the text occurs {source.count(entry.text)} times in {entry.file}")
    return source.replace(entry.text, entry.replacement)


# ------------------------------------------------------------------------------------------------------------ planted


def planted(only: str, jobs: int) -> dict[str, Any]:
    """Apply every entry to a copy of the sources and run its tests, after a run of all tests on the unchanged copy."""
    entries = [entry for entry in table() if only in entry.name]
    with tempfile.TemporaryDirectory() as spare:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(copied_sources(Path(spare) / str(number)))
        every = sorted({test for entry in entries for test in entry.tests})
        unchanged = run_tests(copies.get(), "unchanged sources", every)
        if unchanged.status != "survived":
            raise SystemExit(f"the tests fail on unchanged sources ({unchanged.by})")
        copies.put(Path(spare) / "0")

        def attempt(entry: Planted) -> Outcome:
            copy = copies.get()
            place = copy / SOURCE / entry.file
            original = place.read_bytes()
            try:
                place.write_text(mutated(entry), encoding="utf-8")
                return run_tests(copy, entry.name, entry.tests)
            finally:
                place.write_bytes(original)
                copies.put(copy)

        chosen = [entry for entry in entries if entry.tests]
        with ThreadPoolExecutor(jobs) as pool:
            outcomes = []
            for outcome in pool.map(attempt, chosen):
                print(f"{outcome.status:9} {outcome.cpu_seconds:5.1f} s  {outcome.name}  {outcome.by}", flush=True)
                outcomes.append(outcome)
    reasons = {entry.name: entry.reason for entry in entries if entry.reason}
    killed = sum(outcome.status == "killed" for outcome in outcomes)
    summary = {
        "planted": len(entries),
        "killed": killed,
        "with a reason": len(reasons),
        "survived": [outcome.name for outcome in outcomes if outcome.status != "killed"],
        "cpu_minutes": round((unchanged.cpu_seconds + sum(outcome.cpu_seconds for outcome in outcomes)) / 60, 1),
    }
    return {"summary": summary, "reasons": reasons, "outcomes": [outcome._asdict() for outcome in outcomes]}


def copied_sources(folder: Path) -> Path:
    """A copy of the package, with its compiled modules; its weights are a link, and the tests are beside it."""
    shutil.copytree(ROOT / SOURCE, folder / SOURCE, ignore=shutil.ignore_patterns("weights"))
    (folder / SOURCE / "weights").symlink_to(ROOT / SOURCE / "weights")
    for name in ("tests", "benchmarks", "docs", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def environment(folder: Path) -> dict[str, str]:
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL")}
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in inherited if path and (ROOT / path).resolve() != ROOT / "src"]
    path = os.pathsep.join([str(folder / "src"), *others])
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(folder: Path, name: str, tests: Sequence[str]) -> Outcome:
    """Run tests with the sources of `folder` in a fresh process, up to the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=subprocess.STDOUT)
        timer = threading.Timer(LIMIT, process.kill)
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        log.seek(0)
        output = log.read()
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    kinds = {0: "survived", 1: "killed", 2: "killed"}  # 2: the module of the tests cannot be imported
    kind = kinds.get(code, "timeout" if code == -signal.SIGKILL else "unusable")
    by = failed[0] if failed else ("" if kind != "unusable" else output.strip().splitlines()[-1])
    return Outcome(name, kind, by, round(used.ru_utime + used.ru_stime, 1))


# ------------------------------------------------------------------------------------------------------------ sampled


def sampled(count: int, jobs: int) -> dict[str, Any]:
    """Test a sample of mutmut's mutants of FILES, proportionally for each file."""
    with tempfile.TemporaryDirectory() as spare:
        folder = Path(spare)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        settings = {
            "source_paths": ["src"],
            "only_mutate": [str(SOURCE / name) for name in FILES],
            "pytest_add_cli_args_test_selection": [f"tests/{name}" for name in TESTS],
            "pytest_add_cli_args": ["-p", "no:cacheprovider", "-m", "not slow"],
            "use_setproctitle": False,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"
        (folder / "pyproject.toml").write_text(text, encoding="utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), "inside", "--count", str(count), "--jobs", str(jobs)]
        subprocess.run(command, cwd=folder, env=environment(folder), check=True)
        found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return found


def inside(count: int, jobs: int) -> None:
    """In the folder of `sampled`: make the mutants, draw, run, and write found.json."""
    from mutmut import __main__ as mutmut
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code
    from mutmut.utils.file_utils import copy_src_dir, walk_mutatable_files

    Path("mutants").mkdir(exist_ok=True)
    copy_src_dir()
    mutmut.create_mutants(jobs)
    _, data = mutmut.collect_source_file_mutation_data(mutant_names=())
    population = {path: sorted(data[path].exit_code_by_key) for path in sorted(map(str, walk_mutatable_files()))}
    names = draw(population, count)
    mutmut._run(tuple(names), jobs)
    _, data = mutmut.collect_source_file_mutation_data(mutant_names=())
    codes = {name: code for each in data.values() for name, code in each.exit_code_by_key.items()}
    path_of = {name: path for path, own in population.items() for name in own}
    statuses = {name: str(status_by_exit_code[codes[name]]) for name in names}
    alive = {name: get_diff_for_mutant(name, path=path_of[name]) for name, s in statuses.items() if not _dead(s)}
    killed = len(names) - len(alive)
    low, high = wilson(killed, len(names))
    by_status = {status: sum(s == status for s in statuses.values()) for status in sorted(set(statuses.values()))}
    summary = {
        "population": sum(map(len, population.values())),
        "files": len(population),
        "sample": len(names),
        "killed": killed,
        "percent": round(100 * killed / len(names), 1),
        "interval": [round(100 * low, 1), round(100 * high, 1)],
        "statuses": by_status,
        "seed": SEED,
    }
    Path("found.json").write_text(json.dumps({"summary": summary, "alive": alive}, indent=1), encoding="utf-8")


def _dead(status: str) -> bool:
    return status in ("killed", "timeout", "segfault", "suspicious")


def draw(population: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """A seeded sample in which every file has its share of the mutants (largest remainders)."""
    total = sum(map(len, population.values()))
    exact = {path: min(count, total) * len(names) / total for path, names in population.items()}
    shares = {path: int(value) for path, value in exact.items()}
    rest = sorted(exact, key=lambda path: (shares[path] - exact[path], path))[: min(count, total) - sum(shares.values())]
    rng = random.Random(SEED)
    return [name for path, names in population.items() for name in _pick(rng, names, shares[path] + (path in rest))]


def _pick(rng: random.Random, names: Sequence[str], count: int) -> Iterator[str]:
    yield from rng.sample(list(names), min(count, len(names)))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, square = hits / count, Z * Z / count
    middle, half = share + square / 2, Z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("planted", "sampled", "inside"))
    parser.add_argument("--only", default="", help="planted mistakes whose names contain this")
    parser.add_argument("--count", type=int, default=400, help="size of the sample")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, help="JSON file for all results")
    arguments = parser.parse_args()
    if arguments.what == "inside":
        inside(arguments.count, arguments.jobs)
        return
    found = planted(arguments.only, arguments.jobs) if arguments.what == "planted" else sampled(arguments.count, arguments.jobs)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, difference in found.get("alive", {}).items():
        print(f"{name}\n{difference}\n")
    print(json.dumps(found["summary"], indent=1))
    if arguments.what == "planted" and found["summary"]["survived"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
