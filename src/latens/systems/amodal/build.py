"""Puts model, objective and data of a training configuration together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latens.data.source import Source
from latens.errors import ModelError, UsageError
from latens.hub import load_model
from latens.systems.amodal.dataset import AmodalData
from latens.systems.amodal.objective import AmodalObjective
from latens.systems.amodal.pipeline import AmodalRCNN
from latens.systems.amodal.recipes import AmodalTraining
from latens.systems.amodal.sources import Annotated, ImageSource, source_of
from latens.training.objective import Trainable


def build(config: AmodalTraining, sources: Sequence[Source]) -> Trainable:
    """The parts of a run; without sources, embryos are simulated.

    Raises UsageError for words that name no data, InputError for data sets of different classes.
    """
    images = [source_of(str(source)) for source in sources] or [source_of("simulated")]
    for each in images:
        if isinstance(each, Annotated):
            each.rotate = config.data.rotate
    sizes = replace(config.model, classes=common_classes(images, config.model.classes))
    model = AmodalRCNN(sizes)
    code_steps = config.objective.code_steps
    if model.code is None:
        code_steps = 0
    elif config.objective.code_from:
        take_code(model, Path(config.objective.code_from))
        code_steps = 0
    objective = AmodalObjective(config.objective, model, code_steps)
    feed = AmodalData(images, sizes, config.data, code_steps, config.objective, config.run.seed)
    return Trainable(model, objective, feed)


def common_classes(sources: Sequence[ImageSource], wanted: Sequence[str]) -> tuple[str, ...]:
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
