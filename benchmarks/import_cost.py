"""CPU seconds of help and of imports, compared with torch and torchvision, in new processes.

python benchmarks/import_cost.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from latens.cli.main import VERBS

MODULES = (
    "torch",
    "torchvision",
    "latens.systems.image_codec.predict",
    "latens.systems.amodal.predict",
    "latens.systems.haze.predict",
    "latens.systems.parts.predict",
    "latens.contract",
)
CODE = "import os, {module}; print(sum(os.times()[:2]))"
HELP = """
import contextlib, os
from latens.cli.main import main
with contextlib.redirect_stdout(None):
    main({words} + ["--help"])
print(sum(os.times()[:2]))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    verbs = [verb.name.split() for verb in VERBS]
    programs = {" ".join(["latens", *words, "--help"]): HELP.format(words=words) for words in ([], *verbs)}
    programs |= {module: CODE.format(module=module) for module in MODULES}
    best = {name: min(_seconds(program) for _ in range(repeats)) for name, program in programs.items()}  # noise only adds
    for name, seconds in best.items():
        print(f"{name:<40} {seconds:.2f} s  {seconds / best['torchvision']:.2f} of torchvision")


def _seconds(program: str) -> float:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(ended.stdout)


if __name__ == "__main__":
    main()
