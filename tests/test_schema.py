"""Declaring and checking config values."""

import contextlib
import dataclasses
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagination.schema import ConfigError, build, coerce, keys, nearest, plain, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kettle:
    litres: float = setting(1.5, above=0, high=3)
    cups: int = setting(4, low=1)
    whistle: bool = setting(True)
    colour: str = setting("red", choices=("red", "green"))

    def check(self) -> None:
        if self.cups > 10 * self.litres:
            raise ConfigError("cups: too many", key="cups")


@pytest.mark.parametrize(
    ("key", "given_value", "expected"),
    [
        ("litres", 1, 1.0),
        ("litres", 3, 3.0),  # bounds include their ends
        ("cups", 1, 1),
        ("cups", 3.0, 3),
        ("cups", 1e4, 10_000),
        ("cups", 2**63 - 1, 2**63 - 1),  # exact
        ("whistle", False, False),
        ("colour", "green", "green"),
    ],
)
def test_coerce_gives_the_fields_type(key: str, given_value: object, expected: object) -> None:
    value = coerce(Kettle, key, given_value)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "given_value", "message"),
    [
        ("litres", True, "litres: true is not a number"),
        ("litres", "1", "litres: '1' is not a number"),
        ("litres", float("nan"), "litres: nan is not a number"),
        ("litres", float("inf"), "litres: inf is not a number"),
        ("litres", None, "litres: nothing is not a number"),
        ("cups", 2.5, "cups: 2.5 is not an integer"),
        ("cups", 2**63, f"cups: {2**63} has more than 64 bits"),
        # 10^308 is below the largest float, about 1.8 x 10^308; 10^309 and its like are above it.
        ("litres", 10**309, f"litres: 1{'0' * 56}... is not a number"),
        ("cups", 10**309, f"cups: 1{'0' * 56}... is not an integer"),
        ("cups", -(10**309), f"cups: -1{'0' * 55}... is not an integer"),
        ("cups", -(10**308), f"cups: -1{'0' * 55}... is below 1, the smallest allowed"),
        ("cups", datetime.date(2020, 1, 1), "cups: 2020-01-01 is not an integer"),
        ("cups", [1, None, {"a": False}], "cups: [1, nothing, {a: false}] is not an integer"),
        ("colour", "gr\neen", "colour: 'gr een' is not one of red, green (did you mean 'green'?)"),
        ("cups", True, "cups: true is not an integer"),
        ("whistle", "no", "whistle: 'no' is not true or false"),
        ("whistle", 1, "whistle: 1 is not true or false"),
        ("colour", 3, "colour: 3 is not a word"),
        ("cups", 0, "cups: 0 is below 1, the smallest allowed"),
        ("litres", 0, "litres: 0.0 must be above 0"),
        ("litres", 3.5, "litres: 3.5 is above 3, the largest allowed"),
        ("colour", "gren", "colour: 'gren' is not one of red, green (did you mean 'green'?)"),
        ("cup", 1, "unknown key 'cup' (did you mean 'cups'?); valid keys: litres, cups, whistle, colour"),
    ],
)
def test_coerce_refuses_in_one_line(key: str, given_value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(Kettle, key, given_value)
    assert str(caught.value) == message
    assert caught.value.key == key


def test_plain_cuts_at_60_characters_and_writes_very_long_integers_in_hexadecimal() -> None:
    assert plain(16**5000) == f"0x1{'0' * 54}..."
    assert plain("a" * 58) == f"'{'a' * 58}'"
    assert plain("a" * 59) == f"'{'a' * 56}..."


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_plain_is_short_and_on_one_line(value: object) -> None:
    text = plain(value)
    assert len(text) <= 60
    assert len(text.splitlines()) == 1


@given(st.sampled_from(keys(Kettle)), values | st.integers(-(10**400), 10**400))
def test_coerce_takes_a_value_or_says_no(key: str, value: object) -> None:
    with contextlib.suppress(ConfigError):
        assert coerce(Kettle, key, value) == value


def test_negative_zero_is_zero() -> None:
    @dataclasses.dataclass(frozen=True)
    class Signed:
        x: float = setting(1.0)

    assert str(coerce(Signed, "x", -0.0)) == "0.0"


def test_build_checks_the_combination() -> None:
    assert build(Kettle, {"cups": 15.0}) == Kettle(cups=15)
    with pytest.raises(ConfigError, match="too many"):
        build(Kettle, {"cups": 16})


def test_keys_are_in_field_order() -> None:
    assert keys(Kettle) == ("litres", "cups", "whistle", "colour")


def test_nearest_says_nothing_when_nothing_is_near() -> None:
    assert nearest("chanels", ["channels", "clip"]) == " (did you mean 'channels'?)"
    assert nearest("zzz", ["channels", "clip"]) == ""


@given(st.integers(min_value=1, max_value=2**53))
def test_whole_floats_and_integers_are_the_same_integer(number: int) -> None:
    assert coerce(Kettle, "cups", float(number)) == coerce(Kettle, "cups", number) == number
