"""Vision models with learned latent codes, for your own images.

>>> import latens
>>> codec = latens.load("image_codec_joint")    # or the folder of a model you trained
>>> blob = codec.compress("photo.jpg", quality=4)
>>> image = codec.decompress(blob)

Importing this package does not import torch; `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from latens import catalogue, errors
    from latens.catalogue import ModelEntry
    from latens.cli.as_job import batch
    from latens.cli.serve import service
    from latens.launch import evaluate, train
    from latens.reproduction import reproduce
    from latens.systems import flow
    from latens.systems.amodal.cells.predict import CellSegmenter
    from latens.systems.amodal.predict import AmodalSegmenter
    from latens.systems.flow.predict import DensityModel
    from latens.systems.haze.predict import Haze
    from latens.systems.image_codec.predict import ImageCodec
    from latens.systems.parts.predict import Parts
    from latens.systems.seedlings.predict import SeedlingGrader
    from latens.systems.video_codec.predict import VideoCodec

__version__ = "0.1.0"
__all__ = ["__version__", "batch", "catalogue", "errors", "evaluate", "flow", "load", "models", "reproduce", "service", "train"]


@overload
def load(
    name_or_path: Literal[
        "image_codec", "image_codec_context", "image_codec_joint", "image_codec_perceptual"
    ] = "image_codec_joint",
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
) -> ImageCodec: ...


@overload
def load(
    name_or_path: Literal["embryo", "amodal"], *, device: str | torch.device = "auto", threads: int | None = None
) -> AmodalSegmenter: ...


@overload
def load(
    name_or_path: Literal["cells"], *, device: str | torch.device = "auto", threads: int | None = None
) -> CellSegmenter: ...


@overload
def load(
    name_or_path: Literal["haze", "haze_physical", "haze_mmd", "haze_dehazenet"],
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
) -> Haze: ...


@overload
def load(name_or_path: Literal["parts"], *, device: str | torch.device = "auto", threads: int | None = None) -> Parts: ...


@overload
def load(
    name_or_path: Literal["video_codec"], *, device: str | torch.device = "auto", threads: int | None = None
) -> VideoCodec: ...


@overload
def load(
    name_or_path: Literal["flow", "flow_moons", "flow_circles", "flow_checkerboard"],
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
) -> DensityModel: ...


@overload
def load(
    name_or_path: Literal["seedlings", "seedlings_species"], *, device: str | torch.device = "auto", threads: int | None = None
) -> SeedlingGrader: ...


@overload
def load(name_or_path: str | Path, *, device: str | torch.device = "auto", threads: int | None = None) -> Any: ...


def load(
    name_or_path: str | Path = "image_codec_joint", *, device: str | torch.device = "auto", threads: int | None = None
) -> Any:
    """Load a model, with methods for its system: `compress`, `decompress`; `segment`; `dehaze`, `haze`; `encode`, `gallery`;
    `density`, `sample`; ...

    `name_or_path` is a name from `models()`, the name of a system, a folder with config.json and model.safetensors, or
    "hub:OWNER/NAME[@REVISION]" for such a folder on the Hugging Face hub, which is fetched. `device` is "auto", "cpu", "cuda",
    "cuda:N" or a torch.device; only "auto" may fall back. `threads` sets the CPU threads of the whole process. Raises
    ModelMissing, ModelError, DeviceUnavailable, and UsageError for unknown devices and wrong numbers of threads.
    """
    from latens.catalogue import MODELS, SYSTEMS, system_of
    from latens.contract import open_system
    from latens.hub import locate

    known = str(name_or_path) in MODELS or str(name_or_path) in SYSTEMS
    place = name_or_path if known else locate(name_or_path)
    return open_system(system_of(place)).load(place, device=str(device), threads=threads)


def models() -> list[ModelEntry]:
    """All bundled models."""
    from latens.catalogue import MODELS

    return list(MODELS.values())


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("catalogue", "errors"):
        return importlib.import_module(f"{__name__}.{name}")
    if name == "flow":
        return importlib.import_module(f"{__name__}.systems.flow")
    if name in ("train", "evaluate"):
        return getattr(importlib.import_module(f"{__name__}.launch"), name)
    if name == "batch":
        return importlib.import_module(f"{__name__}.cli.as_job").batch
    if name == "service":
        return importlib.import_module(f"{__name__}.cli.serve").service
    if name == "reproduce":
        return importlib.import_module(f"{__name__}.reproduction").reproduce
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
