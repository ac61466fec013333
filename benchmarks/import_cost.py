"""CPU seconds of the commands and imports, compared with torch and torchvision, in new processes.

python benchmarks/import_cost.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

MODULES = (
    "latens.cli.main",
    "torch",
    "torchvision",
    "latens.systems.image_codec.predict",
    "latens.systems.amodal.predict",
    "latens.systems.haze.predict",
    "latens.systems.parts.predict",
    "latens.contract",
)
CODE = "import os, {module}; print(sum(os.times()[:2]))"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    best = {module: min(_seconds(module) for _ in range(repeats)) for module in MODULES}  # noise only adds
    for module, seconds in best.items():
        print(f"{module:<40} {seconds:.2f} s  {seconds / best['torchvision']:.2f} of torchvision")


def _seconds(module: str) -> float:
    ended = subprocess.run([sys.executable, "-c", CODE.format(module=module)], capture_output=True, text=True, check=True)
    return float(ended.stdout)


if __name__ == "__main__":
    main()
