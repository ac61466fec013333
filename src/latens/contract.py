"""The interface of a system: a frozen record of functions, defined as `SYSTEM` in its module `system`.

The members are plain functions. A missing member is an error at import and in the type checker; members with a default are
optional.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, TypeVar, cast

from latens.catalogue import package_of
from latens.data.source import Source
from latens.experiments.bench import Case
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report
from latens.inference.onnx import Graph
from latens.inference.page import Section
from latens.training.config import AnyTrainConfig
from latens.training.objective import Trainable

if TYPE_CHECKING:
    import numpy as np
    import torch


class Loaded(Protocol):
    """Attributes of every loaded model: its name, weights, device and precision."""

    @property
    def name(self) -> str: ...
    @property
    def model_id(self) -> str:
        """Hash of its weights, hexadecimal."""
        ...

    @property
    def device(self) -> torch.device: ...
    @property
    def precision(self) -> str: ...


C = TypeVar("C", bound=AnyTrainConfig)
L = TypeVar("L", bound=Loaded)
L_co = TypeVar("L_co", bound=Loaded, covariant=True)
O = TypeVar("O")  # noqa: E741  settings of an evaluation
S = TypeVar("S")  # settings of the scale of an artifact


class Load(Protocol[L_co]):
    """Loads a model by name, folder or hub id. Raises ModelMissing, ModelError or DeviceUnavailable."""

    def __call__(self, place: str | Path, /, *, device: str = "auto", threads: int | None = None) -> L_co: ...


@dataclass(frozen=True)
class Example:
    """A small data set that a system writes for tests."""

    kind: Literal["image", "clip", "table"]  # of its inputs
    sources: Sequence[Source]  # to train on
    inputs: Sequence[Path]  # inputs for `apply`
    test_sources: Sequence[Source] = ()  # data for evaluation and artifacts; empty: the bundled data
    bare: Sequence[Source] | None = None  # training data that needs few packages; None: `sources`
    light: Mapping[str, str] = field(default_factory=dict)  # settings with which every recipe is built in seconds


def measures_all(loaded: Any, source: Source) -> bool:
    """False, the default of `Evaluation.holds_out`."""
    return False


@dataclass(frozen=True)
class Evaluation(Generic[L, O]):
    """Evaluation of a model. `options` are the defaults, which `--set` changes; `quick` are the options of a short run.

    `run` takes the model, the data (none: the bundled data), the options, and a folder for journals and images or None. `name`
    is that of its report, and `files` are patterns for the other files that it writes into the folder. `holds_out` is true for
    a source of which `run` measures only what a training leaves out.
    """

    options: O
    run: Callable[[L, Sequence[Source], O, Path | None], Report]
    quick: O | None = None
    name: str = "evaluation"
    files: tuple[str, ...] = ()
    holds_out: Callable[[L, Source], bool] = measures_all


def nothing_trained(scale: Any) -> Mapping[str, AnyTrainConfig]:
    """No training, the default of `Artifact.trainings`."""
    return {}


@dataclass(frozen=True)
class Artifact(Generic[L, S]):
    """A table or figure of a paper: the function that makes it, and its scales by recipe name.

    `trainings` gives the training configuration of every row at a scale, with the first seed and without the classes of the
    data. It is empty if nothing is trained: the report then names the model that was used.
    """

    make: Callable[[ExperimentRunner[L, S]], Report]
    scales: Mapping[str, S]
    trainings: Callable[[S], Mapping[str, AnyTrainConfig]] = nothing_trained


def no_cases(loaded: Any) -> Sequence[Case]:
    """No cases, the default of `System.cases`."""
    return ()


@dataclass(frozen=True, kw_only=True)
class System(Generic[C, L]):
    """A system of latens. C is its training configuration, L what `load` returns."""

    name: str
    title: str  # its purpose, in a few words
    recipes: Mapping[str, Callable[[], C]]  # the mapping of its recipes.py; docstrings are the lines of `latens recipes`
    example: Callable[[Path], Example]  # writes a small data set into a folder
    build: Callable[[C, Sequence[Source]], Trainable]  # model, objective and data of a training configuration
    load: Load[L]
    apply: Callable[[L, Path], Mapping[str, np.ndarray]]  # one input -> its result as arrays
    evaluation: Evaluation[L, Any]
    cases: Callable[[L], Sequence[Case]] = no_cases  # for `latens bench`
    artifacts: Mapping[str, Artifact[L, Any]] = field(default_factory=lambda: MappingProxyType({}))  # of its paper, by name
    graphs: Callable[[L], Sequence[Graph]] | None = None  # networks for `latens export`
    demo: Callable[[L, Path], Section] | None = None  # makes its section of `latens demo`, with files in the folder


AnySystem: TypeAlias = System[Any, Any]


def open_system(name: str) -> AnySystem:
    """The record of a system, imported now. Raises UsageError for an unknown name."""
    return cast("AnySystem", importlib.import_module(f"{package_of(name)}.system").SYSTEM)
