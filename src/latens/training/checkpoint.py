"""Checkpoints that survive `kill -9` and power loss: safetensors and JSON with hashes, no pickle.

    checkpoints/step-00002000/model.safetensors      weights
                              average.safetensors    averaged weights
                              optimizer-NAME.safetensors
                              state.json             step, best score, optimizer scalars, random states
                              MANIFEST.json          sha256 of each, written last
    checkpoints/latest                               name of the newest complete one

`load_latest` returns the newest checkpoint whose files match its manifest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from latens.data.files import write_atomic
from latens.errors import UsageError, counted

LATEST = "latest"
PARTIAL = ".writing-"  # start of the names of folders that are not complete, or replaced
logger = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    step: int
    tensors: dict[str, dict[str, Tensor]]  # part name -> tensors
    state: dict[str, Any]  # JSON


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, then update the pointer, then remove all but the newest `keep` complete ones.

    An earlier one of this step is replaced when the new one is complete: it may be damaged, written before the run went back to
    an older checkpoint, or written before a validation.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    written, replaced = folder / f"{PARTIAL}{target.name}", folder / f"{PARTIAL}replaced"
    for leftover in folder.glob(f"{PARTIAL}*"):  # of a process that was killed
        shutil.rmtree(leftover)
    written.mkdir(parents=True)
    blobs = {f"{part}.safetensors": save(_contiguous(tensors)) for part, tensors in checkpoint.tensors.items()}
    blobs["state.json"] = json.dumps({"step": checkpoint.step, **checkpoint.state}).encode()
    for name, blob in blobs.items():
        write_atomic(written / name, blob)
    manifest = {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()}
    write_atomic(written / "MANIFEST.json", json.dumps(manifest, indent=1).encode())
    if target.exists():
        target.rename(replaced)
    written.rename(target)
    write_atomic(folder / LATEST, target.name.encode())
    shutil.rmtree(replaced, ignore_errors=True)
    older = [path for path in _complete(folder) if path.name <= target.name]  # newer ones were rejected as damaged
    for old in older[:-keep] if keep else []:
        shutil.rmtree(old)
    return target


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files all match its manifest, or None; damaged ones are skipped with a warning.

    A first checkpoint that a killed process did not finish counts as none. Raises UsageError if there are checkpoints and none
    can be used.
    """
    if not (folder / LATEST).exists() and not _complete(folder):
        return None
    damaged: list[Path] = []
    checkpoint = None
    for target in sorted(folder.glob("step-*"), reverse=True):
        checkpoint = _verified(target)
        if checkpoint is not None:
            break
        damaged.append(target)
    if damaged and checkpoint is None:
        names = ", ".join(path.name for path in damaged)
        hint = "start a new run with -o; --init RUN/best starts from the best weights, if there are any"
        raise UsageError(f"every checkpoint is damaged or incomplete: {names}", where=str(folder), hint=hint)
    if damaged and checkpoint is not None:
        start = checkpoint.step
        lost = max(_step_of(damaged[0]) - start, 0)
        logger.warning(
            "%s: damaged or incomplete: %s; training continues from step %d and repeats %s",
            *(folder, ", ".join(path.name for path in damaged), start, counted(lost, "step")),
        )
    return checkpoint


def _step_of(target: Path) -> int:
    number = target.name.removeprefix("step-")
    return int(number) if number.isdecimal() else 0


def _complete(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("step-*/MANIFEST.json"))


def _verified(target: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((target / "MANIFEST.json").read_bytes())
        blobs = {name: (target / name).read_bytes() for name in manifest}
        if any(hashlib.sha256(blob).hexdigest() != manifest[name] for name, blob in blobs.items()):
            return None
        state = json.loads(blobs.pop("state.json"))
        tensors = {name.removesuffix(".safetensors"): load(blob) for name, blob in blobs.items()}
        return Checkpoint(int(state.pop("step")), tensors, state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as (tensors by "index.name", JSON: parameter groups and scalars)."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"{index}.{name}"] = value
    return tensors, {"kind": type(optimizer).__name__, "groups": state["param_groups"], "scalars": scalars}


def join_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Restore the result of `split_optimizer`; hyperparameters such as learning rates stay those of the optimizer.

    Raises ValueError for the state of another optimizer.
    """
    own = optimizer.state_dict()["param_groups"]
    kind = type(optimizer).__name__
    if plain.get("kind", kind) != kind:
        raise ValueError(f"its optimizer is {plain['kind']}, not {kind}")
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in plain["groups"]]:
        raise ValueError("its optimizer trains other weights")
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **plain["scalars"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": own})


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as JSON."""
    version, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [version, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        states["cuda"] = [state.numpy().tobytes().hex() for state in torch.cuda.get_rng_state_all()]
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore the result of `random_states`; device states only if the number of devices is the same."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(_bytes_tensor(states["torch"]))
    if torch.cuda.is_available() and len(states.get("cuda", [])) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_bytes_tensor(state) for state in states["cuda"]])


def _bytes_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
