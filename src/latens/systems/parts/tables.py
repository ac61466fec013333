"""Tables 1 to 7 of Gupta et al. 2020 with the published numbers, and part IoU on simulated scenes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from latens.contract import Artifact
from latens.data.files import write_atomic
from latens.data.source import Source, one_source
from latens.errors import UsageError, counted
from latens.experiments.lab import ExperimentRunner
from latens.experiments.probes import PROBES, Probe
from latens.experiments.report import Report, spread
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
    scales_of,
)

PUBLISHED_PROBES = ("conv1", "conv1-3", "conv1-5")
ABLATED: Probe = "conv1-5"
SCENE_KINDS, SCENE_SIZE, SCORED, SCENE_BATCH = 4, 64, 200, 32


# ------------------------------------------------------------------------------------------------------------ tables


def table1(trials: Trials, scale: Table1Scale) -> list[Block]:
    """All rows and probes. Published numbers are for the same data set if available, else for CIFAR-100."""
    trials.complete([TABLE_1_ROWS[name] for name in scale.rows or TABLE_1_ROWS], scale.probes or PROBES)
    known = published_set(trials.train.name)
    rows = []
    for name, variant in TABLE_1_ROWS.items():
        cells = [spread(trials.score(name, variant, probe).top1) for probe in PROBES]
        printed = TABLE_1[known].get(name)
        rows.append([name, *cells, *(["-"] * 3 if printed is None else [f"{value:.2f}" for value in printed])])
    columns = ["model", *PROBES, *(f"published {probe}" for probe in PUBLISHED_PROBES)]
    caption = (
        f"{trials.train.name}: top-1 in percent, mean ± deviation over {scale.seeds} seeds; epochs chosen on validation. "
        f"Published: {known}, one run, best test epoch; the supervised row was trained on ImageNet."
    )
    return [Table(columns, rows, caption)]


def table2(trials: Trials, scale: Table2Scale) -> list[Block]:
    """A whole ResNet-18; the probe freezes the first convolution and two residual stages."""
    size = max(32, trials.size)

    def whole_resnet(config: PartsTraining) -> PartsTraining:
        model = replace(config.model, encoder="resnet", blocks=4, size=size)
        return replace(config, model=replace(model, parts=64, appearance=16) if isinstance(model, CodeConfig) else model)

    rows_of: Mapping[Row, Variant] = {name: compose(TABLE_1_ROWS[name], whole_resnet) for name in TABLE_2}
    trials.complete([rows_of[name] for name in scale.rows or TABLE_2], [ABLATED])
    rows = []
    for name, printed in TABLE_2.items():
        score = trials.score(name, rows_of[name], ABLATED)
        rows.append([name, spread(score.top1), spread(score.top5), *(f"{value:.2f}" for value in printed)])
    columns = ["model", "top-1", "top-5", "published top-1 (ImageNet)", "published top-5"]
    return [Table(columns, rows, f"{trials.train.name}; {scale.seeds} seeds.")]


def ablation(
    trials: Trials, title: str, published: Ablation, change: Callable[[PartsTraining, float], PartsTraining]
) -> list[Block]:
    """Conv[1-5] of PatchVAE over the values of one setting."""
    variants: dict[float, Variant] = {value: partial(_apply, change, value) for value in published}
    trials.complete(variants.values(), [ABLATED])
    rows = []
    for value, (cifar, indoor) in published.items():
        score = trials.score(f"{title} {value:g}", variants[value], ABLATED)
        rows.append([f"{value:g}", spread(score.top1), f"{cifar:.2f}", f"{indoor:.2f}"])
    caption = f"{ABLATED}, {trials.train.name}, top-1 in percent, {trials.scale.seeds} seeds; {title} of PatchVAE."
    return [Table([title, "ours", "published CIFAR-100", "published Indoor-67"], rows, caption)]


def _apply(change: Callable[[PartsTraining, float], PartsTraining], value: float, config: PartsTraining) -> PartsTraining:
    return change(config, value)


def _model(config: PartsTraining) -> PatchVAEConfig:
    assert isinstance(config.model, PatchVAEConfig)
    return config.model


def _loss(config: PartsTraining) -> PatchVAELoss:
    assert isinstance(config.objective, PatchVAELoss)
    return config.objective


def table3(trials: Trials, scale: TableScale) -> list[Block]:
    """The number of parts N."""
    return ablation(trials, "N", TABLE_3, lambda c, value: replace(c, model=replace(_model(c), parts=int(value))))


def table4(trials: Trials, scale: TableScale) -> list[Block]:
    """Dimensions d_p of an appearance."""
    return ablation(trials, "d_p", TABLE_4, lambda c, value: replace(c, model=replace(_model(c), appearance=int(value))))


def table5(trials: Trials, scale: TableScale) -> list[Block]:
    """Prior probability of an occurrence."""
    return ablation(trials, "prior", TABLE_5, lambda c, value: replace(c, objective=replace(_loss(c), prior=value)))


def table6(trials: Trials, scale: TableScale) -> list[Block]:
    """Weight of the divergence of the occurrences, in units of pixels in [0, 1]."""
    return ablation(trials, "beta_occ", TABLE_6, lambda c, value: replace(c, objective=replace(_loss(c), beta_occ=value)))


def table7(trials: Trials, scale: Table7Scale) -> list[Block]:
    """Reconstruction quality on test images."""
    features = None if scale.features is None else feature_network(scale.features, trials.lab.device)
    trials.complete([TABLE_1_ROWS[name] for name in TABLE_7])
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
        f"{trials.test.name}, {scale.seeds} seeds. PSNR for pixels in [0, 1]; the published PSNR is for pixels divided by "
        "the deviation of ImageNet: add 12.9 dB. FID on the features of --set features=MODEL."
    )
    return [Table(columns, rows, caption)]


def feature_network(model: str, device: str) -> Features:
    """The encoder of a model, averaged over cells."""
    encoder = load(model, device=device).model.encoder
    return lambda images: encoder(images).mean((2, 3))


def discovery(trials: Trials, scale: DiscoveryScale) -> list[Block]:
    """Part IoU on simulated scenes: PatchVAE with both encoders, and clusters of the features of a beta-VAE."""
    count = min(SCORED, scale.scenes)
    tuning, scored = (simulate_scenes(count, size=SCENE_SIZE, kinds=SCENE_KINDS, seed=seed) for seed in (1, 2))
    local_parts = compose(_scene_sized, local, weighted)
    variants: Mapping[str, Variant] = {
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


def artifact(name: str, title: str, blocks: Callable[[Trials, S], list[Block]], scales: Mapping[str, S]) -> Artifact[Parts, S]:
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
        train, test = len(trials.train), len(trials.test)
        about = f"{trials.train.name}, {train} training and {test} test images; recipe {lab.scale.recipe}."
        facts = {"data": str(source), "recipe": lab.recipe, "scale": to_dict(lab.scale)}
        left_out = list(trials.left_out)
        return Report(name=name, title=title, about=about, blocks=made, facts=facts, rows=trials.rows, failures=left_out)

    return Artifact(make=make, scales=scales)


ANY = scales_of(TableScale)
SCENES = scales_of(DiscoveryScale)
TABLES: Mapping[str, Artifact[Parts, Any]] = MappingProxyType(
    {
        "table1": artifact("table1", "Table 1: recognition", table1, scales_of(Table1Scale)),
        "table2": artifact("table2", "Table 2: recognition with a whole ResNet-18", table2, scales_of(Table2Scale)),
        "table3": artifact("table3", "Table 3: number of parts", table3, ANY),
        "table4": artifact("table4", "Table 4: dimensions of an appearance", table4, ANY),
        "table5": artifact("table5", "Table 5: prior of occurrences", table5, ANY),
        "table6": artifact("table6", "Table 6: weight of occurrences", table6, ANY),
        "table7": artifact("table7", "Table 7: reconstruction", table7, scales_of(Table7Scale)),
        "discovery": artifact(
            "discovery", "Part IoU on simulated scenes", discovery, {**SCENES, "tiny": replace(SCENES["tiny"], scenes=48)}
        ),
    }
)
