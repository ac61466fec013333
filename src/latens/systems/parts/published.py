"""Published numbers of Tables 1 to 7 of Gupta et al. 2020."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from latens.systems.parts.recipes import Row

TABLE_1: Mapping[str, Mapping[Row, tuple[float, float, float]]] = MappingProxyType(
    {
        "CIFAR-100": {
            "beta-VAE": (44.12, 39.65, 28.57),
            "beta-VAE + L_w": (44.96, 40.30, 28.33),
            "beta-VAE-GAN": (44.69, 40.13, 29.89),
            "beta-VAE-GAN + L_w": (45.61, 41.35, 31.53),
            "PatchVAE": (43.07, 38.58, 28.72),
            "PatchVAE + L_w": (43.75, 40.37, 30.55),
            "PatchVAE-GAN": (44.45, 40.57, 31.74),
            "PatchVAE-GAN + L_w": (45.39, 41.74, 32.65),
            "BiGAN": (47.72, 41.89, 31.58),
            "supervised": (55.99, 54.99, 54.36),
        },
        "Indoor-67": {
            "beta-VAE": (20.08, 17.76, 13.06),
            "beta-VAE + L_w": (21.34, 19.48, 13.96),
            "beta-VAE-GAN": (19.10, 17.84, 13.06),
            "beta-VAE-GAN + L_w": (20.45, 18.36, 14.33),
            "PatchVAE": (20.97, 19.18, 13.43),
            "PatchVAE + L_w": (23.21, 21.87, 15.45),
            "PatchVAE-GAN": (21.12, 19.63, 14.55),
            "PatchVAE-GAN + L_w": (22.46, 21.87, 16.42),
            "BiGAN": (21.64, 17.09, 9.70),
            "supervised": (45.90, 45.82, 40.90),
        },
        "Places205": {
            "beta-VAE": (28.29, 24.34, 8.89),
            "beta-VAE + L_w": (29.43, 24.93, 9.41),
            "beta-VAE-GAN": (28.48, 24.51, 9.72),
            "beta-VAE-GAN + L_w": (29.63, 25.26, 10.66),
            "PatchVAE": (28.63, 24.95, 11.09),
            "PatchVAE + L_w": (29.39, 26.29, 12.07),
            "PatchVAE-GAN": (28.87, 25.25, 12.21),
            "PatchVAE-GAN + L_w": (29.36, 26.30, 13.39),
            "BiGAN": (30.06, 25.11, 10.82),
            "supervised": (37.08, 36.46, 31.26),
        },
    }
)
"""Published: data set -> model -> Conv1, Conv[1-3], Conv[1-5] in percent. "supervised" was trained on ImageNet."""

TABLE_2: Mapping[Row, tuple[float, float]] = MappingProxyType(
    {
        "beta-VAE": (44.45, 69.67),
        "PatchVAE": (47.01, 71.71),
        "beta-VAE + L_w": (47.28, 71.78),
        "PatchVAE + L_w": (47.87, 72.49),
        "supervised": (61.37, 83.79),
    }
)
"""Published: top-1 and top-5 on ImageNet."""

Ablation = Mapping[float, tuple[float, float]]

TABLE_3: Ablation = MappingProxyType(
    {4: (27.59, 14.40), 8: (28.74, 12.69), 16: (28.94, 14.33), 32: (27.78, 13.28), 64: (29.00, 12.76)}
)
TABLE_4: Ablation = MappingProxyType({3: (28.63, 14.25), 6: (28.97, 14.55), 9: (28.21, 14.55)})
TABLE_5: Ablation = MappingProxyType({0.01: (28.86, 14.33), 0.05: (28.67, 14.25), 0.1: (28.31, 14.03)})
TABLE_6: Ablation = MappingProxyType({0.06: (30.11, 14.10), 0.3: (30.37, 15.67), 0.6: (28.90, 13.51)})
"""Published: value of N, d_p, the prior and beta_occ -> Conv[1-5] on CIFAR-100 and Indoor-67."""

TABLE_7: Mapping[Row, tuple[float, float, float]] = MappingProxyType(
    {"beta-VAE": (4.857, 108.741, 0.289), "PatchVAE": (4.342, 113.692, 0.235)}
)
"""Published: PSNR (of pixels divided by ImageNet's deviation: add 12.9 dB for [0, 1]), FID and SSIM on ImageNet."""


def published_set(name: str) -> str:
    """The data set of Table 1 whose name is part of `name`; else CIFAR-100."""
    plain = name.lower().replace("-", "").replace("_", "")
    return next((known for known in TABLE_1 if known.lower().replace("-", "") in plain), "CIFAR-100")
