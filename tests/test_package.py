"""What the package brings: sizes of the bundled weights, and dependencies that some module imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from latens.catalogue import MODELS
from latens.cli.doctor import EXTRAS

ROOT = Path(__file__).parent.parent
LIMIT = 60.0  # MB of all models together
BUDGETS = {  # MB of tensor files
    "image_codec": 13.9,
    "image_codec_context": 0.4,
    "image_codec_joint": 7.5,
    "image_codec_perceptual": 4.6,
    "embryo": 8.8,
    "cells": 2.1,
    "haze_physical": 1.5,
    "haze_mmd": 2.2,
    "haze_dehazenet": 0.1,
    "parts": 1.1,
    "video_codec": 10.2,
    "flow": 1.8,
    "flow_pack": 1.1,
    "flow_moons": 0.1,
    "flow_circles": 0.1,
    "flow_checkerboard": 0.1,
    "seedlings": 0.2,
    "seedlings_species": 0.5,
}
BY_STRING = {"tensorboard", "onnx", "onnxscript"}  # imported by torch on request
EXTRAS_OF_DEVELOPERS = {"dev", "dist", "docs", "mutants"}


def test_every_model_has_a_budget_and_all_fit_into_the_wheel() -> None:
    sizes = {entry.folder.name: entry.size / 1e6 for entry in MODELS.values()}
    assert sizes.keys() == BUDGETS.keys()
    assert {name: size for name, size in sizes.items() if size > BUDGETS[name]} == {}
    assert sum(BUDGETS.values()) <= LIMIT


def imported() -> set[str]:
    """Top-level names of all packages that a module of latens imports."""
    names = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"latens"}


def declared() -> set[str]:
    """Normalized names of the dependencies, and of the extras that users install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [names for extra, names in project["optional-dependencies"].items() if extra not in EXTRAS_OF_DEVELOPERS]
    return {normalized(name) for group in [project["dependencies"], *extras] for name in group}


def normalized(requirement: str) -> str:
    return re.split(r"[\[<>=~!; ]", requirement)[0].lower().replace("_", "-")


def test_doctor_looks_for_all_modules_of_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert EXTRAS.keys() == extras.keys() - EXTRAS_OF_DEVELOPERS
    packages = packages_distributions()
    for extra, modules in EXTRAS.items():
        found = {normalized(name) for module in modules for name in packages.get(module, [module])}
        assert found == {normalized(name) for name in extras[extra]}


def test_dependencies_are_those_that_modules_import() -> None:
    providers = packages_distributions()
    needed = {name: {normalized(each) for each in providers.get(name, [name])} for name in imported()}
    assert {name: found for name, found in needed.items() if not found & declared()} == {}
    used = set().union(*needed.values()) | BY_STRING
    assert declared() - used == set()
