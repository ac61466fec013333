"""The rows of Table 1 as functions of one recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, TypeAlias

from latens.systems.parts.config import Kind
from latens.systems.parts.recipes import PartsTraining
from latens.training.config import Adam

Variant: TypeAlias = Callable[[PartsTraining], PartsTraining]
Member = Literal[
    "beta-VAE",
    "beta-VAE + L_w",
    "beta-VAE-GAN",
    "beta-VAE-GAN + L_w",
    "PatchVAE",
    "PatchVAE + L_w",
    "PatchVAE-GAN",
    "PatchVAE-GAN + L_w",
    "BiGAN",
    "random",
    "supervised",
    "local PatchVAE + L_w",
    "local PatchVAE-GAN + L_w",
    "PatchVAE + L_w + agreement",
    "local PatchVAE + L_w + agreement",
    "beta-VAE + L_w + agreement",
    "masked autoencoder",
    "local masked autoencoder",
]


def plain(config: PartsTraining) -> PartsTraining:
    return config


def chain(*changes: Variant) -> Variant:
    """Several changes, one after the other."""

    def changed(config: PartsTraining) -> PartsTraining:
        for change in changes:
            config = change(config)
        return config

    return changed


def kind(name: Kind) -> Variant:
    """Another member of the family."""
    return lambda config: replace(config, model=replace(config.model, kind=name))


def weighted(config: PartsTraining) -> PartsTraining:
    """The weighted error L_w."""
    return replace(config, objective=replace(config.objective, weighted=True))


def gan(config: PartsTraining) -> PartsTraining:
    """A discriminator, and the momentum that is usual against one."""
    return slow_start(replace(config, objective=replace(config.objective, adversarial=100.0)))


def slow_start(config: PartsTraining) -> PartsTraining:
    """Adam with beta1 = 0.5."""
    optim = config.optim
    return replace(config, optim=replace(optim, beta1=0.5)) if isinstance(optim, Adam) else config


def local(config: PartsTraining) -> PartsTraining:
    """An encoder that sees 24 pixels."""
    return replace(config, model=replace(config.model, encoder="local"))


def one_a_cell(config: PartsTraining) -> PartsTraining:
    """One part per cell instead of independent ones."""
    return replace(config, model=replace(config.model, categorical=True))


def views(contrastive: float, iic: float = 0.0, lr: float | None = None) -> Variant:
    """A second view of every image."""

    def changed(config: PartsTraining) -> PartsTraining:
        objective = replace(config.objective, contrastive_weight=contrastive, iic_weight=iic)
        optim = config.optim if lr is None else replace(config.optim, lr=lr)
        return replace(config, objective=objective, optim=optim)

    return changed


def untrained(config: PartsTraining) -> PartsTraining:
    return replace(config, run=replace(config.run, steps=0))


VAE = kind("betavae")
AGREEMENT = views(1.0, lr=0.003)

FAMILY: Mapping[Member, Variant] = MappingProxyType(
    {
        "beta-VAE": VAE,
        "beta-VAE + L_w": chain(VAE, weighted),
        "beta-VAE-GAN": chain(VAE, gan),
        "beta-VAE-GAN + L_w": chain(VAE, gan, weighted),
        "PatchVAE": plain,
        "PatchVAE + L_w": weighted,
        "PatchVAE-GAN": gan,
        "PatchVAE-GAN + L_w": chain(gan, weighted),
        "BiGAN": chain(kind("bigan"), slow_start),
    }
)
"""Rows of the paper's Table 1 that train without labels."""

REFERENCES: Mapping[Member, Variant] = MappingProxyType({"random": untrained, "supervised": kind("supervised")})
"""No training, and training on the labels of the same images (the paper's last row was trained on ImageNet instead)."""

OURS: Mapping[Member, Variant] = MappingProxyType(
    {
        "local PatchVAE + L_w": chain(local, weighted),
        "local PatchVAE-GAN + L_w": chain(local, weighted, gan),
        "PatchVAE + L_w + agreement": chain(weighted, AGREEMENT),
        "local PatchVAE + L_w + agreement": chain(local, weighted, AGREEMENT),
        "beta-VAE + L_w + agreement": chain(VAE, weighted, AGREEMENT),
        "masked autoencoder": kind("mae"),
        "local masked autoencoder": chain(kind("mae"), local),
    }
)
"""Beyond the paper: parts that cannot see the whole image, contrastive views, and a present-day yardstick."""

EVERY: Mapping[Member, Variant] = MappingProxyType({**FAMILY, **REFERENCES, **OURS})
