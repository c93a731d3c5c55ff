import re
from fractions import Fraction

import numpy as np
import pytest

from sk_advdef._validation import (
    InvalidParameterError,
    as_floats,
    check_flag,
    check_number,
    check_option,
    check_range,
    invalid,
    seconds,
    seed_from,
)


class Owner:
    """Stands for any object with parameters."""


def refused(allowed, got):
    text = f"The 'p' parameter of Owner must be {allowed}. Got {got!r} instead."
    return pytest.raises(InvalidParameterError, match=f"^{re.escape(text)}$")


def test_error_is_both_a_value_error_and_a_type_error():
    error = invalid(Owner(), "p", "an int", "x")
    assert isinstance(error, ValueError)
    assert isinstance(error, TypeError)
    assert str(error) == str(invalid("Owner", "p", "an int", "x"))


NOT_NUMBERS = [True, np.True_, "1", b"1", None, 1j, [1.0], np.array([1.0]), object()]
NOT_NUMBERS.append(Fraction(1, 2))


@pytest.mark.parametrize(
    "given", ["1.5", [1j], np.array(["2020-01-01"], "datetime64[D]"), [object()]]
)
def test_what_numpy_would_take_for_numbers(given):
    with pytest.raises(TypeError):
        as_floats(given)
    assert as_floats([True, 2, np.float32(0.5)]).tolist() == [1.0, 2.0, 0.5]


@pytest.mark.parametrize("now", [None, "12", np.nan, -np.inf, 1e300, 10**400, [1.0]])
def test_clocks(now):
    with pytest.raises(InvalidParameterError, match="'clock' parameter of Owner"):
        seconds(Owner(), lambda: now)
    assert seconds(Owner(), lambda: np.float32(3.5)) == 3.5


RANGES = [
    ({}, "a float in (-inf, inf)", [0, -1e300, np.float32(3)], [np.nan, np.inf]),
    ({"low": 0}, "a float in [0, inf)", [0, 0.0, 5, 2**63 - 1], [-1e-9, np.inf, 2**63]),
    ({"low": 1, "high": 2}, "a float in [1, 2]", [1, 2.0], [0.99, 2.01, np.nan]),
    (
        {"low": 0, "high": 1, "closed": "neither"},
        "a float in (0, 1)",
        [0.5, np.float16(0.5)],
        [0, 1, np.float64(1)],
    ),
    ({"low": 0, "high": 1, "closed": "right"}, "a float in (0, 1]", [1], [0, 1.1]),
    ({"low": 0, "high": 1, "closed": "left"}, "a float in [0, 1)", [0], [1, -0.1]),
    (
        {"low": 1, "integer": True},
        "an int in [1, inf)",
        [1, np.int8(3), np.uint64(9), 10**30],
        [0, 1.0, np.float64(2)],
    ),
    ({"low": 0, "otherwise": " or None"}, "a float in [0, inf) or None", [1], [-1]),
]


@pytest.mark.parametrize(("limits", "allowed", "good", "bad"), RANGES)
def test_check_number(limits, allowed, good, bad):
    for value in good:
        assert check_number(Owner(), "p", value, **limits) is value
    for value in [*bad, *NOT_NUMBERS]:
        with refused(allowed, value):
            check_number(Owner(), "p", value, **limits)


def test_check_option():
    options = ("l2", "linf", None, 1)
    for value in options:
        assert check_option(Owner(), "p", value, options) == value
    found = check_option(Owner(), "p", np.str_("l2"), options)
    assert type(found) is str
    for value in ["L2", "", True, 1.0, 0, ["l2"], np.array(["l2", "l2"]), np.nan]:
        with refused("one of {'l2', 'linf', None, 1}", value):
            check_option(Owner(), "p", value, iter(options))


def test_check_flag():
    for value in [True, False, np.True_, np.False_]:
        found = check_flag(Owner(), "p", value)
        assert type(found) is bool
        assert found == value
    for value in [0, 1, None, "True", 1.0, []]:
        with refused("a bool", value):
            check_flag(Owner(), "p", value)


@pytest.mark.parametrize(
    "value", [(0, 1), [0, 1.0], np.array([0, 1]), (np.float32(0), np.int64(1))]
)
def test_check_range(value):
    found = check_range(Owner(), "p", value)
    assert found == (0.0, 1.0)
    assert all(type(end) is float for end in found)


BAD_RANGES = [(1, 0), (0, 0), (0, np.nan), (-np.inf, 0), (0,), (0, 1, 2), 1, None]
BAD_RANGES += ["01", ("0", "1"), (None, 1), (False, True), (0, 1j)]
BAD_RANGES += [(np.zeros(1), np.ones(1)), iter([0, 1])]


@pytest.mark.parametrize("value", BAD_RANGES)
def test_bad_range(value):
    with refused("a pair (low, high) of numbers, low < high", value):
        check_range(Owner(), "p", value)


@pytest.mark.usefixtures("global_generators")
def test_seed_from():
    assert seed_from(0) == seed_from(0) == seed_from(np.int64(0)) != seed_from(1)
    # A shared instance moves on, so that two draws differ, but repeatably so.
    first, second = np.random.RandomState(7), np.random.RandomState(7)
    seeds = [seed_from(first), seed_from(first)]
    assert seeds[0] != seeds[1]
    assert [seed_from(second), seed_from(second)] == seeds
    fresh = {seed_from(None) for _ in range(20)}
    assert len(fresh) == 20
    for seed in [*seeds, *fresh]:
        assert type(seed) is int
        assert 0 <= seed < 2**31


@pytest.mark.parametrize("random_state", ["a", -1, 1.5, np.random.default_rng(0)])
def test_bad_random_state(random_state):
    with pytest.raises(ValueError, match="The 'random_state' parameter must be"):
        seed_from(random_state)
