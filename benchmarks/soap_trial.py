"""Muon, SOAP and Adam on the second image codec at equal processor time, from one start.

    python benchmarks/soap_trial.py --init runs/trunk/best --data PHOTOS -o trial [--minutes 10] [--threads 1]

Every optimizer takes as many steps as fit into the minutes, by the time of its first steps; its rate falls to zero over the
second half. Prints steps, processor seconds and the smallest held-out loss. Runs in OUT are not made again.

SOAP (Vyas et al. 2025) is Adam in the eigenbases of the second moments of a gradient. Here the outputs of a convolution have a
basis, and its inputs if they are at most 320: larger ones cost more than a step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

import latens
from latens.training import optim
from latens.training.muon import MuonAdam

SIDE = 320  # largest side with a basis
BETA, EPSILON = 0.95, 1e-8  # of moments and statistics
RENEWED = 10  # steps between two updates of the bases
PROBE = 12  # steps that are timed; the first ones are slower


class SoapAdam(MuonAdam):
    """SOAP in place of Muon."""

    def _muon(self, parameter: Tensor, lr: float, *, transposed: bool) -> None:
        gradient = parameter.grad
        assert gradient is not None
        arranged = gradient.transpose(0, 1) if transposed else gradient
        with torch.autocast(gradient.device.type, enabled=False):
            update = self._rotated(self.state[parameter], arranged.reshape(len(arranged), -1)).reshape(arranged.shape)
        parameter.add_(update.transpose(0, 1) if transposed else update, alpha=-lr)

    @staticmethod
    def _rotated(state: dict[str, Tensor], gradient: Tensor) -> Tensor:
        """The update of a matrix, of about one in root mean square."""
        sides = [side for side in (0, 1) if gradient.shape[side] <= SIDE]
        products = {side: gradient @ gradient.mT if side == 0 else gradient.mT @ gradient for side in sides}
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
            state |= {f"statistic{side}": products[side].clone() for side in sides}
            state |= {f"basis{side}": torch.linalg.eigh(products[side])[1] for side in sides}
            return torch.zeros_like(gradient)  # the first gradient sets the basis alone
        state["step"] += 1
        step, mean, square = int(state["step"]), state["mean"], state["square"]
        bases = {side: state[f"basis{side}"] for side in sides}
        mean.lerp_(gradient, 1 - BETA)
        turned = turn(gradient, bases)
        square.lerp_(turned.square(), 1 - BETA)
        correction = (1 - BETA**step) ** -0.5
        update: Tensor = turn(turn(mean, bases) / (square.sqrt() + EPSILON), bases, back=True) * correction
        for side in sides:
            statistic = state[f"statistic{side}"].lerp_(products[side], 1 - BETA)
            if step % RENEWED == 0:  # one power iteration
                state[f"basis{side}"] = torch.linalg.qr(statistic @ bases[side])[0]
        return update


def turn(matrix: Tensor, bases: dict[int, Tensor], *, back: bool = False) -> Tensor:
    """A matrix in the bases of its sides, or back."""
    if 0 in bases:
        matrix = (bases[0] if back else bases[0].mT) @ matrix
    if 1 in bases:
        matrix = matrix @ (bases[1].mT if back else bases[1])
    return matrix


class Variant(NamedTuple):
    name: str
    settings: dict[str, str]
    soap: bool = False


VARIANTS = (
    Variant("muon, rate 0.0012 (recipe)", {}),
    Variant("SOAP, rate 0.0005", {"optim.muon_lr": "0.0005"}, soap=True),
    Variant("SOAP, rate 0.001", {"optim.muon_lr": "0.001"}, soap=True),
    Variant("Adam, rate 0.0005", {"optim.max_side": "1"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=Path, required=True, help="model folder that every run starts from")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time of each run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[each.name for each in VARIANTS], help="names of the runs")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    for variant in VARIANTS:
        if variant.name in arguments.only:
            print(json.dumps(run(variant, arguments)), flush=True)


def run(variant: Variant, arguments: argparse.Namespace) -> dict[str, object]:
    """Train one variant, or read what an earlier call found."""
    folder = arguments.out / variant.name.replace(", ", "-").replace(" ", "-")
    found = folder / "trial.json"
    if found.is_file():
        return dict(json.loads(found.read_text()))
    with optimizer(variant):
        _, probe = train(variant, arguments, folder / "probe", PROBE)
        steps = round(60 * arguments.minutes / (probe / PROBE))
        loss, seconds = train(variant, arguments, folder / "run", steps)
    row = {"optimizer": variant.name, "steps": steps, "processor_seconds": round(seconds), "held_out_loss": loss}
    found.write_text(json.dumps(row))
    return row


@contextmanager
def optimizer(variant: Variant) -> Iterator[None]:
    with mock.patch.object(optim, "MuonAdam", SoapAdam if variant.soap else MuonAdam):
        yield


def train(variant: Variant, arguments: argparse.Namespace, folder: Path, steps: int) -> tuple[float | None, float]:
    """The smallest held-out loss of a run, and its processor time in seconds without reading the data."""
    times: list[float] = []
    settings = {
        "run.steps": str(steps),
        "run.log_every": "1",
        "run.validate_every": str(steps),
        "run.checkpoint_every": "200",
        "optim.warmup": "20",
        "optim.decay_share": "0.5",
        "optim.ema": "0.98",
        **variant.settings,
    }
    result = latens.train(
        "image_codec", recipe="context_cpu", data=arguments.data, out=folder, init=arguments.init, settings=settings,
        threads=arguments.threads, device="cpu", on_progress=lambda step, note="": times.append(time.process_time()),
    )  # fmt: skip
    return result.best, (times[-1] - times[0]) * steps / max(len(times) - 1, 1)


if __name__ == "__main__":
    main()
