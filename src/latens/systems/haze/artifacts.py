"""Table 1 of Li et al. 2019 and an ablation of its prior, on scenes with depth. Missing models are trained first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from latens.catalogue import recipe_of
from latens.contract import Artifact
from latens.data.source import Source, one_source, parse_sources
from latens.errors import UsageError
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report
from latens.inference.page import Table
from latens.settings import Count, Natural, Positive, settings, to_dict
from latens.systems.haze.config import TRANSLATORS, PriorConfig, TranslationLossConfig
from latens.systems.haze.evaluate import Measured, folder_of_scenes, measure, report
from latens.systems.haze.networks import recipe_for
from latens.systems.haze.predict import Haze
from latens.systems.haze.protocol import DEHAZE, SYNTHESIS, Protocol
from latens.systems.haze.recipes import HazeTraining, cyclegan, unit

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
    prefix: Literal["tiny", "cpu", "paper"] = "cpu"  # first part of the names of the recipes
    train: str = ""  # folders of training scenes (A,B) in addition to simulated streets
    side: Count = 240  # short side of the test scenes in pixels
    draws: Count = 3  # draws of airlight and beta per scene
    scenes: Natural = 0  # largest number of test scenes; 0: all
    border: Natural = 0  # pixels cropped from every side


SCALES: Mapping[str, TableScale] = MappingProxyType(
    {
        "tiny": TableScale(minutes=1.0, steps=8, prefix="tiny", side=96, draws=1, scenes=2),
        "cpu": TableScale(),
        "paper": TableScale(minutes=6000.0, prefix="paper"),
    }
)
HazeLab: TypeAlias = ExperimentRunner[Haze, TableScale]


def table1(lab: HazeLab) -> Report:
    """Table 1; models without weights are trained."""
    haze = with_all_methods(lab)
    return with_scale(lab, report("table1", haze, measure(haze, test_folder(lab), protocol_of(lab), lab.folder)))


def ablation(lab: HazeLab) -> Report:
    """Ablation of the prior of the code: none, KL divergence (UNIT), MMD (the paper) with several weights and kernels."""
    rows: list[list[str]] = []
    found: Measured | None = None
    for name, prior in PRIORS.items():
        config = row_config(lab.scale, "mmd")
        assert isinstance(config.objective, TranslationLossConfig)
        positions = config.objective.prior.positions
        config = replace(config, objective=replace(config.objective, prior=replace(prior, positions=positions)))
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


def with_all_methods(lab: HazeLab) -> Haze:
    """The loaded model with all methods of Table 1; those without weights are trained."""
    haze = lab.loaded
    for kind in ROWS:
        if not haze.has(kind):
            haze.add(trained(lab, row_config(lab.scale, kind), kind))
    return haze


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
    config: HazeTraining = recipe_of("haze", recipe_name(scale, kind))
    if scale.prefix != "cpu" and kind in VARIANTS:
        config = VARIANTS[kind](config)
    run = replace(config.run, steps=scale.steps or config.run.steps)
    data = replace(config.data, border=scale.border or config.data.border)
    return replace(config, run=run, data=replace(data, scenes=2) if scale.prefix == "tiny" else data)


def recipe_name(scale: TableScale, kind: str) -> str:
    """The recipe of a row. Raises UsageError if there is none."""
    if scale.prefix == "tiny":
        if kind == "dehazenet":
            hint = "train it with `latens train haze --recipe cpu_dehazenet`"
            raise UsageError("there is no tiny recipe of dehazenet", hint=hint)
        return "tiny" if kind == "physical" else "tiny_mmd"
    return "paper" if scale.prefix == "paper" and kind in TRANSLATORS else recipe_for(kind)


VARIANTS: Mapping[str, Callable[[HazeTraining], HazeTraining]] = MappingProxyType({"unit": unit, "cyclegan": cyclegan})


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
    {"table1": Artifact(table1, SCALES), "ablation": Artifact(ablation, SCALES)}
)
