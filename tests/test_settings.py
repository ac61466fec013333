"""Settings refuse invalid values, from Python, JSON and text, and name the closest valid word."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import field, replace
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import Field

from latens.catalogue import recipe_of
from latens.settings import (
    Count,
    Positive,
    SettingsError,
    Share,
    decode,
    decode_like,
    override,
    settings,
    to_dict,
    validator,
)
from latens.settings_help import listed, meanings


@settings
class Fast:
    kind: Literal["fast"] = "fast"  # which gear
    speed: Positive = 2.0  # meters per second
    gears: tuple[int, ...] = (1, 2)  # that are used


@settings
class Slow:
    kind: Literal["slow"] = "slow"  # which gear
    speed: Positive = 1.0  # meters per second
    patience: Share = 0.5  # share of the day
    name: str = ""  # free text

    @validator
    def is_slow(self) -> Slow:
        if self.speed > 10:
            raise ValueError("a slow one goes at most 10 m/s")
        return self


Gear = Annotated[Fast | Slow, Field(discriminator="kind")]
M = TypeVar("M", covariant=True)


@settings
class Trip(Generic[M]):
    who: M
    gear: Gear = field(default_factory=Fast)
    # days,
    # nights not counted
    days: Count = 3
    road: Literal["paved", "gravel"] = "paved"  # surface
    loud: bool = False  # horn


TRIP = Trip(who=Slow(name="turtle"))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"days": "1e3"}, {"days": 1000}),
        ({"loud": "True"}, {"loud": True}),
        ({"gear.speed": "3"}, {"gear": Fast(speed=3.0)}),
        ({"gear.gears": "[3, 4]"}, {"gear": Fast(gears=(3, 4))}),
        ({"gear.gears": "3,4"}, {"gear": Fast(gears=(3, 4))}),
        ({"gear.kind": "slow", "gear.patience": "1"}, {"gear": Slow(speed=2.0, patience=1.0)}),
        ({"gear.patience": "1", "gear.kind": "slow"}, {"gear": Slow(speed=2.0, patience=1.0)}),
        ({"who.name": "7"}, {"who": Slow(name="7")}),
        ({"who.name": "null"}, {"who": Slow(name="null")}),
        ({"road": "gravel"}, {"road": "gravel"}),
    ],
)
def test_text_becomes_settings(changes: dict[str, str], found: dict[str, Any]) -> None:
    assert override(TRIP, changes) == replace(TRIP, **found)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("dayz", "7", "did you mean 'days'?"),
        ("gear.sped", "7", "did you mean 'gear.speed'?"),
        ("gaer.speed", "7", "did you mean 'gear.speed'?"),
        ("patience", "0.5", "did you mean 'gear.patience'?"),
        ("who.nam", "7", "did you mean 'who.name'?"),
        ("days", "0", "--set days: 0 does not fit"),
        ("days", "1.5", "--set days"),
        ("days", "many", "'many' does not fit"),
        ("days", "true", "--set days"),
        ("loud", "maybe", "--set loud"),
        ("gear.speed", "-1", "--set gear.speed: -1"),
        ("gear.speed", "nan", "--set gear.speed"),
        ("gear.speed", "Infinity", "--set gear.speed"),
        ("gear.kind", "fats", "did you mean 'fast'?"),
        ("road", "gravle", "did you mean 'gravel'?"),
        ("who.speed", "11", "at most 10 m/s"),
        ("gear", "1", "set one of gear.kind"),
        ("days.more", "1", "is not a group"),
        ("gear.gears", "[1.5]", "--set gear.gears.0"),
    ],
)
def test_a_bad_setting_is_explained_in_three_lines(path: str, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        override(TRIP, {path: text})
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_all_changes_apply_at_once() -> None:
    """Each alone would break the rule between the fields."""

    @settings
    class Range:
        low: int = 0  # first
        high: int = 1  # last

        @validator
        def ordered(self) -> Range:
            if self.low > self.high:
                raise ValueError("low is above high")
            return self

    assert override(Range(), {"low": "5", "high": "6"}) == Range(low=5, high=6)


@pytest.mark.parametrize("values", [{"speed": -1.0}, {"speed": math.nan}, {"sped": 1.0}, {"speed": "1"}, {"gears": (1.5,)}])
def test_python_is_checked_like_text(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Fast(**values)
    if "sped" not in values:
        with pytest.raises(SettingsError):
            replace(Fast(), **values)


def test_true_is_not_a_number_and_an_int_is_a_float() -> None:
    with pytest.raises(SettingsError):
        Trip(who=1, days=True)
    assert isinstance(Fast(speed=3).speed, float)


def test_settings_survive_json() -> None:
    plain = json.loads(json.dumps(to_dict(TRIP)))
    assert decode_like(TRIP, plain) == TRIP
    assert decode(Gear, plain["gear"]) == Fast()
    del plain["days"], plain["who"]["patience"]
    assert decode_like(replace(TRIP, days=9), plain) == TRIP  # defaults, not the template's values


def test_a_file_is_named_in_the_error() -> None:
    with pytest.raises(SettingsError, match=r"run/config.json gear.speed"):
        decode_like(TRIP, {**to_dict(TRIP), "gear": {"kind": "fast", "speed": 0}}, where="run/config.json")


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Fast().speed = 3.0  # type: ignore[misc]


def test_meanings_come_from_comments() -> None:
    assert meanings(Trip)["days"] == "days, nights not counted"
    assert meanings(Fast)["speed"] == "meters per second"
    lines = {setting.path: setting for setting in listed(TRIP)}
    assert lines["gear.speed"].type == "float > 0"
    assert lines["road"].type == "paved | gravel"
    assert lines["gear.gears"].value == (1, 2)


@pytest.mark.parametrize(
    ("system", "recipe", "changes", "idle"),
    [
        ("image_codec", "tiny", {"model.lambdas": "0.01", "objective.balance": "1"}, "objective.balance"),
        ("amodal", "tiny", {"model.head.mask": "fcn", "model.head.refine": "false"}, "model.head.refine"),
        ("amodal", "tiny", {"model.head.mask": "fcn", "model.code.codewords": "8"}, "model.code.codewords"),
        ("amodal", "tiny", {"model.head.refine": "false", "objective.refinement": "2"}, "objective.refinement"),
        ("amodal", "tiny", {"model.head.occlusion": "false", "objective.occlusion": "1"}, "objective.occlusion"),
        ("amodal", "tiny", {"objective.code_from": "x", "objective.code_steps": "1"}, "objective.code_steps"),
        ("amodal", "paper", {"model.backbone.width": "8"}, "model.backbone.width"),
        ("haze", "cpu_unit", {"objective.prior.bandwidth": "2"}, "objective.prior.bandwidth"),
        ("haze", "cpu_cyclegan", {"objective.prior.weight": "2"}, "objective.prior.weight"),
        ("haze", "cpu", {"data.disjoint": "true"}, "data.disjoint"),
        ("parts", "tiny", {"data.validation_share": "0", "data.validation_limit": "3"}, "data.validation_limit"),
    ],
)
def test_a_change_without_effect_is_refused(system: str, recipe: str, changes: dict[str, str], idle: str) -> None:
    with pytest.raises(SettingsError, match="this setting has no effect") as caught:
        override(recipe_of(system, recipe), changes)
    assert f"--set {idle}:" in str(caught.value)
    del changes[idle]
    assert override(recipe_of(system, recipe), changes)


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [(float, ".001", 0.001), (float, "5.", 5.0), (int, "1e3", 1000), (int, "1_000", 1000), (float, "1e-3", 0.001)],
)
def test_numbers_in_common_notations(hint: type, text: str, value: float) -> None:
    from latens.settings import parse_text

    assert parse_text(hint, text) == value
    assert parse_text(float, "inf") == "inf"  # for the validator to refuse
