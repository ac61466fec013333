"""Puts model, objective and data of a training configuration together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latens.errors import ModelError, UsageError
from latens.hub import load_model
from latens.systems.amodal.config import AmodalConfig
from latens.systems.amodal.dataset import AmodalData
from latens.systems.amodal.objective import AmodalObjective
from latens.systems.amodal.pipeline import STRIDE, AmodalRCNN
from latens.systems.amodal.sources import Annotated, Source, source_of
from latens.training.config import TrainConfig
from latens.training.objective import Trainable


def build(config: TrainConfig, data: Sequence[Path]) -> Trainable:
    """`data` are words of `sources`; without any, embryos are simulated.

    Raises UsageError for settings that do not fit, InputError for data sets of different classes.
    """
    sources = [source_of(str(word)) for word in data] or [source_of("simulated")]
    for source in sources:
        if isinstance(source, Annotated):
            source.turns = config.data.turns
    sizes = replace(config.model, classes=common_classes(sources, config.model.classes))
    check(sizes)
    model = AmodalRCNN(sizes)
    code_steps = config.objective.code_steps
    if model.code is None:
        code_steps = 0
    elif config.objective.code_from:
        take_code(model, Path(config.objective.code_from))
        code_steps = 0
    objective = AmodalObjective(config.objective, model, code_steps)
    feed = AmodalData(sources, sizes, config.data, code_steps, config.objective, config.run.seed)
    return Trainable(model, objective, feed)


def common_classes(sources: Sequence[Source], wanted: Sequence[str]) -> tuple[str, ...]:
    """The classes of the model: those wanted, or those of the data. Simulated and single-class data fit any single class.

    Raises UsageError when the data sets do not have the same classes in the same order.
    """
    names = [tuple(source.classes) for source in sources]
    classes = tuple(wanted) or names[0]
    for found in names:
        if found != classes and not len(found) == len(classes) == 1:
            raise UsageError(
                f"data of the classes {', '.join(found)} for a model of the classes {', '.join(classes)}",
                where="--data",
                hint="train on one set of classes; --set model.classes=[...] names them",
            )
    return classes


def check(config: AmodalConfig) -> None:
    """Raises UsageError for sizes that cannot be built."""
    if config.size % STRIDE or config.size < 2 * STRIDE:
        raise UsageError(f"pictures of {config.size} pixels", where="model.size", hint=f"choose a multiple of {STRIDE}")
    if config.head.mask not in ("vq", "fcn"):
        raise UsageError(f"no mask head '{config.head.mask}'", where="model.head.mask", hint="use vq or fcn")
    if config.backbone.kind not in ("slim", "resnet50"):
        raise UsageError(f"no backbone '{config.backbone.kind}'", where="model.backbone.kind", hint="use slim or resnet50")


def take_code(model: AmodalRCNN, folder: Path) -> None:
    """Loads the mask code of another model of this system, and freezes it. Raises ModelError when its sizes differ."""
    assert model.code is not None
    prefix = "code."
    weights = {
        name.removeprefix(prefix): tensor for name, tensor in load_model(folder).weights.items() if name.startswith(prefix)
    }
    try:
        model.code.load_state_dict(weights)
    except RuntimeError as error:
        what = f"its mask code does not fit ({str(error).splitlines()[-1].strip()})"
        raise ModelError(what, where=str(folder), hint="use the same sizes under model.code") from None
    model.code.requires_grad_(False)
