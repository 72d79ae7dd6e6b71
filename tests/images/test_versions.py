"""Version ordering and bumping."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.images.versions import bump, compare

VERSION = st.text("0123456789ab.-,/", max_size=12)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("0.9", "1.0"),
        ("1.0", "1.1"),
        ("1.0", "2.0-1"),
        ("1.0.9", "1.0.10"),
        ("1.0", "1.0.1"),
        ("1.0", "1.0-1"),
        ("1.a", "1.0"),
        ("1.0a", "1.0"),
        ("1.0a", "1.0b"),
        ("1.0a9", "1.0a10"),
        ("1.0a", "1.0a1"),
        ("1.0a1", "1.0aa"),
        ("2013.12.31", "2014.01.01"),
        ("", "0"),
    ],
)
def test_versions_are_ordered_as_the_reference_orders_them(lower: str, higher: str) -> None:
    assert compare(lower, higher) == -1
    assert compare(higher, lower) == 1
    assert compare(lower, lower) == 0


@pytest.mark.parametrize(
    ("version", "next_one"),
    [("1.0.9", "1.0.10"), ("0.0.1a", "0.0.2a"), ("", "0.0.1"), ("abc", "abc.1"), ("2.0-1", "2.0-2"), ("9", "10")],
)
def test_a_bump_increments_the_last_number(version: str, next_one: str) -> None:
    assert bump(version) == next_one


def test_a_bump_of_a_higher_number_carries_nothing() -> None:
    assert bump("1.2.3", 2) == "1.3.3"
    assert bump("1.2.3", 3) == "2.2.3"


@settings(max_examples=200)
@given(VERSION, VERSION)
def test_the_order_is_antisymmetric(left: str, right: str) -> None:
    assert compare(left, right) == -compare(right, left)


@settings(max_examples=300)
@given(VERSION, VERSION, VERSION)
def test_the_order_is_transitive_within_one_shape(a: str, b: str, c: str) -> None:
    """For versions of the same tokens' shape; the reference's rule is not an order over everything."""
    one, two, three = (f"{len(x)}.{x.count('a')}.{x.count('1')}" for x in (a, b, c))
    if compare(one, two) <= 0 and compare(two, three) <= 0:
        assert compare(one, three) <= 0


@settings(max_examples=200)
@given(VERSION)
def test_a_bumped_version_is_higher(version: str) -> None:
    assert compare(bump(version), version) == 1
