"""The context codec: sizes, coding order, and independence of the batch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from latens.catalogue import folder_of, recipe_of
from latens.data.images import read_image
from latens.data.samples import photographs
from latens.data.source import Source
from latens.data.tensors import to_tensor
from latens.errors import ModelError, UnreadableInput, UsageError
from latens.hub import load_model, save_model
from latens.metrics.image import psnr
from latens.nn.reach import halo
from latens.settings import override, to_dict
from latens.systems.image_codec.config import ROUNDING_WEIGHT, ContextConfig, CropConfig
from latens.systems.image_codec.context_export import export_context
from latens.systems.image_codec.context_hyperprior import FITTED, ContextHyperprior
from latens.systems.image_codec.context_model import ContextCodec
from latens.systems.image_codec.dataset import CropData
from latens.systems.image_codec.format import QUALITY_STEPS
from latens.systems.image_codec.model import MeanScaleHyperprior
from latens.systems.image_codec.networks import build_network
from latens.systems.image_codec.predict import load
from latens.systems.image_codec.recipes import context_cpu, context_tiny, fit_context, joint
from latens.systems.image_codec.system import build
from latens.systems.video_codec.model import ScaleSpaceFlow
from latens.training.run import start_from

SMALL = ContextConfig(width=8, latent=24, hyper=8, strong=6, lambdas=(0.002, 0.01, 0.05))


def model_with_context(config: ContextConfig = SMALL) -> ContextCodec:
    """Seeded weights, with random filters in place of the initial zeros."""
    torch.manual_seed(0)
    model = ContextCodec(config).eval()
    for parameter in model.context.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def multiplications(network: nn.Module, size: tuple[int, int, int]) -> float:
    """Multiplications of the convolutions of a network for an input of `size`."""
    total = 0.0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        total += layer.weight.numel() * math.prod(places.shape[2:])

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(torch.zeros(1, *size))
    for hook in hooks:
        hook.remove()
    return total


def test_parameters_and_multiplications_of_the_default_sizes() -> None:
    """The numbers are sums over the layers of the module docstring: inputs x outputs x kernel area, / (stride in pixels)^2."""
    model = ContextCodec(ContextConfig(lambdas=(0.001, 0.01)))
    inputs = {
        "analysis": (3, 64, 64),
        "synthesis": (320, 4, 4),
        "hyper_analysis": (320, 4, 4),
        "hyper_synthesis": (96, 1, 1),
    }
    thousands = {name: multiplications(getattr(model, name), size) / 64**2 / 1e3 for name, size in inputs.items()}
    expected = {"analysis": 38.0, "synthesis": 31.7, "hyper_analysis": 1.6, "hyper_synthesis": 1.5}
    assert {name: round(value, 1) for name, value in thousands.items()} == expected
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    assert round(millions["context"], 2) == 0.17
    assert round(sum(millions.values()), 1) == 7.2


def test_halos_are_derived_from_the_layers() -> None:
    """Rows of context by hand: 5 x 4 + 4 x 8 + 4 x 16 = 116 image rows, and 4 + 6 / 2 + 5 / 4 = 8.25 latent rows."""
    model = ContextCodec(SMALL)
    assert (halo(model.analysis, 1), halo(model.analysis, 64), halo(model.synthesis, 1)) == (116, 128, 9)


def test_it_starts_as_a_block_transform() -> None:
    torch.manual_seed(0)
    config = ContextConfig(width=8, latent=320, hyper=8, strong=64)
    model, image = ContextCodec(config).eval(), torch.rand(1, 3, 64, 64)
    smooth = nn.functional.interpolate(nn.functional.avg_pool2d(image, 16), scale_factor=16, mode="bilinear")
    with torch.no_grad():
        restored = model.reconstruct(model.scaled_latent(smooth, torch.ones(1)), torch.ones(1))
    assert float((restored - smooth).square().mean()) < 1e-3


@pytest.mark.parametrize("rate_weight", [None, 20.0])
def test_the_decoder_repeats_the_encoder(rate_weight: float | None) -> None:
    """Rounding that returns stored symbols gives the same latent: nothing depends on y but the symbols."""
    model, image = model_with_context(), torch.rand(2, 3, 128, 64)
    quality = torch.tensor([1.5, 3.0])
    y = model.scaled_latent(image, quality)
    z_hat = model.rounded_z(y)
    written: list[Tensor] = []

    def write(residual: Tensor, scale: Tensor) -> Tensor:
        written.append(residual.round())
        return written[-1]

    with torch.no_grad():
        coded = model.code(y, z_hat, quality, write)
        places = iter(written)
        again = model.code(torch.full_like(y, math.nan), z_hat, quality, lambda residual, scale: next(places))
    assert torch.equal(again.y_hat, coded.y_hat)
    assert torch.equal(again.scale, coded.scale)
    assert len(written) == 8


def test_symbols_depend_on_earlier_ones_only() -> None:
    """A change of one symbol moves no mean or scale of its own phase among the strong channels, nor of an earlier phase."""
    model = model_with_context()
    torch.manual_seed(1)
    y = 3 * torch.randn(1, SMALL.latent, 4, 4)
    z_hat, quality = torch.randn(1, SMALL.hyper, 1, 1), torch.ones(1)
    changed = y.clone()
    changed[0, 2, 2, 1] += 5  # a strong channel in phase (0, 1), the third
    with torch.no_grad():
        first, second = (model.code(v, z_hat, quality, lambda residual, scale: residual.round()) for v in (y, changed))
    shift = (first.y_hat - first.symbols) - (second.y_hat - second.symbols)
    moved = (first.scale != second.scale) | (shift.abs() > 1e-4)
    for row, column in ((0, 0), (1, 1)):
        assert not bool(moved[..., row::2, column::2].any())
    assert not bool(moved[:, : SMALL.strong, 0::2, 1::2].any())
    assert bool(moved[:, SMALL.strong :, 2, 1].any())
    assert bool(moved[..., 1::2, 0::2].any())


def test_results_do_not_depend_on_the_batch() -> None:
    model, image = model_with_context(), torch.rand(3, 3, 64, 128)
    quality = torch.tensor([1.0, 2.2, 3.0])
    together = model.rounded(image, quality)
    for index in range(3):
        alone = model.rounded(image[index : index + 1], quality[index : index + 1])
        assert torch.allclose(alone.image[0], together.image[index], atol=1e-5)
        assert torch.allclose(alone.bits_y[0], together.bits_y[index], rtol=1e-5)


@pytest.mark.parametrize("rounding", ["mixed", "hard"])
def test_two_rates_from_one_analysis(rounding: str) -> None:
    """The reconstructions of R rates are those of R passes, up to the noise of the rates."""
    model, image = model_with_context(), torch.rand(2, 3, 64, 64)
    quality = torch.tensor([1.0, 2.0, 2.5, 3.0])
    together = model(image, quality, rounding=rounding)
    assert together.image.shape[0] == 4
    for place, rate in enumerate(quality.split(2)):
        apart = model(image, rate, rounding=rounding)
        assert torch.allclose(apart.image, together.image[2 * place : 2 * place + 2], atol=1e-4)


def test_every_parameter_learns() -> None:
    model, image = model_with_context(), torch.rand(2, 3, 128, 128)
    coded = model.train()(image, torch.tensor([1.5, 2.5]))
    (coded.bits_y.sum() + coded.bits_z.sum() + coded.image.square().sum()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


def test_the_entropy_phase_trains_the_context_alone(tmp_path: Path) -> None:
    """A fitted hyperprior keeps its weights, and starts with the rates of the model it was fitted to."""
    Image.fromarray((np.indices((80, 80)).sum(0) % 256).astype(np.uint8)).convert("RGB").save(tmp_path / "a.png")
    changes = {"data.crop": "64", "model.base.hidden": "12", "model.base.latent": "72"}
    trainable = build(override(fit_context(), changes), [Source("", str(tmp_path))])
    model, image = trainable.model, torch.rand(2, 3, 64, 64)
    assert isinstance(model, ContextHyperprior)
    base = MeanScaleHyperprior(model.config.base)
    base.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith(FITTED)})
    quality = torch.tensor([1.0, 6.5])
    first, second = (each.rounded(image, quality, rate_weight=20.0) for each in (model, base))
    torch.testing.assert_close(first.bits_y, second.bits_y, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(first.image, second.image, rtol=1e-4, atol=1e-4)
    (step,) = trainable.objective(model, {"image": image}, 0)
    step.loss.backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(name.startswith(FITTED) for name in learned)


@pytest.mark.parametrize("name", ["image_codec_context", "image_codec_joint", "image_codec_perceptual"])
def test_training_starts_with_the_entropy_model_that_a_folder_stores_as_integers(name: str) -> None:
    """The rates of the float network are those of the integers, up to the tables that replace Gaussian probabilities."""
    codec = load(name, device="cpu")
    torch.manual_seed(3)
    model = ContextHyperprior(codec.model.config)
    start_from(model, folder_of(name), fit_context())
    pixels = read_image(photographs()[0].path).pixels[40:232, 100:292]
    found, loaded = (
        each.float().eval().rounded(to_tensor(pixels), torch.tensor([3.0]), rate_weight=ROUNDING_WEIGHT)
        for each in (model, codec.model)
    )
    integers = codec.quantize(codec.latent(pixels), 3 * QUALITY_STEPS, pixels.shape[:2])
    bits, _ = codec.coding.code_length(integers.y, integers.parameters.level, integers.z)
    assert float(found.bits_y) == pytest.approx(bits, rel=0.04)
    torch.testing.assert_close(found.bits_y, loaded.bits_y)


def stored_as_integers(folder: Path) -> dict[str, Tensor]:
    """Write a codec without the floats that its integers determine; returns all of its weights."""
    model = model_with_context()
    for name, parameter in model.hyper_synthesis.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    export = export_context(model, [torch.rand(2, 3, 128, 128) for _ in range(2)])
    kept = {name: value for name, value in export.weights.items() if not name.startswith(model.as_integers)}
    save_model(folder, {"system": "image_codec", "model": to_dict(model.config), **export.config}, kept, export.coding)
    return export.weights


def test_a_context_codec_is_restored_from_its_integers(tmp_path: Path) -> None:
    """Rates and reconstructions are those of the weights, up to the rounding of the integers."""
    weights = stored_as_integers(tmp_path)
    whole, model = model_with_context().eval(), ContextCodec(SMALL).eval()
    whole.load_state_dict(weights)
    start_from(model, tmp_path, replace(context_tiny(), model=SMALL))
    image, quality = torch.rand(1, 3, 128, 128), torch.tensor([2.0])
    wanted, *found = (each.float().rounded(image, quality) for each in (whole, model, load(tmp_path, device="cpu").model))
    for each in found:
        torch.testing.assert_close(each.bits_y, wanted.bits_y, rtol=2e-3, atol=0.0)
        torch.testing.assert_close(each.image, wanted.image, rtol=0.0, atol=2e-2)


IN_TRAINING = Path(__file__).parents[3] / "training" / "image_codec_residual"


@pytest.mark.skipif(not IN_TRAINING.is_dir(), reason="a source distribution has no models in training")
def test_the_weights_in_training_are_a_codec_and_a_start() -> None:
    folder = IN_TRAINING
    codec, model = load(folder, device="cpu"), build_network(context_cpu().model).eval()
    start_from(model, folder, context_cpu())
    pixels = read_image(photographs()[0].path).pixels[40:232, 100:292]
    sent = codec.encode(pixels, quality=4)
    assert 0.1 < sent.bpp < 1.0
    assert psnr(np.asarray(codec.decompress(sent.data)), pixels) > 28
    found = model.rounded(to_tensor(pixels), torch.tensor([4.0]), rate_weight=ROUNDING_WEIGHT)
    assert float(found.bits_y + found.bits_z) == pytest.approx(codec.code_length(pixels), rel=0.04)


def test_a_video_codec_does_not_start_from_half_an_entropy_model() -> None:
    """A folder whose hyper-synthesis is stored as integers only does not lend that of its base."""
    assert not any(
        name.startswith(ContextHyperprior.as_integers) for name in load_model(folder_of("image_codec_joint")).weights
    )
    config = recipe_of("video_codec", "cpu")
    with pytest.raises(ModelError, match="hyper-synthesis"):
        start_from(ScaleSpaceFlow(config.model), folder_of("image_codec_joint"), config)


def test_the_joint_recipe_trains_everything(tmp_path: Path) -> None:
    Image.fromarray((np.indices((80, 80)).sum(0) % 256).astype(np.uint8)).convert("RGB").save(tmp_path / "a.png")
    changes = {"data.crop": "64", "model.base.hidden": "12", "model.base.latent": "72"}
    trainable = build(override(joint(), changes), [Source("", str(tmp_path))])
    (step,) = trainable.objective(trainable.model, {"image": torch.rand(2, 3, 64, 64)}, 0)
    step.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trainable.model.parameters())
    for name, module in trainable.model.named_children():
        learns = any(bool(parameter.grad.any()) for parameter in module.parameters() if parameter.grad is not None)
        assert learns or name == "features", name  # a new context, which starts at zero, does not use the features yet


@pytest.mark.parametrize(("recipe", "rounding"), [("context_tiny", "noise"), ("tiny", "entropy"), ("fit_context", "noise")])
def test_a_rounding_that_does_not_fit_the_model_is_refused(recipe: str, rounding: str, tmp_path: Path) -> None:
    config = override(recipe_of("image_codec", recipe), {"objective.rounding": rounding})
    with pytest.raises(UsageError, match=rounding):
        build(config, [Source("", str(tmp_path))])


def test_reduced_photographs_are_halved(tmp_path: Path) -> None:
    pixels = (np.indices((200, 260)).sum(0) % 256).astype(np.uint8)
    for name in ("a", "b"):
        Image.fromarray(pixels).convert("RGB").save(tmp_path / f"{name}.png")
    config = CropConfig(crop=64, batch=1, validation_share=0.0)
    plain, reduced = (CropData([Source(kind, str(tmp_path))], config, seed=0) for kind in ("", "reduced"))
    assert {image.shape for image in plain.train} == {(200, 260, 3)}
    assert {image.shape for image in reduced.train} == {(100, 130, 3)}
    with pytest.raises(UnreadableInput, match="no photograph"):
        CropData([Source("reduced", str(tmp_path))], CropConfig(crop=128), seed=0)
    with pytest.raises(UsageError, match="shrunk"):
        CropData([Source("shrunk", str(tmp_path))], config, seed=0)
