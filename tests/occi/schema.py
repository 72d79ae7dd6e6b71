"""Judging JSON by the standard's own schema (draft 4), as far as that schema goes."""

import re
from functools import cache
from typing import Any

import msgspec

from support.vectors import vectors

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool}


@cache
def _schema() -> dict[str, Any]:
    return msgspec.json.decode((vectors("occi") / "occi-1.2" / "OCCI-schema.json").read_bytes())


def conforms(data: bytes, definition: str) -> None:
    """Fails unless the JSON text is a `definition` of the OCCI 1.2 schema."""
    problems = _problems(msgspec.json.decode(data), _schema()["definitions"][definition], "$")
    assert not problems, problems[:5]


def _problems(value: Any, rule: dict[str, Any], at: str) -> list[str]:
    if "$ref" in rule:  # the published schema writes "#definitions/…" and "#/definitions/…"
        return _problems(value, _schema()["definitions"][rule["$ref"].rpartition("/")[2]], at)
    if "oneOf" in rule:
        fits = [not _problems(value, one, at) for one in rule["oneOf"]]
        return [] if sum(fits) == 1 else [f"{at}: fits {sum(fits)} of {len(fits)} alternatives"]
    if rule.get("type") == "number":
        return [] if isinstance(value, int | float) and not isinstance(value, bool) else [f"{at}: no number"]
    if "type" in rule and not isinstance(value, _TYPES[rule["type"]]):
        return [f"{at}: no {rule['type']}"]
    if isinstance(value, dict):
        return _members(value, rule, at)
    if isinstance(value, list) and "items" in rule:
        return [problem for n, one in enumerate(value) for problem in _problems(one, rule["items"], f"{at}[{n}]")]
    return []


def _members(value: dict[str, Any], rule: dict[str, Any], at: str) -> list[str]:
    problems = [f"{at}.{name} is missing" for name in rule.get("required", ()) if name not in value]
    if len(value) < rule.get("minProperties", 0):
        problems.append(f"{at}: too few members")
    patterns = rule.get("patternProperties", {})
    for name, one in value.items():
        rules = [rule["properties"][name]] if name in rule.get("properties", {}) else []
        rules += [sub for pattern, sub in patterns.items() if re.search(pattern, name)]
        extra = rule.get("additionalProperties", True)
        if not rules and extra is False:
            problems.append(f"{at}.{name} is not allowed")
        elif not rules and isinstance(extra, dict):
            rules = [extra]
        problems += [problem for sub in rules for problem in _problems(one, sub, f"{at}.{name}")]
    return problems
