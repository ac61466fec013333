"""Export of networks to ONNX, each compared with the original under onnxruntime at several sizes."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latens.data.files import write_atomic
from latens.errors import ModelError, UsageError
from latens.shapes import UInt8

logger = logging.getLogger(__name__)

PARITY = 1e-4  # allowed difference between both, relative to the largest absolute value of the output
LARGEST = 1024  # largest multiple of a free axis
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Graph(NamedTuple):
    """A network to export. `module` takes tensors, and returns a tensor or a tuple of tensors.

    `free` gives, for every input, the axes whose size is free: axis -> (name, multiple). `examples` are inputs of different
    sizes; the first is traced, and all are compared.
    """

    name: str  # of its file
    about: str  # ranges and units of inputs and outputs
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free: tuple[Mapping[int, tuple[str, int]], ...]
    examples: Sequence[tuple[Tensor, ...]]


class Exported(NamedTuple):
    """A written graph. `difference` is the largest at all examples, relative to the largest absolute value of an output."""

    name: str
    file: str
    about: str
    inputs: dict[str, str]  # name -> type and shape, such as "uint8 1 x 16·height x 16·width x 3"
    outputs: list[str]
    opset: int
    bytes: int
    sha256: str
    compared: list[str]  # shapes of the first input
    difference: float


def example_images(stride: int, sizes: Sequence[tuple[int, int]]) -> list[UInt8[Tensor, "1 H W 3"]]:
    """Random images whose (rows, columns) are `sizes` times the stride; the same in every call."""
    seeded = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (1, stride * rows, stride * columns, 3), dtype=torch.uint8, generator=seeded)
        for rows, columns in sizes
    ]


def free_sides(stride: int, *, rows: int = 1) -> Mapping[int, tuple[str, int]]:
    """Both sides of an input as free axes in multiples of the stride; `rows` is the axis of its rows, followed by columns."""
    return {rows: ("rows", stride), rows + 1: ("columns", stride)}


def check_packages() -> None:
    """Raises UsageError if the packages of the extra are missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"export needs {', '.join(missing)}", hint="pip install 'latens[export]'")


def export(graph: Graph, folder: Path) -> Exported:
    """Write `folder`/NAME.onnx, in float32, and compare it with the network.

    Raises ModelError if the results differ by more than PARITY at any example; then no file is written.
    """
    module = graph.module.eval()
    program = _exported(graph, module)
    inputs = {name: _shape_text(graph, place) for place, name in enumerate(graph.inputs)}
    program.model.metadata_props.update(described(graph, inputs))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "graph.onnx"
        program.save(str(path))
        data = path.read_bytes()
    difference = _difference(graph, module, data)
    if not difference <= PARITY:
        what = f"the exported {graph.name} differs from the model by {difference:.1e} of its largest value"
        raise ModelError(what, hint=f"allowed is {PARITY:g}; report it with the versions of torch and onnxruntime")
    file = f"{graph.name}.onnx"
    write_atomic(folder / file, data)
    return Exported(
        graph.name,
        file,
        graph.about,
        inputs,
        list(graph.outputs),
        int(program.model.opset_imports[""]),
        len(data),
        hashlib.sha256(data).hexdigest(),
        ["x".join(map(str, example[0].shape)) for example in graph.examples],
        difference,
    )


def described(graph: Graph, inputs: Mapping[str, str]) -> dict[str, str]:
    """Metadata inside the file: what the graph is, types and shapes of its inputs, and the step of their free axes."""
    steps = {
        name: {str(axis): step for axis, (_, step) in axes.items() if step > 1}
        for name, axes in zip(graph.inputs, graph.free, strict=True)
    }
    return {"about": graph.about, "inputs": json.dumps(dict(inputs), ensure_ascii=False), "multiples": json.dumps(steps)}


def _exported(graph: Graph, module: nn.Module) -> Any:
    from torch.export import Dim

    names = {name for axes in graph.free for name, _ in axes.values()}
    sizes = {name: Dim(name, min=1, max=LARGEST) for name in names}
    shapes = tuple({axis: times * sizes[name] for axis, (name, times) in axes.items()} for axes in graph.free)
    with warnings.catch_warnings(), _only_errors():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        return torch.onnx.export(
            module,
            graph.examples[0],
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )


@contextmanager
def _only_errors() -> Iterator[None]:
    """Raise the level of the exporter's loggers to errors."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@torch.no_grad()
def _difference(graph: Graph, module: nn.Module, data: bytes) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = 0.0
    for example in graph.examples:
        wanted = module(*example)
        wanted = (wanted,) if isinstance(wanted, Tensor) else tuple(wanted)
        given = {name: tensor.numpy() for name, tensor in zip(graph.inputs, example, strict=True)}
        for name, ours, theirs in zip(graph.outputs, wanted, session.run(list(graph.outputs), given), strict=True):
            expected = ours.numpy().astype(np.float64)
            if theirs.shape != expected.shape:
                what = f"the output {name} of the exported {graph.name} has the shape {theirs.shape}, not {expected.shape}"
                raise ModelError(what, where=f"input {tuple(example[0].shape)}")
            scale = max(float(np.abs(expected).max(initial=0)), 1e-6)
            worst = max(worst, float(np.abs(theirs - expected).max(initial=0)) / scale)
    return worst


def _shape_text(graph: Graph, place: int) -> str:
    """Type and shape of an input, with the names of its free axes."""
    tensor, axes = graph.examples[0][place], graph.free[place]
    sizes = [_size_text(*axes[axis]) if axis in axes else str(size) for axis, size in enumerate(tensor.shape)]
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {' x '.join(sizes)}".strip()


def _size_text(name: str, multiple: int) -> str:
    return name if multiple == 1 else f"{multiple}·{name}"
