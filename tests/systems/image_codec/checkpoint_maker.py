"""The golden CompressAI checkpoint, as its files are written by training scripts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[2] / "golden"
State = dict[str, Any]


def checkpoint() -> State:
    return dict(load_file(GOLDEN / "compressai_tiny.safetensors"))


def from_training(state: State) -> State:
    return {"epoch": 3, "loss": torch.tensor(0.5), "optimizer": {}, "state_dict": state}


def pickled(held: Any, **settings: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(held, stream, **settings)
    return stream.getvalue()


def assert_same(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
