"""Probes: what is frozen stays frozen, selection is on validation, and each finds what is there."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from latens.data.labeled import open_set
from latens.data.squares import Squares
from latens.errors import InputError
from latens.experiments import probes
from latens.experiments.probes import (
    FROZEN,
    PROBES,
    Probe,
    ProbeConfig,
    Splits,
    cache_key,
    embed,
    fingerprint,
    linear,
    logistic_regression,
    nearest,
    partly_frozen,
    run_probe,
    split_sets,
    top_k_correct,
)
from latens.settings import SettingsError
from latens.systems.parts.encoder import local_encoder, resnet_encoder

QUICK = ProbeConfig(epochs=2, batch=8, validation_share=0.3)


@pytest.fixture(scope="module")
def splits(labelled: Path) -> Splits:
    return split_sets(open_set(labelled), open_set(labelled, "test"), 16, QUICK.validation_share)


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_leaves_the_encoder_as_it_is_and_can_be_repeated(name: Probe, splits: Splits) -> None:
    torch.manual_seed(0)
    encoder = local_encoder()
    before = copy.deepcopy(encoder.state_dict())
    found = run_probe(name, encoder, splits, QUICK, seed=1)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert found == run_probe(name, encoder, splits, QUICK, seed=1)
    assert found.probe == name
    assert 0 <= found.test <= found.top5 == 100  # of two classes the label is always among the first five


@pytest.mark.parametrize(("name", "convolutions"), [("conv1", 9), ("conv1-3", 5), ("conv1-5", 0)])
def test_what_is_trained_is_what_the_paper_trains(name: str, convolutions: int) -> None:
    """Of the ten convolutions of the paper's encoder; normalisation layers, statistics included, never move."""
    torch.manual_seed(0)
    encoder = resnet_encoder(2).train()
    copied = partly_frozen(encoder, FROZEN[name])
    trained = [p for p in copied.parameters() if p.requires_grad]
    assert len(trained) == convolutions
    copied(torch.rand(4, 3, 32, 32)).square().mean().backward() if trained else copied(torch.rand(4, 3, 32, 32))
    for parameter in trained:
        parameter.data -= parameter.grad  # type: ignore[operator]
    before = encoder.state_dict()
    moved = [key for key, value in copied.state_dict().items() if not torch.equal(value, before[key])]
    assert len(moved) == convolutions
    assert all(copied.get_parameter(key).dim() == 4 for key in moved)
    assert encoder.training


def test_caching_changes_nothing_but_time(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = local_encoder()
    kept = run_probe("conv1-5", encoder, splits, QUICK)
    monkeypatch.setattr(probes, "CACHE_BYTES", 0)
    anew = run_probe("conv1-5", encoder, splits, QUICK)
    assert kept.test == pytest.approx(anew.test, abs=20)  # half precision may turn one of these few pictures
    assert kept.chosen.startswith("epoch")


def test_validation_and_test_are_apart_from_training(splits: Splits) -> None:
    keys = [set(split.squares.found.keys) for split in splits[:3]]
    assert not keys[0] & keys[1]
    assert not (keys[0] | keys[1]) & keys[2]
    assert all(keys)


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = (x @ rng.normal(size=(4, 3)) + 0.5 * rng.normal(size=(60, 3))).argmax(1)
    penalty = 0.05
    weight, bias = logistic_regression(torch.from_numpy(x), torch.from_numpy(y), 3, penalty)
    oracle = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-8, max_iter=1000).fit(x, y)
    torch.testing.assert_close(weight, torch.from_numpy(oracle.coef_.T.copy()), atol=2e-3, rtol=0)
    ours, theirs = x @ weight.numpy() + bias.numpy(), oracle.decision_function(x)
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=5e-3)


def test_linear_and_nearest_solve_what_is_separable() -> None:
    torch.manual_seed(0)
    labels = [torch.arange(n) % 3 for n in (60, 30, 30)]
    sets = [nn.functional.one_hot(y, 5).float() * 4 + 0.3 * torch.randn(len(y), 5) for y in labels]
    assert linear(sets, labels, 3)[1:3] == (100, 100)
    assert nearest(sets, labels, 3)[1:3] == (100, 100)
    wrong = [sets[0], sets[1], sets[2].roll(1, 0)]  # test features of other pictures
    assert linear(wrong, labels, 3).test == 0


def test_linear_and_nearest_choose_on_validation() -> None:
    """Other labels of the test pictures change no choice; where validation repeats the training pictures, overfitting wins."""
    torch.manual_seed(0)
    labels = [torch.arange(n) % 2 for n in (60, 40, 40)]
    sets = [nn.functional.one_hot(y, 40).float() * 5 + torch.randn(len(y), 40) for y in labels]
    noisy = labels[0].clone()
    noisy[::3] = 1 - noisy[::3]  # a single neighbour is often wrong
    for probe in (linear, nearest):
        kept = probe(sets, [noisy, *labels[1:]], 2)
        turned = probe(sets, [noisy, labels[1], 1 - labels[2]], 2)
        assert (turned.chosen, turned.validation) == (kept.chosen, kept.validation)
        assert turned.test == pytest.approx(100 - kept.test)
        repeated = probe([sets[0], sets[0], sets[2]], [noisy, noisy, labels[2]], 2)
        assert (repeated.chosen, repeated.validation) == ({linear: "penalty 0.001", nearest: "1 neighbors"}[probe], 100)
        assert repeated.chosen != kept.chosen


def test_fine_tuning_keeps_the_epoch_that_is_best_on_validation(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {1: iter([30.0, 90.0, 60.0]), 2: iter([50.0, 75.0])}
    asked: list[int] = []

    def accuracy(logits: object, which: int, *rest: object) -> float:
        asked.append(which)
        return next(scores[which])

    monkeypatch.setattr(probes, "_accuracy", accuracy)
    torch.manual_seed(0)
    found = run_probe("conv1-5", local_encoder(), splits, replace(QUICK, epochs=3))
    assert (found.chosen, found.validation, found.test, found.top5) == ("epoch 2", 90.0, 50.0, 75.0)
    assert asked == [1, 1, 1, 2, 2]  # the test split is looked at once, at the end


def test_fingerprints_tell_sets_apart(labelled: Path) -> None:
    found = open_set(labelled)
    other = [
        found.subset(range(len(found) - 1)),
        replace(found, labels=1 - found.labels),
        replace(found, classes=found.classes[::-1]),
        replace(found, read=lambda i: 255 - found.read(i)),
    ]
    assert fingerprint(found) == fingerprint(open_set(labelled))
    assert fingerprint(replace(found, name="moved")) == fingerprint(found)
    assert len({fingerprint(one) for one in [found, *other]}) == 5
    assert cache_key("conv1", QUICK) != cache_key("conv1", replace(QUICK, precision="no"))
    assert cache_key("knn", QUICK) == cache_key("knn", replace(QUICK, epochs=7))


def test_top_k_correct_counts_the_first_few() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.0, 0.1]])
    assert [top_k_correct(scores, torch.tensor([2, 1]), k) for k in (1, 2, 3)] == [0, 1, 2]


def test_features_are_pooled_to_at_most_so_many_cells(labelled: Path) -> None:
    squares = Squares(open_set(labelled), 48)
    encoder = local_encoder().eval()
    assert embed(encoder, squares, 4).shape == (len(squares), 128 * 16)
    assert embed(encoder, squares, 8).shape == (len(squares), 128 * 36)


def test_bad_requests_are_refused(labelled: Path, splits: Splits) -> None:
    plain = open_set(labelled / "a")
    with pytest.raises(InputError, match="labeled"):
        split_sets(plain, plain, 16, 0.1)
    with pytest.raises(SettingsError, match="epochs"):
        replace(QUICK, epochs=0)
    assert set(FROZEN) < set(PROBES)
