"""What a system offers to everything above it: one frozen record of functions, `SYSTEM` in its module `system`.

A record instead of a class to derive from: its members are plain functions that a reader jumps to, and a missing one fails at
import and in the type checker by its name. Members without a default must be there; the others may be left out.
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
from latens.experiments.lab import Lab
from latens.experiments.report import Report
from latens.inference.page import Section
from latens.training.config import AnyTrainConfig
from latens.training.objective import Trainable

if TYPE_CHECKING:
    import numpy as np
    import torch


class Loaded(Protocol):
    """What every loaded model tells of itself."""

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
    """A small data set that a system wrote for tests and demonstrations."""

    kind: Literal["image", "clip", "table"]  # of its inputs
    sources: Sequence[Source]  # to train on
    inputs: Sequence[Path]  # to apply a model to
    test_sources: Sequence[Source] = ()  # to evaluate and reproduce on; empty: what comes with latens
    bare: Sequence[Source] | None = None  # to train on where few packages are installed; None: `sources`
    light: Mapping[str, str] = field(default_factory=dict)  # settings with which any recipe is built on it in seconds


@dataclass(frozen=True)
class Evaluation(Generic[L, O]):
    """How a model is measured. `options` are the defaults, which `--set` changes; `quick` those of a run of seconds.

    `run` takes the model, the data (none: what comes with latens), the options, and a folder for journals and images or None.
    """

    options: O
    run: Callable[[L, Sequence[Source], O, Path | None], Report]
    quick: O | None = None


@dataclass(frozen=True)
class Artifact(Generic[L, S]):
    """A table or figure of a paper: how it is made in a laboratory, and its scales by recipe name."""

    make: Callable[[Lab[L, S]], Report]
    scales: Mapping[str, S]


def no_cases(loaded: Any) -> Sequence[Case]:
    """For systems that time nothing."""
    return ()


@dataclass(frozen=True, kw_only=True)
class System(Generic[C, L]):
    """A system of latens. C is its training configuration, L what `load` returns."""

    name: str
    title: str  # what it does, in a few words
    recipes: Mapping[str, Callable[[], C]]  # the mapping of its recipes.py; docstrings are the lines of `latens recipes`
    example: Callable[[Path], Example]  # writes a small data set into a folder
    build: Callable[[C, Sequence[Source]], Trainable]  # model, objective and data of a training configuration
    load: Load[L]
    apply: Callable[[L, Path], Mapping[str, np.ndarray]]  # one input -> its result as arrays
    evaluation: Evaluation[L, Any]
    cases: Callable[[L], Sequence[Case]] = no_cases  # what `latens bench` times
    artifacts: Mapping[str, Artifact[L, Any]] = field(default_factory=lambda: MappingProxyType({}))  # of its paper, by name
    demo: Callable[[L, Path], Section] | None = None  # its section of `latens demo`; writes its files into the folder


AnySystem: TypeAlias = System[Any, Any]


def open_system(name: str) -> AnySystem:
    """The record of a system, imported now. Raises UsageError for an unknown name."""
    return cast("AnySystem", importlib.import_module(f"{package_of(name)}.system").SYSTEM)
