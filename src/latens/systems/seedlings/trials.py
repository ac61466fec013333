"""Trainings and measurements shared by the tables and figures of Perugachi-Diaz 2024, chapter 3."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from annotated_types import MinLen

from latens.data.source import Source
from latens.errors import counted
from latens.experiments.journal import digest
from latens.experiments.lab import ExperimentRunner
from latens.inference.device import transform_precision
from latens.settings import Count, Natural, settings
from latens.systems.seedlings.bootstrap import Difference, Measure, accuracy_of, auc_of, paired_difference
from latens.systems.seedlings.calibration import cross_entropy, probabilities
from latens.systems.seedlings.config import TORCHVISION, Backbone, CropsConfig, GraderConfig, GradingLossConfig
from latens.systems.seedlings.crops import Crops, Part, load_pack, save_pack, split
from latens.systems.seedlings.dataset import open_crops
from latens.systems.seedlings.evaluate import auc
from latens.systems.seedlings.predict import SeedlingGrader
from latens.systems.seedlings.recipes import RECIPES, SeedlingTraining
from latens.training.config import Adam, Sgd

SplitBy = Literal["", "tray", "plant", "leaky"]


@settings
class ChapterScale:
    """Data, models and length of the trainings of the chapter."""

    trays: Count = 88  # number of simulated trays without data
    rows: Count = 10  # rows of cells in a tray
    cols: Count = 15  # columns of cells in a tray
    days: Annotated[tuple[Natural, ...], MinLen(1)] = (4, 5, 6, 7)  # days of the photographs
    preset: Literal["easy", "thesis", "hard"] = "thesis"  # difficulty of the simulated trays
    method: Literal["lattice", "thesis", "truth"] = "lattice"  # grid fit of trays
    size: Count = 64  # side of the crops in pixels
    split: Literal["tray", "plant", "leaky"] = "tray"  # unit of the split; the thesis uses leaky
    models: tuple[Backbone, ...] = ("logistic", "mlp500", "mlp1000-500", "small")  # models of Table 3.5 and Figures 3.3 and 3.6
    networks: tuple[Backbone, ...] = ("small",)  # models of Figures 3.4 and 3.5
    best: Backbone = "small"  # model of Table 3.6 and Figures 3.7 and 3.8 (AlexNet in the thesis)
    runs: Count = 3  # number of seeds of each training
    epochs: Count = 6  # epochs of the balanced training set
    checks: Count = 1  # validations per epoch
    precision: Literal["auto", "bf16", "no"] = "auto"  # training precision; auto: bf16 if it is faster on the device
    protocol: Literal["cpu", "paper"] = "cpu"  # cpu: momentum, He-normal weights; paper: as in the thesis
    width: Count = 8  # width of the network `small`
    pretrained: str = ""  # file with ImageNet weights for torchvision networks


SCALES: Mapping[str, ChapterScale] = MappingProxyType(
    {
        "tiny": ChapterScale(
            trays=5, rows=4, cols=6, days=(5, 6), preset="easy", method="truth", size=32, models=("logistic", "small"),
            runs=1, epochs=2, width=4,
        ),
        "cpu": ChapterScale(),
        "paper": ChapterScale(
            split="leaky", models=("logistic", "mlp500", "alexnet"), networks=("alexnet", "densenet121", "resnet101", "vgg16"),
            best="alexnet", runs=3, epochs=500,
            protocol="paper",
        ),
    }
)  # fmt: skip
ChapterLab: TypeAlias = ExperimentRunner[SeedlingGrader, ChapterScale]
RATES: Mapping[str, float] = MappingProxyType(
    {"logistic": 3e-3, "mlp500": 1e-2, "mlp1000-500": 1e-2}
)  # learning rates of protocol `cpu`; others 1e-2
PAPER: Mapping[str, tuple[float, float]] = MappingProxyType(  # Table 3.4: learning rate and weight decay
    {"logistic": (1e-4, 1e-7), "mlp500": (1e-3, 1e-5), "mlp1000-500": (1e-3, 1e-5)}
)
DISPLAY_NAMES: Mapping[str, str] = MappingProxyType(
    {"logistic": "LR", "mlp500": "500-MLP", "mlp1000-500": "(1000, 500)-MLP", "small": "small CNN", "alexnet": "AlexNet",
     "densenet121": "DenseNet121", "resnet101": "ResNet101", "vgg16": "VGG16"}
)  # fmt: skip


class Data(NamedTuple):
    """Crops of the artifacts: as a source for training, and in memory."""

    source: Source
    crops: Crops
    identity: str


class Variant(NamedTuple):
    """Changes of a training relative to the protocol of the chapter."""

    oversample: bool = True
    augment: bool = True
    weighted: bool = False
    split: SplitBy = ""  # "": split of the scale
    adam: bool = False
    lr: float = 0.0  # 0: learning rate of the protocol
    decay: float = -1.0  # below 0: weight decay of the protocol
    days: tuple[int, ...] = ()  # several: one model of these days with the day as an input


CHAPTER = Variant()
"""Protocol of most of the chapter: oversampling and augmentation."""


class Measured(NamedTuple):
    """Predictions of a model on one day of one part: labels, trays, raw and corrected probabilities of success."""

    label: np.ndarray
    tray: np.ndarray
    raw: np.ndarray
    corrected: np.ndarray

    @property
    def loss(self) -> float:
        return cross_entropy(np.stack([1 - self.raw, self.raw], 1), self.label)

    @property
    def corrected_loss(self) -> float:
        return cross_entropy(np.stack([1 - self.corrected, self.corrected], 1), self.label)

    @property
    def accuracy(self) -> float:
        return float(((self.raw >= 0.5) == self.label).mean())

    @property
    def corrected_accuracy(self) -> float:
        return float(((self.corrected >= 0.5) == self.label).mean())

    @property
    def auc(self) -> float:
        return auc(self.raw, self.label)


def data_of(lab: ChapterLab) -> Data:
    """Crops of the sources, or of simulated trays; stored as a pack in the output folder."""
    scale = lab.scale
    config = CropsConfig(
        trays=scale.trays, rows=scale.rows, cols=scale.cols, days=scale.days, preset=scale.preset, method=scale.method
    )
    key = {"crops": config, "size": scale.size, "data": [str(source) for source in lab.sources]}
    path = lab.folder / f"crops-{digest(key)[:8]}.npz"
    if not path.is_file():
        save_pack(open_crops(lab.sources, GraderConfig(size=scale.size), config), path)
    return _data_at(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _data_at(path: Path, changed: int) -> Data:
    crops = load_pack(path)
    return Data(Source("", str(path)), crops, crops.fingerprint())


def data_config(scale: ChapterScale, day: int, variant: Variant) -> CropsConfig:
    """Data of one model on one day, or on the days of the variant."""
    split_by = variant.split or scale.split
    return CropsConfig(days=variant.days or (day,), split=split_by, oversample=variant.oversample, augment=variant.augment)


def config_of(
    scale: ChapterScale, backbone: Backbone, day: int, seed: int = 0, variant: Variant = CHAPTER, per_epoch: int = 1
) -> SeedlingTraining:
    """Training configuration of one model; `per_epoch` is the number of batches of an epoch, which depends on the data."""
    data = data_config(scale, day, variant)
    days = data.days
    steps = max(2, scale.epochs * per_epoch)
    paper = scale.protocol == "paper"
    rate, decay = PAPER.get(backbone, (1e-4, 1e-5)) if paper else (RATES.get(backbone, 1e-2), 1e-5)
    rate, decay = variant.lr or rate, decay if variant.decay < 0 else variant.decay
    recipe = RECIPES["paper" if paper else "cpu_day"]()
    assert isinstance(recipe.optim, Sgd)
    optim = Adam(lr=variant.lr or 1e-3, warmup=0, decay_share=0.0, ema=0.0) if variant.adam else replace(
        recipe.optim, lr=rate, weight_decay=decay, warmup=min(recipe.optim.warmup, steps // 10)
    )  # fmt: skip
    model = GraderConfig(
        backbone=backbone, size=scale.size, width=scale.width, init="torch" if paper else "he",
        days=days if len(days) > 1 else (), pretrained=scale.pretrained if backbone in TORCHVISION else "",
        dropout=0.0 if paper else 0.1,
    )  # fmt: skip
    run = replace(
        recipe.run, steps=steps, seed=seed, precision=precision_of(scale, backbone), log_every=per_epoch,
        validate_every=max(1, per_epoch // scale.checks), checkpoint_every=10 * per_epoch,
    )  # fmt: skip
    return replace(
        recipe,
        model=model,
        data=data,
        optim=optim,
        run=run,
        objective=GradingLossConfig(weighted=variant.weighted, select="raw" if paper else "corrected"),
    )


def precision_of(scale: ChapterScale, backbone: Backbone) -> Literal["bf16", "no"]:
    """Precision of a training. Logistic regression always uses float32 with `auto`."""
    if scale.precision != "auto":
        return scale.precision
    gains = transform_precision(torch.device("cuda" if torch.cuda.is_available() else "cpu")) == "bfloat16"
    return "bf16" if gains and backbone != "logistic" else "no"


def epoch_steps(crops: Crops, config: CropsConfig) -> int:
    """Number of batches of one epoch."""
    of_days = crops.of_days(config.days)
    labels = of_days.label[split(of_days, config.split, config.train_share, config.validation_share)["train"]]
    counts = np.bincount(labels[labels >= 0], minlength=2)
    total = 2 * counts.max() if config.oversample else counts.sum()
    return max(1, -(-int(total) // config.batch))


def trained(lab: ChapterLab, backbone: Backbone, day: int, seed: int, variant: Variant = CHAPTER) -> Path:
    """Folder of a trained model."""
    data = data_of(lab)
    per_epoch = epoch_steps(data.crops, data_config(lab.scale, day, variant))
    config = config_of(lab.scale, backbone, day, seed, variant, per_epoch)
    name = f"{backbone}-{'-'.join(map(str, config.data.days))}-{seed}"
    return lab.trained(config, name=name, sources=[data.source], identity=[data.identity])


def measured(lab: ChapterLab, model: Path, backbone: Backbone, day: int, part: Part, split_by: SplitBy = "") -> Measured:
    """Predictions of a model on one day of a part; recorded predictions are reused."""
    data = data_of(lab)
    by = split_by or lab.scale.split
    of_day = data.crops.of_days([day])
    defaults = CropsConfig()
    indices = split(of_day, by, defaults.train_share, defaults.validation_share)[part]
    chosen = of_day.take(indices)
    chosen = chosen.take(chosen.label >= 0)
    grader: list[SeedlingGrader] = []

    def measure() -> dict[str, Any]:
        grader.append(lab.open_model(model))
        raw, corrected = raw_and_corrected(grader[0], chosen.pixels, day)
        return {"raw": np.round(raw, 5).tolist(), "corrected": np.round(corrected, 5).tolist()}

    from latens.hub import load_model

    key = {"measured": load_model(model).sha256, "day": day, "part": part, "split": by, "data": data.identity}
    found = lab.once(key, measure)
    return Measured(chosen.label, chosen.tray, np.array(found["raw"]), np.array(found["corrected"]))


def raw_and_corrected(grader: SeedlingGrader, pixels: np.ndarray, day: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of success at the training priors, and after calibration."""
    logits = grader.logits(pixels, day)
    return probabilities(logits)[:, 1], probabilities(logits, grader.calibration(day))[:, 1]


def curve(model: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric that is logged at each validation."""
    lines = (model.parent / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "validation" and name in record]
    return [record["step"] for record in records], [record[name] for record in records]


def paired_bootstrap(first: Measured, second: Measured, what: Literal["auc", "accuracy", "corrected_accuracy"]) -> Difference:
    """Difference first - second of a measure of two models on the same plants."""
    return paired_difference(_measure(first, what), _measure(second, what), first.tray)


def _measure(found: Measured, what: str) -> Measure:
    if what == "auc":
        return auc_of(found.raw, found.label)
    return accuracy_of(found.raw if what == "accuracy" else found.corrected, found.label)


def about(lab: ChapterLab) -> str:
    """Data and training schedule as text."""
    scale = lab.scale
    sources = lab.sources or [Source("simulated", scale.preset)]
    data = ", ".join(f"{scale.trays} simulated trays ({one.place})" if one.kind == "simulated" else str(one) for one in sources)
    arithmetic = {{"bf16": "bfloat16", "no": "float32"}[precision_of(scale, one)] for one in (*scale.models, *scale.networks)}
    schedule = f"{counted(scale.epochs, 'epoch')}, {counted(scale.runs, 'run')}, protocol {scale.protocol}"
    schedule += f", {' and '.join(sorted(arithmetic))}"
    return f"{data}; split by {scale.split}; {schedule}; recipe {lab.recipe}"


def each_run(scale: ChapterScale) -> Sequence[int]:
    """Seeds of the repeated runs of a model: 0 to `scale.runs` - 1."""
    return range(scale.runs)
