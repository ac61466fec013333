"""A pytest plugin (`-p tests.shape_checks`): calls of these packages check shape annotations. An int is a float."""

from __future__ import annotations

from jaxtyping import install_import_hook

PACKAGES = ["latens.codes", "latens.nn", "latens.training"]

install_import_hook(PACKAGES, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
