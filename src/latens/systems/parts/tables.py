"""Tables 1 to 7 of 004 beside the paper's own numbers, and the part IoU that the paper has no table of."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from latens.data.files import write_atomic
from latens.inference.page import Block, Table
from latens.inference.reproduction import spread
from latens.systems.parts.dataset import readable
from latens.systems.parts.discovery import discover
from latens.systems.parts.experiments import Laboratory
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.predict import load
from latens.systems.parts.published import PROBED, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, Ablation
from latens.systems.parts.quality import Features, reconstruction_quality
from latens.systems.parts.simulate import Scenes, simulate_scenes
from latens.systems.parts.variants import EVERY, LOCAL, VAE, WEIGHTED

SCENE_KINDS, SCENE_SIZE, SCORED, SCENE_BATCH = 4, 64, 200, "32"
ABLATED = "conv1-5"
ONE_A_CELL = {**LOCAL, **WEIGHTED, "model.categorical": "true"}
VIEWS = {"objective.agreement": "0.2"}
WHOLE_RESNET = {"model.encoder": "resnet", "model.blocks": "4", "model.parts": "64", "model.appearance": "16"}


def table1(lab: Laboratory) -> list[Block]:
    """Every row of Table 1 and ours, all probes; the paper's numbers for the data set, or for CIFAR-100 where it has none."""
    probes = (*PROBED, "linear", "knn")
    lab.run([EVERY[name] for name in lab.scale.rows or EVERY], lab.scale.probes or probes)
    known = paper_column(lab.train_set.name)
    rows = []
    for name, settings in EVERY.items():
        cells = [lab.score(settings, probe).text() for probe in probes]
        printed = TABLE_1[known].get(name)
        rows.append([name, *cells, *(f"{value:.2f}" for value in printed or ()), *(["-"] * 3 if printed is None else [])])
    columns = ["model", *PROBED, "linear", "knn", *(f"paper {probe}" for probe in PROBED)]
    caption = (
        f"{lab.train_set.name}: top-1 in percent, mean ± deviation over {lab.scale.seeds} seeds; epochs chosen on validation. "
        f"Paper: {known}, one run, best test epoch; its supervised row was trained on ImageNet."
    )
    return [Table(columns, rows, caption)]


def table2(lab: Laboratory) -> list[Block]:
    """Table 2: a whole ResNet-18, the first convolution and two residual stages frozen."""
    whole = {name: {**EVERY[name], **WHOLE_RESNET, "model.size": str(max(32, lab.size))} for name in TABLE_2}
    lab.run([settings for name, settings in whole.items() if name in (lab.scale.rows or TABLE_2)], [ABLATED])
    rows = []
    for name, printed in TABLE_2.items():
        score = lab.score(whole[name], ABLATED)
        rows.append([name, spread(score.top1), spread(score.top5), *(f"{value:.2f}" for value in printed)])
    columns = ["model", "top-1", "top-5", "paper top-1 (ImageNet)", "paper top-5"]
    return [Table(columns, rows, f"{lab.train_set.name}; {lab.scale.seeds} seeds.")]


def ablation(lab: Laboratory, setting: str, title: str, printed: Ablation) -> list[Block]:
    """Conv[1-5] of PatchVAE over the values of one setting."""
    lab.run([{setting: f"{value:g}"} for value in printed], [ABLATED])
    rows = []
    for value, (cifar, indoor) in printed.items():
        score = lab.score({setting: f"{value:g}"}, ABLATED)
        rows.append([f"{value:g}", score.text(), f"{cifar:.2f}", f"{indoor:.2f}"])
    caption = f"{ABLATED}, {lab.train_set.name}, top-1 in percent, {lab.scale.seeds} seeds; {setting} of PatchVAE."
    return [Table([title, "ours", "paper CIFAR-100", "paper Indoor-67"], rows, caption)]


def table3(lab: Laboratory) -> list[Block]:
    """Table 3: the number of parts N."""
    return ablation(lab, "model.parts", "N", TABLE_3)


def table4(lab: Laboratory) -> list[Block]:
    """Table 4: dimensions d_p of an appearance."""
    return ablation(lab, "model.appearance", "d_p", TABLE_4)


def table5(lab: Laboratory) -> list[Block]:
    """Table 5: prior probability of an occurrence."""
    return ablation(lab, "objective.prior", "prior", TABLE_5)


def table6(lab: Laboratory) -> list[Block]:
    """Table 6: weight of the occurrences' divergence, in units of pixels in [0, 1]."""
    return ablation(lab, "objective.beta_occ", "beta_occ", TABLE_6)


def table7(lab: Laboratory) -> list[Block]:
    """Table 7: reconstruction of test pictures."""
    features = feature_network(lab)
    lab.run([EVERY[name] for name in TABLE_7], ())
    rows = []
    for name in TABLE_7:
        found = []
        for seed in range(lab.scale.seeds):
            model = lab.model(EVERY[name], seed)
            assert isinstance(model.model, PatchVAE | BetaVAE)
            found.append(reconstruction_quality(model.model, readable(lab.test_set, model.config.size, lab.tell), features))
        distance = "-" if features is None else spread([q.frechet or 0.0 for q in found])
        rows.append([name, spread([q.psnr for q in found]), distance, spread([q.ssim for q in found])])
        rows[-1] += [f"{value:g}" for value in TABLE_7[name]]
    columns = ["model", "PSNR dB", "FID", "SSIM", "paper PSNR", "paper FID", "paper SSIM"]
    caption = (
        f"{lab.test_set.name}, {lab.scale.seeds} seeds. PSNR of pixels in [0, 1]; the paper's fits pixels divided by "
        "ImageNet's deviation: add 12.9 dB. FID in the features of --set features=MODEL."
    )
    return [Table(columns, rows, caption)]


def feature_network(lab: Laboratory) -> Features | None:
    """The mean features of the model that the scale names, or None."""
    if not lab.scale.features:
        return None
    encoder = load(lab.scale.features, device=lab.device).model.encoder
    return lambda images: encoder(images).mean((2, 3))


def discovery(lab: Laboratory) -> list[Block]:
    """Part IoU on simulated scenes: PatchVAE with both encoders, beside clusters of a beta-VAE's features."""
    count = min(SCORED, lab.scale.scenes)
    tuning, scored = (simulate_scenes(count, size=SCENE_SIZE, kinds=SCENE_KINDS, seed=seed) for seed in (1, 2))
    rows = []
    members: dict[str, Mapping[str, str]] = {
        "local PatchVAE + L_w": {**LOCAL, **WEIGHTED},
        "local PatchVAE + L_w, one part a cell": ONE_A_CELL,
        "local PatchVAE + L_w, one part a cell, two views": {**ONE_A_CELL, **VIEWS, "objective.constancy": "0.1"},
        "PatchVAE + L_w": WEIGHTED,
        "beta-VAE, clustered features": VAE,
        "local beta-VAE, clustered features": {**VAE, **LOCAL},
        "local beta-VAE + agreement, clustered features": {**VAE, **LOCAL, **VIEWS},
        "local, no training, clustered features": {**VAE, **LOCAL, "run.steps": "0"},
    }
    scene_size = {"model.size": str(SCENE_SIZE), "data.batch": SCENE_BATCH}
    members = {name: {**settings, **scene_size} for name, settings in members.items()}
    lab.run(list(members.values()), ())
    for name, settings in members.items():
        found = [discover(lab.model(settings, seed).model, tuning, scored) for seed in range(lab.scale.seeds)]
        rows.append([name, spread([one.iou for one in found]), spread([one.purity for one in found])])
    caption = f"{SCENE_KINDS} kinds of motif, {count} scenes; {lab.scale.seeds} seeds; thresholds chosen on other scenes."
    return [Table(["model", "part IoU", "purity"], rows, caption)]


def write_scenes(count: int, path: Path) -> Path:
    """Training scenes as a pack, with the number of motif kinds as label (nothing learns from it)."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        pack = io.BytesIO()
        scenes: Scenes = simulate_scenes(count, size=SCENE_SIZE, kinds=SCENE_KINDS, seed=0)
        labels = scenes.masks.any((2, 3)).sum(1)
        np.savez(pack, x_train=scenes.images, y_train=labels, x_test=scenes.images[:8], y_test=labels[:8])
        write_atomic(path, pack.getvalue())
    return path


def paper_column(name: str) -> str:
    """The data set of Table 1 that a set's name means; CIFAR-100 for all others."""
    plain = name.lower().replace("-", "").replace("_", "")
    return next((known for known in TABLE_1 if known.lower().replace("-", "") in plain), "CIFAR-100")


TABLES: Mapping[str, Callable[[Laboratory], Sequence[Block]]] = {
    "table1": table1, "table2": table2, "table3": table3, "table4": table4, "table5": table5, "table6": table6,
    "table7": table7, "discovery": discovery,
}  # fmt: skip
