"""Losses of PatchVAE and the beta-VAE (Gupta et al. 2020, Eqs. 3 and 8 to 11): plain, adversarial, or with two views.

Letters: B batch, N parts, C channels of phi, H W image size, h w cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.parts import temperature_at
from latens.data.tensors import grid
from latens.settings import to_dict
from latens.shapes import Float
from latens.systems.parts.baselines import Adversarial
from latens.systems.parts.config import STRIDE, BetaVAELoss, PatchVAELoss
from latens.systems.parts.gallery import part_colors
from latens.systems.parts.model import VAE, PatchVAE, Reconstruction
from latens.systems.parts.statistics import Tally
from latens.systems.parts.two_views import TwoViews, iic_of_views
from latens.training.objective import ONE_OPTIMIZER, Export, Group, Step

SHOWN = 8  # number of held-out images in a sample sheet
SEED = 20200607  # seed of the noise in validation, so that validations differ only by the weights
MIN_ENERGY = 1e-4  # gradient energy added to every cell, so that constant images have weight 1 everywhere


class Elbo:
    """Squared error + beta_app KL(appearance) + beta_occ KL(occurrence) per image, divided by its number of pixel values.

    This is Eq. 11 for a PatchVAE (its KL terms are Eq. 9), and Eq. 3 for a beta-VAE, which has no occurrences.

    With `adversarial` above 0, the discriminator takes its step before the model, whose loss has the adversarial term. With
    `contrastive_weight` or `iic_weight` above 0, the NT-Xent or IIC loss of two views is added.
    """

    def __init__(self, config: PatchVAELoss | BetaVAELoss) -> None:
        self.config = config
        self.beta_occ = config.beta_occ if isinstance(config, PatchVAELoss) else 0.0
        self.iic_weight = config.iic_weight if isinstance(config, PatchVAELoss) else 0.0
        self.optimizers: Mapping[str, Sequence[Group]] = ONE_OPTIMIZER
        if config.adversarial:
            self.optimizers = MappingProxyType({"judge": (Group(("judge.",)),), "model": (Group(("generator.",)),)})

    def temperature(self, step: int) -> float:
        """Temperature of the relaxed occurrences of a PatchVAE."""
        schedule = cast(PatchVAELoss, self.config).annealing
        return temperature_at(step, start=schedule.start, floor=schedule.floor, rate=schedule.rate, compound=schedule.compound)

    def sample(self, model: VAE, image: Float[Tensor, "B 3 H W"], step: int | None) -> Reconstruction:
        """Reconstruction from one sample of the code; step None means validation, at the lowest temperature."""
        if not isinstance(model, PatchVAE):
            return cast(Reconstruction, model(image))
        loss = cast(PatchVAELoss, self.config)
        temperature = loss.annealing.floor if step is None else self.temperature(step)
        return cast(Reconstruction, model(image, temperature, hard=loss.annealing.hard, prior=loss.prior))

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        image, generator = batch["image"], generator_of(model)
        found = self.sample(generator, image, step)
        adversarial: Tensor | float = 0.0
        if self.config.adversarial:
            discriminator = cast(Adversarial, model).judge
            yield Step("judge", discriminator_loss(discriminator(image), discriminator(found.image.detach())), {})
            adversarial = generator_loss(discriminator(found.image))
        error, kl_app, kl_occ = (term.mean() for term in self.terms(found, image))
        values = image[0].numel()
        elbo = (error + self.config.beta_app * kl_app + self.beta_occ * kl_occ) / values
        logs: dict[str, Tensor | float] = {"error": error, "kl_app": kl_app, "kl_occ": kl_occ}
        if isinstance(generator, PatchVAE):
            logs["temperature"] = self.temperature(step)
        if self.config.adversarial:
            logs["adversarial"] = adversarial
        views = self.views(model, found, image)
        logs |= views
        yield Step("model", elbo + self.config.adversarial * adversarial / values + self.weigh(views), logs)

    def views(self, model: nn.Module, found: Reconstruction, image: Float[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        """The losses between two views with a weight above 0: "nt_xent" and "iic"."""
        views, core = {}, generator_of(model)
        if isinstance(model, TwoViews):
            views["nt_xent"] = model.contrast(found.features, image)
        if self.iic_weight and isinstance(core, PatchVAE):
            views["iic"] = iic_of_views(core, found.features, image)
        return views

    def weigh(self, views: Mapping[str, Tensor | float]) -> Tensor | float:
        """Weighted sum of the losses between two views."""
        return self.config.contrastive_weight * views.get("nt_xent", 0.0) + self.iic_weight * views.get("iic", 0.0)

    def terms(
        self, found: Reconstruction, image: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Error, KL of appearances and KL of occurrences, per image."""
        error = weighted_error if self.config.weighted else squared_error
        return error(found.image, image), found.kl_app.sum(1), found.kl_occ.sum(1)

    @torch.no_grad()
    def validate(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """The loss at the lowest temperature, PSNR without noise, divergences, and the number of active parts."""
        core = generator_of(model)
        sums, count, values = torch.zeros(4, dtype=torch.float64), 0, 1
        views: Counter[str] = Counter()
        tally = Tally()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            for batch in batches:
                image = batch["image"]
                found = self.sample(core, image, None)
                error, kl_app, kl_occ = self.terms(found, image)
                plain = core.mean_image(image).image.clamp(0, 1)
                psnr = -10 * (squared_error(plain, image) / image[0].numel()).clamp_min(1e-10).log10()
                sums += torch.stack([error.sum(), kl_app.sum(), kl_occ.sum(), psnr.sum()]).double().cpu()
                views.update({name: float(value) * len(image) for name, value in self.views(model, found, image).items()})
                count, values = count + len(image), image[0].numel()
                if isinstance(core, PatchVAE):
                    tally.add(core.probability(core.heads(found.features).logits), found.kl_app, found.kl_occ)
        error, kl_app, kl_occ, psnr = (sums / count).tolist()
        means = {name: value / count for name, value in views.items()}
        loss = (error + self.config.beta_app * kl_app + self.beta_occ * kl_occ) / values + float(self.weigh(means))
        numbers = {"loss": loss, "psnr": psnr, "error": error, "kl_app": kl_app, "kl_occ": kl_occ, **means}
        return {**numbers, **tally.statistics().summary()} if tally.images else numbers

    def images(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Held-out images, their reconstructions and, for PatchVAE, maps of the parts (one color each)."""
        core, image = generator_of(model), batches[0]["image"][:SHOWN]
        rows = [image, core.mean_image(image).image]
        if isinstance(core, PatchVAE):
            rows.append(_map_of_parts(core, image))
        return {"reconstructions": grid(rows)}

    def export(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Export:
        """The float32 weights without those of the discriminator and the projector."""
        core = generator_of(model)
        return Export(dict(core.state_dict()), {}, {"model": to_dict(core.config)})


def generator_of(model: nn.Module) -> VAE:
    """The VAE without the modules that only its losses need."""
    return model.generator if isinstance(model, Adversarial | TwoViews) else cast(VAE, model)


def _map_of_parts(model: PatchVAE, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    chosen = model.hard_occurrence(model.posterior(image).logits)
    colors = torch.from_numpy(part_colors(chosen.shape[1])).to(chosen)
    mixed = torch.einsum("bnhw,nc->bchw", chosen, colors) / chosen.sum(1, keepdim=True).clamp_min(1)
    return F.interpolate(mixed, image.shape[2:], mode="nearest")


# ------------------------------------------------------------------------------------------------------------- terms


def squared_error(image: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """Squared error per image, summed over pixels and colors."""
    return (image - target).square().sum((1, 2, 3))


def weighted_error(image: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """L_w: squared error with `energy_weight` of the target."""
    return (energy_weight(target) * (image - target).square()).sum((1, 2, 3))


def energy_weight(target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Mean absolute Laplacian of every 8 x 8 patch and color, with mean 1 over the color of an image (section 3.4).

    The paper's weights have sum 1; a mean of 1 preserves the scale of the squared error, as in the released code. Colors
    without gradient have weight 1 everywhere. Sides must be multiples of 8.
    """
    padded = F.pad(target, (1, 1, 1, 1), mode="replicate")
    neighbors = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1] + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
    energy = F.avg_pool2d((neighbors - 4 * target).abs(), STRIDE) + MIN_ENERGY
    share = energy / energy.mean((2, 3), keepdim=True)
    return F.interpolate(share, scale_factor=STRIDE, mode="nearest")


def discriminator_loss(real: Float[Tensor, "B 1"], fake: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
    """Cross-entropy of a discriminator with logits `real` of images and `fake` of reconstructions."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def generator_loss(fake: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
    """Cross-entropy of a generator whose output should be classified as real (non-saturating; Goodfellow et al. 2014)."""
    return F.softplus(-fake.float()).mean()
