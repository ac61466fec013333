"""The context model in integers: exact, reversible, close to its float model, and limited to its band."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latens.codes.coding import FrozenCoding, freeze
from latens.codes.context import PHASES, LatentModel, PhaseContext, merge_phases, scale_of, split_phases
from latens.codes.context_coding import ContextCoding, fine_levels, level_check
from latens.codes.context_freeze import COUNTED, SymbolCounts, fine_thresholds, freeze_context
from latens.codes.entropy import SCALE_MIN, FactorizedPrior
from latens.codes.integer import MODES
from latens.codes.integer_context import (
    LEVEL_BITS,
    MEAN_MAX,
    SYMBOL_MAX,
    IntegerContext,
    IntegerModel,
    Part,
    convolved,
    rounded_shift,
    table_index,
)
from latens.codes.tables import gaussian_tables, learned_tables
from latens.errors import Corrupt, DeviceMismatch, ModelError

CHANNELS, FEATURES, HYPER, STRONG = 12, 5, 6, (1, 3, 4, 9)
CPU = torch.device("cpu")


def hyper_synthesis() -> nn.Sequential:
    stack = nn.Sequential(
        nn.ConvTranspose2d(HYPER, 8, 4, stride=2, padding=1), nn.LeakyReLU(),
        nn.ConvTranspose2d(8, 10, 4, stride=2, padding=1), nn.LeakyReLU(), nn.Conv2d(10, 2 * CHANNELS, 3, padding=1),
    )  # fmt: skip
    head = stack[-1]
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    with torch.no_grad():
        head.bias[CHANNELS:] += 1.5
    return stack


class Model:
    """Seeded float parts and their frozen coding."""

    def __init__(self, rates: int = 3) -> None:
        torch.manual_seed(0)
        self.stack = hyper_synthesis()
        self.features = nn.Conv2d(10, FEATURES, 1)
        self.context = PhaseContext(CHANNELS, FEATURES, strong=STRONG, rates=rates, hidden=7)
        for parameter in self.context.parameters():
            nn.init.normal_(parameter, std=0.15)
        self.prior = FactorizedPrior(HYPER)
        self.z = 3 * torch.randn(6, HYPER, 3, 4)
        self.base = freeze(self.stack, self.prior, self.z)
        self.coding = freeze_context(self.base, self.stack, self.features, self.context, self.z, logarithmic=False)

    @torch.no_grad()
    def float_model(self, z_hat: Tensor) -> LatentModel:
        hidden = self.stack[:-1](z_hat)
        mean, scale = self.stack[-1](hidden).chunk(2, dim=1)
        level = (scale.clamp_min(SCALE_MIN) / SCALE_MIN).log() * 63 / np.log(256 / SCALE_MIN)
        return LatentModel(mean, level, self.features(hidden))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def symbols_z(model: Model) -> Tensor:
    return model.base.z_symbols(3 * torch.randn(1, HYPER, 3, 4, generator=torch.Generator().manual_seed(5)))


def nearest(residual: Tensor, scale: Tensor) -> Tensor:
    return residual.round()


def latent(seed: int = 1) -> Tensor:
    return 4 * torch.randn(1, CHANNELS, 12, 16, generator=torch.Generator().manual_seed(seed))


BANDS = [(0, 4), (4, 12)]


def test_phases_are_split_and_merged() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    images = split_phases(x)
    assert [int(image[0, 0, 0, 0]) for image in images] == [6 * row + column for row, column in PHASES]
    assert torch.equal(merge_phases(image.float() for image in images), x.float())


@pytest.mark.parametrize("quality", [256, 400, 768])
def test_integers_follow_the_float_model(model: Model, symbols_z: Tensor, quality: int) -> None:
    """Means within 1/20 of sigma and levels within one, for the same symbols, almost everywhere."""
    prediction = model.coding.predict(symbols_z, quality)
    symbols, parameters = model.coding.quantize(prediction, latent(), [(0, 12)], nearest)
    places = iter(range(8))
    parts = [symbols[:, :, row::2, column::2] for row, column in PHASES]
    strong, weak = list(STRONG), [channel for channel in range(CHANNELS) if channel not in STRONG]

    def stored(residual: Tensor, scale: Tensor) -> Tensor:
        place = next(places)
        return parts[place // 2][:, weak if place % 2 else strong].float()

    with torch.no_grad():
        z_hat, level = model.coding.z_hat(symbols_z), torch.tensor([quality / 256])
        coded = model.context(latent(), model.float_model(z_hat), level, stored)
    error = ((coded.y_hat - coded.symbols) - parameters.mean).abs() / coded.scale
    assert float(error.quantile(0.95)) < 0.05
    ratio = (model.coding.scale_of(parameters.level) / coded.scale).log().abs()
    assert float(ratio.quantile(0.95)) < 1.1 * 0.1231  # one level


def test_the_decoder_reads_what_the_encoder_wrote(model: Model, symbols_z: Tensor) -> None:
    prediction = model.coding.predict(symbols_z, 300)
    symbols, parameters = model.coding.quantize(prediction, latent(), BANDS, nearest)
    for top, end in BANDS:
        data = model.coding.encode_band(symbols[:, :, top:end], parameters.level[:, :, top:end])
        rows = IntegerModel(*(part[:, :, top:end] for part in prediction))
        found, own = model.coding.decode_band(data, rows, "band")
        assert torch.equal(found, symbols[:, :, top:end])
        assert torch.equal(own.mean, parameters.mean[:, :, top:end])
        assert torch.equal(own.level, parameters.level[:, :, top:end])
    again = model.coding.replay(prediction, symbols, BANDS)
    assert torch.equal(again.mean, parameters.mean)
    assert torch.equal(again.level, parameters.level)


def test_the_context_ends_at_the_border_of_a_band(model: Model, symbols_z: Tensor) -> None:
    prediction = model.coding.predict(symbols_z, 300)
    symbols, parameters = model.coding.quantize(prediction, latent(), BANDS, nearest)
    other = latent()
    other[:, :, 4:] += 3
    changed, moved = model.coding.quantize(prediction, other, BANDS, nearest)
    assert torch.equal(symbols[:, :, :4], changed[:, :, :4])
    assert torch.equal(parameters.mean[:, :, :4], moved.mean[:, :, :4])
    whole, _ = model.coding.quantize(prediction, latent(), [(0, 12)], nearest)
    assert not torch.equal(whole, symbols)


def test_damage_and_other_machines_are_told_apart(model: Model, symbols_z: Tensor) -> None:
    prediction = model.coding.predict(symbols_z, 300)
    symbols, parameters = model.coding.quantize(prediction, latent(), [(0, 12)], nearest)
    data = model.coding.encode_band(symbols, parameters.level)
    for place in (0, 2):
        with pytest.raises(DeviceMismatch):
            model.coding.decode_band(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], prediction, "band")
    for cut in (data[:3], data[:-4], data[:4], data + b"\0\0\0\1"):
        with pytest.raises(Corrupt):
            model.coding.decode_band(cut, prediction, "band")
    outcomes: set[type] = set()
    for bit in range(32, 8 * len(data), 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found, _ = model.coding.decode_band(bytes(damaged), prediction, "band")
        except (Corrupt, DeviceMismatch) as error:
            outcomes.add(type(error))
        else:
            outcomes.add(type(found))
    assert outcomes <= {Corrupt, DeviceMismatch, Tensor}
    assert Corrupt in outcomes


def test_code_length_is_the_size(model: Model, symbols_z: Tensor) -> None:
    prediction = model.coding.predict(symbols_z, 300)
    symbols, parameters = model.coding.quantize(prediction, latent(), [(0, 12)], nearest)
    bits, _ = model.coding.code_length(symbols, parameters.level, symbols_z)
    size = 8 * (len(model.coding.encode_band(symbols, parameters.level)) - 4)
    assert bits <= size <= bits + 64


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_modes_threads_batches_and_layouts_agree(model: Model, threads: int, mode: Any) -> None:
    usual, expected = torch.get_num_threads(), model.coding.context.fingerprint()
    z = torch.randint(-9, 10, (3, HYPER, 3, 4), generator=torch.Generator().manual_seed(2))
    symbols = torch.randint(-3, 4, (3, CHANNELS, 12, 16), generator=torch.Generator().manual_seed(3))
    together = model.coding.replay(model.coding.predict(z, 300), symbols, BANDS)
    try:
        torch.set_num_threads(threads)
        model.coding.context.set_mode(mode)
        assert model.coding.context.fingerprint() == expected
        for arranged in (z, z.contiguous(memory_format=torch.channels_last)):
            alone = [
                model.coding.replay(model.coding.predict(arranged[i : i + 1], 300), symbols[i : i + 1], BANDS) for i in range(3)
            ]
            assert torch.equal(torch.cat([one.mean for one in alone]), together.mean)
            assert torch.equal(torch.cat([one.level for one in alone]), together.level)
    finally:
        torch.set_num_threads(usual)
        model.coding.context.set_mode("fast")


def test_the_extremes_do_not_overflow(model: Model) -> None:
    """The documented bounds hold: int32 arithmetic equals int64 arithmetic of the same formulas at the largest inputs."""
    size = (1, CHANNELS, 4, 4)
    for mean, symbol in ((torch.full(size, MEAN_MAX), -2 * SYMBOL_MAX), (torch.full(size, -MEAN_MAX), 2 * SYMBOL_MAX)):
        extreme = IntegerModel(mean, torch.full(size, 63 << LEVEL_BITS), torch.full((1, FEATURES, 4, 4), 127))
        symbols = torch.full(size, symbol)
        coded = model.coding.context.code(extreme, model.coding.context.chooser(symbols, lambda part, own: own))
        assert int(coded.mean.abs().max()) < 1 << 24
        assert int((coded.mean - mean).abs().max()) <= 1 << 20
    filters = torch.full((1, 3, 3, 3), 127, dtype=torch.int32)
    u = torch.full((1, 1, 3, 3, 3), 127, dtype=torch.int32)
    for fast in (True, False):
        assert int(convolved(u.unbind(2), filters, fast=fast)[0, 0, 1, 1]) == 27 * 127**2 < 1 << 19


@pytest.mark.parametrize("fast", [True, False])
def test_convolved_is_a_convolution(fast: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randint(-127, 128, (2, 5, 3, 6, 7), dtype=torch.int32, generator=generator)
    filters = torch.randint(-127, 128, (5, 3, 3, 3), dtype=torch.int32, generator=generator)
    expected = nn.functional.conv2d(u.flatten(1, 2).double(), filters.double(), padding=1, groups=5)
    with torch.autocast("cpu", torch.bfloat16):  # must have no effect
        found = convolved(u.unbind(2), filters, fast=fast)
    assert found.dtype is torch.int32
    assert torch.equal(found.double(), expected)


@pytest.mark.parametrize(("x", "bits", "expected"), [(3, 1, 2), (-3, 1, -1), (7, 3, 1), (-5, 3, -1), (-4, 3, 0)])
def test_rounded_shift_rounds_halves_up(x: int, bits: int, expected: int) -> None:
    assert int(rounded_shift(torch.tensor(x), bits)) == int(rounded_shift(torch.tensor(x), torch.tensor(bits))) == expected


def test_fine_levels_invert_the_scales() -> None:
    table = fine_levels(fine_thresholds())
    scale = torch.tensor([0.05, 0.11, 0.5, 2.0, 30.0, 256.0])
    level = table[(scale * 1024).round().long().clamp(max=len(table) - 1)]
    assert int(table.max()) == 63 << LEVEL_BITS
    found = scale_of(level.float() / 16)
    assert torch.allclose(found, scale.clamp_min(0.11), rtol=0.008)
    assert table_index(level).tolist()[1] == 0


def test_restored_from_its_tensors(model: Model, symbols_z: Tensor) -> None:
    tensors, spec = model.coding.tensors(), model.coding.spec()
    again = ContextCoding.from_tensors(spec, tensors, CPU)
    for first, second in zip(again.predict(symbols_z, 300), model.coding.predict(symbols_z, 300), strict=True):
        assert torch.equal(first, second)
    for name in tensors:
        if name.startswith(("features.", "context.", "threshold", "feature_unit")):
            with pytest.raises(ModelError):
                ContextCoding.from_tensors(spec, {key: value for key, value in tensors.items() if key != name}, CPU)
    changed = tensors["context.mean_filters.1"].clone()
    changed[0, 0, 1, 1] += 1
    with pytest.raises(DeviceMismatch):
        ContextCoding.from_tensors(spec, {**tensors, "context.mean_filters.1": changed}, CPU)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strong", torch.tensor([1, 1, 2, 3], dtype=torch.int16)),
        ("strong", torch.tensor([1, 2, 3, 12], dtype=torch.int16)),
        ("sigma", torch.full((1009,), 1 << 19, dtype=torch.int32)),
        ("reciprocal", torch.zeros(1009, dtype=torch.int32)),
        ("mean_exponents.0", torch.full((CHANNELS,), -3, dtype=torch.int8)),
        ("level_exponents.2", torch.zeros(CHANNELS, dtype=torch.int8)),
        ("level_filters.0", torch.zeros(CHANNELS, 2, 3, 3, dtype=torch.int8)),
        ("rate_levels", torch.zeros(3, CHANNELS, dtype=torch.int16)),
        ("other", torch.zeros(1)),
    ],
)
def test_invalid_buffers_are_refused(model: Model, name: str, value: Tensor) -> None:
    context = model.coding.context
    with pytest.raises(ModelError):
        IntegerContext({**context.buffers, name: value}, context.gates, context.slices)


def test_networks_that_do_not_fit_are_refused(model: Model) -> None:
    context = model.coding.context
    for gates, slices in (
        (context.gates[:2], context.slices),
        (context.gates, context.slices[:3]),
        (context.slices, context.gates),
    ):
        with pytest.raises(ModelError):
            IntegerContext(context.buffers, gates, slices)


def test_the_float_model_of_the_integers(model: Model, symbols_z: Tensor) -> None:
    """The derived float context codes like the one that was frozen."""
    derived = PhaseContext(CHANNELS, FEATURES, strong=STRONG, rates=3, hidden=7)
    derived.load_state_dict(model.coding.float_context())
    z_hat, quality = model.coding.z_hat(symbols_z), torch.tensor([1.7])
    with torch.no_grad():
        first, second = (c(latent(), model.float_model(z_hat), quality, lambda r, s: r) for c in (model.context, derived))
    assert float((first.scale / second.scale).log().abs().quantile(0.95)) < 0.1
    assert float(((first.symbols - second.symbols) / first.scale).abs().quantile(0.95)) < 0.05


def test_one_rate_has_no_level_shift() -> None:
    single = Model(rates=1)
    assert "rate_levels" not in single.coding.float_context()
    assert int(single.coding.context.rate_shift(256).abs().max()) == 0


def test_rate_shifts_are_interpolated(model: Model) -> None:
    table = model.coding.context.buffers["rate_levels"].long()
    assert torch.equal(model.coding.context.rate_shift(512)[:, 0, 0], table[1])
    middle = model.coding.context.rate_shift(640)[:, 0, 0]
    assert float((middle - (table[1] + table[2]) / 2).abs().max()) <= 0.5
    assert torch.equal(model.coding.context.rate_shift(10_000)[:, 0, 0], table[2])


def test_learned_tables_follow_the_counts() -> None:
    """Probability = (mirrored count + weight * Gaussian) / (all + weight); without counts they are the Gaussian tables."""
    scales = np.array([0.5, 2.0])
    empty = learned_tables(np.zeros((2, 2 * COUNTED + 1), dtype=np.int64), scales, prior_weight=20)
    gaussian = gaussian_tables(scales)
    assert np.array_equal(empty.sizes, gaussian.sizes)
    assert np.abs(empty.counts - gaussian.counts).max() <= 2
    counts = SymbolCounts()
    counts.counts = counts.counts[:2]
    counts.add(torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 0, 0]))
    found = learned_tables(counts.counts, scales, prior_weight=20)
    share = (found.counts / 2**24)[: found.sizes[0]]
    expected = (gaussian.counts / 2**24)[: found.sizes[0]] * 20
    expected[1 - found.lows[0]] += 1.5
    expected[-1 - found.lows[0]] += 1.5
    expected[-found.lows[0]] += 1
    assert np.abs(share - expected / 24).max() < 1e-5
    with pytest.raises(ValueError, match="shape"):
        learned_tables(np.zeros((3, 5), dtype=np.int64), scales, prior_weight=20)


def test_level_checks_depend_on_order_and_value() -> None:
    a, b = np.array([1, 2], dtype=np.uint8), np.array([3], dtype=np.uint8)
    assert len({level_check(a, b), level_check(b, a), level_check(a), level_check(a, b + 1)}) == 4


def test_the_first_part_knows_no_symbols(model: Model, symbols_z: Tensor) -> None:
    seen: list[Part] = []

    def choose(part: Part) -> Tensor:
        seen.append(part)
        return torch.zeros(part.level.shape, dtype=torch.int64)

    model.coding.context.code(model.coding.predict(symbols_z, 256), choose)
    assert [(part.phase, part.weak) for part in seen] == [(k, weak) for k in range(4) for weak in (False, True)]
    assert isinstance(model.base, FrozenCoding)
    prediction = model.coding.predict(symbols_z, 256)
    assert torch.equal(seen[0].mean, prediction.mean[:, list(STRONG), 0::2, 0::2].to(torch.int32))
