"""Programs may set torch as they like, before and after they load a model: results are the same, and settings are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import latens
from latens.inference.device import in_plain_torch, plain_torch

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
CLIP = np.stack([np.roll(PIXELS, shift, 1) for shift in range(4)])
USES: dict[str, Callable[[object], list[object]]] = {
    "image_codec": lambda model: [model.decompress(model.compress(PIXELS, psnr=12)), model.compress(PIXELS, refine=2)],  # type: ignore[attr-defined]
    "cells": lambda model: [model.segment(PIXELS, least_score=0.01).scores],  # type: ignore[attr-defined]
    "haze": lambda model: [model.dehaze(PIXELS), model.haze(PIXELS), list(model.dehaze_clip(iter(CLIP)))],  # type: ignore[attr-defined]
    "parts": lambda model: [model.encode(PIXELS)[0].occurrence, model.embed(PIXELS)],  # type: ignore[attr-defined]
    "flow": lambda model: [model.density([PIXELS])[0].bits_per_dim, model.sample(1)],  # type: ignore[attr-defined]
    "seedlings": lambda model: [list(model.classify(PIXELS[:, :64]).values())],  # type: ignore[attr-defined]
    "video_codec": lambda model: [frame.pixels for frame in model.frames(model.compress(CLIP))],  # type: ignore[attr-defined]
}


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def settings_of_a_caller() -> Iterator[None]:
    with float64(), torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.device("meta"):
        yield


@pytest.mark.parametrize("name", USES)
def test_results_do_not_depend_on_settings_of_the_caller(name: str) -> None:
    model = latens.load(name, device="cpu")
    expected = USES[name](model)
    random = torch.get_rng_state()
    with settings_of_a_caller():
        inside = latens.load(name, device="cpu")
        found = USES[name](model)
    for results in (found, USES[name](inside)):
        for result, wanted in zip(results, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(result), np.asarray(wanted))
    assert torch.equal(torch.get_rng_state(), random)


def test_refinement_works_without_gradients_of_the_caller() -> None:
    codec = latens.load("image_codec", device="cpu")
    with torch.no_grad():
        assert codec.compress(PIXELS, refine=2) == USES["image_codec"](codec)[1]


def test_a_fit_does_not_depend_on_settings_of_the_caller_and_keeps_the_random_state() -> None:
    rows = np.random.default_rng(0).normal(size=(64, 2))
    random = torch.get_rng_state()
    expected = latens.flow.fit(rows, steps=1, device="cpu").log_prob(rows)
    with settings_of_a_caller():
        found = latens.flow.fit(rows, steps=1, device="cpu").log_prob(rows)
    np.testing.assert_array_equal(found, expected)
    assert torch.equal(torch.get_rng_state(), random)


@in_plain_torch
class Model:
    def value(self) -> torch.Tensor:
        return torch.zeros(1)

    def fail(self) -> None:
        raise ValueError("no")

    def steps(self) -> Iterator[torch.Tensor]:
        yield torch.zeros(1)
        yield torch.zeros(1)

    def wait(self, begun: threading.Event, end: threading.Event) -> torch.dtype:
        begun.set()
        end.wait(10)
        return torch.zeros(1).dtype


def test_methods_and_steps_of_generators_are_float32_and_the_caller_is_not() -> None:
    model = Model()
    with float64():
        assert model.value().dtype == torch.float32
        with pytest.raises(ValueError, match="no"):
            model.fail()
        for step in model.steps():
            assert (step.dtype, torch.get_default_dtype()) == (torch.float32, torch.float64)
        with plain_torch():
            assert torch.zeros(1).dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64


def test_calls_of_several_threads_that_overlap_restore_the_default_type() -> None:
    model, found = Model(), []
    first, second = (threading.Event(), threading.Event()), (threading.Event(), threading.Event())
    threads = [threading.Thread(target=lambda events=events: found.append(model.wait(*events))) for events in (first, second)]
    with float64():
        for thread, (begun, _) in zip(threads, (first, second), strict=True):
            thread.start()
            assert begun.wait(10)
        for thread, (_, end) in zip(threads, (first, second), strict=True):  # the first ends while the second computes
            end.set()
            thread.join()
    assert found == [torch.float32, torch.float32]
