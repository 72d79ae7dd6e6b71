"""Who may use an endpoint or a share, as rules in policies say it (infosys digest 4.1). Advisory, never a right. No I/O."""

from collections.abc import Iterable

SCHEME = "org.glite.standard"
ALL = "ALL"


def rule_for(vo: str) -> str:
    """The rule that admits a VO."""
    return f"VO:{vo}"


def vo_of(rule: str) -> str | None:
    """The VO that a rule admits; None for other rules. Understands VO:x, vo:x, VOMS:/x/group, and a bare name."""
    scheme, colon, rest = rule.partition(":")
    kind = scheme.lower() if colon else ""
    if kind == "vo":
        return rest.strip() or None
    if kind == "voms":
        return rest.strip().lstrip("/").split("/", maxsplit=1)[0] or None
    if not colon and rule.strip() and rule.strip().upper() != ALL:
        return rule.strip()
    return None


def admits(rules: Iterable[str], vo: str) -> bool:
    """Whether one of the rules admits members of `vo`."""
    return any(rule.strip().upper() == ALL or vo_of(rule) == vo for rule in rules)
