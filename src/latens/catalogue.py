"""Registry of systems and bundled models: three tables and the functions that read them. Nothing here imports torch."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from latens.errors import ModelMissing, UsageError, did_you_mean

WEIGHTS = Path(__file__).parent / "weights"

SYSTEMS: Mapping[str, str] = MappingProxyType(
    {
        "image_codec": "latens.systems.image_codec",
        "amodal": "latens.systems.amodal",
        "haze": "latens.systems.haze",
        "parts": "latens.systems.parts",
        "video_codec": "latens.systems.video_codec",
        "flow": "latens.systems.flow",
        "seedlings": "latens.systems.seedlings",
    }
)
"""Packages of all systems. The module `system` of each package defines the record SYSTEM (see `latens.contract`)."""

DEFAULT_MODELS: Mapping[str, str] = MappingProxyType({"image_codec": "image_codec_joint"})
"""Bundled models of systems whose default is not the model of their name."""

TUNES: Mapping[str, str] = MappingProxyType({"psnr": DEFAULT_MODELS["image_codec"], "perceptual": "image_codec_perceptual"})
"""Bundled image codecs by what they were tuned for."""

VERBS: Mapping[str, str] = MappingProxyType(
    {
        "image_codec": "compress",
        "amodal": "segment",
        "haze": "dehaze",
        "parts": "parts",
        "video_codec": "video compress",
        "flow": "density",
        "seedlings": "grade",
    }
)
"""Verbs of the command line that apply a model of a system."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A bundled model: its folder (see `latens.hub`), the hash of its weights, and the size of its tensor files in bytes."""

    name: str
    system: str
    folder: Path
    sha256: str
    size: int
    license: str
    trained_on: str
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __reduce__(self) -> tuple[Any, ...]:  # copies and pickles: a read-only mapping has neither
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return partial(ModelEntry, **{**plain, "metrics": dict(self.metrics)}), ()

    def to_dict(self) -> dict[str, Any]:
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**plain, "folder": str(self.folder), "metrics": dict(self.metrics)}


MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        "image_codec": ModelEntry(
            name="image_codec",
            system="image_codec",
            folder=WEIGHTS / "image_codec",
            sha256="e4001b49acc0fe27ef61ab50db07133c00d4cef0b9aed0198c00a6960ce7b27a",
            size=13_858_744,
            license="Apache-2.0",
            trained_on="947 photographs and frames (BSDS500, an ImageNet sample, NYU, CamVid, ...); see the model card",
            metrics=MappingProxyType({"Kodak BD-rate against JPEG, %": -43.8, "against WebP, %": -12.4}),
        ),
        "image_codec_context": ModelEntry(
            name="image_codec_context",
            system="image_codec",
            folder=WEIGHTS / "image_codec_context",
            sha256="1b0d5e8db3bc72d5003d06233cba63204ccf8034d5a4c1e863679e0ca58f5792",
            size=311_584,
            license="Apache-2.0",
            trained_on="image_codec (its base), and a context model fitted to 404 photographs; see the model card",
            metrics=MappingProxyType({"Kodak BD-rate against JPEG, %": -48.5, "against WebP, %": -19.7}),
        ),
        "image_codec_joint": ModelEntry(
            name="image_codec_joint",
            system="image_codec",
            folder=WEIGHTS / "image_codec_joint",
            sha256="5144c4029c4074b03c2ecb9ff91f89038455f0c6a4d1d61294365746bff5f1c8",
            size=7_404_012,
            license="Apache-2.0",
            trained_on="image_codec_context, trained further as a whole on 404 photographs; see the model card",
            metrics=MappingProxyType({"Kodak BD-rate against JPEG, %": -50.3, "against AVIF, %": -2.0}),
        ),
        "image_codec_perceptual": ModelEntry(
            name="image_codec_perceptual",
            system="image_codec",
            folder=WEIGHTS / "image_codec_perceptual",
            sha256="53b72267970bc66ae9409065602aa96a5a7b98a6fc9d3f32e9fc21f3b2e2089a",
            size=4_586_584,
            license="Apache-2.0",
            trained_on="image_codec_context (its base), tuned for structure on 687 photographs; see the model card",
            metrics=MappingProxyType({"Kodak bits at equal SSIMULACRA2 against JPEG, %": -57.6, "against AVIF, %": -18.6}),
        ),
        "cells": ModelEntry(
            name="cells",
            system="amodal",
            folder=WEIGHTS / "cells",
            sha256="d86c64ed4ecc35ef430afab314156fc3ecd08d0675d17c44acded84e7f240706",
            size=2_052_364,
            license="CC0-1.0",
            trained_on="194 images of nuclei (DSB2018), composed overlaps and simulated cells; see the model card",
            metrics=MappingProxyType({"F1 of fluorescent nuclei": 0.901, "of stained nuclei": 0.866}),
        ),
        "embryo": ModelEntry(
            name="embryo",
            system="amodal",
            folder=WEIGHTS / "embryo",
            sha256="f640ae60d56be807fc26bf7f013463b29bdbda544ae30f72656161913d18adee",
            size=8_792_626,
            license="Apache-2.0",
            trained_on="simulated embryos: 18,000 images of 256 x 256; see the model card",
            metrics=MappingProxyType({"AP on simulated embryos, %": 90.1}),
        ),
        "haze_physical": ModelEntry(
            name="haze_physical",
            system="haze",
            folder=WEIGHTS / "haze_physical",
            sha256="d1ffc9e77cd641e13c9e74e03b120c40b9c6511ef514a45cc01faca61760e921",
            size=1_489_344,
            license="Apache-2.0",
            trained_on="400 simulated streets, 540 NYU, KITTI and CamVid scenes with depth; see the model card",
            metrics=MappingProxyType({"haze removal on 46 rooms of NYU, dB": 23.15, "on 3 Cityscapes scenes": 20.91}),
        ),
        "parts": ModelEntry(
            name="parts",
            system="parts",
            folder=WEIGHTS / "parts",
            sha256="5736ca26387c923dca847f81ad46fb1b6e00fd29a987ae8bbe225355da7d53c3",
            size=1_076_348,
            license="Apache-2.0",
            trained_on="about 600 photographs (ImageNet sample, BSDS500, Wikimedia Commons); see the model card",
            metrics=MappingProxyType({"parts in use of 32": 31.0}),
        ),
        "video_codec": ModelEntry(
            name="video_codec",
            system="video_codec",
            folder=WEIGHTS / "video_codec",
            sha256="974a3cae5bbf426a3b6555c82af44c1649d360ffc8996a8b714b8632218013b6",
            size=10_180_364,
            license="Apache-2.0",
            trained_on="9 DAVIS clips, 600 photographs in motion; 2,450 steps only; see the model card",
            metrics=MappingProxyType({"bits at equal PSNR of the region, %": -41.5, "training steps": 2450.0}),
        ),
        "seedlings": ModelEntry(
            name="seedlings",
            system="seedlings",
            folder=WEIGHTS / "seedlings",
            sha256="4ab38e4eb74cc4fd78d58a1bf9bf2eceb2eb64770eacba92695767a6b471bf82",
            size=190_684,
            license="Apache-2.0",
            trained_on="88 simulated trays on days 4 to 7; see the model card",
            metrics=MappingProxyType({"AUC of success on day 6": 0.940, "emergence, accuracy": 0.9994}),
        ),
        "seedlings_species": ModelEntry(
            name="seedlings_species",
            system="seedlings",
            folder=WEIGHTS / "seedlings_species",
            sha256="4fc392611cd4a8c7f00f368b62943b2abc0063faf633f60dd5dcbcf64269a761",
            size=413_444,
            license="CC-BY-SA-4.0",
            trained_on="115 crops of the Plant Seedlings data set (12 species); see the model card",
            metrics=MappingProxyType({"accuracy on 38 crops": 0.47}),
        ),
        "haze_mmd": ModelEntry(
            name="haze_mmd",
            system="haze",
            folder=WEIGHTS / "haze_mmd",
            sha256="e9e369d520b94adb62f26928cef1df06ebb68cf6c935581ccbb04dabe538292d",
            size=2_194_568,
            license="Apache-2.0",
            trained_on="400 simulated streets, 194 NYU and 2 KITTI scenes with depth; see the model card",
            metrics=MappingProxyType({"haze removal on 3 Cityscapes scenes, dB": 18.5}),
        ),
        "haze_dehazenet": ModelEntry(
            name="haze_dehazenet",
            system="haze",
            folder=WEIGHTS / "haze_dehazenet",
            sha256="db8464e313edade1ea83eba7fcaf102cb1f14082442ad484d0f8b7e86c0575ce",
            size=17_370,
            license="Apache-2.0",
            trained_on="patches of 400 simulated streets, 194 NYU and 2 KITTI scenes; see the model card",
            metrics=MappingProxyType({"haze removal on 3 Cityscapes scenes, dB": 20.4}),
        ),
        "flow_pack": ModelEntry(
            name="flow_pack",
            system="flow",
            folder=WEIGHTS / "flow_pack",
            sha256="3ecebea84da43af6a45b6b288bd8d71f6baa3affefcddfc9bb109ffc53f242ed",
            size=1_089_800,
            license="Apache-2.0",
            trained_on="crops of CIFAR-10, Tiny-ImageNet and 638 photographs; see the model card",
        ),
        "flow": ModelEntry(
            name="flow",
            system="flow",
            folder=WEIGHTS / "flow",
            sha256="13edfec00a2b35eb4ddd2c5bb77f98680892364cd1aac3de9a942063cc23ee89",
            size=1_770_959,
            license="Apache-2.0",
            trained_on="5,085 images of CIFAR-10 (original files) and their mirror images; see the model card",
            metrics=MappingProxyType({"bits/dim on 600 test images": 3.953, "Gaussian": 4.867, "WebP lossless": 4.567}),
        ),
        "flow_moons": ModelEntry(
            name="flow_moons",
            system="flow",
            folder=WEIGHTS / "flow_moons",
            sha256="8cf67eb466eafe5328ad9f7eeaebfcadcadc709a1bb882350d1fa6f17ab3b793",
            size=54_609,
            license="Apache-2.0",
            trained_on="simulated points; see the model card",
            metrics=MappingProxyType({"nats on two moons": 2.3967, "entropy": 2.3939}),
        ),
        "flow_circles": ModelEntry(
            name="flow_circles",
            system="flow",
            folder=WEIGHTS / "flow_circles",
            sha256="8bc56940cd91a0ccc365e89ae67f75c697bb33019cfbd0d07bdec25d8c6d3995",
            size=54_609,
            license="Apache-2.0",
            trained_on="simulated points; see the model card",
            metrics=MappingProxyType({"nats on two circles": 3.2815, "entropy": 3.2681}),
        ),
        "flow_checkerboard": ModelEntry(
            name="flow_checkerboard",
            system="flow",
            folder=WEIGHTS / "flow_checkerboard",
            sha256="24856cfda0e2a42b16220f559fe1f67d6c6b92574028f4b9e351e8c29d4c53c3",
            size=54_609,
            license="Apache-2.0",
            trained_on="simulated points; see the model card",
            metrics=MappingProxyType({"nats on the checkerboard": 3.6396, "entropy": 3.4657}),
        ),
    }
)

ALIASES: Mapping[str, str] = MappingProxyType({"amodal": "embryo"})
"""Earlier names of bundled models."""


def training_data(sha256: str) -> str | None:
    """The training data of the bundled model with these weights; None for any other model."""
    return next((entry.trained_on for entry in MODELS.values() if entry.sha256 == sha256), None)


def limits_of_training(trained_on: str, elsewhere: str) -> str:
    """The note on a bundled model that has seen one kind of images; `elsewhere` is the consequence for others."""
    return f"this model was trained on {trained_on.split(';')[0]}; {elsewhere}. Train your own and pass it with --model."


def default_model(system: str) -> str:
    """Name of the bundled model that a system uses if none is named."""
    name = DEFAULT_MODELS.get(system, system)
    return name if name in MODELS else system


def bundled_with_id(system: str, file_id: str) -> str | None:
    """Name of the bundled model of a system that wrote a file with this id, the start of its hash; None for another model."""
    return next((e.name for e in MODELS.values() if e.system == system and e.sha256.startswith(file_id)), None)


def system_of(name_or_path: str | Path) -> str:
    """System of a model, given by name of the model or system, or by the key "system" in config.json of its folder.

    Raises ModelMissing for an unknown name and for a folder without a readable config.json.
    """
    if str(name_or_path) in MODELS:
        return MODELS[str(name_or_path)].system
    if str(name_or_path) in SYSTEMS:
        return str(name_or_path)  # without a bundled model, its `load` raises the error
    folder = Path(name_or_path)
    config = (folder if folder.is_dir() else folder.parent) / "config.json"
    try:
        system = json.loads(config.read_text())["system"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelMissing(
            "not the name of a model, and not a folder with config.json and model.safetensors",
            where=str(name_or_path),
            hint=f"known names: {', '.join(MODELS)} (see `latens models`)",
        ) from error
    if system not in SYSTEMS:
        raise ModelMissing(
            f"this version of latens has no system {system!r}, which the model needs",
            where=str(config),
            hint=f"systems: {', '.join(SYSTEMS)}",
        )
    return str(system)


def folder_of(name_or_path: str | Path) -> Path:
    """Folder of a model: that of a known name, or the path itself. Raises ModelMissing for an unknown name or path."""
    name = ALIASES.get(str(name_or_path), str(name_or_path))
    if name in SYSTEMS and name not in MODELS and not Path(name).is_dir():
        hint = f"train one with `latens train {name} --data DIR -o runs/{name}`, then name runs/{name}/best (--model)"
        raise ModelMissing("no model of this system is bundled", where=name, hint=hint)
    if name not in MODELS and not os.path.exists(name):  # False also for names that are too long
        known = f"known names: {', '.join(MODELS)}"
        hint = did_you_mean(name, (*MODELS, *ALIASES), "")
        raise ModelMissing("no model or folder of this name", where=name, hint=f"{hint} {known} (see `latens models`)".strip())
    return MODELS[name].folder if name in MODELS else Path(name_or_path)


def package_of(system: str) -> str:
    """The package of a system. Raises UsageError for an unknown name."""
    if system not in SYSTEMS:
        hint = did_you_mean(system, SYSTEMS, f"systems: {', '.join(SYSTEMS)}")
        raise UsageError(f"unknown system '{system}'", hint=hint)
    return SYSTEMS[system]


def recipes(system: str) -> Mapping[str, Callable[[], Any]]:
    """The training recipes of a system by name, without loading torch. Raises UsageError for an unknown name."""
    found: Mapping[str, Callable[[], Any]] = importlib.import_module(f"{package_of(system)}.recipes").RECIPES
    return found


def recipe_of(system: str, recipe: str, *, where: str = "--recipe") -> Any:
    """The training configuration of a recipe. Raises UsageError, placed at `where`, for an unknown name."""
    known = recipes(system)
    if recipe not in known:
        hint = did_you_mean(recipe, known, f"known: {', '.join(known)}")
        raise UsageError(f"{system} has no recipe '{recipe}'", where=where, hint=hint)
    return known[recipe]()
