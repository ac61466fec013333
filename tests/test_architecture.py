"""Modules that may be loaded by an import. import-linter checks the directions, these tests the weight."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest

import latens

BY_NAME_ONLY = (
    *("latens.cli", "latens.catalogue", "latens.errors", "latens.settings", "latens.legacy"),
    *("latens.launch", "latens.papers", "latens.reproduction"),
)
LIGHT_FILES = ("config", "recipes")
HEAVY = (
    "torchvision",
    "accelerate",
    "matplotlib",
    "cv2",
    "skimage",
    "sklearn",
    "jinja2",
    "tensorboard",
)
SHELVES = ("latens.nn", "latens.codes", "latens.data", "latens.metrics")


def modules() -> list[str]:
    found = pkgutil.walk_packages(latens.__path__, "latens.", onerror=lambda name: None)
    return [module.name for module in found if module.name != "latens.__main__"]


def loaded_by(names: list[str], watched: tuple[str, ...]) -> set[str]:
    code = f"import sys\nfor name in {names!r}: __import__(name)\nprint(*({set(watched)!r} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


def test_names_help_and_configurations_load_without_torch() -> None:
    light = [name for name in modules() if name.startswith(BY_NAME_ONLY) or name.rpartition(".")[2] in LIGHT_FILES]
    assert "latens.cli.main" in light
    assert any(name.endswith(".recipes") for name in light)
    assert loaded_by(light, ("torch", "numpy", "PIL", *HEAVY)) == set()


def test_shelves_and_models_load_with_torch_alone() -> None:
    shelves = [name for name in modules() if name.startswith(SHELVES) or name.endswith(".model")]
    assert any(name.endswith(".model") for name in shelves)
    assert loaded_by(shelves, HEAVY) == set()


def test_loading_a_model_imports_no_compiler_of_torch() -> None:
    """Operations on the device "meta" import it: 1.5 s of every command. torchvision, for `amodal`, imports it anyway."""
    code = "import sys, latens\nfor name in sys.argv[1:]: latens.load(name)\nprint('sympy' in sys.modules)"
    names = ["image_codec", "haze", "parts", "flow", "video_codec", "seedlings"]
    ended = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_importing_latens_is_instant() -> None:
    code = "import sys, latens; latens.load; latens.models; print(*({'torch', 'numpy', 'cyclopts'} & set(sys.modules)))"
    least = 1.0
    for _ in range(4):  # noise on a busy machine only adds
        before = os.times()
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = os.times()
        assert ended.stdout.strip() == ""
        least = min(least, sum(after[2:4]) - sum(before[2:4]))
        if least < 0.05:
            return
    pytest.fail(f"`import latens` took {least:.3f} CPU seconds at best")


def test_lazy_names() -> None:
    assert {"load", "models", "errors"} <= set(dir(latens))
    assert latens.errors.UsageError.exit_status == 2
    assert [entry.name for entry in latens.models()] == list(latens.catalogue.MODELS)
    with pytest.raises(AttributeError):
        _ = latens.nothing
