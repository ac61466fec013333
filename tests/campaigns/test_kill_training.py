"""A training that dies, or is stopped by Ctrl-C, at any call that changes files is continued to the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from .conftest import Reference
from .faults import INTERRUPTED, KILLED, Fault
from .verbs import Case, images

Sample = Callable[[Sequence[Fault]], Iterator[Fault]]

FEW = ("--set", "run.steps=4", "--set", "run.checkpoint_every=2", "--set", "run.validate_every=2")
TENSORS = ".safetensors"


def photographs(folder: Path) -> None:
    images(folder, count=3, scale=3)


def nothing(folder: Path) -> None:
    """These recipes simulate their data."""


def command(system: str, *data: str) -> tuple[str, ...]:
    return ("train", system, "--recipe", "tiny", *data, "-o", "run", "--device", "cpu", *FEW)


CASES = [
    Case("image_codec", photographs, command("image_codec", "--data", "in")),
    Case("amodal", nothing, command("amodal")),
    Case("haze", nothing, command("haze")),
    Case("parts", photographs, command("parts", "--data", "in")),
    Case("video_codec", photographs, command("video_codec", "--data", "in")),
    Case("flow", photographs, command("flow", "--data", "in")),
    Case("seedlings", nothing, command("seedlings")),
]


def weights(found: dict[str, bytes]) -> tuple[Any, dict[str, bytes]]:
    """The settings and hashes of the best model, and the files of the newest checkpoint."""
    newest = max(name.split("/")[2] for name in found if name.startswith("run/checkpoints/step-"))
    best = json.loads(found["run/best/config.json"])
    for name, digest in best["sha256"].items():
        assert hashlib.sha256(found[f"run/best/{name}"]).hexdigest() == digest
    tensors = sorted(best.pop("sha256").values())
    best.pop("files")  # their names hold part of the hash if the folder was in use
    place = f"run/checkpoints/{newest}/"
    return (best, tensors), {name: data for name, data in found.items() if name.startswith(place) and name.endswith(TENSORS)}


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.xdist_group(case.name), id=case.name) for case in CASES])
def test_a_killed_training_ends_with_the_same_weights(
    case: Case, reference_of: Callable[[Case], Reference], sample: Sample, request: pytest.FixtureRequest
) -> None:
    if case.name != "seedlings" and not float(request.config.getoption("--campaign-seconds")):
        pytest.skip("only in the long campaign: make kill")
    reference = reference_of(case)
    wanted = weights(reference.results)
    for fault in sample([Fault(kind, at) for at in range(reference.run.calls) for kind in ("kill", "torn", "interrupt")]):
        reference.start()
        stopped = reference.again(fault)
        if fault.kind == "interrupt" and stopped.status == 0:  # after the last step
            assert weights(reference.found()) == wanted, fault
            continue
        assert stopped.status == (INTERRUPTED if fault.kind == "interrupt" else KILLED), (fault, stopped.messages)
        rerun = reference.again(words=("train", case.name, "-o", "run", "--resume", "--device", "cpu"))
        if rerun.status == 2:  # killed before there was anything to resume
            rerun = reference.again()
        assert rerun.status == 0, (fault, rerun.messages)
        assert weights(reference.found()) == wanted, fault
