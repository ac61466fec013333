"""The losses of PatchVAE and the beta-VAE (004, Eqs. 3 and 8 to 11), adversarial and two-view terms, losses of baselines."""

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
from latens.settings import to_dict
from latens.shapes import Float
from latens.systems.parts.baselines import Adversarial, BiGAN, MaskedAutoencoder, PairCritic, Supervised
from latens.systems.parts.config import LossConfig
from latens.systems.parts.model import BetaVAE, PatchVAE, Reconstruction, most_likely
from latens.systems.parts.palette import part_colors, sheet
from latens.systems.parts.statistics import Tally
from latens.systems.parts.two_views import TwoViews, iic_loss
from latens.training.objective import ONE_OPTIMIZER, Export, Group, Step

CELL = 8  # side of the patches whose gradient energy is averaged, in pixels
QUIET = 1e-4  # energy a pixel that counts everywhere: a constant picture gets weight 1 throughout
SHOWN = 8  # held-out pictures in a sample sheet
SEED = 20200607  # of the noise in validation, so that two validations differ by the weights alone


class Elbo:
    """Squared error + beta_app KL(appearance) + beta_occ KL(occurrence) per picture, divided by its number of pixel values.

    With `adversarial` above zero the discriminator takes its step first, then the model, once, with the adversarial term. With
    `contrastive_weight` or `iic_weight` above zero, losses between two views of one image are added (see two_views.py).
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.optimizers: Mapping[str, Sequence[Group]] = (
            {"judge": (Group(("judge.",)),), "model": (Group(("generator.",)),)} if config.adversarial else ONE_OPTIMIZER
        )

    def temperature(self, step: int) -> float:
        law = self.config.annealing
        return temperature_at(step, start=law.start, floor=law.floor, rate=law.rate, compound=law.compound)

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        image = batch["image"]
        temperature = self.temperature(step)
        found: Reconstruction = generator_of(model)(
            image, temperature, hard=self.config.annealing.hard, prior=self.config.prior
        )
        fooling: Tensor | float = 0.0
        if self.config.adversarial:
            judge = cast(Adversarial, model).judge
            yield Step("judge", judge_loss(judge(image), judge(found.image.detach())), {})
            fooling = fooling_loss(judge(found.image))
        terms = self.terms(found, image)
        error, kl_app, kl_occ = (term.mean() for term in terms)
        values = image[0].numel()
        elbo = (error + self.config.beta_app * kl_app + self.config.beta_occ * kl_occ) / values
        logs: dict[str, Tensor | float] = {"error": error, "kl_app": kl_app, "kl_occ": kl_occ, "temperature": temperature}
        if self.config.adversarial:
            logs["fooling"] = fooling
        views = self.views(model, found, image)
        logs |= views
        yield Step("model", elbo + self.config.adversarial * fooling / values + self.weighed(views), logs)

    def views(self, model: nn.Module, found: Reconstruction, image: Float[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        """How alike other views of the same pictures are to the model, as far as that is trained."""
        views, core = {}, generator_of(model)
        if isinstance(model, TwoViews):
            views["nt_xent"] = model.contrastive_loss(found.features, image)
        if self.config.iic_weight and isinstance(core, PatchVAE):
            views["iic"] = iic_loss(core, found.features, image)
        return views

    def weighed(self, views: Mapping[str, Tensor | float]) -> Tensor | float:
        """The share of `views` in the loss."""
        return self.config.contrastive_weight * views.get("nt_xent", 0.0) + self.config.iic_weight * views.get("iic", 0.0)

    def terms(
        self, found: Reconstruction, image: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Error, KL of appearances and KL of occurrences of every picture."""
        error = weighted_error if self.config.weighted else squared_error
        return error(found.image, image), found.kl_app.sum(1), found.kl_occ.sum(1)

    @torch.no_grad()
    def validate(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """The loss at the lowest temperature, PSNR of pictures without noise, divergences, and which parts are in use."""
        core = generator_of(model)
        sums, pictures, values = torch.zeros(4, dtype=torch.float64), 0, 1
        views: Counter[str] = Counter()
        tally = Tally()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            for batch in batches:
                image = batch["image"]
                law = self.config.annealing
                found = core(image, law.floor, hard=law.hard, prior=self.config.prior)
                error, kl_app, kl_occ = self.terms(found, image)
                plain = core.mean_picture(image).image.clamp(0, 1)
                psnr = -10 * (squared_error(plain, image) / image[0].numel()).clamp_min(1e-10).log10()
                sums += torch.stack([error.sum(), kl_app.sum(), kl_occ.sum(), psnr.sum()]).double().cpu()
                views.update({name: float(value) * len(image) for name, value in self.views(model, found, image).items()})
                pictures, values = pictures + len(image), image[0].numel()
                if isinstance(core, PatchVAE):
                    tally.add(core.probability(core.heads(found.features).logits), found.kl_app, found.kl_occ)
        error, kl_app, kl_occ, psnr = (sums / pictures).tolist()
        means = {name: value / pictures for name, value in views.items()}
        loss = (error + self.config.beta_app * kl_app + self.config.beta_occ * kl_occ) / values + float(self.weighed(means))
        numbers = {"loss": loss, "psnr": psnr, "error": error, "kl_app": kl_app, "kl_occ": kl_occ, **means}
        return {**numbers, **tally.statistics().summary()} if tally.pictures else numbers

    def images(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Held-out pictures above their reconstructions and, for PatchVAE, above where which part is (one colour each)."""
        core, image = generator_of(model), batches[0]["image"][:SHOWN]
        rows = [image, core.mean_picture(image).image]
        if isinstance(core, PatchVAE):
            rows.append(_map_of_parts(core, image))
        return {"reconstructions": sheet(rows)}

    def export(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Export:
        """All weights but those of the discriminator and of the comparison of views, in float32."""
        core = generator_of(model)
        return Export(dict(core.state_dict()), {}, {"model": to_dict(core.config)})


def generator_of(model: nn.Module) -> PatchVAE | BetaVAE:
    return model.generator if isinstance(model, Adversarial | TwoViews) else cast(PatchVAE, model)


def _map_of_parts(model: PatchVAE, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    posterior = model.posterior(image)
    chosen = most_likely(posterior.logits, categorical=model.config.categorical)
    colors = torch.from_numpy(part_colors(chosen.shape[1])).to(chosen)
    mixed = torch.einsum("bnhw,nc->bchw", chosen, colors) / chosen.sum(1, keepdim=True).clamp_min(1)
    return nn.functional.interpolate(mixed, image.shape[2:], mode="nearest")


# ------------------------------------------------------------------------------------------------------------ baselines


class Whole:
    """What these objectives share: all weights are shipped."""

    def export(self, model: BiGAN | MaskedAutoencoder | Supervised, batches: Sequence[dict[str, Tensor]]) -> Export:
        return Export(dict(model.state_dict()), {}, {"model": to_dict(model.config)})


class BiGanObjective(Whole):
    """Critic against encoder and generator, with the logistic loss and a penalty on the critic's gradient."""

    optimizers: Mapping[str, Sequence[Group]] = MappingProxyType(
        {
            "critic": (Group(("critic.",)),),
            "model": (Group(("encoder.", "to_vector.", "from_vector.", "decoder.")),),
        }
    )

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        bigan, image = cast(BiGAN, model), batch["image"]
        vector = torch.randn(len(image), bigan.code, device=image.device)
        fake, found = bigan.decode(vector), bigan.encode(image)
        penalty = gradient_penalty(bigan.critic, image, found)
        real_score, fake_score = bigan.critic(image, found.detach()), bigan.critic(fake.detach(), vector)
        loss = F.softplus(-real_score).mean() + F.softplus(fake_score).mean()
        yield Step("critic", loss + self.config.penalty * penalty, {"penalty": penalty})
        fooled = F.softplus(bigan.critic(image, found)).mean() + F.softplus(-bigan.critic(fake, vector)).mean()
        yield Step("model", fooled, {})

    @torch.no_grad()
    def validate(self, model: BiGAN, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Squared error of G(E(x)): what adversarial training only reaches when both agree, and comparable between steps."""
        errors = [(model.decode(model.encode(batch["image"])) - batch["image"]).square().mean() for batch in batches]
        return {"loss": float(torch.stack(errors).mean())}

    @torch.no_grad()
    def images(self, model: BiGAN, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        image = batches[0]["image"][:SHOWN]
        drawn = torch.randn(len(image), model.code, generator=torch.Generator().manual_seed(SEED)).to(image.device)
        return {"reconstructions": sheet([image, model.decode(model.encode(image)), model.decode(drawn)])}


class MaskedObjective(Whole):
    """Squared error a hidden pixel value."""

    optimizers: Mapping[str, Sequence[Group]] = ONE_OPTIMIZER

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        yield Step("model", self.error(cast(MaskedAutoencoder, model), batch["image"]), {})

    def error(self, model: MaskedAutoencoder, image: Tensor) -> Tensor:
        found = model(image, self.config.masked)
        hidden = (3 * found.hidden.sum()).clamp_min(1)
        return ((found.image - image).square() * found.hidden).sum() / hidden

    @torch.no_grad()
    def validate(self, model: MaskedAutoencoder, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return {"loss": float(torch.stack([self.error(model, batch["image"]) for batch in batches]).mean())}

    @torch.no_grad()
    def images(self, model: MaskedAutoencoder, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        image = batches[0]["image"][:SHOWN]
        found = model(image, self.config.masked)
        shown = image * (1 - found.hidden)
        return {"restored": sheet([image, shown, shown + found.image * found.hidden])}


class SupervisedObjective(Whole):
    """Cross-entropy of the labels."""

    optimizers: Mapping[str, Sequence[Group]] = ONE_OPTIMIZER

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        logits = model(batch["image"])
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        yield Step("model", F.cross_entropy(logits, batch["label"]), {"accuracy": accuracy})

    @torch.no_grad()
    def validate(self, model: Supervised, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        logits = torch.cat([model(batch["image"]) for batch in batches])
        labels = torch.cat([batch["label"] for batch in batches])
        accuracy = float((logits.argmax(1) == labels).float().mean())
        return {"loss": float(F.cross_entropy(logits, labels)), "accuracy": accuracy}

    def images(self, model: Supervised, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        return {"held-out": sheet([batches[0]["image"][:SHOWN]])}


# --------------------------------------------------------------------------------------------------------------- terms


def squared_error(image: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """Summed over pixels and colours."""
    return (image - target).square().sum((1, 2, 3))


def weighted_error(image: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """L_w: squared error with `energy_weight` of the target."""
    return (energy_weight(target) * (image - target).square()).sum((1, 2, 3))


def energy_weight(target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Mean absolute Laplacian of every 8 x 8 patch and colour, with mean 1 over a picture's colour (section 3.4).

    The paper lets the weights sum to one; here they keep the scale of the squared error, as in the released code. A colour
    without any gradient has weight 1 everywhere. Sides are multiples of 8.
    """
    padded = F.pad(target, (1, 1, 1, 1), mode="replicate")
    neighbours = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1] + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
    energy = F.avg_pool2d((neighbours - 4 * target).abs(), CELL) + QUIET
    share = energy / energy.mean((2, 3), keepdim=True)
    return F.interpolate(share, scale_factor=CELL, mode="nearest")


def judge_loss(real: Float[Tensor, "B 1"], fake: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
    """Cross-entropy of a discriminator that should say yes to `real` and no to `fake` (logits)."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def fooling_loss(fake: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
    """Cross-entropy of a generator that wants yes for what it made (non-saturating; Goodfellow et al. 2014)."""
    return F.softplus(-fake.float()).mean()


def gradient_penalty(critic: PairCritic, image: Float[Tensor, "B 3 H W"], vector: Float[Tensor, "B Z"]) -> Float[Tensor, ""]:
    """Mean squared norm of the critic's gradient at real pairs, halved (R1; Mescheder et al. 2018)."""
    image, vector = image.detach().requires_grad_(), vector.detach().requires_grad_()
    score = critic(image, vector)
    gradients = torch.autograd.grad(score.sum(), (image, vector), create_graph=True)
    return 0.5 * sum(g.float().square().flatten(1).sum(1) for g in gradients).mean()  # type: ignore[union-attr]
