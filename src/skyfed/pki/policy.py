"""What a CA may sign: `signing_policy` (Globus EACL) and `namespaces` (EUGridPMA) files of an IGTF trust directory."""

import re
from dataclasses import dataclass

from cryptography import x509

from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.pki import names

MAX_RULES = 1000
MAX_PATTERN_CHARACTERS = 1024
# A pattern over a name chosen by somebody else must stay cheap: few unbounded repeats, none of them nested.
MAX_REPEATS = 8

_QUOTED = re.compile(r'"([^"]*)"')
_NAMESPACE = re.compile(
    r'TO\s+Issuer\s+(?:"(?P<issuer>[^"]*)"|(?P<self>SELF))\s+'
    r'(?P<verdict>PERMIT|DENY)\s+Subject\s+"(?P<subject>[^"]*)"',
    re.IGNORECASE,
)
_NESTED_REPEAT = re.compile(r"\)\s*[*+{]|[*+}][*+]")
_ALIAS_IN_TEXT = re.compile(r"/(E|Email|USERID)(?==)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Rule:
    issuer: str | None  # None: the CA whose hash names the file
    permit: bool
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one file. A DENY that matches wins over any PERMIT; nothing that matches is a refusal."""

    rules: tuple[_Rule, ...]
    owner: str = ""  # oneline of the CA for SELF, set when the file is joined with its certificate

    def covers(self, issuer: x509.Name) -> bool:
        """Whether the file speaks of this issuer at all."""
        return any(self._about(rule, _text(issuer)) for rule in self.rules)

    def permits(self, issuer: x509.Name, subject: x509.Name) -> bool:
        """Whether this issuer may sign this subject."""
        about, name = _text(issuer), _text(subject)
        if len(name) > MAX_PATTERN_CHARACTERS:
            return False
        matching = [rule for rule in self.rules if self._about(rule, about) and rule.pattern.fullmatch(name)]
        return bool(matching) and all(rule.permit for rule in matching)

    def _about(self, rule: _Rule, issuer: str) -> bool:
        return (rule.issuer if rule.issuer is not None else self.owner) == issuer


def parse_signing_policy(text: str, *, source: str) -> Rules:
    """The rules of a `signing_policy`: `access_id_CA X509 '<DN>'`, `pos_rights globus CA:sign`,
    `cond_subjects globus '"/pattern*" …'` with `*` and `?`. Raises Invalid (`signing_policy_syntax`)."""
    rules: list[_Rule] = []
    issuer = ""
    signs = False
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(None, 2)
        if len(words) < 3:
            continue
        keyword, _authority, value = words
        value = value.strip()
        if keyword == "access_id_CA":
            issuer, signs = _spelled(value.strip("'\"")), False
        elif keyword == "pos_rights":
            signs = value == "CA:sign"
        elif keyword == "cond_subjects" and issuer and signs:
            patterns = _QUOTED.findall(value) or [value.strip("'")]
            rules += [_Rule(issuer, True, _wildcard(_spelled(pattern))) for pattern in patterns]
    return _checked(rules, source, "signing_policy_syntax", "an access_id_CA with cond_subjects")


def parse_namespaces(text: str, *, source: str) -> Rules:
    """The rules of a `namespaces` file: `TO Issuer "<DN>"|SELF PERMIT|DENY Subject "<regular expression>"`, lines
    continued by a backslash. Raises Invalid (`namespaces_syntax`)."""
    rules = []
    joined = re.sub(r"\\\r?\n", " ", text)
    for line in joined.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _NAMESPACE.fullmatch(stripped)
        if match is None:
            raise Invalid(
                f'{source}: {shown(stripped)} is not TO Issuer "…" PERMIT Subject "…"', code="namespaces_syntax"
            )
        issuer = None if match["self"] else _spelled(match["issuer"])
        rules.append(
            _Rule(issuer, match["verdict"].upper() == "PERMIT", _expression(_spelled(match["subject"]), source))
        )
    return _checked(rules, source, "namespaces_syntax", "a TO Issuer line")


def _checked(rules: list[_Rule], source: str, code: str, wanted: str) -> Rules:
    if not rules:
        raise Invalid(f"{source} has no rule; {wanted} is expected", code=code)
    if len(rules) > MAX_RULES:
        raise Invalid(f"{source} has more than {MAX_RULES} rules", code=code)
    return Rules(tuple(rules))


def _text(name: x509.Name) -> str:
    return _spelled(names.oneline(name))


def _spelled(text: str) -> str:
    """One spelling of e-mail and user id, in names and in patterns alike (files use all of them)."""
    return _ALIAS_IN_TEXT.sub(lambda match: "/UID" if match[1].upper() == "USERID" else "/emailAddress", text)


def _wildcard(pattern: str) -> re.Pattern[str]:
    collapsed = re.sub(r"\*+", "*", pattern[:MAX_PATTERN_CHARACTERS])
    return re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in collapsed), re.DOTALL)


def _expression(pattern: str, source: str) -> re.Pattern[str]:
    costly = _NESTED_REPEAT.search(pattern) or len(re.findall(r"[*+{]", pattern)) > MAX_REPEATS
    if costly or len(pattern) > MAX_PATTERN_CHARACTERS:
        raise Invalid(f"{source}: the pattern {shown(pattern)} repeats too much to be safe", code="namespaces_syntax")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise Invalid(
            f"{source}: {shown(pattern)} is not a regular expression: {error}", code="namespaces_syntax"
        ) from error
