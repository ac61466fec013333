"""Tables 1 to 7 of 004 next to the paper's own numbers, the part IoU that the paper has no table of, and the figures."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from latens.contract import Artifact
from latens.data.files import write_atomic
from latens.data.images import PICTURE_ENDINGS, Pixels, read_picture
from latens.data.inputs import find_inputs
from latens.data.labeled import open_set
from latens.data.samples import photographs
from latens.data.source import Source
from latens.data.squares import first_few, readable
from latens.errors import LatensError
from latens.experiments.probes import Probe
from latens.experiments.report import Report, spread
from latens.inference.page import Block, Table
from latens.settings import to_dict
from latens.systems.parts.discovery import discover
from latens.systems.parts.figures import FIGURES
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.predict import Parts, load
from latens.systems.parts.published import PROBED, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, Ablation
from latens.systems.parts.recipes import PartsTraining
from latens.systems.parts.reconstruction import Features, reconstruction_quality
from latens.systems.parts.runs import SCALES, Family, PartsLab, Scale
from latens.systems.parts.simulator.motifs import Scenes, simulate_scenes
from latens.systems.parts.variants import EVERY, VAE, Variant, chain, local, one_a_cell, untrained, views, weighted

logger = logging.getLogger(__name__)

MAX_IMAGES = 500  # of a figure
SCENE_KINDS, SCENE_SIZE, SCORED, SCENE_BATCH = 4, 64, 200, 32
ABLATED: Probe = "conv1-5"
ALL_PROBES: tuple[Probe, ...] = ("conv1", "conv1-3", "conv1-5", "linear", "knn")


def table1(family: Family) -> list[Block]:
    """Every row of Table 1 and ours, all probes; the paper's numbers for the data set, or for CIFAR-100 where it has none."""
    family.run([EVERY[name] for name in family.scale.rows or EVERY], family.scale.probes or ALL_PROBES)
    known = paper_column(family.train_set.name)
    rows = []
    for name, variant in EVERY.items():
        cells = [family.score(variant, probe).text() for probe in ALL_PROBES]
        printed = TABLE_1[known].get(name)
        rows.append([name, *cells, *(f"{value:.2f}" for value in printed or ()), *(["-"] * 3 if printed is None else [])])
    columns = ["model", *PROBED, "linear", "knn", *(f"paper {probe}" for probe in PROBED)]
    caption = (
        f"{family.train_set.name}: top-1 in percent, mean ± deviation over {family.scale.seeds} seeds; epochs chosen on "
        "validation. "
        f"Paper: {known}, one run, best test epoch; its supervised row was trained on ImageNet."
    )
    return [Table(columns, rows, caption)]


def table2(family: Family) -> list[Block]:
    """Table 2: a whole ResNet-18, the first convolution and two residual stages frozen."""

    def whole_resnet(config: PartsTraining) -> PartsTraining:
        size = max(32, family.size)
        return replace(config, model=replace(config.model, encoder="resnet", blocks=4, parts=64, appearance=16, size=size))

    whole = {name: chain(EVERY[name], whole_resnet) for name in TABLE_2}
    family.run([variant for name, variant in whole.items() if name in (family.scale.rows or TABLE_2)], [ABLATED])
    rows = []
    for name, printed in TABLE_2.items():
        score = family.score(whole[name], ABLATED)
        rows.append([name, spread(score.top1), spread(score.top5), *(f"{value:.2f}" for value in printed)])
    columns = ["model", "top-1", "top-5", "paper top-1 (ImageNet)", "paper top-5"]
    return [Table(columns, rows, f"{family.train_set.name}; {family.scale.seeds} seeds.")]


def ablation(
    family: Family, title: str, setting: str, printed: Ablation, change: Callable[[PartsTraining, float], PartsTraining]
) -> list[Block]:
    """Conv[1-5] of PatchVAE over the values of one setting."""
    variants = {value: _with(change, value) for value in printed}
    family.run(list(variants.values()), [ABLATED])
    rows = []
    for value, (cifar, indoor) in printed.items():
        rows.append([f"{value:g}", family.score(variants[value], ABLATED).text(), f"{cifar:.2f}", f"{indoor:.2f}"])
    caption = f"{ABLATED}, {family.train_set.name}, top-1 in percent, {family.scale.seeds} seeds; {setting} of PatchVAE."
    return [Table([title, "ours", "paper CIFAR-100", "paper Indoor-67"], rows, caption)]


def _with(change: Callable[[PartsTraining, float], PartsTraining], value: float) -> Variant:
    return lambda config: change(config, value)


def table3(family: Family) -> list[Block]:
    """Table 3: the number of parts N."""

    def change(config: PartsTraining, value: float) -> PartsTraining:
        return replace(config, model=replace(config.model, parts=int(value)))

    return ablation(family, "N", "model.parts", TABLE_3, change)


def table4(family: Family) -> list[Block]:
    """Table 4: dimensions d_p of an appearance."""

    def change(config: PartsTraining, value: float) -> PartsTraining:
        return replace(config, model=replace(config.model, appearance=int(value)))

    return ablation(family, "d_p", "model.appearance", TABLE_4, change)


def table5(family: Family) -> list[Block]:
    """Table 5: prior probability of an occurrence."""

    def change(config: PartsTraining, value: float) -> PartsTraining:
        return replace(config, objective=replace(config.objective, prior=value))

    return ablation(family, "prior", "objective.prior", TABLE_5, change)


def table6(family: Family) -> list[Block]:
    """Table 6: weight of the occurrences' divergence, in units of pixels in [0, 1]."""

    def change(config: PartsTraining, value: float) -> PartsTraining:
        return replace(config, objective=replace(config.objective, beta_occ=value))

    return ablation(family, "beta_occ", "objective.beta_occ", TABLE_6, change)


def table7(family: Family) -> list[Block]:
    """Table 7: reconstruction of test pictures."""
    features = feature_network(family)
    family.run([EVERY[name] for name in TABLE_7], ())
    rows = []
    for name in TABLE_7:
        found = []
        for seed in range(family.scale.seeds):
            model = family.model(EVERY[name], seed)
            assert isinstance(model.model, PatchVAE | BetaVAE)
            found.append(reconstruction_quality(model.model, readable(family.test_set, model.config.size), features))
        distance = "-" if features is None else spread([q.frechet or 0.0 for q in found])
        rows.append([name, spread([q.psnr for q in found]), distance, spread([q.ssim for q in found])])
        rows[-1] += [f"{value:g}" for value in TABLE_7[name]]
    columns = ["model", "PSNR dB", "FID", "SSIM", "paper PSNR", "paper FID", "paper SSIM"]
    caption = (
        f"{family.test_set.name}, {family.scale.seeds} seeds. PSNR of pixels in [0, 1]; the paper's fits pixels divided by "
        "ImageNet's deviation: add 12.9 dB. FID in the features of --set features=MODEL."
    )
    return [Table(columns, rows, caption)]


def feature_network(family: Family) -> Features | None:
    """The mean features of the model that the scale names, or None."""
    if not family.scale.features:
        return None
    encoder = load(family.scale.features, device=family.lab.device).model.encoder
    return lambda images: encoder(images).mean((2, 3))


def discovery(family: Family) -> list[Block]:
    """Part IoU on simulated scenes: PatchVAE with both encoders, compared with clusters of a beta-VAE's features."""
    count = min(SCORED, family.scale.scenes)
    tuning, scored = (simulate_scenes(count, size=SCENE_SIZE, kinds=SCENE_KINDS, seed=seed) for seed in (1, 2))
    cells = chain(local, weighted, one_a_cell)
    members: dict[str, Variant] = {
        "local PatchVAE + L_w": chain(local, weighted),
        "local PatchVAE + L_w, one part a cell": cells,
        "local PatchVAE + L_w, one part a cell, two views": chain(cells, views(0.2, 0.1)),
        "PatchVAE + L_w": weighted,
        "beta-VAE, clustered features": VAE,
        "local beta-VAE, clustered features": chain(VAE, local),
        "local beta-VAE + agreement, clustered features": chain(VAE, local, views(0.2)),
        "local, no training, clustered features": chain(VAE, local, untrained),
    }
    members = {name: chain(variant, _on_scenes) for name, variant in members.items()}
    family.run(list(members.values()), ())
    rows = []
    for name, variant in members.items():
        found = [discover(family.model(variant, seed).model, tuning, scored) for seed in range(family.scale.seeds)]
        rows.append([name, spread([one.iou for one in found]), spread([one.purity for one in found])])
    caption = f"{SCENE_KINDS} kinds of motif, {count} scenes; {family.scale.seeds} seeds; thresholds chosen on other scenes."
    return [Table(["model", "part IoU", "purity"], rows, caption)]


def _on_scenes(config: PartsTraining) -> PartsTraining:
    return replace(config, model=replace(config.model, size=SCENE_SIZE), data=replace(config.data, batch=SCENE_BATCH))


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


TABLES: Mapping[str, Callable[[Family], list[Block]]] = MappingProxyType(
    {
        "table1": table1,
        "table2": table2,
        "table3": table3,
        "table4": table4,
        "table5": table5,
        "table6": table6,
        "table7": table7,
        "discovery": discovery,
    }
)


def tabulated(name: str, lab: PartsLab) -> Report:
    """A table: models are trained and probed where that is missing."""
    source = None
    if name == "discovery":
        source = Source("", str(write_scenes(lab.scale.scenes, lab.folder / f"scenes-{lab.scale.scenes}.npz")))
    family = Family(lab, source)
    blocks = TABLES[name](family)
    count = f"{len(family.train_set)} training and {len(family.test_set)} test images"
    about = f"{family.train_set.name}, {count}; recipe {lab.scale.recipe}."
    facts = {"data": str(family.source), "recipe": lab.recipe, "scale": to_dict(lab.scale)}
    return Report(name=name, title=f"parts {name}", about=about, blocks=blocks, facts=facts)


def drawn(name: str, lab: PartsLab) -> Report:
    """A figure of a trained model on images (by default photographs that come with latens)."""
    parts, source = lab.loaded, lab.one_source()
    images, names = read_all(source, lab.scale.shown or MAX_IMAGES)
    logger.info("%s: %d images", name, len(images))
    about = f"{len(images)} images; model {parts.name}, weights {parts.model_id[:12]}, shorter side {parts.resolution} pixels."
    facts = {"model": parts.name, "model_id": parts.model_id, "recipe": lab.recipe, "images": list(names)}
    return Report(name=name, title=f"parts {name}", about=about, blocks=FIGURES[name](parts, images, names), facts=facts)


def read_all(source: Source | None, most: int) -> tuple[list[Pixels], Sequence[str]]:
    """Images and their names (classes, where a data set has them); unreadable ones are logged and left out.

    Of a data set with classes at most `most` of the test split, or of the whole where it has none, mixed by name; of a plain
    folder the first. Raises the error of the first where none can be read.
    """
    if source is None:
        return [read_picture(photo.path).pixels for photo in photographs()], [photo.name for photo in photographs()]
    found = open_set(str(source), "test", hold_out=False)
    if not source.kind and source.path.is_dir() and not found.classes and not list(source.path.glob("*.npz")):
        files = find_inputs([str(source.path)], PICTURE_ENDINGS)[:most]
        return _readable([file.relative.stem for file in files], lambda i: read_picture(files[i].path).pixels)
    chosen = found.subset(first_few(found, most))
    names = [chosen.classes[label] if label >= 0 else key for label, key in zip(chosen.labels, chosen.keys, strict=True)]
    return _readable(names, chosen.read)


def _readable(names: Sequence[str], read: Callable[[int], Pixels]) -> tuple[list[Pixels], Sequence[str]]:
    images, kept, first = [], [], None
    for number, name in enumerate(names):
        try:
            images.append(read(number))
            kept.append(name)
        except LatensError as error:
            first = first or error
            logger.warning("left out: %s", str(error).splitlines()[0])
    if first is not None and not images:
        raise first
    return images, kept


ARTIFACTS: Mapping[str, Artifact[Parts, Scale]] = MappingProxyType(
    {
        **{name: Artifact(partial(tabulated, name), SCALES) for name in TABLES},
        **{name: Artifact(partial(drawn, name), SCALES) for name in FIGURES},
    }
)
