"""Conversion of settings that earlier versions saved in model folders and run folders.

Settings were renamed or dropped, or their values renamed. The conversion applies only to saved files, not to `--set` or Python.
Tensor names are a file format and have not changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

Plain = dict[str, Any]


def upgrade_model(config: Mapping[str, Any]) -> Plain:
    """config.json of a model folder with the current names of settings."""
    plain = copy.deepcopy(dict(config))
    for change in CHANGES.get(str(plain.get("system")), ()):
        change(plain)
    return plain


def upgrade_run(config: Mapping[str, Any]) -> Plain:
    """config.json of a run folder with the current names of settings."""
    plain = upgrade_model(config)
    if isinstance(plain.get("optim"), dict):
        _upgrade_optimizer(plain["optim"])
    if str(plain.get("recipe", "")).startswith("desk"):
        plain["recipe"] = "cpu" + plain["recipe"].removeprefix("desk")
    return plain


def _upgrade_optimizer(optim: Plain) -> None:
    """One settings class was split into one per optimizer; `kind` selects it."""
    if "kind" in optim:
        return
    if optim.get("muon_lr"):
        optim["kind"] = "muon"
        optim.pop("beta1", None)
    else:
        optim["kind"] = "adam"
        optim.pop("muon_lr", None)


def renamed(old: str, new: str) -> Callable[[Plain], None]:
    """A setting was renamed or moved; both are dotted paths."""

    def change(plain: Plain) -> None:
        value = _take(plain, old)
        if value is not None:
            *groups, name = new.split(".")
            for group in groups:
                plain = plain.setdefault(group, {})
            plain.setdefault(name, value)

    return change


def dropped(path: str, *, when: Callable[[Plain], bool] = lambda plain: True) -> Callable[[Plain], None]:
    """A setting was removed from the saved configurations that fulfil `when`."""

    def change(plain: Plain) -> None:
        if when(plain):
            _take(plain, path)

    return change


def _take(plain: Plain, path: str) -> Any:
    """Removes a setting and returns its value, or None."""
    *groups, name = path.split(".")
    for group in groups:
        plain = plain.get(group, {})
        if not isinstance(plain, dict):
            return None
    return plain.pop(name, None)


def _of_kinds(*kinds: str) -> Callable[[Plain], bool]:
    """A predicate: the saved model is of one of these kinds."""
    return lambda plain: isinstance(plain.get("model"), dict) and plain["model"].get("kind") in kinds


# One settings class served all models of haze; each saved folder has all of its fields.
_TRANSLATORS = _of_kinds("mmd", "unit", "cyclegan")
_OTHERS = _of_kinds("physical", "dehazenet")
_HAZE = (
    dropped("model.work", when=_TRANSLATORS),
    *(dropped(f"model.{name}", when=_OTHERS) for name in ("blocks", "shared_blocks", "code_channels", "judge")),
    *(dropped(f"model.{name}", when=_of_kinds("dehazenet")) for name in ("work", "channels")),
    renamed("model.work", "model.short_side"),
    renamed("model.judge", "model.discriminator"),
    renamed("objective.prior.twice", "objective.prior.double_first_prior_term"),
    renamed("objective.weather_weight", "objective.parameters_weight"),
    renamed("data.tones", "data.color_jitter"),
    renamed("data.reach", "data.max_depth"),
)


def _parts_of_each_kind(plain: Plain) -> None:
    """The settings classes of models and losses were split by kind; settings without effect were removed."""
    kept = {
        "model": {
            "betavae": ("parts", "appearance"),
            "bigan": ("parts", "appearance"),
            "mae": (),
            "patchvae": ("parts", "appearance", "categorical"),
            "supervised": ("classes",),
        },
        "objective": {
            "betavae": ("beta_app", "weighted", "adversarial", "contrastive_weight"),
            "bigan": ("penalty",),
            "mae": ("masked",),
            "patchvae": (
                *("beta_app", "weighted", "adversarial", "contrastive_weight"),
                *("beta_occ", "prior", "iic_weight", "annealing"),
            ),
            "supervised": (),
        },
    }
    kind = plain["model"].get("kind")
    for group, names in kept.items():
        saved = plain.get(group)
        if isinstance(saved, dict) and kind in names and (group == "model" or "kind" not in saved):
            shared = ("size", "encoder", "blocks") if group == "model" else ()
            plain[group] = {"kind": kind} | {name: saved[name] for name in (*shared, *names[kind]) if name in saved}
    dropped("model.blocks", when=lambda plain: plain["model"].get("encoder") == "local")(plain)
    dropped("objective.prior", when=lambda plain: plain["model"].get("categorical") is True)(plain)


def _one_setting_of_shrinking(plain: Plain) -> None:
    """Half of the crops are reduced, or none with `shrink` 1. Other shares, once possible, are refused as unknown settings."""
    data = plain.get("data")
    if isinstance(data, dict) and data.get("shrink_share") in (0, 0.5):
        if not data.pop("shrink_share"):
            data["shrink"] = 1.0


def _kind_of_codec(plain: Plain) -> None:
    """The image codec had one model; a second one came with `kind`."""
    if isinstance(plain.get("model"), dict):
        plain["model"].setdefault("kind", "hyperprior")


def _kinds_of_segmenters(plain: Plain) -> None:
    """The system had one model, without a setting `kind`."""
    if isinstance(plain.get("model"), dict):
        plain["model"].setdefault("kind", "rcnn")


CHANGES: Mapping[str, tuple[Callable[[Plain], None], ...]] = MappingProxyType(
    {
        "amodal": (_kinds_of_segmenters, renamed("data.turns", "data.rotate")),
        "haze": _HAZE,
        "image_codec": (_one_setting_of_shrinking, _kind_of_codec),
        "parts": (
            renamed("objective.agreement", "objective.contrastive_weight"),
            renamed("objective.constancy", "objective.iic_weight"),
            renamed("data.validation_most", "data.validation_limit"),
            _parts_of_each_kind,
        ),
    }
)
