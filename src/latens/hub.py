"""Model folders: config.json and model.safetensors (model-1, model-2, ... for large models), without pickle.

A model is identified by the hash of its tensor files. Large weights may be stored in eight bits (`latens.int8`) and are
expanded on loading. A folder may name a bundled model as its `base` ({"name", "sha256"} in config.json): it then holds only the
tensors that differ from those of the base.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from latens.catalogue import VERBS, folder_of
from latens.data.files import read_bytes, write_atomic
from latens.errors import ModelError, ModelMissing
from latens.int8 import changed, from_int8, to_int8
from latens.legacy import upgrade_model
from latens.settings import SettingsError, decode

logger = logging.getLogger(__name__)

N = TypeVar("N", bound=nn.Module)
HUB = "hub:"
BEST = "best"  # the model folder in the folder of a training run
CONFIG, WEIGHTS, CODING, HASHES, BASE = "config.json", "model", "entropy", "sha256", "base"
WITHOUT = "without"  # key of a base: starts of the names of tensors that a model does not take from it
CONFIG_LIMIT = 2**20  # bytes
WEIGHTS_LIMIT = 4 * 2**30
LARGER, SPARE = 4, 2**20  # a network that is made may have so many times the values of its weights, and so many more
OURS = re.compile(r"(model|entropy)(-\d+)?(-[0-9a-f]{8})?\.safetensors")
SHARD = 4_800_000  # bytes of tensors in one file


class ModelFolder(NamedTuple):
    config: dict[str, Any]
    weights: dict[str, Tensor]  # expanded if they are stored in eight bits
    coding: dict[str, Tensor]  # frozen integers of the entropy coder; empty for a model that writes no streams
    sha256: str  # over all tensor files, and those of the base


def save_model(
    folder: Path, config: dict[str, Any], weights: dict[str, Tensor], coding: dict[str, Tensor] | None = None
) -> None:
    """Write a model folder, or replace the model in it by a single rename.

    Tensor files of an earlier model are kept until the new config.json, which lists the files and their hashes, has replaced
    the old one. A process that is killed before leaves the old model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[str]] = {}
    hashes: dict[str, str] = {}
    for kind, tensors in ((WEIGHTS, weights), (CODING, coding or {})):
        shards = _shards(tensors)
        files[kind] = []
        for index, shard in enumerate(shards):
            blob = save(_plain(shard))
            digest = hashlib.sha256(blob).hexdigest()
            name = _free_name(folder, f"{kind}-{index + 1}" if len(shards) > 1 else kind, digest)
            write_atomic(folder / name, blob)
            files[kind].append(name)
            hashes[name] = digest
    write_atomic(folder / CONFIG, (json.dumps({**config, "files": files, HASHES: hashes}, indent=2) + "\n").encode())
    for path in list(folder.iterdir()):
        if OURS.fullmatch(path.name) and path.name not in hashes:  # of the earlier model
            path.unlink()


def _free_name(folder: Path, stem: str, digest: str) -> str:
    """A name that no file in the folder has, unless with the same content: `stem`, or `stem` with part of the hash."""
    name = f"{stem}.safetensors"
    return f"{stem}-{digest[:8]}.safetensors" if (folder / name).exists() else name


def load_model(folder: Path) -> ModelFolder:
    """Read a model folder. Raises ModelMissing if a file is absent, ModelError if a file is damaged or does not fit."""
    config = read_config(folder)
    digests: list[str] = []
    try:
        expected = {**config.pop(HASHES, {})}  # models of earlier versions have no hashes
        weights = from_int8(_read(folder, config["files"][WEIGHTS], digests, expected))
        coding = _read(folder, config["files"][CODING], digests, expected)
        if BASE in config:
            base = _base_of(folder, config[BASE])
            left_out = tuple(config[BASE].get(WITHOUT, ()))
            inherited = {name: tensor for name, tensor in base.weights.items() if not name.startswith(left_out)}
            weights, coding = inherited | changed(weights, base.weights), base.coding | coding
            digests = [base.sha256, *digests]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"it does not list its files ({error})", where=str(folder / CONFIG), hint="save the model again"
        ) from None
    except ValueError as error:
        raise ModelError(f"damaged weights ({error})", where=str(folder), hint="fetch or train the model again") from None
    with fitting(folder):
        config = upgrade_model(config)
    return ModelFolder(config, weights, coding, hashlib.sha256("".join(digests).encode()).hexdigest())


def _base_of(folder: Path, base: Mapping[str, Any]) -> ModelFolder:
    """The bundled model of a folder that holds only what differs. Raises ModelError if it is another one."""
    found = load_model(folder_of(base["name"]))
    if found.sha256 != base["sha256"]:
        what = f"it needs the model {base['name']} with the hash {base['sha256'][:12]}, not {found.sha256[:12]}"
        raise ModelError(what, where=str(folder), hint="use the version of latens that the model was made for")
    return found


def load_network(folder: Path, system: str, kind: Any, build: Callable[[Any], N]) -> tuple[ModelFolder, N]:
    """A model folder and its network, which `build` makes from the settings `model` of class (or union) `kind`.

    Raises ModelMissing if a file is absent; ModelError for a model of another system, for invalid settings, and for weights
    that do not fit them.
    """
    found = load_model(folder)
    if found.config["system"] != system:
        other = found.config["system"]
        hint = f"it is for `latens {VERBS[other]}`; " if other in VERBS else ""
        what = f"this is a model of {other}, not of {system}"
        raise ModelError(what, where=str(folder), hint=f"{hint}train one of {system} with `latens train {system}`")
    try:
        with of_size(found.weights):
            network = build(decode(kind, found.config["model"], where=CONFIG, path="model"))
        load_weights(network, found.weights)
    except (KeyError, TypeError, ValueError, RuntimeError, SettingsError) as error:
        raise unusable(folder, error) from None
    return found, network


@contextmanager
def of_size(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which a network is made for some weights. Raises ValueError before it takes much more memory than they do.

    A parameter is registered before it is filled with values, so one that is too large never takes its memory. The initial
    values leave the caller's random state as it is.
    """
    most = LARGER * sum(weight.numel() for weight in weights.values()) + SPARE
    thread, total = get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal total
        if get_ident() != thread:  # it makes another network
            return
        total += parameter.numel()
        if total > most:
            shape = list(parameter.shape)
            raise ValueError(f"these settings make a network that is larger than the weights; its {name} is {shape}")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        hook.remove()


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights that must fit. Raises ValueError with the names of at most three tensors that do not.

    The method `complete` of a network, if any, adds weights that a folder may lack.
    """
    complete = getattr(network, "complete", None)
    weights = weights if complete is None else complete(weights)
    own = network.state_dict()
    shapes = {name: f"{list(weights[name].shape)} in place of {list(own[name].shape)}" for name in own if name in weights}
    wrong = [f"{name} is {shapes[name]}" for name in shapes if weights[name].shape != own[name].shape]
    wrong += [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is not known" for name in weights if name not in own]
    wrong += [f"{name} is not finite" for name in own if name in weights and not bool(weights[name].isfinite().all())]
    if wrong:
        raise ValueError("; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""))
    network.load_state_dict(weights)


def unusable(folder: Path, error: Exception) -> ModelError:
    """The error for a folder whose config.json and tensors do not fit each other."""
    text = next(iter(str(error).splitlines()), "")
    what = f"config.json and the weights do not fit ({type(error).__name__}: {text})"
    return ModelError(what, where=str(folder), hint="save or train the model again")


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Raise ModelError for what a config.json with missing, additional or wrong values raises while a model is made of it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise unusable(folder, error) from error


def int8_model(source: Path, target: Path) -> None:
    """Write the model of `source` into `target` with its large weights in eight bits; both may be the same folder.

    The result is another model, with its own hash and slightly different outputs: evaluate it before it replaces the first.
    Parts that its configuration lists as `training_only` (name prefixes) are left out. Training can start from such a model if
    its system recomputes these parts (`restored`, see `training.run.start_from`). Raises ModelMissing or ModelError.
    """
    found = load_model(source)
    try:  # sorted, because files give tensors in any order: the same model gives the same files
        left_out = tuple(found.config.get("training_only", ()))
        weights = to_int8({name: value for name, value in sorted(found.weights.items()) if not name.startswith(left_out)})
    except ValueError as error:
        raise ModelError(f"cannot be stored in eight bits ({error})", where=str(source), hint="train the model again") from None
    config = {name: value for name, value in found.config.items() if name != BASE}
    save_model(target, config, weights, dict(sorted(found.coding.items())))


def locate(name_or_path: str | Path) -> Path:
    """Folder of a model given by a known name, a path, "hub:OWNER/NAME" or "hub:OWNER/NAME@REVISION".

    Only the prefix "hub:" uses the network: the model is fetched from the Hugging Face hub (data files only, no code) into
    its cache. Raises ModelMissing if that fails.
    """
    text = str(name_or_path)
    if not text.startswith(HUB):
        return folder_of(name_or_path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name, _, revision = text.removeprefix(HUB).partition("@")
    logger.info("fetching %s", text)
    try:
        with _without_bars():
            return Path(snapshot_download(name, revision=revision or None, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        hint = "check the name and the network, or give the folder of a model"
        raise ModelMissing(f"cannot be fetched ({reason})", where=text, hint=hint) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Suppress the progress bars of huggingface_hub, which would be drawn on stderr."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelMissing or ModelError."""
    path = folder / CONFIG
    if not path.is_file():
        hint = _best_of(folder.parent) or "`latens models` lists known models"
        raise ModelMissing(f"no {CONFIG} in this folder", where=str(folder), hint=hint)
    try:
        config = json.loads(read_bytes(path, limit=CONFIG_LIMIT))
    except ValueError as error:
        raise ModelError(f"it is not JSON ({error})", where=str(path), hint="save the model again") from None
    if not isinstance(config, dict) or not isinstance(config.get("system"), str):
        raise ModelError("it does not name its system", where=str(path), hint="save the model again")
    if "files" not in config and (hint := _best_of(folder)):
        raise ModelMissing("this is the folder of a training run, not of its model", where=str(folder), hint=hint)
    return config


def _best_of(run: Path) -> str:
    """A hint to the best weights of a training run; empty for another folder."""
    return f"its best weights are in {run / BEST}" if (run / BEST / CONFIG).is_file() else ""


def _read(folder: Path, names: list[str], digests: list[str], expected: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of the named files. Their hashes are appended to `digests` and must be the expected ones."""
    tensors: dict[str, Tensor] = {}
    for name in names:
        path = folder / Path(name).name
        if not path.is_file():
            raise ModelMissing(f"the model's file {name} is missing", where=str(folder), hint="copy the whole folder")
        blob = read_bytes(path, limit=WEIGHTS_LIMIT)
        digest = hashlib.sha256(blob).hexdigest()
        if expected.get(name, digest) != digest:
            hint = "copy the whole folder again, or train the model again"
            raise ModelError(f"the hash of the weights differs from that in {CONFIG}", where=str(path), hint=hint)
        try:
            tensors |= load(blob)
        except SafetensorError as error:
            raise ModelError(f"damaged weights ({error})", where=str(path), hint="fetch or train the model again") from None
        digests.append(digest)
    return tensors


def _shards(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors in order, split into files of at most `SHARD` bytes; a larger tensor has its own file."""
    shards: list[dict[str, Tensor]] = []
    room = 0
    for name, tensor in tensors.items():
        if tensor.nbytes > room:
            shards.append({})
            room = SHARD
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
