"""`vomses`: which attribute authorities speak for which VO, as users' tools find them."""

import re
from collections.abc import Iterator

import msgspec

from skyfed.core.errors import Invalid
from skyfed.core.text import shown

MAX_BYTES = 1 << 20
_FIELD = re.compile(r'"([^"]*)"')


class Contact(msgspec.Struct, frozen=True):
    """One line: where an attribute authority of `vo` is, and its subject (OpenSSL one-line form)."""

    alias: str
    host: str
    port: int
    subject: str
    vo: str

    @property
    def url(self) -> str:
        """The base of its HTTP protocol."""
        return f"https://{self.host}:{self.port}"


def parse(text: str, *, source: str) -> tuple[Contact, ...]:
    """Read a file: `"alias" "host" "port" "subject" "vo" ["globus version"]` a line. Raises Invalid (`vomses`)."""
    return tuple(_lines(text, source))


def _lines(text: str, source: str) -> Iterator[Contact]:
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        fields = _FIELD.findall(line)
        if len(fields) not in {5, 6} or not fields[2].isdigit() or not 0 < int(fields[2]) < 65536:
            wanted = '"alias" "host" "port" "subject" "vo"'
            raise Invalid(f"{source}:{number}: {shown(line)} is not {wanted}", code="vomses")
        yield Contact(fields[0], fields[1], int(fields[2]), fields[3], fields[4])


def matching(contacts: tuple[Contact, ...], wanted: str) -> tuple[Contact, ...]:
    """The contacts whose alias is `wanted`; where there is none, those of the VO of that name."""
    return tuple(c for c in contacts if c.alias == wanted) or tuple(c for c in contacts if c.vo == wanted)
