"""`latens doctor`: checks of this installation, one line each."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from latens.cli.common import ComputeOptions, Reporter, human_size
from latens.errors import DeviceMismatch, LatensError, ModelMismatch

if TYPE_CHECKING:
    from latens.systems.image_codec.predict import ImageCodec

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")
EXTRAS = {  # and the modules of each
    "app": ("gradio", "starlette"),
    "cloud": ("obstore",),
    "cluster": ("ray",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "heic": ("pi_heif",),
    "metrics": ("ssimulacra2",),
    "micro": ("roifile", "tifffile"),
    "serve": ("fastapi", "h11", "prometheus_client", "starlette", "uvicorn"),
}
SMALL_MEMORY = 4_000_000_000
MIN_PSNR = 20  # dB; any trained model is far above

logger = logging.getLogger(__name__)


class Finding(NamedTuple):
    """The result of one check. `exit_status` is that of the command if the check fails."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    exit_status: int = 0


Check = Callable[[ComputeOptions], Iterator[Finding]]


def doctor(*, options: ComputeOptions = ComputeOptions()) -> int:  # noqa: B008
    """Check this installation: versions, devices, threads, bundled weights, disk, exact arithmetic.

    The exit status is 0 if all checks pass, otherwise that of the first failure: 5 for the disk, 6 for a model, 7 for a device.
    """
    reporter = Reporter(options)
    status = 0
    for finding in examine(options):
        text = f"{finding.status:<4}  {finding.name}: {finding.detail}"
        reporter.result({"check": finding.name, "status": finding.status, "detail": finding.detail}, text)
        if finding.status == "fail":
            if reporter.format == "quiet":
                logger.error(f"{finding.name}: {finding.detail}")
            status = status or finding.exit_status
    return status


def examine(options: ComputeOptions) -> Iterator[Finding]:
    """Run all checks in order. A check that raises has failed; the others still run."""
    for name, check in CHECKS:
        try:
            yield from check(options)
        except LatensError as error:
            yield Finding(name, "fail", " ".join(str(error).split()), error.exit_status)
        except Exception as error:
            yield Finding(name, "fail", " ".join(f"{type(error).__name__}: {error}".split()), 70)


def software(options: ComputeOptions) -> Iterator[Finding]:
    from latens import __version__

    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Finding("latens", "ok", __version__)
    try:
        requirements = importlib.metadata.requires("latens") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warn", "latens runs from its source folder and is not installed")
        return
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in requirements if "extra ==" not in text]
    versions = {name: installed_version(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Finding("packages", "fail", f"not installed: {', '.join(missing)}; install latens again", 70)
    yield Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items() if version))


def installation(options: ComputeOptions) -> Iterator[Finding]:
    """The pip line that fits this machine, if the installation does not, and the extras that are not installed."""
    import torch

    gpu = torch.cuda.is_available() or Path("/dev/nvidia0").exists()
    yield Finding("torch build", "ok", torch_advice(cuda=torch.version.cuda is not None, gpu=gpu, system=platform.system()))
    absent: dict[str, str] = {}
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            absent[extra] = extra if len(missing) == len(modules) else f"{extra} (without {', '.join(missing)})"
    pip = f"pip install 'latens[{','.join(absent)}]'"
    detail = f"not installed: {', '.join(absent.values())}; {pip}" if absent else "all are installed"
    yield Finding("extras", "ok", detail)


def torch_advice(*, cuda: bool, gpu: bool, system: str) -> str:
    """Whether the build of torch fits a machine, and the pip line for one that fits better."""
    if cuda and not gpu:
        line = "pip install --force-reinstall torch torchvision --index-url INDEX/whl/cpu"
        return f"its CUDA libraries are not used here; 5 GB less: {line} (INDEX: see the site of PyTorch)"
    if gpu and not cuda and system == "Linux":
        return "it cannot use the GPU of this machine: pip install --force-reinstall torch torchvision"
    if gpu and not cuda:
        line = "pip install --force-reinstall torch torchvision --index-url INDEX/whl/CUDA"
        return f"it cannot use the GPU of this machine: {line} (INDEX and CUDA: see the site of PyTorch)"
    return "it fits this machine"


def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor(options: ComputeOptions) -> Iterator[Finding]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = [flag for flag in FLAGS if flag in cpu_flags()]
    level = torch.backends.cpu.get_cpu_capability()
    yield Finding("processor", "ok", f"{usable} usable cores, {' '.join(flags) or 'flags unknown'}; torch uses {level}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    if memory:
        enough = memory >= SMALL_MEMORY
        yield Finding(
            "memory",
            "ok" if enough else "warn",
            human_size(memory) + ("" if enough else "; large images may not fit"),
        )


def cpu_flags() -> frozenset[str]:
    """Processor features by their Linux names; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def devices(options: ComputeOptions) -> Iterator[Finding]:
    import torch

    from latens.inference.device import available_devices, choose_device

    device = choose_device(options.device, options.threads)
    yield Finding("device", "ok", f"{device} is used; available: {', '.join(available_devices())}")
    total = (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
    if total != 512:  # 64 sums of 8 ones
        yield Finding("device", "fail", f"{device} computes wrong results", DeviceMismatch.exit_status)
    threads = torch.get_num_threads()
    yield Finding("threads", "ok", f"{threads} for one operation, {torch.get_num_interop_threads()} between operations")


def weights(options: ComputeOptions) -> Iterator[Finding]:
    from latens.catalogue import MODELS
    from latens.hub import load_model

    for entry in MODELS.values():
        try:
            found = load_model(entry.folder).sha256
        except LatensError as error:
            what = f"{error.where or entry.folder}: {error.what}; install latens again"
            yield Finding(f"model {entry.name}", "fail", what, error.exit_status)
            continue
        if found == entry.sha256:
            yield Finding(f"model {entry.name}", "ok", f"sha256 {found[:12]}, {human_size(entry.size)}")
        else:
            what = f"the weights are not those of this release (sha256 {found[:12]}, not {entry.sha256[:12]})"
            yield Finding(f"model {entry.name}", "fail", f"{what}; install latens again", ModelMismatch.exit_status)


def disk(options: ComputeOptions) -> Iterator[Finding]:
    import shutil

    from latens.data.files import write_atomic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latens-doctor"
        write_atomic(path, bytes(range(256)))
        if path.read_bytes() != bytes(range(256)):
            yield Finding("disk", "fail", f"a file written to {folder} has other contents when it is read", 5)
        free = shutil.disk_usage(folder).free
        yield Finding("disk", "ok", f"files can be written; {human_size(free)} free for temporary files")
    asked, used = os.environ.get("TMPDIR"), tempfile.gettempdir()
    if asked and os.path.realpath(asked) != os.path.realpath(used):
        yield Finding("disk", "warn", f"no file can be written to TMPDIR={asked}; temporary files are in {used}")


def arithmetic(options: ComputeOptions) -> Iterator[Finding]:
    """Test of the exact arithmetic of `.ltn` files: all modes must compute the same integer entropy parameters."""
    import torch

    import latens
    from latens.catalogue import default_model

    codec = latens.load(default_model("image_codec"), device=options.device, threads=options.threads)
    coding = codec.coding
    usual, mode = torch.get_num_threads(), coding.mode
    found = {}
    try:
        for threads in sorted({1, 2, usual}):
            torch.set_num_threads(threads)
            found[f"{threads} threads"] = coding.fingerprint()
        coding.set_mode("reference")  # 64-bit integers: slow and exact on all devices
        expected = coding.fingerprint()
    finally:
        torch.set_num_threads(usual)
        coding.set_mode(mode)
    wrong = [setting for setting, fingerprint in found.items() if fingerprint != expected]
    if wrong:
        detail = f"{codec.device} with {', '.join(wrong)} computes other entropy parameters; use --device cpu"
        yield Finding("exact arithmetic", "fail", detail, DeviceMismatch.exit_status)
    elif mode != "fast":
        yield Finding("exact arithmetic", "warn", f"exact, in the slower mode {mode!r}")
    else:
        yield Finding("exact arithmetic", "ok", f"{', '.join(found)} and 64-bit integers agree on {codec.device}")
    yield from round_trip(codec)


def round_trip(codec: ImageCodec) -> Iterator[Finding]:
    """Compression and decompression of a synthetic image."""
    import numpy as np

    rows, columns = np.mgrid[0:96, 0:144]
    waves = [127.5 + 127.5 * np.sin((rows * a + columns * b) / 29) for a, b in ((1, 2), (3, -1), (-2, 5))]
    pixels = np.stack(waves, axis=-1).astype(np.uint8)
    blob = codec.compress(pixels)
    error = np.asarray(codec.decompress(blob)).astype(float) - pixels
    psnr = 10 * np.log10(255**2 / max(float(np.square(error).mean()), 1e-9))
    status: Literal["ok", "warn"] = "ok" if psnr > MIN_PSNR else "warn"
    yield Finding("round trip", status, f"{len(blob)} bytes, PSNR {psnr:.1f} dB")


CHECKS: tuple[tuple[str, Check], ...] = (
    ("packages", software),
    ("installation", installation),
    ("processor", processor),
    ("device", devices),
    ("models", weights),
    ("disk", disk),
    ("exact arithmetic", arithmetic),
)
