"""Reference numbers of a tiny CompressAI mean-scale hyperprior, for the tests of our importer.

Runs in a separate environment, because CompressAI needs numpy below 2:

    python3 -m venv peer && peer/bin/pip install compressai==1.2.8 "numpy<2" "torch>=2.14" torchvision safetensors
    peer/bin/python benchmarks/make_compressai_golden.py tests/golden

It writes `compressai_tiny.safetensors`, the weights under CompressAI's names, and `compressai_tiny.json`, the results of
CompressAI with them in float64 for `image(64, 128)`. The weights are random but scaled so that every part has an effect:
latents of very different magnitudes per channel, scales and normalization weights on both sides of their lower bounds, rounding
points of z away from zero and slightly away from the medians. The speed comparison also uses `spread` (`compressai_worker.py`).
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import compressai
import torch
from compressai.models import MeanScaleHyperprior
from safetensors.torch import save_file
from torch import Tensor, nn

HIDDEN, LATENT = 8, 12
HEIGHT, WIDTH = 64, 128
MARGIN = 2e-3  # smallest distance of a value to a rounding boundary, so that float32 rounds it the same way
TOO_LARGE = {"gaussian_conditional._quantized_cdf"}  # 800 kB, and determined by scale_table


def image(height: int, width: int) -> Tensor:
    """(1, 3, height, width) in [0, 1]: two slopes and a slow interference pattern, computed from integers."""
    channel = torch.arange(3)[:, None, None]
    row = torch.arange(height)[None, :, None]
    column = torch.arange(width)[None, None, :]
    level = (3 * row + 5 * column + 40 * channel + row * column // 16) % 256
    return (level.double() / 255)[None]


@torch.no_grad()
def spread(model: MeanScaleHyperprior, image: Tensor, *, loudest: float, quietest: float) -> None:
    """Rescale random weights so that the latents of `image` resemble those of a trained model.

    The standard deviation of y falls geometrically over the channels from `loudest` to `quietest`. The means are about a third
    of it, and the scales match the residual; the reconstructed image has values around one half.
    """
    _spread_normalization(model)
    latent = model.g_a[-1].weight.shape[0]
    sizes = loudest * (quietest / loudest) ** (torch.arange(latent) / (latent - 1))
    y = _set_output(model.g_a, image, torch.zeros(latent), sizes)
    bottleneck = model.entropy_bottleneck
    deviations = torch.linspace(0.3, 3.0, bottleneck.channels)
    _spread_prior(bottleneck, deviations)
    bottleneck.update(force=True, update_quantiles=True)
    z = _set_output(model.h_a, y, bottleneck.quantiles[:, 0, 1].clone(), deviations)
    # A trained auxiliary loss approximates the median, with a small error.
    bottleneck.quantiles[:, 0, 1].add_(0.05 * torch.arange(bottleneck.channels).sin())
    medians = bottleneck.quantiles[:, 0, 1][:, None, None]
    z_hat = (z - medians).round() + medians
    center = torch.cat([1.05 * sizes, torch.zeros(latent)])
    deviation = torch.cat([0.4 * sizes, 0.3 * sizes])
    _, mean = _set_output(model.h_s, z_hat, center, deviation).chunk(2, dim=1)
    _set_output(model.g_s, (y - mean).round() + mean, torch.full((3,), 0.5), torch.full((3,), 0.2))
    model.update(force=True)


def _spread_normalization(model: MeanScaleHyperprior) -> None:
    for layer in [*model.g_a, *model.g_s]:
        if hasattr(layer, "gamma"):
            # A few roots are negative: the lower bound must act on them.
            layer.beta.add_(0.3 * torch.randn_like(layer.beta))
            layer.beta[0] = -0.5
            layer.gamma.add_(0.1 * torch.randn_like(layer.gamma))


def _spread_prior(bottleneck: nn.Module, deviations: Tensor) -> None:
    """Densities with approximately these standard deviations and nonzero gates."""
    for matrix in bottleneck.matrices:
        matrix.add_(0.2 * torch.randn_like(matrix))
    for factor in bottleneck.factors:
        factor.add_(0.5 * torch.randn_like(factor))
    # The initial slope of the logit is about 1/10; that of a logistic distribution is 1.8 over its standard deviation.
    first = bottleneck.matrices[0]
    slope = nn.functional.softplus(first) * (18 / deviations)[:, None, None]
    first.copy_(slope + torch.log(-torch.expm1(-slope)))


def _set_output(net: nn.Sequential, x: Tensor, center: Tensor, deviation: Tensor) -> Tensor:
    """Rescale the last layer so that every output channel has this mean and standard deviation; returns the outputs."""
    last = net[-1]
    last.bias.zero_()
    out = net(x)
    ratio = deviation / out.std((0, 2, 3)).clamp_min(1e-6)
    shape = (1, -1, 1, 1) if isinstance(last, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    last.weight.mul_(ratio.reshape(shape))
    last.bias.copy_(center - ratio * out.mean((0, 2, 3)))
    return net(x)


def model_with_seed(seed: int) -> MeanScaleHyperprior:
    torch.manual_seed(seed)
    model = MeanScaleHyperprior(HIDDEN, LATENT).eval()
    spread(model, image(HEIGHT, WIDTH).float(), loudest=6.0, quietest=0.06)
    return model


@torch.no_grad()
def numbers(model: MeanScaleHyperprior) -> dict[str, Tensor]:
    """Every stage of the test-time pass in float64, from float32 weights."""
    exact = MeanScaleHyperprior(HIDDEN, LATENT)
    exact.load_state_dict(model.state_dict())
    exact = exact.double().eval()
    x = image(HEIGHT, WIDTH)
    y = exact.g_a(x)
    z = exact.h_a(y)
    z_hat, _ = exact.entropy_bottleneck(z)
    scale, mean = exact.h_s(z_hat).chunk(2, dim=1)
    y_hat, _ = exact.gaussian_conditional(y, scale, means=mean)
    x_hat = exact.g_s(y_hat)
    whole = exact(x)
    assert torch.equal(whole["x_hat"], x_hat)
    return {
        "y": y,
        "z": z,
        "z_hat": z_hat,
        "mean": mean,
        "scale": scale,
        "y_hat": y_hat,
        "x_hat": x_hat,
        "bits_y": -whole["likelihoods"]["y"].log2(),
        "bits_z": -whole["likelihoods"]["z"].log2(),
    }


def margin(found: dict[str, Tensor]) -> float:
    """Distance of the nearest value to a rounding boundary, in quantization steps."""
    apart = [found["y"] - found["y_hat"], found["z"] - found["z_hat"]]
    return min(float((0.5 - difference.abs()).min()) for difference in apart)


def as_json(value: Tensor) -> dict[str, list[float] | list[int]]:
    return {"shape": list(value.shape), "values": [float(f"{v:.11g}") for v in value.flatten().tolist()]}


def main(folder: Path) -> None:
    for seed in range(1000):
        model = model_with_seed(seed)
        found = numbers(model)
        if margin(found) > MARGIN:
            break
    found["x_hat_sum"] = found["x_hat"].sum((0, 2, 3))
    found["x_hat"] = found["x_hat"][..., ::4, ::4]
    with torch.no_grad():
        strings = model.compress(image(HEIGHT, WIDTH).float())["strings"]
    record = {
        "made_by": "benchmarks/make_compressai_golden.py",
        "with": {"compressai": compressai.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "seed": seed,
        "margin": margin(found),
        "image": "level = (3 row + 5 column + 40 channel + row * column // 16) mod 256, divided by 255",
        "x_hat": "every fourth row and column; x_hat_sum adds up all of them by channel",
        "bytes_y": len(strings[0][0]),
        "bytes_z": len(strings[1][0]),
        "arrays": {name: as_json(value) for name, value in found.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name not in TOO_LARGE}
    save_file(state, folder / "compressai_tiny.safetensors")
    (folder / "compressai_tiny.json").write_text(json.dumps(record) + "\n")
    print(f"seed {seed}, margin {margin(found):.4f}, bits y {found['bits_y'].sum():.1f} z {found['bits_z'].sum():.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden"))
