"""Probes: frozen layers stay frozen, selection uses the validation split, and each solves simple data."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from latens.data.labeled import LabeledImages, Split, open_labeled
from latens.data.source import Source
from latens.data.squares import Squares
from latens.data.tensors import to_tensor
from latens.errors import InputError, UsageError
from latens.experiments import probes
from latens.experiments.probes import (
    FROZEN,
    PROBES,
    Probe,
    ProbeConfig,
    Splits,
    cache_key,
    embed,
    linear,
    nearest,
    partly_frozen,
    run_probe,
    split_sets,
    top_k_correct,
)
from latens.nn.stages import StagedEncoder, classifier_head


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def small_encoder() -> StagedEncoder:
    """Three stages of one, two and two convolutions; 8 pixels per cell."""
    stages = [conv(3, 8, 2), nn.Sequential(conv(8, 16, 2), conv(16, 16)), nn.Sequential(conv(16, 32, 2), conv(32, 32))]
    return StagedEncoder(stages, 32, 8)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of small images, bright and dark."""
    folder = tmp_path_factory.mktemp("labeled")
    rng = np.random.default_rng(0)
    for i in range(24):
        low, high = (20, 90) if i % 2 else (140, 240)
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(low, high, (16, 16, 3), dtype=np.uint8)).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


def open_set(folder: Path, split: Split = "train") -> LabeledImages:
    return open_labeled(Source("", str(folder)), split)


QUICK = ProbeConfig(epochs=2, batch=8, validation_share=0.3)


@pytest.fixture(scope="module")
def splits(labeled: Path) -> Splits:
    return split_sets(open_set(labeled), open_set(labeled, "test"), 16, QUICK.validation_share)


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_leaves_the_encoder_as_it_is_and_can_be_repeated(name: Probe, splits: Splits) -> None:
    torch.manual_seed(0)
    encoder = small_encoder()
    before = copy.deepcopy(encoder.state_dict())
    found = run_probe(name, encoder, splits, QUICK, seed=1)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert found == run_probe(name, encoder, splits, QUICK, seed=1)
    assert found.probe == name
    assert 0 <= found.test <= found.top5 == 100  # of two classes the label is always among the first five


@pytest.mark.parametrize(("name", "convolutions"), [("conv1", 4), ("conv1-3", 2), ("conv1-5", 0)])
def test_the_same_layers_are_trained_as_in_the_paper(name: Probe, convolutions: int) -> None:
    """Of five convolutions; normalization layers, statistics included, never change."""
    torch.manual_seed(0)
    encoder = small_encoder().train()
    copied = partly_frozen(encoder, FROZEN[name])
    trained = [p for p in copied.parameters() if p.requires_grad]
    assert len(trained) == convolutions
    copied(torch.rand(4, 3, 32, 32)).square().mean().backward() if trained else copied(torch.rand(4, 3, 32, 32))
    for parameter in trained:
        assert parameter.grad is not None
        parameter.data -= parameter.grad
    before = encoder.state_dict()
    moved = [key for key, value in copied.state_dict().items() if not torch.equal(value, before[key])]
    assert len(moved) == convolutions
    assert all(copied.get_parameter(key).dim() == 4 for key in moved)
    assert encoder.training


def test_caching_changes_nothing_but_time(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = small_encoder()
    kept = run_probe("conv1-5", encoder, splits, QUICK)
    monkeypatch.setattr(probes, "CACHE_BYTES", 0)
    anew = run_probe("conv1-5", encoder, splits, QUICK)
    assert kept.test == pytest.approx(anew.test, abs=20)  # half precision may turn one of these few images
    assert kept.chosen.startswith("epoch")


def test_validation_and_test_are_separate_from_training(splits: Splits) -> None:
    keys = [set(split.squares.found.keys) for split in splits.all]
    assert not keys[0] & keys[1]
    assert not (keys[0] | keys[1]) & keys[2]
    assert all(keys)


def test_linear_and_nearest_solve_separable_data() -> None:
    torch.manual_seed(0)
    labels = [torch.arange(n) % 3 for n in (60, 30, 30)]
    sets = [nn.functional.one_hot(y, 5).float() * 4 + 0.3 * torch.randn(len(y), 5) for y in labels]
    assert linear(sets, labels, 3)[1:3] == (100, 100)
    assert nearest(sets, labels, 3)[1:3] == (100, 100)
    wrong = [sets[0], sets[1], sets[2].roll(1, 0)]  # test features of other images
    assert linear(wrong, labels, 3).test == 0


def test_linear_and_nearest_choose_on_validation() -> None:
    """Other labels of the test images change no choice; where validation repeats the training images, overfitting wins."""
    torch.manual_seed(0)
    labels = [torch.arange(n) % 2 for n in (60, 40, 40)]
    sets = [nn.functional.one_hot(y, 40).float() * 5 + torch.randn(len(y), 40) for y in labels]
    noisy = labels[0].clone()
    noisy[::3] = 1 - noisy[::3]  # a single neighbor is often wrong
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
    found = run_probe("conv1-5", small_encoder(), splits, replace(QUICK, epochs=3))
    assert (found.chosen, found.validation, found.test, found.top5) == ("epoch 2", 90.0, 50.0, 75.0)
    assert asked == [1, 1, 1, 2, 2]  # the test split is looked at once, at the end


def test_top_k_correct_counts_the_first_few() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.0, 0.1]])
    assert [top_k_correct(scores, torch.tensor([2, 1]), k) for k in (1, 2, 3)] == [0, 1, 2]


def test_features_are_pooled_to_at_most_so_many_cells(labeled: Path) -> None:
    squares = Squares(open_set(labeled), 48)
    encoder = small_encoder().eval()
    assert embed(encoder, squares, 4).shape == (len(squares), 32 * 16)
    assert embed(encoder, squares, 8).shape == (len(squares), 32 * 36)


def test_bad_requests_are_refused(labeled: Path, splits: Splits) -> None:
    plain = open_set(labeled / "a")
    with pytest.raises(InputError, match="labeled"):
        split_sets(plain, plain, 16, 0.1)
    with pytest.raises(UsageError, match="epochs"):
        replace(QUICK, epochs=0)
    assert set(FROZEN) < set(PROBES)


def test_settings_that_decide_a_result() -> None:
    assert cache_key("conv1", QUICK) != cache_key("conv1", replace(QUICK, precision="no"))
    assert cache_key("knn", QUICK) == cache_key("knn", replace(QUICK, epochs=7))


def test_a_class_without_a_training_image_is_never_predicted() -> None:
    torch.manual_seed(0)
    labels = [torch.arange(20) % 2, torch.arange(20) % 2, torch.full((20,), 2)]
    sets = [torch.randn(20, 4) + 3 * torch.arange(20)[:, None] % 2 for _ in range(3)]
    assert linear(sets, labels, 3).test == 0


def test_messages_name_the_data_set(labeled: Path) -> None:
    found, plain = open_set(labeled), open_set(labeled / "a")
    for train, test in ((plain, found), (found, plain)):
        with pytest.raises(InputError) as caught:
            probes.check_labels(train, test)
        assert (caught.value.what, caught.value.where) == ("a probe needs labeled images", train.name)
        assert caught.value.hint == "give one folder of images for every class, or a labeled data set"
    probes.check_labels(found, found)
    more = replace(found, labels=found.labels + 1)
    with pytest.raises(InputError) as caught:
        probes.check_labels(found, more)
    assert (caught.value.what, caught.value.where, caught.value.hint) == (
        "the test split has classes that the training split lacks", more.name, None,
    )  # fmt: skip


def test_a_linear_probe_is_logistic_regression_on_standardized_features() -> None:
    """The chosen penalty, and top-5 accuracies of seven classes, from the coefficients of scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    torch.manual_seed(1)
    labels = [torch.arange(n) % 7 for n in (70, 35, 35)]
    sets = [nn.functional.one_hot(y, 9).float() * 1.5 + torch.randn(len(y), 9) for y in labels]
    found = linear(sets, labels, 7)
    mean, deviation = sets[0].mean(0), sets[0].std(0) + 1e-6
    plain = [((x - mean) / deviation).numpy() for x in sets]
    rows = []
    for penalty in (1e-1, 1e-3, 1e-5):
        model = LogisticRegression(C=1 / (penalty * 70), max_iter=1000).fit(plain[0], labels[0].numpy())
        scores = [model.predict_proba(x) for x in plain]
        rank = [(s > s[np.arange(len(s)), y.numpy()][:, None]).sum(1) for s, y in zip(scores, labels, strict=True)]
        rows.append(((rank[1] < 1).mean(), (rank[2] < 1).mean(), (rank[2] < 5).mean(), f"penalty {penalty:g}"))
    best = max(rows, key=lambda row: row[0])
    assert (found.probe, found.chosen) == ("linear", best[3])
    assert (found.validation, found.test, found.top5) == pytest.approx([100 * value for value in best[:3]])
    assert 0 < found.test < found.top5 <= 100


def test_neighbors_vote_by_cosine() -> None:
    """exp(cosine / 0.07) of centered features, with 1, 5, 20, 50 and 200 neighbors at most as many as there are images."""
    torch.manual_seed(2)
    labels = [torch.arange(n) % 7 for n in (30, 21, 21)]
    sets = [nn.functional.one_hot(y, 8).float() + 0.7 * torch.randn(len(y), 8) + 3 for y in labels]
    found = nearest(sets, labels, 7)
    unit = [(x - sets[0].mean(0)).double().numpy() for x in sets]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in unit]
    rows = []
    for count in (1, 5, 20):
        shares = []
        for which in (1, 2):
            cosine = unit[which] @ unit[0].T
            near = np.argsort(-cosine, axis=1)[:, :count]
            votes = np.zeros((len(cosine), 7))
            for row, index in np.ndindex(near.shape):
                place = near[row, index]
                votes[row, int(labels[0][place])] += np.exp(cosine[row, place] / 0.07)
            own = votes[np.arange(len(votes)), labels[which].numpy()]
            rank = (votes > own[:, None]).sum(1)
            shares += [(rank < 1).mean()]
        rows.append((shares[0], shares[1], f"{count} neighbors"))
    best = max(rows, key=lambda row: row[0])
    assert (found.probe, found.chosen) == ("knn", best[2])
    assert (found.validation, found.test) == pytest.approx([100 * value for value in best[:2]])


def test_fine_tuning_step_by_step(splits: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The logits of every validation equal those of a plain loop: one order of images per epoch, rates 1, 1/10 and 1/100."""
    config = replace(QUICK, epochs=3, batch=5, lr=0.05, momentum=0.8, decay=0.01, precision="no")
    torch.manual_seed(0)
    encoder = small_encoder().eval()
    seen: list[torch.Tensor] = []

    def accuracy(logits: Any, which: int, labels: torch.Tensor, batch: int, k: int = 1) -> float:
        seen.append(logits(which, np.arange(len(labels))).detach())
        assert batch == 5
        return [10.0, 30.0, 30.0][len(seen) - 1] if which == 1 else 40.0 + k

    monkeypatch.setattr(probes, "_accuracy", accuracy)
    caplog.set_level("INFO", logger="latens")
    found = probes.fine_tune("conv1", encoder, splits, config, seed=4)
    assert found == ("conv1", 41.0, 45.0, 30.0, "epoch 2")  # the first of two equal epochs
    scores = ((1, 10, 10), (2, 30, 30), (3, 30, 30))  # epoch, its accuracy and the best until then
    expected_lines = [f"conv1: epoch {n} of 3, validation {own:.2f} % (best {best:.2f} %)" for n, own, best in scores]
    assert [record.getMessage() for record in caplog.records] == expected_lines

    torch.manual_seed(4)
    copied = copy.deepcopy(encoder)
    head = classifier_head(32, 2, 2)
    weights = [layer.weight for stage in copied.stages[1:] for layer in stage.modules() if isinstance(layer, nn.Conv2d)]
    images = [to_tensor(split.squares.pixels(np.arange(len(split.labels)))) for split in splits.all]
    with torch.no_grad():
        maps = [copied.run((x - 0.5) / 0.25, 0, 1).half().float() for x in images]  # cached in half precision
    optimizer = torch.optim.SGD([*weights, *head.parameters()], lr=0.05, momentum=0.8, weight_decay=0.01)
    expected, chosen = [], torch.empty(0)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.1**epoch
        head.train()
        order = np.random.default_rng([4, epoch]).permutation(len(splits.train.labels))
        for start in range(0, len(order), 5):
            part = torch.from_numpy(order[start : start + 5])
            loss = nn.functional.cross_entropy(head(copied.run(maps[0][part], 1)), splits.train.labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            expected.append(head(copied.run(maps[1], 1)))
            chosen = head(copied.run(maps[2], 1)) if epoch == 1 else chosen
    for one, other in zip(seen, [*expected, chosen, chosen], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_few_images_choose_on_themselves(labeled: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is held out of so few images: a warning says so, and training and validation are the same images."""
    found = open_set(labeled)
    splits = split_sets(found, found, 16, 1e-9)
    assert [record.getMessage() for record in caplog.records] == [
        f"{found.name}: {len(found)} images are too few to divide; the probes choose on their training images"
    ]
    assert splits.train.squares.found.keys == splits.validation.squares.found.keys == found.keys
    assert splits.classes == 2
    assert splits.left_out == ()
    assert torch.equal(splits.train.labels, torch.from_numpy(found.labels))
