"""The rows of Table 1 as settings of one recipe: each name is what `--set` would be given. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Settings = Mapping[str, str]

VAE = {"model.kind": "betavae"}
WEIGHTED = {"objective.weighted": "true"}
GAN = {"objective.adversarial": "100.0", "optim.beta1": "0.5"}
LOCAL = {"model.encoder": "local"}
AGREEMENT = {"objective.agreement": "1.0", "optim.lr": "0.003"}

FAMILY: Mapping[str, Settings] = MappingProxyType(
    {
        "beta-VAE": VAE,
        "beta-VAE + L_w": {**VAE, **WEIGHTED},
        "beta-VAE-GAN": {**VAE, **GAN},
        "beta-VAE-GAN + L_w": {**VAE, **GAN, **WEIGHTED},
        "PatchVAE": {},
        "PatchVAE + L_w": WEIGHTED,
        "PatchVAE-GAN": GAN,
        "PatchVAE-GAN + L_w": {**GAN, **WEIGHTED},
        "BiGAN": {"model.kind": "bigan", "optim.beta1": "0.5", "objective.penalty": "1.0"},
    }
)
"""Rows of the paper's Table 1 that train without labels."""

REFERENCES: Mapping[str, Settings] = MappingProxyType(
    {"random": {"run.steps": "0"}, "supervised": {"model.kind": "supervised"}},
)
"""No training, and training on the labels of the same pictures (the paper's last row was trained on ImageNet instead)."""

OURS: Mapping[str, Settings] = MappingProxyType(
    {
        "local PatchVAE + L_w": {**LOCAL, **WEIGHTED},
        "local PatchVAE-GAN + L_w": {**LOCAL, **WEIGHTED, **GAN},
        "PatchVAE + L_w + agreement": {**WEIGHTED, **AGREEMENT},
        "local PatchVAE + L_w + agreement": {**LOCAL, **WEIGHTED, **AGREEMENT},
        "beta-VAE + L_w + agreement": {**VAE, **WEIGHTED, **AGREEMENT},
        "masked autoencoder": {"model.kind": "mae"},
        "local masked autoencoder": {"model.kind": "mae", **LOCAL},
    }
)
"""Beyond the paper: parts that cannot see the whole picture, views that agree, and a present-day yardstick."""

EVERY: Mapping[str, Settings] = MappingProxyType({**FAMILY, **REFERENCES, **OURS})
