"""Parts as a system: what everything else knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.contract import Evaluation, Example, System
from latens.data.images import read_picture, write_image
from latens.data.samples import photographs
from latens.data.source import Source
from latens.experiments.bench import Case
from latens.systems.parts.artifacts import ARTIFACTS
from latens.systems.parts.baselines import build_model
from latens.systems.parts.build import build
from latens.systems.parts.config import LossConfig
from latens.systems.parts.demo import section
from latens.systems.parts.evaluate import PartsEvaluation, evaluate
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.objective import Elbo
from latens.systems.parts.predict import Parts, load
from latens.systems.parts.recipes import RECIPES, PartsTraining

BENCH_BATCH = 128  # images of a training step
EXAMPLE_SIDE = 64  # pixels of an example image
EXAMPLE_IMAGES = 16  # of each of two classes


def example(folder: Path) -> Example:
    """Blurred noise in two classes, of warm and of cold colors."""
    rng = np.random.default_rng(0)
    paths = []
    for name, tint in (("warm", (1.0, 0.7, 0.4)), ("cold", (0.4, 0.7, 1.0))):
        for number in range(EXAMPLE_IMAGES):
            coarse = rng.random((6, 6, 3)) * np.array(tint)
            image = Image.fromarray(np.rint(255 * coarse).astype(np.uint8)).resize((EXAMPLE_SIDE, EXAMPLE_SIDE))
            paths.append(folder / name / f"{number}.png")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            write_image(paths[-1], image)
    source = Source("", str(folder))
    return Example("image", [source], paths, [source])


def apply(parts: Parts, path: Path) -> Mapping[str, np.ndarray]:
    """The code of an image, and the image of the code."""
    (code,) = parts.encode(path)
    return {"occurrence": code.occurrence, "appearance": code.appearance, "decoded": np.asarray(parts.decode(code))}


def cases(parts: Parts) -> Sequence[Case]:
    """A training step on random images, and embedding, encoding and decoding of one photograph."""
    photo = read_picture(photographs()[0].path).pixels
    made = []
    if isinstance(parts.model, PatchVAE | BetaVAE):
        made.append(Case("training step", training_step(parts, BENCH_BATCH), BENCH_BATCH))
    made.append(Case("embed a photograph", lambda: parts.embed(photo)))
    if isinstance(parts.model, PatchVAE):
        (code,) = parts.encode(photo)
        made += [Case("encode a photograph", lambda: parts.encode(photo)), Case("decode a code", lambda: parts.decode(code))]
    return made


def training_step(parts: Parts, batch: int, losses: LossConfig | None = None) -> Callable[[], None]:
    """One whole update, float32 and channels last, of a fresh model of the same sizes; images are random."""
    model = build_model(parts.config).to(parts.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    objective = Elbo(losses or LossConfig())
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    shape = (batch, 3, parts.config.size, parts.config.size)
    image: Tensor = torch.rand(shape, device=parts.device).contiguous(memory_format=torch.channels_last)

    def act() -> None:
        for step in objective(model, {"image": image}, 0):
            optimizer.zero_grad(set_to_none=True)
            step.loss.backward()
            optimizer.step()

    return act


SYSTEM = System[PartsTraining, Parts](
    name="parts",
    title="Parts that repeat, found without labels",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(options=PartsEvaluation(), run=evaluate, quick=PartsEvaluation(probes=("linear", "knn"))),
    cases=cases,
    artifacts=ARTIFACTS,
    demo=section,
)
