"""What PatchVAE and the beta-VAE minimise (004, Eqs. 3 and 8 to 11), plain, against a discriminator or with a second view."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from latens.codes.parts import temperature_at
from latens.shapes import Float
from latens.systems.parts.agreement import Agreeing, parts_alike
from latens.systems.parts.config import LossConfig
from latens.systems.parts.losses import fooling_loss, judge_loss, squared_error, weighted_error
from latens.systems.parts.measure import Tally
from latens.systems.parts.model import BetaVAE, PatchVAE, Reconstruction, most_likely
from latens.systems.parts.rivals import Adversarial
from latens.training.objective import Export, Step

SHOWN = 8  # held-out pictures in a sample sheet
SEED = 20200607  # of the noise in validation, so that two validations differ by the weights alone


class Elbo:
    """Squared error + beta_app KL(appearance) + beta_occ KL(occurrence) per picture, divided by its number of pixel values.

    With `adversarial` above zero the discriminator takes its step first, then the model, once, with the adversarial term. With
    `agreement` or `constancy` above zero, terms are added for how alike two views of one picture are (see agreement.py).
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.optimizers: Mapping[str, tuple[str, ...]] = MappingProxyType(
            {"judge": ("judge.",), "model": ("generator.",)} if config.adversarial else {"model": ("",)}
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
        if isinstance(model, Agreeing):
            views["views_apart"] = model.disagreement(found.features, image)
        if self.config.constancy and isinstance(core, PatchVAE):
            views["parts_alike"] = parts_alike(core, found.features, image)
        return views

    def weighed(self, views: Mapping[str, Tensor | float]) -> Tensor | float:
        """The share of `views` in the loss."""
        return self.config.agreement * views.get("views_apart", 0.0) - self.config.constancy * views.get("parts_alike", 0.0)

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

    def pictures(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Held-out pictures above their reconstructions and, for PatchVAE, above where which part is (one colour each)."""
        core, image = generator_of(model), batches[0]["image"][:SHOWN]
        rows = [image, core.mean_picture(image).image]
        if isinstance(core, PatchVAE):
            rows.append(_map_of_parts(core, image))
        return {"reconstructions": sheet(rows)}

    def export(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Export:
        """All weights but those of the discriminator and of the comparison of views, in float32."""
        core = generator_of(model)
        return Export(dict(core.state_dict()), {}, {"model": asdict(core.config)})


def generator_of(model: nn.Module) -> PatchVAE | BetaVAE:
    return model.generator if isinstance(model, Adversarial | Agreeing) else cast(PatchVAE, model)


def sheet(rows: Sequence[Float[Tensor, "B 3 H W"]]) -> np.ndarray:
    """Batches of pictures as rows of one picture (H, W, 3) uint8."""
    joined = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return joined.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def part_colours(parts: int) -> np.ndarray:
    """Colours (N, 3) in [0, 1] that go round the colour circle, neighbours in number far apart in hue."""
    hue = (np.arange(parts) * (math.sqrt(5) - 1) / 2 % 1)[:, None]
    wave = np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
    return 0.5 + 0.5 * wave


def _map_of_parts(model: PatchVAE, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    posterior = model.posterior(image)
    chosen = most_likely(posterior.logits, categorical=model.config.categorical)
    colours = torch.from_numpy(part_colours(chosen.shape[1])).to(chosen)
    mixed = torch.einsum("bnhw,nc->bchw", chosen, colours) / chosen.sum(1, keepdim=True).clamp_min(1)
    return nn.functional.interpolate(mixed, image.shape[2:], mode="nearest")
