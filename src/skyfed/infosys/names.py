"""Distinguished names as LDAP writes them (RFC 4514): parse, escape, compare, move below another suffix. No I/O.

Two names are equal when `Dn.key` is: attribute types without regard to case (and GLUE2's three names of one group
attribute as one, infosys digest 2), values exactly, blanks around `,` and `=` and the form of escapes forgotten.
"""

import re

from skyfed.core.errors import Invalid
from skyfed.core.text import shown

MAX_DN_LENGTH = 4096
MAX_DEPTH = 32

Pair = tuple[str, str]
Rdn = tuple[Pair, ...]
Key = tuple[tuple[Pair, ...], ...]

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+")
_ALIASES = {"glue2groupname": "glue2groupid", "glue2grouplocalid": "glue2groupid"}
_SPECIAL = re.compile(r'[,+"\\<>;=\x00-\x1f\x7f]')
_PLAIN = re.compile(r"[^\\\"+,=;]+=[^\\\"+,;]+(,[^\\\"+,=;]+=[^\\\"+,;]+)*")


class Dn:
    """A parsed name, nearest part first. Immutable; equal and hashed by `key`."""

    __slots__ = ("_key", "rdns")

    def __init__(self, rdns: tuple[Rdn, ...]) -> None:
        self.rdns = rdns
        self._key: Key | None = None

    @classmethod
    def parse(cls, text: str) -> "Dn":
        """The name written in `text`. Raises Invalid (`dn`)."""
        if len(text) > MAX_DN_LENGTH:
            raise Invalid(f"a distinguished name of {len(text)} characters; at most {MAX_DN_LENGTH}", code="dn")
        text = text.lstrip(" ")
        if not text:
            return cls(())
        # Most names have no escapes and one pair a part: splitting them is far quicker than reading characters.
        rdns = _split(text) if _PLAIN.fullmatch(text) else _scan(text)
        if len(rdns) > MAX_DEPTH:
            raise Invalid(f"a distinguished name of {len(rdns)} parts; at most {MAX_DEPTH}", code="dn")
        return cls(rdns)

    @classmethod
    def of(cls, type: str, value: str, parent: "Dn") -> "Dn":
        """The name of an entry `type=value` below `parent`."""
        return cls((((type, value),), *parent.rdns))

    @property
    def key(self) -> Key:
        """What equal names have in common."""
        if self._key is None:
            self._key = tuple(_rdn_key(rdn) for rdn in self.rdns)
        return self._key

    @property
    def parent(self) -> "Dn":
        """The name of the entry above; of a root, the empty name."""
        return Dn(self.rdns[1:])

    @property
    def rdn(self) -> Pair:
        """The first attribute and value of the nearest part."""
        return self.rdns[0][0]

    def is_below(self, base: "Dn") -> bool:
        """Whether it is `base` or under it."""
        depth = len(base.rdns)
        return len(self.rdns) >= depth and self.key[len(self.rdns) - depth :] == base.key

    def moved(self, old: "Dn", new: "Dn") -> "Dn":
        """With the suffix `old` replaced by `new`. Raises Invalid when it is not below `old`."""
        if not self.is_below(old):
            raise Invalid(f"{shown(self)} is not below {shown(old)}", code="dn_suffix")
        return Dn(self.rdns[: len(self.rdns) - len(old.rdns)] + new.rdns)

    def value_of(self, type: str) -> str | None:
        """The value of the nearest part with that attribute type."""
        wanted = _type_key(type)
        return next((v for rdn in self.rdns for t, v in rdn if _type_key(t) == wanted), None)

    def __str__(self) -> str:
        return ",".join("+".join(f"{t}={escape(v)}" for t, v in rdn) for rdn in self.rdns)

    def __repr__(self) -> str:
        return f"Dn({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dn) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __len__(self) -> int:
        return len(self.rdns)


def escape(value: str) -> str:
    """`value` as it stands in a name (RFC 4514 2.4)."""
    escaped = _SPECIAL.sub(lambda m: "\\" + (m[0] if m[0].isprintable() else f"{ord(m[0]):02x}"), value)
    if escaped.startswith((" ", "#")):
        escaped = "\\" + escaped
    # A single blank is both first and last: one escape is enough.
    if escaped.endswith(" ") and not escaped.endswith("\\ "):
        escaped = escaped[:-1] + "\\ "
    return escaped


def _type_key(type: str) -> str:
    lower = type.lower()
    return _ALIASES.get(lower, lower)


def _rdn_key(rdn: Rdn) -> tuple[Pair, ...]:
    if len(rdn) == 1:
        type, value = rdn[0]
        return ((_type_key(type), value),)
    return tuple(sorted((_type_key(type), value) for type, value in rdn))


def _split(text: str) -> tuple[Rdn, ...]:
    rdns: list[Rdn] = []
    for part in text.split(","):
        type, _, value = part.partition("=")
        rdns.append(((_checked(type.strip(" "), text), value.strip(" ")),))
    return tuple(rdns)


def _scan(text: str) -> tuple[Rdn, ...]:
    """Character by character: escapes, quotes (RFC 2253's), several pairs in one part."""
    rdns: list[Rdn] = []
    pairs: list[Pair] = []
    position = 0
    while True:
        type, equals, _ = text[position:].partition("=")
        if not equals:
            raise Invalid(f"{shown(text)} is no distinguished name: a part has no '='", code="dn")
        value, position = _value(text, position + len(type) + 1)
        pairs.append((_checked(type.strip(" "), text), value))
        if position == len(text) or text[position] in ",;":
            rdns.append(tuple(pairs))
            pairs = []
        if position == len(text):
            return tuple(rdns)
        position += 1


def _value(text: str, position: int) -> tuple[str, int]:
    """The value that starts at `position`, and where it ends."""
    while position < len(text) and text[position] == " ":
        position += 1
    quoted = position < len(text) and text[position] == '"'
    position += quoted
    value = bytearray()
    kept = 0  # blanks after this length are padding, unless escaped or quoted
    while position < len(text):
        c = text[position]
        if c == "\\":
            taken, position = _escaped(text, position)
            value += taken
            kept = len(value)
            continue
        if quoted and c == '"':
            end = position + 1
            while end < len(text) and text[end] == " ":
                end += 1
            if end < len(text) and text[end] not in ",;+":
                raise Invalid(f"{shown(text)} has text behind a closing quote", code="dn")
            return _text(bytes(value), text), end
        if not quoted and c in ",;+":
            break
        value += c.encode()
        if c != " ":
            kept = len(value)
        position += 1
    if quoted:
        raise Invalid(f"{shown(text)} has an open quote", code="dn")
    return _text(bytes(value[:kept]), text), position


_HEX = re.compile(r"[0-9A-Fa-f]{2}")


def _escaped(text: str, position: int) -> tuple[bytes, int]:
    pair = text[position + 1 : position + 3]
    if _HEX.fullmatch(pair):
        return bytes([int(pair, 16)]), position + 3
    if not pair:
        raise Invalid(f"{shown(text)} ends inside an escape", code="dn")
    return pair[0].encode(), position + 2


def _text(value: bytes, dn: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{shown(dn)} holds bytes that are not UTF-8", code="dn") from error


def _checked(type: str, dn: str) -> str:
    if not _TYPE.fullmatch(type):
        raise Invalid(f"{shown(dn)} is no distinguished name: {shown(type)} is no attribute type", code="dn")
    return type


GLUE = Dn.parse("o=glue")
GRID = Dn.parse("GLUE2GroupID=grid,o=glue")
"""Where the sites hang at top level."""
