"""Mutation tests: planted mistakes that the tests must find, and a sample of mechanical ones.

    python benchmarks/mutants.py planted [--only WORDS] [-o FILE]     # tests/mutants.toml, a new process for each
    python benchmarks/mutants.py sampled [--count 400] [--seed N]     # mutmut on FILES; needs `pip install mutmut==3.8.1`

The two numbers answer different questions and are never added: the planted mistakes are named and chosen by a person; the
sample is drawn at random from all mutants that mutmut makes of FILES, about half of whose survivors change nothing.
Both work on copies of the sources in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "mutants.toml"
SOURCE = Path("src") / "latens"
LIMIT = 300  # CPU seconds for the tests of one mutant
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ADDED: list[str] = []  # entries of sys.path of the copy in use
DEAD = ("killed", "timeout", "segfault", "suspicious")  # statuses of mutmut
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
    "codes/test_annealing.py", "codes/test_bijector.py", "codes/test_entropy.py", "codes/test_gains.py",
    "codes/test_logdet.py", "codes/test_mmd.py", "codes/test_parts.py", "codes/test_refine.py", "codes/test_rounding.py",
    "codes/test_vq.py", "experiments/test_probes.py", "metrics/test_instances.py", "training/test_optim.py",
    "training/test_selection.py", "systems/amodal/test_model.py", "systems/amodal/test_networks.py",
    "systems/amodal/test_objective.py", "systems/amodal/test_paper.py", "systems/amodal/test_pipeline.py",
    "systems/amodal/test_regions.py", "systems/haze/test_baselines.py", "systems/haze/test_classical.py",
    "systems/haze/test_evaluate.py", "systems/haze/test_formation.py", "systems/haze/test_models.py",
    "systems/haze/test_networks.py", "systems/haze/test_objective.py", "systems/haze/test_paper.py",
    "systems/parts/test_discovery.py", "systems/parts/test_model.py", "systems/parts/test_objective.py",
    "systems/parts/test_paper.py", "systems/image_codec/test_objective.py", "systems/image_codec/test_paper.py",
    "systems/video_codec/test_model.py", "systems/video_codec/test_networks.py", "systems/video_codec/test_objective.py",
    "systems/video_codec/test_paper.py", "systems/flow/test_model.py", "systems/flow/test_objective.py",
    "systems/flow/test_paper.py", "systems/seedlings/test_objective.py", "systems/seedlings/test_paper.py",
    "systems/seedlings/test_training.py",
)  # fmt: skip
"""Tests of the sample: those that compute, without golden files, the architecture and the command line."""

LONG = (
    "metrics/test_instances.py::test_average_precision_equals_pycocotools_on_a_thousand_cases",
    "systems/flow/test_model.py::test_every_block_is_certified_after_training_from_scratch",
    "systems/haze/test_evaluate.py::test_an_interrupted_evaluation_continues",
    "systems/haze/test_evaluate.py::test_rows_baselines_and_references",
    "systems/video_codec/test_objective.py::test_tiny_overfits_two_clips",
)
"""Tests of these files that take as long as a hundred others and are left out, so that the sample is a lower bound."""


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
    """Apply every entry to a copy of the sources and run its tests, after a run of all tests on unchanged sources."""
    entries = [entry for entry in table() if only in entry.name]
    chosen = [entry for entry in entries if entry.tests]
    every = sorted({test for entry in chosen for test in entry.tests})
    with tempfile.TemporaryDirectory() as spare:
        copies = [copied_sources(Path(spare) / str(number)) for number in range(jobs)]
        preload(copies[0], every)
        control = Planted("unchanged sources", "__init__.py", "", "", tuple(every))
        (unchanged,) = in_processes([control], copies[:1])
        if unchanged.status != "survived":
            raise SystemExit(f"the tests fail on unchanged sources: {unchanged.by}")
        outcomes = list(in_processes(chosen, copies))
    reasons = {entry.name: entry.reason for entry in entries if entry.reason}
    summary = {
        "planted": len(entries),
        "killed": sum(outcome.status == "killed" for outcome in outcomes),
        "with a reason": len(reasons),
        "survived": [outcome.name for outcome in outcomes if outcome.status != "killed"],
        "cpu_minutes": round((unchanged.cpu_seconds + sum(outcome.cpu_seconds for outcome in outcomes)) / 60, 1),
    }
    return {"summary": summary, "reasons": reasons, "outcomes": [outcome._asdict() for outcome in outcomes]}


def preload(copy: Path, tests: Sequence[str]) -> None:
    """Import what the tests import, and forget all modules of `copy`: every process starts there and imports them anew.

    Nothing is computed here, because torch refuses backward passes in a process that was forked after one.
    """
    enter(copy)
    import pytest

    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        if pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *tests]):
            raise SystemExit("the tests of the table cannot be collected")
    own = tuple(f"{place.resolve()}{os.sep}" for place in (copy, ROOT / "src", ROOT / "tests"))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and os.path.realpath(file).startswith(own):
            del sys.modules[name]


def enter(copy: Path) -> None:
    """Work in a copy, with its sources first on the path."""
    os.environ.update(ONE_THREAD, PYTHONPATH=os.pathsep.join([str(copy / "src"), *paths_of_others()]))
    sys.dont_write_bytecode = True
    os.chdir(copy)
    others = [path for path in sys.path if path not in ADDED and Path(path).resolve() != ROOT / "src"]
    ADDED[:] = [str(copy / "src"), str(copy)]
    sys.path[:] = [*ADDED, *others]
    importlib.invalidate_caches()


def in_processes(entries: Sequence[Planted], copies: Sequence[Path]) -> Iterator[Outcome]:
    """Outcomes as they come; as many processes as copies."""
    waiting, running = iter(entries), {}

    def begin(copy: Path) -> None:
        entry = next(waiting, None)
        if entry is None:
            return
        place = copy / SOURCE / entry.file
        original = place.read_bytes()
        if entry.text:
            place.write_text(mutated(entry), encoding="utf-8")
        log = tempfile.TemporaryFile("w+")
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _test(copy, entry.tests, log.fileno())
        running[child] = (entry, copy, place, original, log)

    for copy in copies:
        begin(copy)
    while running:
        child, status, used = os.wait4(-1, 0)
        entry, copy, place, original, log = running.pop(child)
        place.write_bytes(original)
        with log:
            log.seek(0)
            outcome = _outcome(entry.name, os.waitstatus_to_exitcode(status), log.read(), used.ru_utime + used.ru_stime)
        print(f"{outcome.status:9} {outcome.cpu_seconds:5.1f} s  {outcome.name}  {outcome.by}", flush=True)
        yield outcome
        begin(copy)


def _test(copy: Path, tests: Sequence[str], log: int) -> NoReturn:
    """In a fresh process: run tests with the sources of `copy` up to the first failure, and end with pytest's status."""
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
        enter(copy)
        import pytest

        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]))
        sys.stdout.flush()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        code = 70
    os._exit(code)


def _outcome(name: str, code: int, output: str, seconds: float) -> Outcome:
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    kinds = {0: "survived", 1: "killed", 2: "killed"}  # 2: the module of the tests cannot be imported
    kind = kinds.get(code, "timeout" if code in (-signal.SIGXCPU, -signal.SIGKILL) else "unusable")
    last = output.strip().splitlines()[-1:] if kind == "unusable" else []
    return Outcome(name, kind, " ".join(failed[:1] or last), round(seconds, 1))


def copied_sources(folder: Path) -> Path:
    """A copy of the package, with its compiled modules; its weights are a link, and the tests are beside it."""
    shutil.copytree(ROOT / SOURCE, folder / SOURCE, ignore=shutil.ignore_patterns("weights"))
    (folder / SOURCE / "weights").symlink_to(ROOT / SOURCE / "weights")
    for name in ("tests", "benchmarks", "docs", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def paths_of_others() -> list[str]:
    """PYTHONPATH without the sources of this checkout."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(path).resolve()) for path in inherited if path and Path(path).resolve() != ROOT / "src"]


# ------------------------------------------------------------------------------------------------------------ sampled


def sampled(count: int, seed: int, jobs: int, minutes: float) -> dict[str, Any]:
    """Test a sample of mutmut's mutants of FILES, proportionally for each file."""
    with tempfile.TemporaryDirectory() as spare:
        folder = Path(spare)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        settings = {
            "source_paths": ["src"],
            "only_mutate": [str(SOURCE / name) for name in FILES],
            "pytest_add_cli_args_test_selection": [f"tests/{name}" for name in TESTS],
            "pytest_add_cli_args": ["-p", "no:cacheprovider", "-m", "not slow", *(f"--deselect=tests/{name}" for name in LONG)],
            "use_setproctitle": False,
            "process_isolation": "forkserver",  # after a backward pass, torch refuses another one in a forked process
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"
        (folder / "pyproject.toml").write_text(text, encoding="utf-8")
        options = ["--count", str(count), "--seed", str(seed), "--jobs", str(jobs), "--minutes", str(minutes)]
        command = [sys.executable, str(Path(__file__).resolve()), "inside", *options]
        paths = os.pathsep.join([str(folder / "src"), *paths_of_others()])
        subprocess.run(command, cwd=folder, env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths}, check=True)
        found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return found


def inside(count: int, seed: int, jobs: int, minutes: float) -> None:
    """In the folder of `sampled`: make the mutants, draw, run in random order, and keep found.json up to date."""
    from mutmut import __main__ as mutmut
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.mutation.trampoline import set_mutant_under_test
    from mutmut.stats import status_by_exit_code

    set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir(exist_ok=True)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        mutmut.copy_src_dir()
        mutmut.copy_also_copy_files()
        mutmut.setup_source_paths()
        mutmut.create_mutants(jobs)
    _, data = mutmut.collect_source_file_mutation_data(mutant_names=())
    population = {path: sorted(own.exit_code_by_key) for path, own in sorted(data.items())}
    path_of = {name: path for path, own in population.items() for name in own}
    drawn = draw(population, count, seed)
    random.Random(seed).shuffle(drawn)  # an early end leaves a random part of the sample
    runner = mutmut.get_mutant_runner(jobs)
    mutmut.collect_or_load_stats(runner)
    seconds_of, functions = mutmut.state().duration_by_test, mutmut.state().tests_by_mangled_function_name
    tests_of = {
        name: sorted(functions.get(mutmut.mangled_name_from_mutant_name(name), ()), key=lambda test: seconds_of[test])
        for name in drawn
    }
    statuses: dict[str, str] = {}
    alive: dict[str, str] = {}
    until = time.monotonic() + 60 * minutes

    def note(name: str, status: str) -> None:
        statuses[name] = status
        if status not in DEAD:
            alive[name] = get_diff_for_mutant(name, path=path_of[name])
        if len(statuses) % 10 == 0 or len(statuses) == len(drawn):
            print(f"{len(statuses)} of {len(drawn)}, {len(alive)} alive", flush=True)
            summary = {"population": len(path_of), "files": len(population), **summarized(statuses, seed)}
            Path("found.json").write_text(json.dumps({"summary": summary, "alive": alive}, indent=1), encoding="utf-8")

    def finish() -> None:
        result = runner.wait_for_result()
        note(result.mutant_name, str(status_by_exit_code[result.exit_code]))

    set_mutant_under_test("")
    runner.startup()
    for name in drawn:
        if time.monotonic() > until:
            break
        if not tests_of[name]:
            note(name, "no tests")
            continue
        while not runner.has_capacity():
            finish()
        seconds = sum(seconds_of[test] for test in tests_of[name])
        runner.submit(name, tests_of[name], math.ceil(400 * (seconds + 1)), seconds)  # half of it is a wall clock
    runner.signal_work_complete()
    while runner.pending_count():
        finish()
    runner.shutdown()


def summarized(statuses: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Shares of a sample with their interval; mutants of functions that no test calls count as alive."""
    killed = sum(status in DEAD for status in statuses.values())
    low, high = wilson(killed, len(statuses))
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "sample": len(statuses),
        "killed": killed,
        "percent": round(100 * killed / len(statuses), 1),
        "interval": [round(100 * low, 1), round(100 * high, 1)],
        "statuses": {status: sum(s == status for s in statuses.values()) for status in sorted(set(statuses.values()))},
        "seed": seed,
        "cpu_minutes": round(used / 60, 1),
    }


def draw(population: Mapping[str, Sequence[str]], count: int, seed: int) -> list[str]:
    """A seeded sample in which every file has its share of the mutants (largest remainders)."""
    total = sum(map(len, population.values()))
    exact = {path: min(count, total) * len(names) / total for path, names in population.items()}
    shares = {path: int(value) for path, value in exact.items()}
    rest = sorted(exact, key=lambda path: (shares[path] - exact[path], path))[: min(count, total) - sum(shares.values())]
    rng = random.Random(seed)
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
    parser.add_argument("--seed", type=int, default=1, help="of the sample; use one whose survivors nobody read")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the sample; a shorter run tests a random part of it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, help="JSON file for all results")
    arguments = parser.parse_args()
    if arguments.what == "inside":
        inside(arguments.count, arguments.seed, arguments.jobs, arguments.minutes)
        return
    if arguments.what == "planted":
        found = planted(arguments.only, arguments.jobs)
    else:
        found = sampled(arguments.count, arguments.seed, arguments.jobs, arguments.minutes)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, difference in found.get("alive", {}).items():
        print(f"{name}\n{difference}\n")
    print(json.dumps(found["summary"], indent=1))
    if arguments.what == "planted" and found["summary"]["survived"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
