"""What a user holds: densities, latents, samples, classes; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import latens
from latens.codes.logdet import Exact
from latens.errors import InputError, ModelMissing, UsageError
from latens.systems.flow.config import ImageFlow
from latens.systems.flow.dataset import ImageData
from latens.systems.flow.evaluate import reconstruction
from latens.systems.flow.gaussian import fit_gaussian
from latens.systems.flow.points import draw
from latens.systems.flow.predict import DensityModel, as_images
from latens.systems.flow.unusual import STATISTICS, reference_of

from .conftest import image, short_toy


def test_a_score_does_not_depend_on_the_other_images(images: DensityModel) -> None:
    several = [image(n, 8) for n in range(5)]
    together = images.density(several, draws=2)
    alone = images.density(several[3], draws=2)[0]
    assert alone.bits_per_dim == pytest.approx(together[3].bits_per_dim, abs=1e-5)
    assert alone.standard_error > 0
    again = images.density(several, draws=2)
    assert [one.bits_per_dim for one in again] == [one.bits_per_dim for one in together]
    nats = images.log_prob(several, draws=2)
    assert nats == pytest.approx([-one.bits_per_dim * 192 * np.log(2) for one in together])


def test_draws_average_to_the_exact_density(images: DensityModel) -> None:
    """The mean over draws of noise, against exact log-determinants of independent draws: within four standard errors."""
    pixels = torch.from_numpy(image(1, 8).transpose(2, 0, 1)[None].copy())
    (density,) = images.density(image(1, 8), draws=64)
    torch.manual_seed(0)
    x = (pixels + torch.rand(12, 3, 8, 8)) / 256
    exact = torch.cat([images.model(one[None], Exact()).log_prob for one in x]).double()
    bits = (192 * np.log(256) - exact) / (192 * np.log(2))
    error = np.hypot(density.standard_error, float(bits.std()) / 12**0.5)
    assert density.bits_per_dim == pytest.approx(float(bits.mean()), abs=4 * error)


def test_the_inverse_restores_the_image(images: DensityModel) -> None:
    pixels = np.stack([image(n, 8) for n in range(4)])
    latents = images(list(pixels))
    assert latents.shape == (4, 192)
    back = images.inverse(latents)
    np.testing.assert_array_equal(as_images(back), pixels)
    found = reconstruction(images, pixels.transpose(0, 3, 1, 2))
    assert found["largest error"] < 1e-5
    assert found["equal values"] == 1
    assert found["most evaluations"] <= 20


def test_samples_are_the_same_in_pieces(images: DensityModel, table: DensityModel) -> None:
    first = images.sample(3, seed=5)
    assert first.shape == (3, 8, 8, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(images.sample(2, seed=5), first[:2])
    assert not np.array_equal(images.sample(2, seed=6), first[:2])
    cold = images.sample(2, temperature=0.0)
    np.testing.assert_array_equal(cold[0], cold[1])
    assert table.sample(4).shape == (4, 2)
    for model in (images, table):
        with pytest.raises(UsageError, match="number of samples"):
            model.sample(0)


def test_sampled_rows_have_the_density_that_the_model_gives_them(table: DensityModel) -> None:
    """E[p(x) / q(x)] = 1 for x from q, by importance weights of a wide Gaussian."""
    rng = np.random.default_rng(0)
    points = rng.normal(scale=3, size=(20_000, 2))
    log_q = -0.5 * (points**2 / 9).sum(1) - np.log(2 * np.pi * 9)
    weights = np.exp(table.log_prob(points) - log_q)
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std() / 20_000**0.5)
    samples = table.sample(4000)
    held_out = draw("moons", 4000, np.random.default_rng(7))
    np.testing.assert_allclose(samples.mean(0), held_out.mean(0), atol=0.3)
    back = table.inverse(table(samples))
    np.testing.assert_allclose(back.numpy(), samples, atol=1e-4)


def test_unusual_rows_are_those_of_low_density(table: DensityModel) -> None:
    nats = table.log_prob([[0.0, 2.0], [50.0, 50.0]])
    assert table.unusual_rows(nats)[1] == 1
    assert nats[0] > nats[1]


def test_classes_and_certificates(images: DensityModel, table: DensityModel) -> None:
    found = images.classify([image(0), image(1)])
    np.testing.assert_allclose(found.sum(1), 1)
    assert images.classes == ("0", "1")
    for model in (images, table):
        assert 0 < max(one.lipschitz for one in model.certify()) < 1
    with pytest.raises(UsageError, match="this is a table model"):
        table.classify(image(0))
    bare = DensityModel(images.model, name="bare", sha256="", device=torch.device("cpu"))
    assert np.isnan(bare.density(image(0))[0].unusual)


def test_a_model_without_a_classifier_names_the_command(images: DensityModel) -> None:
    from latens.systems.flow.model import Flow

    assert isinstance(images.config, ImageFlow)
    plain = Flow(replace(images.config, classes=0), frozen=True)
    model = DensityModel(plain, name="plain", sha256="", device=torch.device("cpu"))
    with pytest.raises(ModelMissing, match="no classifier") as caught:
        model.classify(image(0))
    assert "--recipe hybrid" in str(caught.value)


def test_odd_images_are_converted_and_noted(images: DensityModel) -> None:
    gray = image(0, 20)[..., 0]
    alpha = np.dstack([image(0, 8), np.full((8, 8), 100, np.uint8)])
    (first,), (second,) = images.density(gray, draws=1), images.density(alpha, draws=1)
    assert "gray repeated in three channels" in first.notes
    assert "center square of 20 x 20 resized to 8 x 8" in first.notes
    assert "transparency ignored" in second.notes
    assert np.isnan(first.standard_error)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (np.full((8, 8, 3), 2.0), InputError, "not in 0..1"),
        (np.full((8, 8, 3), np.nan), InputError, "not finite"),
        (np.zeros((1, 100, 3), np.uint8), InputError, "aspect ratio above 16"),
        ([], UsageError, "no images"),
        ("missing.png", InputError, "missing.png"),
    ],
)
def test_bad_images_are_refused(data: object, error: type[Exception], words: str, images: DensityModel) -> None:
    with pytest.raises(error, match=words):
        images.density(data)


def test_bad_rows_and_latents_are_refused(table: DensityModel) -> None:
    with pytest.raises(InputError, match="has 3 columns, the model 2"):
        table.log_prob(np.zeros((4, 3)))
    with pytest.raises(InputError, match="not finite"):
        table.log_prob([[0.0, np.inf]])
    with pytest.raises(InputError, match="latents of shape"):
        table.inverse(torch.zeros(2, 3))


def test_densities_are_in_the_units_of_the_table() -> None:
    """Columns of 1.7e9 +- 1 and of 1e-6 are standardized in float64; a shift and a scale move the density as they should."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(2000, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
    moved = plain * [1.0, 1e-6] + [1.7e9, 0.0]
    first, second = (latens.flow.fit(rows, config=short_toy(80), device="cpu") for rows in (plain, moved))
    np.testing.assert_allclose(second.log_prob(moved), first.log_prob(plain) + np.log(1e6), atol=2e-3)
    truth = -0.5 * (np.linalg.solve(np.array([[1.0, 0.0], [0.8, 0.6]]), plain.T) ** 2).sum(0) - np.log(2 * np.pi * 0.6)
    excess = truth.mean() - first.log_prob(plain).mean()
    assert -0.02 < excess < 0.15
    assert second.sample(5)[:, 0] == pytest.approx(1.7e9, abs=10)


def test_the_gaussian_matches_its_formula() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(100, 140, (400, 1, 2, 2), dtype=np.uint8)
    bits = fit_gaussian(pixels, flip=False).bits_per_dim(pixels)
    variance = (40**2 - 1) / 12 + 1 / 6  # of the levels, the noise, and the floor
    expected = 0.5 * np.log2(2 * np.pi * np.e * variance)
    assert bits.mean() == pytest.approx(expected, abs=0.03)


def test_distances_are_calibrated_on_images_that_were_not_fitted() -> None:
    rng = np.random.default_rng(0)
    statistics = rng.normal(size=(400, len(STATISTICS))) @ rng.normal(size=(len(STATISTICS),) * 2)
    reference = reference_of(statistics)
    assert reference.unusual(statistics[1::2]).mean() == pytest.approx(0.5, abs=0.02)
    assert reference.unusual(statistics * 20)[0] == 1
    assert reference_of(statistics[:3]).unusual(statistics[:1]).shape == (1,)


def test_gray_models_take_the_luma(album: Path) -> None:
    from latens.data.source import Source
    from latens.systems.flow.config import ImagesConfig

    data = ImageData([Source("", str(album))], ImagesConfig(batch=4, pad=2), 8, 1, 0)
    assert data.batch(0, 0)["pixels"].shape == (4, 1, 8, 8)
    assert torch.equal(data.batch(3, 0)["pixels"], data.batch(3, 0)["pixels"])
    assert data.validation()[0]["pixels"].shape[1:] == (1, 8, 8)


def test_images_beyond_the_memory_are_read_at_every_step(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same batches and held-out images, which stay in memory; labels belong to their images."""
    from latens.data.source import Source
    from latens.data.streaming import Streamed
    from latens.systems.flow.config import ImagesConfig

    config = ImagesConfig(batch=6, flip=True, validation_share=0.1, validation_limit=2)
    whole = ImageData([Source("", str(album))], config, 8, 3, 0)
    monkeypatch.setenv("LATENS_MEMORY", "1KB")
    streamed = ImageData([Source("", str(album))], config, 8, 3, 0)
    assert isinstance(streamed.train, Streamed)
    assert not isinstance(whole.train, Streamed)
    for name in ("pixels", "label"):
        assert torch.equal(whole.batch(4, 1)[name], streamed.batch(4, 1)[name])
        assert torch.equal(whole.validation()[0][name], streamed.validation()[0][name])
    assert len(whole.validation()[0]["label"]) == 2
    assert set(whole.batch(4, 1)["label"].tolist()) == {0, 1}


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    from latens.systems.flow.outliers import auroc

    rng = np.random.default_rng(0)
    typical, outliers = rng.integers(0, 6, 40).astype(float), rng.integers(2, 9, 30).astype(float)
    difference = outliers[:, None] - typical
    assert auroc(typical, outliers) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())
