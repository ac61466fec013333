from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from latens.errors import DeviceUnavailable, UsageError
from latens.inference.device import available_devices, choose_device, describe, transform_precision


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine on which torch reports two accelerators."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    return monkeypatch


def test_without_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == choose_device("cpu") == torch.device("cpu")
    assert available_devices() == ["cpu"]
    with pytest.raises(DeviceUnavailable, match="available: cpu") as caught:
        choose_device("cuda")
    assert caught.value.exit_status == 7


def test_with_accelerators(machine: pytest.MonkeyPatch) -> None:
    assert choose_device() == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceUnavailable, match=r"cpu, cuda:0 \(Card\), cuda:1 \(Card\)"):
        choose_device("cuda:2")


@pytest.mark.parametrize("request_", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "CPU", "cuda:99999999999999999999"])
def test_unknown_device_names_are_refused(request_: str) -> None:
    with pytest.raises(UsageError):
        choose_device(request_)


def test_threads(threads: None) -> None:
    choose_device("cpu", threads=2)
    assert torch.get_num_threads() == 2
    with pytest.raises(UsageError):
        choose_device("cpu", threads=0)


def test_the_first_line_of_a_verb(threads: None, machine: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    weights = "0123456789abcdef" * 4
    assert describe(torch.device("cpu"), "m", weights) == "device cpu, 1 thread; float32; model m; weights 0123456789ab"
    line = describe(torch.device("cuda", 1), "m", weights, "bfloat16")
    assert line == "device cuda:1 (Card); bfloat16; model m; weights 0123456789ab"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "avx512_fp16": True}, "bfloat16"),
        ({"avx512_bf16": True, "avx512_fp16": True}, "float32"),  # tiles hidden by a hypervisor
        ({"avx512_bf16": True}, "bfloat16"),
        ({"architecture": "arm64"}, "float32"),
    ],
)
def test_bfloat16_where_it_is_faster(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], precision: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert transform_precision(torch.device("cpu")) == precision


FORK = """
import multiprocessing, sys, numpy, torch
from latens.inference.device import choose_device

choose_device("cpu", threads=2)

def work():
    layer = torch.nn.Conv2d(32, 32, 3)
    layer(torch.rand(1, 32, 200, 200)).sum().backward()

work()  # starts the pool of threads
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join(60)
ended = not child.is_alive()
child.kill()
sys.exit(0 if ended and child.exitcode == 0 else 1)
"""


def test_a_forked_child_can_compute() -> None:
    """The default start method of Linux; without preparation the child waits for threads that it does not have."""
    assert subprocess.run([sys.executable, "-c", FORK], timeout=120).returncode == 0
