"""Model folders: config.json beside model.safetensors, identified by the hash of their content; never a pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from latens.data.files import read_bytes, write_atomic
from latens.errors import ModelError, ModelMissing

CONFIG, WEIGHTS, CODING = "config.json", "model.safetensors", "entropy.safetensors"
CONFIG_LIMIT = 2**20  # bytes
WEIGHTS_LIMIT = 4 * 2**30


class ModelFolder(NamedTuple):
    config: dict[str, Any]
    weights: dict[str, Tensor]
    coding: dict[str, Tensor]  # frozen integers of the entropy coder; empty for a model that writes no streams
    sha256: str  # over both tensor files


def save_model(
    folder: Path, config: dict[str, Any], weights: dict[str, Tensor], coding: dict[str, Tensor] | None = None
) -> None:
    """Writes a model folder; the configuration goes last, so that an interrupted write is not taken for a model."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, save(_plain(weights)))
    if coding:
        write_atomic(folder / CODING, save(_plain(coding)))
    write_atomic(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_model(folder: Path) -> ModelFolder:
    """Reads a model folder. Raises ModelMissing where a file is absent, ModelError where one cannot be understood."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelMissing(
                f"no {name} in this folder", where=str(folder), hint="`latens models` lists known models"
            )
    try:
        config = json.loads(read_bytes(folder / CONFIG, limit=CONFIG_LIMIT))
    except ValueError as error:
        raise ModelError(f"not JSON ({error})", where=str(folder / CONFIG), hint="save the model again") from None
    if not isinstance(config, dict) or not isinstance(config.get("system"), str):
        raise ModelError("names no system", where=str(folder / CONFIG), hint="save the model again")
    weights, digest = _tensors(folder / WEIGHTS)
    coding: dict[str, Tensor] = {}
    if (folder / CODING).is_file():
        coding, second = _tensors(folder / CODING)
        digest = hashlib.sha256((digest + second).encode()).hexdigest()
    return ModelFolder(config, weights, coding, digest)


def _tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    blob = read_bytes(path, limit=WEIGHTS_LIMIT)
    try:
        return load(blob), hashlib.sha256(blob).hexdigest()
    except SafetensorError as error:
        raise ModelError(f"damaged weights ({error})", where=str(path), hint="fetch or train the model again") from None


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
