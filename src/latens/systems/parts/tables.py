"""Tables 1 to 7 of Gupta et al. 2020 with the published numbers, and part IoU on simulated scenes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from latens.contract import Artifact
from latens.data.files import write_atomic
from latens.data.source import Source, one_source
from latens.errors import UsageError, counted
from latens.experiments.lab import ExperimentRunner
from latens.experiments.probes import PROBES, Probe
from latens.experiments.report import Report, seeds_of, spread
from latens.inference.page import Block, Table
from latens.settings import to_dict
from latens.systems.parts.config import CodeConfig, PatchVAEConfig, PatchVAELoss
from latens.systems.parts.discovery import discover
from latens.systems.parts.evaluate import Features, reconstruction_quality
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.predict import Parts, load
from latens.systems.parts.published import (
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    Ablation,
    published_set,
)
from latens.systems.parts.recipes import (
    TABLE_1_ROWS,
    PartsTraining,
    Row,
    Variant,
    betavae,
    compose,
    contrastive,
    iic,
    local,
    one_part_per_cell,
    untrained,
    weighted,
)
from latens.systems.parts.simulator import simulate_scenes
from latens.systems.parts.trials import (
    DiscoveryScale,
    S,
    Table1Scale,
    Table2Scale,
    Table7Scale,
    TableScale,
    Trials,
    probing,
    row_training,
    scales_of,
)

PUBLISHED_PROBES = ("conv1", "conv1-3", "conv1-5")
ABLATED: Probe = "conv1-5"
SCENE_KINDS, SCENE_SIZE, SCORED, SCENE_BATCH = 4, 64, 200, 32


# ------------------------------------------------------------------------------------------------------------ tables


Variants = Mapping[str, Variant]  # by row


def rows_of_table1(scale: Table1Scale) -> Variants:
    """The rows that are trained for Table 1."""
    return {name: TABLE_1_ROWS[name] for name in scale.rows or TABLE_1_ROWS}


def table1(trials: Trials, scale: Table1Scale) -> list[Block]:
    """All rows and probes. Published numbers are for the same data set if available, else for CIFAR-100."""
    trials.complete(rows_of_table1(scale).values(), scale.probes or PROBES)
    known = published_set(trials.train.name)
    rows = []
    for name, variant in TABLE_1_ROWS.items():
        cells = [spread(trials.score(name, variant, probe).top1) for probe in PROBES]
        printed = TABLE_1[known].get(name)
        rows.append([name, *cells, *(["-"] * 3 if printed is None else [f"{value:.2f}" for value in printed])])
    columns = ["model", *PROBES, *(f"published {probe}" for probe in PUBLISHED_PROBES)]
    caption = (
        f"{trials.train.name}: top-1 in percent, {probing(scale)}. {seeds_of(scale.seeds)} "
        f"Published: {known}, one run, best test epoch; the supervised row was trained on ImageNet."
    )
    return [Table(columns, rows, caption)]


def whole_resnet(config: PartsTraining) -> PartsTraining:
    """A whole ResNet-18 on images of at least 32 pixels, and 64 parts of 16 dimensions."""
    model = replace(config.model, encoder="resnet", blocks=4, size=max(32, config.model.size))
    return replace(config, model=replace(model, parts=64, appearance=16) if isinstance(model, CodeConfig) else model)


RESNETS: Mapping[Row, Variant] = MappingProxyType({name: compose(TABLE_1_ROWS[name], whole_resnet) for name in TABLE_2})


def rows_of_table2(scale: Table2Scale) -> Variants:
    """The rows that are trained for Table 2."""
    return {name: RESNETS[name] for name in scale.rows or TABLE_2}


def table2(trials: Trials, scale: Table2Scale) -> list[Block]:
    """A whole ResNet-18; the probe freezes the first convolution and two residual stages."""
    trials.complete(rows_of_table2(scale).values(), [ABLATED])
    rows = []
    for name, printed in TABLE_2.items():
        score = trials.score(name, RESNETS[name], ABLATED)
        rows.append([name, spread(score.top1), spread(score.top5), *(f"{value:.2f}" for value in printed)])
    columns = ["model", "top-1", "top-5", "published top-1 (ImageNet)", "published top-5"]
    return [Table(columns, rows, f"{trials.train.name}, {probing(scale)}. {seeds_of(scale.seeds)}")]


class Ablated(NamedTuple):
    """A setting of PatchVAE and its published results."""

    title: str
    published: Ablation
    change: Callable[[PartsTraining, float], PartsTraining]

    def variants(self, scale: TableScale) -> Variants:
        """The rows: PatchVAE with every value of the setting."""
        return {f"{value:g}": partial(_apply, self.change, value) for value in self.published}


def ablation(ablated: Ablated, trials: Trials, scale: TableScale) -> list[Block]:
    """Conv[1-5] of PatchVAE over the values of one setting."""
    variants, title = ablated.variants(scale), ablated.title
    trials.complete(variants.values(), [ABLATED])
    rows = []
    for (value, variant), (cifar, indoor) in zip(variants.items(), ablated.published.values(), strict=True):
        score = trials.score(f"{title} {value}", variant, ABLATED)
        rows.append([value, spread(score.top1), f"{cifar:.2f}", f"{indoor:.2f}"])
    caption = (
        f"{title} of PatchVAE; {ABLATED}, {trials.train.name}, top-1 in percent, {probing(scale)}. {seeds_of(scale.seeds)}"
    )
    return [Table([title, "ours", "published CIFAR-100", "published Indoor-67"], rows, caption)]


def _apply(change: Callable[[PartsTraining, float], PartsTraining], value: float, config: PartsTraining) -> PartsTraining:
    return change(config, value)


def _model(config: PartsTraining) -> PatchVAEConfig:
    assert isinstance(config.model, PatchVAEConfig)
    return config.model


def _loss(config: PartsTraining) -> PatchVAELoss:
    assert isinstance(config.objective, PatchVAELoss)
    return config.objective


TABLE3 = Ablated("N", TABLE_3, lambda c, value: replace(c, model=replace(_model(c), parts=int(value))))
TABLE4 = Ablated("d_p", TABLE_4, lambda c, value: replace(c, model=replace(_model(c), appearance=int(value))))
TABLE5 = Ablated("prior", TABLE_5, lambda c, value: replace(c, objective=replace(_loss(c), prior=value)))
TABLE6 = Ablated("beta_occ", TABLE_6, lambda c, value: replace(c, objective=replace(_loss(c), beta_occ=value)))
"""Number of parts; dimensions of an appearance; prior of an occurrence; weight of its divergence for pixels in [0, 1]."""


def rows_of_table7(scale: Table7Scale) -> Variants:
    """The rows of Table 7."""
    return {name: TABLE_1_ROWS[name] for name in TABLE_7}


def table7(trials: Trials, scale: Table7Scale) -> list[Block]:
    """Reconstruction quality on test images."""
    features = None if scale.features is None else feature_network(scale.features, trials.lab.device)
    trials.complete(rows_of_table7(scale).values())
    rows = []
    for name, printed in TABLE_7.items():
        found = []
        for seed in range(scale.seeds):
            parts = trials.model(TABLE_1_ROWS[name], seed)
            assert isinstance(parts.model, PatchVAE | BetaVAE)
            found.append(reconstruction_quality(parts.model, trials.squares(parts.config.size), features))
            trials.rows.append({"model": name, "seed": seed, **found[-1]._asdict()})
        distance = "-" if features is None else spread([q.frechet or 0.0 for q in found])
        ours = [spread([q.psnr for q in found]), distance, spread([q.ssim for q in found])]
        rows.append([name, *ours, *(f"{value:g}" for value in printed)])
    columns = ["model", "PSNR dB", "FID", "SSIM", "published PSNR", "published FID", "published SSIM"]
    caption = (
        f"{trials.test.name}. {seeds_of(scale.seeds)} PSNR for pixels in [0, 1]; the published PSNR is for pixels divided by "
        "the deviation of ImageNet: add 12.9 dB. FID on the features of --set features=MODEL."
    )
    return [Table(columns, rows, caption)]


def feature_network(model: str, device: str) -> Features:
    """The encoder of a model, averaged over cells."""
    encoder = load(model, device=device).model.encoder
    return lambda images: encoder(images).mean((2, 3))


def rows_of_discovery(scale: DiscoveryScale) -> Variants:
    """The rows of the table of part IoU."""
    local_parts = compose(_scene_sized, local, weighted)
    return {
        "local PatchVAE + L_w": local_parts,
        "local PatchVAE + L_w, one part per cell": compose(local_parts, one_part_per_cell),
        "local PatchVAE + L_w, one part per cell, two views": compose(
            local_parts, one_part_per_cell, contrastive(0.2), iic(0.1)
        ),
        "PatchVAE + L_w": compose(_scene_sized, weighted),
        "beta-VAE, clustered features": compose(_scene_sized, betavae),
        "local beta-VAE, clustered features": compose(_scene_sized, betavae, local),
        "local beta-VAE + two views, clustered features": compose(_scene_sized, betavae, local, contrastive(0.2)),
        "local, no training, clustered features": compose(_scene_sized, betavae, local, untrained),
    }


def discovery(trials: Trials, scale: DiscoveryScale) -> list[Block]:
    """Part IoU on simulated scenes: PatchVAE with both encoders, and clusters of the features of a beta-VAE."""
    count = min(SCORED, scale.scenes)
    tuning, scored = (simulate_scenes(count, size=SCENE_SIZE, kinds=SCENE_KINDS, seed=seed) for seed in (1, 2))
    variants = rows_of_discovery(scale)
    trials.complete(variants.values())
    rows = []
    for name, variant in variants.items():
        found = [discover(trials.model(variant, seed), tuning, scored) for seed in range(scale.seeds)]
        trials.rows += [{"model": name, "seed": seed, "iou": d.iou, "purity": d.purity} for seed, d in enumerate(found)]
        rows.append([name, spread([d.iou for d in found]), spread([d.purity for d in found])])
    made_of = f"{counted(count, 'scene')}; {counted(scale.seeds, 'seed')}"
    caption = f"{SCENE_KINDS} kinds of motif, {made_of}; thresholds chosen on other scenes."
    return [Table(["model", "part IoU", "purity"], rows, caption)]


def _scene_sized(config: PartsTraining) -> PartsTraining:
    return replace(config, model=replace(config.model, size=SCENE_SIZE), data=replace(config.data, batch=SCENE_BATCH))


def write_scenes(count: int, path: Path) -> Source:
    """Training scenes as a pack. The label of a scene, which training does not use, is its number of motif kinds."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        pack = io.BytesIO()
        scenes = simulate_scenes(count, size=SCENE_SIZE, kinds=SCENE_KINDS, seed=0)
        labels = scenes.masks.any((2, 3)).sum(1)
        np.savez(pack, x_train=scenes.images, y_train=labels, x_test=scenes.images[:8], y_test=labels[:8])
        write_atomic(path, pack.getvalue())
    return Source("", str(path))


# --------------------------------------------------------------------------------------------------------- artifacts


def artifact(
    name: str, title: str, blocks: Callable[[Trials, S], list[Block]], rows: Callable[[S], Variants], scales: Mapping[str, S]
) -> Artifact[Parts, S]:
    """A table; models that are missing are trained first."""

    def make(lab: ExperimentRunner[Parts, S]) -> Report:
        if isinstance(lab.scale, DiscoveryScale):
            source = write_scenes(lab.scale.scenes, lab.folder / f"scenes-{lab.scale.scenes}.npz")
        else:
            given = one_source(lab.sources)
            if given is None:
                hint = "the paper used cifar100:PATH, indoor67:PATH, places205:PATH and imagenet:PATH"
                raise UsageError(f"{name} needs labeled images", where="--data", hint=hint)
            source = given
        trials = Trials(lab, source)
        made = blocks(trials, lab.scale)
        train, test = min(len(trials.train), lab.scale.images or len(trials.train)), len(trials.test)
        about = f"{trials.train.name}, {train} training and {test} test images; recipe {lab.scale.recipe}."
        facts = {"data": str(source), "recipe": lab.recipe, "scale": to_dict(lab.scale)}
        left_out = list(trials.left_out)
        return Report(name=name, title=title, about=about, blocks=made, facts=facts, rows=trials.rows, failures=left_out)

    def trainings(scale: S) -> dict[str, PartsTraining]:
        return {row: row_training(scale, variant, 0) for row, variant in rows(scale).items()}

    return Artifact(make, scales, trainings)


def ablated(name: str, title: str, of: Ablated) -> Artifact[Parts, TableScale]:
    """A table of one setting."""
    return artifact(name, title, partial(ablation, of), of.variants, scales_of(TableScale))


SCENES = scales_of(DiscoveryScale)
SCENES_SCALES = {**SCENES, "tiny": replace(SCENES["tiny"], scenes=24)}
TABLES: Mapping[str, Artifact[Parts, Any]] = MappingProxyType(
    {
        "table1": artifact("table1", "Table 1: recognition", table1, rows_of_table1, scales_of(Table1Scale)),
        "table2": artifact(
            "table2", "Table 2: recognition with a whole ResNet-18", table2, rows_of_table2, scales_of(Table2Scale)
        ),
        "table3": ablated("table3", "Table 3: number of parts", TABLE3),
        "table4": ablated("table4", "Table 4: dimensions of an appearance", TABLE4),
        "table5": ablated("table5", "Table 5: prior of occurrences", TABLE5),
        "table6": ablated("table6", "Table 6: weight of occurrences", TABLE6),
        "table7": artifact("table7", "Table 7: reconstruction", table7, rows_of_table7, scales_of(Table7Scale)),
        "discovery": artifact("discovery", "Part IoU on simulated scenes", discovery, rows_of_discovery, SCENES_SCALES),
    }
)
