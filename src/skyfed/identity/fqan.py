"""Fully qualified attribute names: `/vo/group/Role=role`, what VOMS says about a member.

Two spellings mean the same: the long form always has `/Role=` and `/Capability=` (`NULL` where there is
none) and is what attribute authorities issue and accounting records carry; the short form drops what is
NULL. Capability is dead: it is read and ignored.
"""

import re
from fnmatch import fnmatchcase
from typing import Self

import msgspec

from skyfed.core.errors import Invalid
from skyfed.core.text import shown

MAX_FQAN_LENGTH = 512
_NAME = r"[A-Za-z0-9_.\-]{1,255}"
_FQAN = re.compile(
    rf"(?P<group>(?:/{_NAME})+?)(?:/Role=(?P<role>{_NAME}))?(?:/Capability=(?P<capability>{_NAME}))?",
    re.ASCII,
)


class Fqan(msgspec.Struct, frozen=True, order=True):
    """One name: a group path (`/vo/sub`) and the role held in it ("" for plain membership)."""

    group: str
    role: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read either spelling, `/vo[/group…][/Role=r][/Capability=c]`. Raises Invalid (`fqan`)."""
        match = _FQAN.fullmatch(text) if len(text) <= MAX_FQAN_LENGTH else None
        if match is None or any(part in {".", ".."} for part in match["group"].split("/")):
            raise Invalid(f"{shown(text)} is not an FQAN; right is '/vo/group/Role=role'", code="fqan")
        role = match["role"] or ""
        return cls(match["group"], "" if role == "NULL" else role)

    @property
    def vo(self) -> str:
        """The VO: the first name of the group path."""
        return self.group.split("/", 2)[1]

    @property
    def long(self) -> str:
        """`/vo/Role=NULL/Capability=NULL`: as issued in attribute certificates and written to accounting."""
        return f"{self.group}/Role={self.role or 'NULL'}/Capability=NULL"

    @property
    def short(self) -> str:
        """`/vo` or `/vo/Role=r`: as people write it."""
        return f"{self.group}/Role={self.role}" if self.role else self.group


def matches(pattern: str, fqan: Fqan) -> bool:
    """Whether `fqan` fits `pattern`: an FQAN in either spelling, or a glob over the short form."""
    plain = pattern.removesuffix("/Capability=NULL").removesuffix("/Role=NULL")
    return fnmatchcase(fqan.short, plain)
