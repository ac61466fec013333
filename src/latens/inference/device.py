"""Choice of the device, and its description."""

from __future__ import annotations

import functools
import inspect
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

from latens import arguments
from latens.errors import DeviceUnavailable, LimitExceeded, UsageError

P = ParamSpec("P")
T = TypeVar("T")
MAX_THREADS = 1024  # with more, the system may refuse new threads to all programs
REQUEST = re.compile(r"auto|cpu|cuda(?::(?P<index>[0-9]{1,4}))?")


def choose_device(request: str | torch.device = "auto", threads: int | None = None) -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:N` or a torch.device; only `auto` may fall back (to the CPU).

    `threads` sets the CPU threads of the whole process. Raises UsageError for another name or threads below 1,
    DeviceUnavailable for a device that this machine lacks.
    """
    request = str(request)
    match = REQUEST.fullmatch(request)
    if match is None:
        raise UsageError("unknown device", where=f"device {request!r}", hint="use auto, cpu, cuda or cuda:N")
    _prepare_forks()
    if (chosen := arguments.optional_whole(threads, "threads")) is not None:
        _set_threads(chosen)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if request == "cpu" or (request == "auto" and count == 0):
        return torch.device("cpu")
    index = int(match["index"] or 0)
    if index >= count:
        hint = f"available: {', '.join(available_devices())}"
        raise DeviceUnavailable("this machine has no such device", where=f"device {request!r}", hint=hint)
    return torch.device("cuda", index)


@functools.cache
def _prepare_forks() -> None:
    """One CPU thread in forked children: torch's pool of threads does not survive a fork, and waiting for it never ends."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


def available_devices() -> list[str]:
    """The devices of this machine, with the names of accelerators."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(count))]


class _DefaultType:
    """float32 as torch's default type while any thread needs it; the last one restores the type of the caller."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users, self.before = 0, torch.float32
        if hasattr(os, "register_at_fork"):  # a child must not inherit a lock that another thread holds
            release = self.lock.release
            os.register_at_fork(before=self.lock.acquire, after_in_parent=release, after_in_child=release)

    def __enter__(self) -> None:
        with self.lock:
            if self.users == 0:
                self.before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.users += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                torch.set_default_dtype(self.before)


@functools.cache
def _float32_default() -> _DefaultType:
    return _DefaultType()


@contextmanager
def plain_torch() -> Iterator[None]:
    """Context without the caller's settings of torch, for networks and their loading; also a decorator of functions.

    The default type is float32, the default device the CPU, and autocast and inference mode are off. All are restored. The
    default type is one of the process: other threads of the caller see float32 meanwhile.
    """
    with _float32_default(), ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def kept_randomness(device: torch.device) -> Iterator[None]:
    """Context that may seed torch: the caller's random states, of the CPU and of `device`, are restored."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def in_plain_torch(model: type[T]) -> type[T]:
    """Class decorator: the public methods run in `plain_torch`.

    The steps of generators do so too, but not the code that consumes them.
    """
    for name, method in list(vars(model).items()):
        if inspect.isfunction(method) and (not name.startswith("_") or name == "__call__"):
            setattr(model, name, plain_steps(method) if inspect.isgeneratorfunction(method) else plain_torch()(method))
    return model


def plain_steps(method: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """Decorator of a generator function: its steps run in `plain_torch`."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        steps = method(*args, **kwargs)
        while True:
            with plain_torch():
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step

    return run


def transform_precision(device: torch.device) -> str:
    """Arithmetic of networks whose output need not be bit-exact: "bfloat16" if it is faster on this device, else "float32".

    bfloat16 is faster on processors with tiles (AMX) and on those of AMD with AVX-512. On those of Intel without tiles it is up
    to 1.5 times slower (docs/results/precision.md); AVX-512 for float16, which AMD lacks, identifies them.
    """
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        gains = has.get("amx_bf16") or (has.get("avx512_bf16") and not has.get("avx512_fp16"))
        return "bfloat16" if gains else "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def describe(device: torch.device, model: str, weights: str, precision: str = "float32") -> str:
    """The first line on stderr: device, precision, model and weight hash (12 hexadecimal digits).

    A method without weights has an empty hash.
    """
    if device.type == "cpu":
        threads = torch.get_num_threads()
        place = f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    else:
        place = f"{device} ({torch.cuda.get_device_name(device)})"
    what = f"model {model}; weights {weights[:12]}" if weights else f"{model}, without weights"
    return f"device {place}; {precision}; {what}"


def _set_threads(threads: int) -> None:
    if threads < 1:
        raise UsageError("at least one thread is needed", where=f"threads {threads}", hint="leave it out for all cores")
    if threads > MAX_THREADS:
        raise LimitExceeded(f"more than {MAX_THREADS} threads", where=f"threads {threads}", hint="leave it out for all cores")
    torch.set_num_threads(threads)
