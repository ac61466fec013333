"""Networks of the translators: golden numbers of their parts, compositions of Fig. 1, initial weights, refused crops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.paper_values import filled, golden, waves
from torch import nn

from latens.errors import UsageError
from latens.systems.haze.config import DiscriminatorConfig, TranslatorConfig
from latens.systems.haze.model import (
    Discriminator,
    HazeTranslator,
    check_crop,
    decoder,
    discriminator_layers,
    encoder,
    receptive_radius,
)

SIZES = TranslatorConfig(
    channels=2, blocks=2, shared_blocks=1, code_channels=3, discriminator=DiscriminatorConfig(channels=2, scales=2, layers=3)
)
NORMED = replace(SIZES.discriminator, norm=True, scales=3)

NETWORKS: dict[str, tuple[Any, Any, list[float]]] = {
    "encoder": (lambda: encoder(SIZES), (1, 3, 16, 20), [0.369767, 0.0142488]),
    "decoder": (lambda: decoder(SIZES), (1, 8, 4, 5), [0.120404, -0.000811943]),
    "discriminator": (lambda: discriminator_layers(SIZES.discriminator), (1, 3, 16, 24), [0.585605, 0.282107]),
    "with normalization": (lambda: discriminator_layers(NORMED), (1, 3, 16, 24), [0.286384, -0.0119753]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_numbers_of_the_networks(name: str) -> None:
    """Outputs of fixed weights, measured once."""
    build, shape, expected = NETWORKS[name]
    with torch.no_grad():
        assert golden(filled(build())(waves(*shape))) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@torch.no_grad()
def test_a_discriminator_sees_images_of_falling_size() -> None:
    """Each scale averages windows of 3 x 3 with stride 2; beyond the border nothing is counted."""
    model = filled(Discriminator(NORMED))
    image = waves(1, 3, 64, 64)
    found = model(image)
    assert len(found) == 3
    for score, scale in zip(found, model.scales, strict=True):
        torch.testing.assert_close(score, scale(image))
        padded, ones = (F.pad(values, (1, 1, 1, 1)) for values in (image, torch.ones_like(image)))
        image = F.avg_pool2d(padded, 3, 2) / F.avg_pool2d(ones, 3, 2)


@pytest.mark.parametrize("kind", ["mmd", "cyclegan"])
@torch.no_grad()
def test_translations_are_compositions(kind: Any) -> None:
    """x_ii = G_I(E_I(x_i)), x_ij = G_J(E_I(x_i)), x_iji = G_I(E_J(x_ij)), and the same from clear images."""
    torch.manual_seed(0)
    model = HazeTranslator(replace(SIZES, kind=kind)).eval()
    hazy, clear = 0.9 * waves(2, 3, 16, 16), 0.9 * waves(1, 3, 16, 16)
    found = model(hazy, clear)

    def code(image: torch.Tensor, domain: str) -> torch.Tensor:
        made: torch.Tensor = model.squeeze(model.shared_encoder(model.encoders[domain](image)))
        return made

    def image(code: torch.Tensor, domain: str) -> torch.Tensor:
        made: torch.Tensor = model.decoders[domain](model.shared_decoder(model.widen(code)))
        return made

    z_hazy, z_clear = code(hazy, "hazy"), code(clear, "clear")
    dehazed, hazed = image(z_hazy, "clear"), image(z_clear, "hazy")
    expected = {
        "code_hazy": z_hazy, "code_clear": z_clear, "dehazed": dehazed, "hazed": hazed,
        "hazy_reconstruction": hazy if kind == "cyclegan" else image(z_hazy, "hazy"),
        "clear_reconstruction": clear if kind == "cyclegan" else image(z_clear, "clear"),
        "code_dehazed": code(dehazed, "clear"), "code_hazed": code(hazed, "hazy"),
        "hazy_cycle": image(code(dehazed, "clear"), "hazy"), "clear_cycle": image(code(hazed, "hazy"), "clear"),
    }  # fmt: skip
    for name, values in expected.items():
        torch.testing.assert_close(getattr(found, name), values, rtol=1e-4, atol=1e-5)
    translated = model.translate((hazy + 1) / 2, "clear")
    torch.testing.assert_close(translated, ((dehazed + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.translate((clear + 1) / 2, "hazy"), ((hazed + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-5)
    assert model.sample(z_hazy) is z_hazy
    model.train()
    assert (model.sample(z_hazy) is z_hazy) == (kind == "cyclegan")


def test_parts_and_initial_weights() -> None:
    """Kaiming for the generators, N(0, 0.02^2) for the discriminators, no biases (UNIT's code)."""
    torch.manual_seed(0)
    sizes = replace(SIZES, channels=8, discriminator=DiscriminatorConfig(channels=32, scales=1, layers=3, pool=5))
    model = HazeTranslator(sizes, 32)
    assert model.pools is not None
    assert {tuple(images.shape) for images in model.pools.buffers() if images.ndim} == {(5, 3, 32, 32)}
    assert HazeTranslator(sizes).pools is None
    assert (len(model.shared_encoder), len(model.shared_decoder)) == (1, 1)
    both = [part.weight.shape for part in (model.squeeze, model.widen) if isinstance(part, nn.Conv2d)]
    assert both == [(3, 32, 1, 1), (32, 3, 1, 1)]
    plain = HazeTranslator(replace(SIZES, code_channels=0))
    assert isinstance(plain.squeeze, nn.Identity)
    assert isinstance(plain.widen, nn.Identity)
    checked = 0
    for name, part in model.named_modules():
        if not isinstance(part, nn.Conv2d):
            continue
        assert part.bias is not None
        assert not part.bias.any()
        if part.weight.numel() > 2000:
            fan = part.in_channels * part.kernel_size[0] ** 2
            expected = 0.02 if name.startswith("judges") else (2 / fan) ** 0.5
            assert float(part.weight.detach().std()) == pytest.approx(expected, rel=0.1), name
            checked += 1
    assert checked > 10


def test_receptive_radii() -> None:
    """16 pixels per residual block on both sides, and 18 of the other layers, rounded up to the stride."""
    assert receptive_radius(replace(SIZES, blocks=1)) == 36  # 3 + 1 + 2 + 16 + 6 + 3 + 3 = 34
    assert receptive_radius(replace(SIZES, blocks=4)) == 84  # 82


@pytest.mark.parametrize(
    ("crop", "changes", "message", "hint"),
    [
        (30, {}, "a multiple of 4 and at least 8 for translators, not 30", "set data.crop=28"),
        (4, {}, "a multiple of 4 and at least 8 for translators, not 4", "set data.crop=8"),
        (
            8,
            {"scales": 3, "layers": 2},
            "a crop of 8 pixels is too small for a discriminator of 3 scales and 2 layers",
            "set fewer",
        ),
        (
            12,
            {"scales": 2, "layers": 2, "norm": True},
            "a crop of 12 pixels is too small .* 2 scales and 2 layers",
            "larger data.crop",
        ),
        (8, {"scales": 1, "layers": 4}, "1 scales and 4 layers", "set fewer scales or layers"),
    ],
)
def test_crops_that_are_too_small(crop: int, changes: dict[str, Any], message: str, hint: str) -> None:
    sizes = replace(SIZES, discriminator=replace(SIZES.discriminator, **changes))
    with pytest.raises(UsageError, match=message) as caught:
        check_crop(sizes, crop)
    assert hint in (caught.value.hint or "")
    assert caught.value.where == ("--set model.discriminator" if changes else "--set data.crop")


@pytest.mark.parametrize(
    ("crop", "changes"),
    [(8, {"scales": 1, "layers": 3}), (8, {"scales": 2, "layers": 2}), (12, {"scales": 2, "layers": 2}),
     (16, {"scales": 2, "layers": 2, "norm": True}), (8, {"scales": 3, "layers": 1})],
)  # fmt: skip
def test_the_smallest_crops_are_accepted(crop: int, changes: dict[str, Any]) -> None:
    check_crop(replace(SIZES, discriminator=replace(SIZES.discriminator, **changes)), crop)
