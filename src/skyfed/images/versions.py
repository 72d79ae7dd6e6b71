"""Versions of image lists and images: ordered exactly as vmcatcher orders them (images digest A.4), and bumped."""

import re
from functools import cmp_to_key

FIRST_VERSION = "0.0.0"
MAX_VERSION_CHARACTERS = 200

_TOKENS = re.compile(r"[-,./]|[^-,./]+")
_RUNS = re.compile(r"[0-9]+|[^0-9]+")
_NUMBER = re.compile(r"[0-9]+")


def compare(left: str, right: str) -> int:
    """-1, 0 or 1. `1.0.10` is above `1.0.9`, `1.0.1` above `1.0`, a number above a text in the same place. 0 also for
    different spellings of the same numbers (`1.0`, `1.00`)."""
    ours, theirs = _TOKENS.findall(left), _TOKENS.findall(right)
    for a, b in zip(ours, theirs, strict=False):
        if order := _tokens(a, b):
            return order
    return _sign(len(ours) - len(theirs))


key = cmp_to_key(compare)


def bump(version: str, position: int = 1) -> str:
    """The version with its `position`-th number from the right increased by one: `1.0.9` → `1.0.10`, `0.0.1a` →
    `0.0.2a`. Without a version `0.0.1`; a version without that number gets one appended."""
    text = version or FIRST_VERSION
    numbers = list(_NUMBER.finditer(text))
    if len(numbers) < position:
        return f"{text}.1"
    found = numbers[-position]
    return f"{text[: found.start()]}{int(found[0]) + 1}{text[found.end() :]}"


def _tokens(left: str, right: str) -> int:
    if left == right:
        return 0
    if _is_number(left) or _is_number(right):
        return _runs(left, right)
    ours, theirs = _RUNS.findall(left), _RUNS.findall(right)
    for a, b in zip(ours, theirs, strict=False):
        if order := _runs(a, b):
            return order
    return _sign(len(ours) - len(theirs))


def _runs(left: str, right: str) -> int:
    """Numbers by value and above texts; texts by code point."""
    if _is_number(left) and _is_number(right):
        return _sign(int(left) - int(right))
    if _is_number(left) or _is_number(right):
        return 1 if _is_number(left) else -1
    return (left > right) - (left < right)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
