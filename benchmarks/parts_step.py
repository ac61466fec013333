"""A training step of PatchVAE at 32 x 32, batch 128, compared with the authors' design and with pythae's BetaVAE.

    python benchmarks/parts_step.py --threads 1

The authors' design is reimplemented here from its description: the decoder is evaluated twice per step, memory is channels
first, and the output passes a tanh before the same losses. pythae is measured if it is installed (pip install pythae), with the
encoder and decoder of our beta-VAE. Steps alternate, so that other load on the machine affects all of them. An epoch is 390
steps of 128 images, as for CIFAR.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from latens.codes.gaussian import gaussian_kl, sample_gaussian
from latens.codes.parts import place_parts
from latens.inference.page import Table
from latens.systems.parts.config import BetaVAEConfig, BetaVAELoss, PatchVAEConfig, PatchVAELoss
from latens.systems.parts.model import BetaVAE, PatchVAE, Reconstruction
from latens.systems.parts.objective import Elbo

BATCH = 128
CIFAR_STEPS = 390  # steps of 128 images in an epoch of 50,000


class AsReleased(PatchVAE):
    """Decodes every sample twice and applies tanh to the second image."""

    def forward(self, image: Tensor, temperature: float, *, hard: bool = False, prior: float = 0.0) -> Reconstruction:
        features = self.encoder(image)
        posterior = self.heads(features)
        z_occ = self.sample_occurrence(posterior.logits, temperature)
        code = place_parts(sample_gaussian(*posterior.appearance), z_occ)
        self.decoder(code)
        kl_app = gaussian_kl(*posterior.appearance).sum(2)
        return Reconstruction(self.decoder(code).tanh(), kl_app, self.occurrence_kl(posterior.logits, prior), features)


def update(model: nn.Module, losses: PatchVAELoss | BetaVAELoss, image: Tensor, precision: torch.dtype) -> Callable[[], None]:
    objective = Elbo(losses)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def act() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            (step,) = objective(model, {"image": image}, 0)
        optimizer.zero_grad(set_to_none=True)
        step.loss.backward()
        optimizer.step()

    return act


def pythae_update(image: Tensor, sizes: BetaVAEConfig) -> Callable[[], None] | None:
    """A step of pythae's beta-VAE with our networks in pythae's memory layout; None with a message if it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            from pythae.models import BetaVAE as PythaeBetaVAE
            from pythae.models import BetaVAEConfig
            from pythae.models.base.base_utils import ModelOutput
            from pythae.models.nn import BaseDecoder, BaseEncoder
    except ImportError as missing:
        print(f"skipped: BetaVAE of pythae ({missing}); pip install pythae to compare with it", file=sys.stderr)
        return None
    ours = BetaVAE(sizes)
    code = sizes.parts * sizes.appearance

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.phi, self.head, self.latent_dim = ours.encoder, ours.to_vector, code

        def forward(self, x: Tensor) -> ModelOutput:
            mean, logvar = self.head(self.phi(x)).flatten(1).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=logvar)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            self.spread, self.body = ours.from_vector, ours.decoder

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(self.spread(z[:, :, None, None])))

    settings = BetaVAEConfig(input_dim=tuple(image.shape[1:]), latent_dim=code, beta=1.0, reconstruction_loss="mse")
    model = PythaeBetaVAE(settings, encoder=Encoder(), decoder=Decoder())
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def act() -> None:
        optimizer.zero_grad(set_to_none=True)
        model({"data": image}).loss.backward()
        optimizer.step()

    return act


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    sizes, plain, weighted = PatchVAEConfig(), PatchVAELoss(), PatchVAELoss(weighted=True)
    vae, vae_loss = BetaVAEConfig(), BetaVAELoss()
    image = torch.rand(given.batch, 3, 32, 32)
    last = image.contiguous(memory_format=torch.channels_last)

    def fast(model: nn.Module) -> nn.Module:
        return model.to(memory_format=torch.channels_last)

    local = PatchVAEConfig(encoder="local")
    acts = {
        "as released": update(AsReleased(sizes), plain, image, torch.float32),
        "PatchVAE": update(fast(PatchVAE(sizes)), plain, last, torch.float32),
        "PatchVAE + L_w": update(fast(PatchVAE(sizes)), weighted, last, torch.float32),
        "PatchVAE, bfloat16": update(fast(PatchVAE(sizes)), plain, last, torch.bfloat16),
        "local PatchVAE": update(fast(PatchVAE(local)), plain, last, torch.float32),
        "local PatchVAE, bfloat16": update(fast(PatchVAE(local)), plain, last, torch.bfloat16),
        "beta-VAE": update(fast(BetaVAE(vae)), vae_loss, last, torch.float32),
        "beta-VAE, channels first": update(BetaVAE(vae), vae_loss, image, torch.float32),
    }
    peer = pythae_update(image, vae)
    if peer is not None:
        acts["pythae BetaVAE, our networks"] = peer
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    for turn in range(given.repeats + 1):
        for name, act in acts.items():
            wall, cpu = time.perf_counter(), time.process_time()
            act()
            if turn:  # the first round warms up
                samples[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    base = median(cpu for _, cpu in samples["as released"])
    rows = [row(name, pairs, base, given.batch) for name, pairs in samples.items()]
    for record in rows:
        print(json.dumps(record))
    print(table(rows), file=sys.stderr)


def row(name: str, pairs: list[tuple[float, float]], base: float, batch: int) -> dict[str, Any]:
    """Medians of (wall, CPU) seconds per step; `base` is the CPU time of the authors' design."""
    cpu = median(cpu for _, cpu in pairs)
    epoch = cpu * CIFAR_STEPS * BATCH / batch
    return {
        "step": name,
        "cpu_ms": round(1e3 * cpu, 1),
        "wall_ms": round(1e3 * median(wall for wall, _ in pairs), 1),
        "of_released_cpu": round(cpu / base, 3),
        "cifar_epochs_per_hour_on_two_idle_cores": round(2 * 3600 / epoch, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    shown = [[str(value) for value in record.values()] for record in rows]
    caption = "Epochs of 390 steps of 128 images per hour, if two cores share the CPU time of a step evenly."
    return Table(["step", "CPU ms", "wall ms", "of released", "epochs/h"], shown, caption).text()


if __name__ == "__main__":
    main()
