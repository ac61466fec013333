"""Table 1 of Li et al. 2019 and an ablation of its prior, on scenes with depth. The models of all rows are trained first."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from latens.contract import Artifact
from latens.data.source import Source, one_source, parse_sources
from latens.errors import counted
from latens.experiments.lab import RUNS, WHAT, ExperimentRunner
from latens.experiments.report import Report
from latens.experiments.trainings import settings_of, training_of
from latens.inference.page import Table
from latens.settings import Count, Natural, Positive, settings, to_dict
from latens.systems.haze.config import PriorConfig, TranslationLossConfig
from latens.systems.haze.evaluate import SUPERVISION, Measured, folder_of_scenes, measure, report
from latens.systems.haze.predict import Haze
from latens.systems.haze.protocol import DEHAZE, SYNTHESIS, Protocol
from latens.systems.haze.recipes import TABLE_1, HazeTraining
from latens.training.config import shortened

logger = logging.getLogger(__name__)

ROWS = ("unit", "cyclegan", "dehazenet", "mmd", "physical")
PRIORS: Mapping[str, PriorConfig] = MappingProxyType(
    {
        "none": PriorConfig(kind="none"),
        "KL": PriorConfig(kind="kl"),
        "MMD, lambda 0.01": PriorConfig(weight=0.01),
        "MMD, lambda 1": PriorConfig(weight=1.0),
        "MMD, lambda 10": PriorConfig(weight=10.0),
        "MMD, five kernels": PriorConfig(weight=1.0, kernels=(0.25, 0.5, 1.0, 2.0, 4.0)),
    }
)


@settings
class TableScale:
    """Length of the training runs, and the test scenes."""

    minutes: Positive = 60.0  # training time per row and call of the command
    steps: Natural = 0  # training steps; 0: those of the recipe
    prefix: Literal["tiny", "cpu", "paper"] = "cpu"  # scale of the recipes
    train: str = ""  # folders of training scenes (A,B), in addition to simulated streets; at scale paper instead of them
    streets: Natural | None = None  # simulated streets for training; none: those of the recipe
    side: Count = 240  # short side of the test scenes in pixels
    draws: Count = 3  # draws of airlight and beta per scene
    scenes: Natural = 0  # largest number of test scenes; 0: all
    border: Natural = 0  # pixels cropped from every side


SCALES: Mapping[str, TableScale] = MappingProxyType(
    {
        "tiny": TableScale(minutes=1.0, steps=2, prefix="tiny", streets=2, side=96, draws=1, scenes=2),
        "cpu": TableScale(),
        "paper": TableScale(minutes=6000.0, prefix="paper"),
    }
)
HazeLab: TypeAlias = ExperimentRunner[Haze, TableScale]


def table1(lab: HazeLab) -> Report:
    """Table 1. Every learned method is trained at the scale of the table, unless the run folder or --model has its model."""
    haze, trainings = with_all_methods(lab)
    found = measure(haze, test_folder(lab), protocol_of(lab), lab.folder)
    return with_scale(lab, report("table1", found, trainings))


def ablation(lab: HazeLab) -> Report:
    """Ablation of the prior of the code: none, KL divergence (UNIT), MMD (the paper) with several weights and kernels."""
    rows: list[list[str]] = []
    found: Measured | None = None
    for name, config in prior_configs(lab.scale).items():
        best = trained(lab, config, f"prior-{name.replace(' ', '-').replace(',', '')}")
        found = measure(lab.open_model(best), test_folder(lab), protocol_of(lab), lab.folder)
        means = found.means()
        cells = [means[task, "mmd"] for task in (DEHAZE, SYNTHESIS)]
        numbers = [text for psnr, ssim, _ in cells for text in (f"{psnr:.2f}", "-" if ssim is None else f"{ssim:.4f}")]
        rows.append([name, *numbers, f"{code_snr(best.parent):.1f}"])
    assert found is not None
    columns = ["prior", "removal PSNR", "SSIM", "synthesis PSNR", "SSIM ", "code SNR dB"]
    caption = "Code SNR: variance of the mean of the code relative to the unit variance of its noise, at the end of training."
    made = Report(name="ablation", title="Prior of the code", about=found.setting(), blocks=[Table(columns, rows, caption)])
    return with_scale(lab, made)


def with_all_methods(lab: HazeLab) -> tuple[Haze, dict[str, str]]:
    """All learned methods, and how each was trained.

    The model given by --model is used for its own method, a model that was trained elsewhere and copied to OUT/runs for the
    method of its settings. The others are trained here.
    """
    haze, trainings = lab.loaded, {}
    for kind in ROWS:
        if kind in haze.given:
            trainings[kind] = f"--model {haze.name}, weights {haze.model_id[:12]}; {SUPERVISION[kind]}"
            continue
        folder = trained_elsewhere(lab.folder / RUNS, kind) or trained(lab, row_config(lab.scale, kind), kind)
        haze.add(folder)
        trainings[kind] = f"{training_of(folder)}{streets_of(folder)}; {SUPERVISION[kind]}"
    return haze, trainings


def streets_of(model: Path) -> str:
    """The number of simulated streets among the training data of RUN/best, as text; empty if the run is not known."""
    streets = settings_of(model.parent).get("data", {}).get("scenes")
    return f"; {counted(streets, 'simulated street')}" if streets else ""


def trained_elsewhere(runs: Path, kind: str) -> Path | None:
    """The best weights of a run of a method in OUT/runs that this command did not start, for example a run of `latens train`.

    The first by name, if there are several.
    """
    for best in sorted(runs.glob("*/best")):
        found = {} if (best.parent / WHAT).exists() else settings_of(best)
        if found.get("system") == "haze" and found.get("model", {}).get("kind") == kind:
            logger.info("%s: %s, which was not trained by this command (%s)", kind, best.parent, training_of(best))
            return best
    return None


def with_scale(lab: HazeLab, made: Report) -> Report:
    """The report with the scale added to its facts."""
    return replace(made, facts={**made.facts, "recipe": lab.recipe, "scale": to_dict(lab.scale)})


def test_folder(lab: HazeLab) -> Path | None:
    return folder_of_scenes(one_source(lab.sources))


def protocol_of(lab: HazeLab) -> Protocol:
    """The evaluation protocol of the scale."""
    scale = lab.scale
    return Protocol(side=scale.side, draws=scale.draws, scenes=scale.scenes, border=scale.border)


def row_config(scale: TableScale, kind: str) -> HazeTraining:
    """The training configuration of a row."""
    config = TABLE_1[scale.prefix][kind]()
    run = replace(config.run, steps=scale.steps or config.run.steps)
    streets = 0 if scale.prefix == "paper" and scale.train else config.data.scenes
    streets = streets if scale.streets is None else scale.streets
    data = replace(config.data, border=scale.border or config.data.border, scenes=streets)
    return replace(config, run=run, optim=shortened(config.optim, run.steps), data=data)


def row_configs(scale: TableScale) -> dict[str, HazeTraining]:
    """The training configurations of the rows of Table 1."""
    return {kind: row_config(scale, kind) for kind in ROWS}


def prior_configs(scale: TableScale) -> dict[str, HazeTraining]:
    """The training configurations of the ablation: the paper's model with each prior."""
    config = row_config(scale, "mmd")
    assert isinstance(config.objective, TranslationLossConfig)
    positions = config.objective.prior.positions
    objectives = {name: replace(config.objective, prior=replace(prior, positions=positions)) for name, prior in PRIORS.items()}
    return {name: replace(config, objective=objective) for name, objective in objectives.items()}


def trained(lab: HazeLab, config: HazeTraining, name: str) -> Path:
    """Model folder with the best weights of a row. Starts or continues its run, for at most `minutes` per call."""
    sources: list[Source] = parse_sources(folder for folder in lab.scale.train.split(",") if folder)
    return lab.trained(config, name=name, sources=sources, max_time=60 * lab.scale.minutes)


def code_snr(run: Path) -> float:
    """The last logged signal-to-noise ratio of the code of a run, in dB."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    values = [json.loads(line).get("code_snr_db") for line in lines if '"train"' in line]
    return float(values[-1])


TABLES: Mapping[str, Artifact[Haze, TableScale]] = MappingProxyType(
    {"table1": Artifact(table1, SCALES, row_configs), "ablation": Artifact(ablation, SCALES, prior_configs)}
)
