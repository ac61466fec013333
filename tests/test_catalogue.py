"""The tables of systems and models match the package."""

from __future__ import annotations

import copy
import json
import pickle
import re
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

import latens
from latens.catalogue import MODELS, SYSTEMS, ModelEntry, package_of, recipe_of, system_of
from latens.errors import ModelMissing, UsageError
from latens.hub import load_model


@pytest.mark.parametrize("entry", MODELS.values(), ids=lambda entry: entry.name)
def test_bundled_weights_are_those_of_the_table(entry: ModelEntry) -> None:
    found = load_model(entry.folder)
    assert found.sha256 == entry.sha256
    assert found.config["system"] == entry.system
    assert sum(path.stat().st_size for path in entry.folder.glob("*.safetensors")) == entry.size


@pytest.mark.parametrize("entry", MODELS.values(), ids=lambda entry: entry.name)
def test_numbers_of_the_table_are_those_of_the_model_card(entry: ModelEntry) -> None:
    """New weights have a new card, and the table must not keep the numbers of the old ones."""
    card = (entry.folder / "README.md").read_text(encoding="utf-8")
    numbers = {float(word.replace(",", "")) for word in re.findall(r"(?<![\w.])-?[\d,]*\.?\d+", card)}
    missing = {name: value for name, value in entry.metrics.items() if not {value, -value} & numbers}
    assert missing == {}


def test_load_declares_the_type_of_every_bundled_model() -> None:
    """`load("video_codec")` and `load("haze_physical")` had no type for editors and type checkers."""
    declared = [each.__annotations__["name_or_path"] for each in typing.get_overloads(latens.load)]
    names = {name for hint in declared[:-1] for name in re.findall(r"'(\w+)'", hint.replace('"', "'"))}
    assert names == {*MODELS, *SYSTEMS} - {"flow_pack"}  # `density pack` alone uses this model


@pytest.mark.parametrize("made", [copy.deepcopy, lambda entry: pickle.loads(pickle.dumps(entry))], ids=["copy", "pickle"])
def test_entries_are_copied_and_pickled(made: Callable[[ModelEntry], ModelEntry]) -> None:
    for entry in latens.models():
        assert made(entry) == entry
    assert len(set(latens.models())) == len(MODELS)


def test_a_folder_names_its_system(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"system": "image_codec"}))
    assert system_of(tmp_path) == system_of("image_codec") == "image_codec"


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"system": "other"}'])
def test_a_folder_without_a_system_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelMissing):
        system_of(tmp_path)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="image_codec"):
        latens.load("nothing")
    with pytest.raises(UsageError, match="image_codec"):
        package_of("image_codek")
    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        recipe_of("parts", "tinny")


def test_entries_are_plain_data() -> None:
    for entry in latens.models():
        assert json.loads(json.dumps(entry.to_dict()))["name"] == entry.name
