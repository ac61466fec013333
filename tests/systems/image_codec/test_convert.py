"""Import of CompressAI checkpoints, compared with numbers that CompressAI computed (see benchmarks/)."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from checkpoint_maker import GOLDEN, State, assert_same, checkpoint, from_training, pickled

import latens
from latens.errors import LatensError, ModelError, OutputExists, UnreadableInput
from latens.hub import load_model
from latens.nn.gdn import GDN
from latens.systems.image_codec.convert import convert_compressai, import_checkpoint
from latens.systems.image_codec.format import inspect_stream
from latens.systems.image_codec.model import MeanScaleHyperprior
from latens.systems.image_codec.predict import ImageCodec


@cache
def record() -> Any:
    return json.loads((GOLDEN / "compressai_tiny.json").read_text())


def golden(name: str) -> Tensor:
    held = record()["arrays"][name]
    return torch.tensor(held["values"], dtype=torch.float64).reshape(held["shape"])


def image() -> Tensor:
    channel, row, column = torch.arange(3)[:, None, None], torch.arange(64)[None, :, None], torch.arange(128)
    return (((3 * row + 5 * column + 40 * channel + row * column // 16) % 256).double() / 255)[None]


def pixels() -> np.ndarray:
    return np.asarray((image()[0] * 255).round().byte().permute(1, 2, 0))


def converted(state: State) -> MeanScaleHyperprior:
    config, weights = convert_compressai(state)
    model = MeanScaleHyperprior(config)
    model.load_state_dict(weights)
    return model.eval()


def test_sizes_follow_from_the_shapes() -> None:
    config, _ = convert_compressai(checkpoint())

    assert (config.hidden, config.latent, config.hyper, config.transforms) == (8, 12, 12, "paper")
    assert not config.variable_rate


@pytest.mark.parametrize(
    ("part", "given", "expected"),
    [("hyper_analysis", "y", "z"), ("analysis", None, "y"), ("hyper_synthesis", "z_hat", "mean scale")],
)
@torch.no_grad()
def test_transforms_agree_in_float64(part: str, given: str | None, expected: str) -> None:
    module = converted(checkpoint()).double().get_submodule(part)

    found = module(golden(given) if given else image())

    # The numbers are written with eleven digits; the differences are float64 rounding and the float32 bounds of the GDN.
    wanted = torch.cat([golden(name) for name in expected.split()], dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8)


@torch.no_grad()
def test_synthesis_agrees_in_float64() -> None:
    image = converted(checkpoint()).double().synthesis(golden("y_hat"))

    torch.testing.assert_close(image[..., ::4, ::4], golden("x_hat"), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(image.sum((0, 2, 3)), golden("x_hat_sum"), rtol=1e-7, atol=0)


def test_whole_pass_agrees_in_float32() -> None:
    # No value of the golden run lies near a rounding boundary, so all symbols are the same. What differs are sums of up
    # to 300 float32 products in eleven layers: about 11 sqrt(300) 2^-24 = 1e-5 of the largest value.
    out = converted(checkpoint()).rounded(image().float(), torch.ones(1))

    assert record()["margin"] > 2e-3
    torch.testing.assert_close(out.image[..., ::4, ::4].double(), golden("x_hat"), rtol=0, atol=1e-4)
    assert out.bits_y.item() == pytest.approx(golden("bits_y").sum().item(), rel=1e-4)


def test_z_is_rounded_relative_to_the_quantiles_of_the_checkpoint() -> None:
    centers = checkpoint()["entropy_bottleneck.quantiles"][:, 0, 1]

    medians = converted(checkpoint()).prior.medians()

    assert centers.abs().min() > 1e-3  # otherwise this test could not fail
    torch.testing.assert_close(medians, centers, rtol=0, atol=2e-6)  # float32 biases of a few units: 2^-23 each


@torch.no_grad()
def test_the_tilt_changes_no_entry_of_z_by_more_than_the_tilt() -> None:
    state = checkpoint()
    plain = untilted(state)
    centers = state["entropy_bottleneck.quantiles"][:, 0, 1]
    tilt = plain.prior.logits(centers[:, None, None]).abs()[:, 0, 0]

    found = converted(state).prior.bits(golden("z_hat").float()).double()

    # |d ln density / d logit| < 1 for the logistic distribution, so a bin's probability moves by less than exp(tilt).
    bound = (tilt / math.log(2))[None, :, None, None].expand_as(found)
    assert tilt.max() > 0.01
    assert bool(((found - golden("bits_z")).abs() <= bound + 1e-4).all())


@torch.no_grad()
def test_bits_of_z_agree() -> None:
    found = untilted(checkpoint()).prior.bits(golden("z_hat").float())

    torch.testing.assert_close(found.double(), golden("bits_z"), rtol=1e-4, atol=1e-4)


def untilted(state: State) -> MeanScaleHyperprior:
    """A model whose quantiles are so far from the median that the importer leaves the prior unchanged."""
    far = state["entropy_bottleneck.quantiles"].clone()
    far[:, :, 1] = 500.0
    return converted({**state, "entropy_bottleneck.quantiles": far})


def test_channels_that_keep_their_prior_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    converted(checkpoint())
    assert not caplog.messages
    untilted(checkpoint())
    assert re.match(r"(\d+) of \1 channels of z were trained without the auxiliary loss", caplog.messages[0])


# ------------------------------------------------------------------------------------------- equivalent checkpoints

OLD = {"matrices": "_matrices", "biases": "_biases", "factors": "_factors"}
OLDER = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}


def renamed(state: State, kinds: dict[str, str], dot: str) -> State:
    out = {}
    for name, value in state.items():
        part, *rest = name.split(".")
        old = part == "entropy_bottleneck" and rest[0] in kinds
        out[f"{part}.{kinds[rest[0]]}{dot}{rest[1]}" if old else name] = value
    return out


def without_derived(state: State) -> State:
    derived = ("pedestal", "bound", "target", "_offset", "_cdf_length", "_quantized_cdf", "scale_table")
    return {name: value for name, value in state.items() if not name.endswith(derived)}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: renamed(state, OLD, "."),
        lambda state: renamed(state, OLDER, ""),
        lambda state: {f"module.{name}": value for name, value in state.items()},
        from_training,
        lambda state: from_training({f"module.{name}": value for name, value in state.items()}),
        without_derived,
        lambda state: {name: value.double() for name, value in state.items()},
    ],
    ids=["_matrices.0", "_matrix0", "module.", "state_dict", "both", "parameters only", "float64"],
)
def test_same_weights_from(change: Callable[[State], State]) -> None:
    ours, weights = convert_compressai(checkpoint())

    config, found = convert_compressai(change(checkpoint()))

    assert config == ours
    assert_same(found, weights)


def test_other_gdn_constants_keep_the_effective_values() -> None:
    state = checkpoint()
    pedestal, floor = 2.0**-20, 1e-3
    for name in [name for name in state if name.endswith("beta_reparam.pedestal")]:
        state[name] = torch.tensor([pedestal])
        state[name.replace("pedestal", "lower_bound.bound")] = torch.tensor([(floor + pedestal) ** 0.5])

    layer = converted(state).get_submodule("analysis.1")

    assert isinstance(layer, GDN)
    expected = checkpoint()["g_a.1.beta"].double().clamp_min((floor + pedestal) ** 0.5).square() - pedestal
    torch.testing.assert_close(layer.coefficients()[0].double(), expected, rtol=1e-5, atol=0)


def test_gdn_values_below_the_bound_are_refused() -> None:
    state = checkpoint()
    state["g_a.1.beta_reparam.lower_bound.bound"] = torch.tensor([2.0**-18])  # allows beta = 0

    with pytest.raises(ModelError, match=r"g_a\.1\.beta"):
        convert_compressai(state)


def scales_only(state: State) -> State:
    return {**state, "h_s.4.weight": state["h_s.4.weight"][:12], "h_s.4.bias": state["h_s.4.bias"][:12]}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, name: change(state[name])}


def poisoned(value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.index_fill(0, torch.tensor([0]), value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scales_only, "no means"),
        (lambda state: {**state, "context_prediction.weight": torch.zeros(1)}, "autoregressive"),
        (lambda state: {name: x for name, x in state.items() if not name.startswith("h_s.")}, "no hyperprior"),
        (lambda state: {name.replace("g_a", "encoder"): x for name, x in state.items()}, "no g_a"),
        (lambda state: {**state, "Gain": torch.ones(8)}, "no 'Gain'"),
        (lambda state: {name: x for name, x in state.items() if name != "h_a.2.bias"}, r"'h_a\.2\.bias' is missing"),
        (lambda state: {name: x for name, x in state.items() if "quantiles" not in name}, "quantiles' is missing"),
        (lambda state: {name: x for name, x in state.items() if name != "g_a.6.weight"}, "is missing"),
        (changed("g_s.2.weight", lambda x: x[:4]), r"g_s\.2\.weight' has the shape \(4, 8, 5, 5\)"),
        (changed("g_a.0.weight", lambda x: x[0, 0, 0, 0]), r"has the shape \(\)"),
        (changed("g_a.0.weight", lambda x: x[:1].expand(1 << 40, -1, -1, -1)), "1 to 1024"),
        (changed("g_a.2.weight", poisoned(math.nan)), "not finite"),
        (changed("h_s.0.bias", poisoned(math.inf)), "not finite"),
        (changed("g_a.1.gamma_reparam.pedestal", poisoned(math.nan)), "not finite"),
        (changed("g_a.2.weight", lambda x: x.to(torch.int32)), "int32"),
        (lambda state: {**state, "module.g_a.0.bias": state["g_a.0.bias"]}, "two tensors"),
        (lambda state: {"state_dict": 3}, "no named tensors"),
        (lambda state: {}, "holds no tensors"),
        (lambda state: {"epoch": 3}, "holds no tensors"),
    ],
)
def test_other_checkpoints_are_refused(change: Callable[[State], State], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        convert_compressai(change(checkpoint()))

    assert caught.value.hint


# --------------------------------------------------------------------------------------------------------- model folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "model"
    import_checkpoint(GOLDEN / "compressai_tiny.safetensors", out)
    return out


def test_imported_weights_stay_float32(folder: Path) -> None:
    assert_same(load_model(folder).weights, convert_compressai(checkpoint())[1])


@pytest.fixture
def codec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ImageCodec:
    """The imported codec with plain rounding as in CompressAI, instead of rate-aware rounding."""
    monkeypatch.setattr("latens.systems.image_codec.stages.ROUNDING_WEIGHT", 1e9)
    loaded = latens.load(folder, device="cpu")
    assert isinstance(loaded, ImageCodec)
    return loaded


@pytest.mark.parametrize(("precision", "decibels"), [("float32", 55.0), ("bfloat16", 30.0)])
def test_imported_codec_writes_and_reads_files(precision: str, decibels: float, codec: ImageCodec) -> None:
    # In float32 nothing but rounding to 8 bits is left: 10 log10(12 * 255^2) = 58.9 dB.
    codec.precision = precision

    image = codec.decompress(codec.compress(pixels()))

    decoded = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 255
    error = (decoded[..., ::4, ::4] - golden("x_hat").clamp(0, 1)).square().mean().item()
    assert -10 * math.log10(error) > decibels


def test_imported_codec_writes_as_many_bits_as_compressai_estimates(codec: ImageCodec) -> None:
    codec.precision = "float32"

    bits = inspect_stream(codec.compress(pixels())).bits

    expected = float(golden("bits_y").sum() + golden("bits_z").sum())
    # Two coders end on whole words (64 bits each at most), and a checksum of 32 bits goes with the latent.
    assert bits["latent"] + bits["hyper_latent"] == pytest.approx(expected, rel=0.01, abs=2 * 64 + 32)


def test_import_from_pth(tmp_path: Path) -> None:
    torch.save(from_training(checkpoint()), tmp_path / "weights.pth.tar")

    config = import_checkpoint(tmp_path / "weights.pth.tar", tmp_path / "model")

    assert latens.load(tmp_path / "model", device="cpu").model.config == config


def test_an_existing_model_is_not_replaced(folder: Path) -> None:
    with pytest.raises(OutputExists):
        import_checkpoint(GOLDEN / "compressai_tiny.safetensors", folder)


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, UnreadableInput), (b"no", UnreadableInput), (pickled({"w": torch.ones(1)}), ModelError)],
    ids=["missing", "text", "other"],
)
def test_errors_contain_the_path_and_no_folder_is_written(
    content: bytes | None, error: type[LatensError], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(error) as caught:
        import_checkpoint(path, tmp_path / "model")

    assert caught.value.where == str(path)
    assert not (tmp_path / "model").exists()
