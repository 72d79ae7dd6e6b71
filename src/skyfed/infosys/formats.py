"""LDIF (RFC 2849): entries ↔ text, changes → text. No I/O.

The reader works by line and isolates faults: one bad entry never drops the others, a value can never become an attribute or
an entry (infosys digest 5 and 11). The writer encodes whatever could be taken for something else.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator

import msgspec

from skyfed.core.errors import Invalid, SkyfedError, TooLarge
from skyfed.core.text import one_line, shown
from skyfed.infosys.model import Entry
from skyfed.infosys.names import Dn

MAX_PROBLEMS = 1000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is read at most from one source."""

    bytes: int = 25 << 20
    entries: int = 200_000
    values: int = 10_000
    """Of one entry."""
    value_bytes: int = 256 << 10


class Problem(msgspec.Struct, frozen=True):
    """Something in the text that was left out: the line where its block starts, what it is, and why."""

    line: int
    subject: str
    reason: str


class Parsed(msgspec.Struct, frozen=True):
    """What a text holds. The first of two entries with one name counts, as in the classic updater."""

    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]


# -- reading ----------------------------------------------------------------------------------------------------


def parse(data: bytes, limits: Limits | None = None) -> Parsed:
    """The entries of an LDIF text. Raises TooLarge when the whole breaks a limit; a fault inside costs one entry."""
    limits = limits or Limits()
    if len(data) > limits.bytes:
        raise TooLarge(f"an LDIF text of {len(data)} bytes; at most {limits.bytes}", code="ldif_size")
    entries: dict[Dn, Entry] = {}
    problems: list[Problem] = []
    for number, lines in _blocks(data):
        try:
            entry = _entry(lines, limits)
            if entry.dn in entries:
                raise Invalid("a second entry of this name", code="ldif_duplicate")
            entries[entry.dn] = entry
        except SkyfedError as error:
            if len(problems) < MAX_PROBLEMS:
                subject = one_line(lines[0].decode("utf-8", "replace"), 200)
                problems.append(Problem(number, subject, one_line(error.message, 300)))
        if len(entries) > limits.entries:
            raise TooLarge(f"an LDIF text with more than {limits.entries} entries", code="ldif_size")
    return Parsed(tuple(entries.values()), tuple(problems))


def _blocks(data: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Blocks of unfolded lines without comments. A line `dn:` starts a new block even without a blank line before."""
    block: list[bytes] = []
    start = 0
    comment = False
    for number, raw in enumerate(data.split(b"\n"), 1):
        line = raw[:-1] if raw.endswith(b"\r") else raw
        if line.startswith(b" ") and (block or comment):
            if not comment:
                block[-1] += line[1:]
            continue
        comment = line.startswith(b"#")
        if comment:
            continue
        ends = not line.strip()
        if (ends or line[:3].lower() == b"dn:") and block:
            yield start, block
            block = []
        if ends or (not block and line.lower().startswith(b"version:")):
            continue
        if not block:
            start = number
        block.append(line)
    if block:
        yield start, block


_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9-]*(;[A-Za-z0-9-]+)*|[0-9]+(\.[0-9]+)*")


def _entry(lines: list[bytes], limits: Limits) -> Entry:
    name, value = _pair(lines[0], limits)
    if name.lower() != "dn":
        raise Invalid("not an entry: it does not start with 'dn:'", code="ldif_junk")
    dn = Dn.parse(value)
    if not dn.rdns:
        raise Invalid("an entry without a name", code="ldif_junk")
    if len(lines) - 1 > limits.values:
        raise TooLarge(f"an entry with {len(lines) - 1} values; at most {limits.values}", code="ldif_entry_size")
    found: dict[str, tuple[str, list[str]]] = {}
    for line in lines[1:]:
        name, value = _pair(line, limits)
        lower = name.lower()
        if lower == "changetype":
            raise Invalid("a change, not an entry", code="ldif_change")
        values = found.setdefault(lower, (name, []))[1]
        if value not in values:
            values.append(value)
    if "objectclass" not in found:
        raise Invalid("an entry without objectClass", code="ldif_no_class")
    return Entry(dn, ((name, tuple(values)) for name, values in found.values()))


def _pair(line: bytes, limits: Limits) -> tuple[str, str]:
    raw_name, colon, rest = line.partition(b":")
    if not colon or not _NAME.fullmatch(raw_name):
        raise Invalid(f"{shown(line.decode('utf-8', 'replace'), 60)} is not 'attribute: value'", code="ldif_line")
    name = raw_name.decode("ascii")
    if rest.startswith(b"<"):
        raise Invalid(f"{name} is a reference to a file or URL, which is not followed", code="ldif_url")
    if rest.startswith(b":"):
        try:
            rest = base64.b64decode(rest[1:].strip(), validate=True)
        except binascii.Error as error:
            raise Invalid(f"{name} is not base64", code="ldif_base64") from error
    else:
        rest = rest.strip(b" ")
    if len(rest) > limits.value_bytes:
        raise TooLarge(f"{name} has {len(rest)} bytes; at most {limits.value_bytes}", code="ldif_entry_size")
    try:
        return name, rest.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{name} is not UTF-8", code="ldif_utf8") from error


# -- writing ----------------------------------------------------------------------------------------------------

# RFC 2849 SAFE-STRING, and no trailing blank, which readers strip.
_SAFE = re.compile(
    r"(?:[\x01-\x09\x0b\x0c\x0e-\x1f\x21-\x39\x3b\x3d-\x7f](?:[\x01-\x09\x0b\x0c\x0e-\x7f]*[^\n\r\0 ])?)?"
)
FOLD = 76


def line(name: str, value: str, *, fold: bool = False) -> str:
    """`name: value`, base64 where the value could be misread, with its line end."""
    if _SAFE.fullmatch(value) and value.isascii():
        text = f"{name}: {value}" if value else f"{name}:"
    else:
        text = f"{name}:: {base64.b64encode(value.encode()).decode()}"
    if not fold or len(text) <= FOLD:
        return text + "\n"
    rest = range(FOLD, len(text), FOLD - 1)
    return text[:FOLD] + "\n" + "".join(f" {text[i : i + FOLD - 1]}\n" for i in rest)


def write_entry(entry: Entry, *, fold: bool = False) -> str:
    """One entry, without the blank line behind it."""
    parts = [line("dn", str(entry.dn), fold=fold)]
    parts += [line(name, value, fold=fold) for name, values in entry for value in values]
    return "".join(parts)


def write(entries: Iterable[Entry], *, fold: bool = False) -> str:
    """Entries as an LDIF text; with `fold` no line is longer than 76 characters."""
    return "".join(write_entry(entry, fold=fold) + "\n" for entry in entries)


def write_add(entry: Entry) -> str:
    """A change that adds `entry`."""
    parts = [line("dn", str(entry.dn)), "changetype: add\n"]
    parts += [line(name, value) for name, values in entry for value in values]
    return "".join(parts) + "\n"


def write_modify(old: Entry, new: Entry) -> str:
    """A change that makes `old` into `new`; "" when there is nothing to do."""
    before = {name.lower(): (name, values) for name, values in old}
    after = {name.lower(): (name, values) for name, values in new}
    parts: list[str] = []
    for lower, (name, values) in after.items():
        if lower not in before or sorted(before[lower][1]) != sorted(values):
            parts += [f"replace: {name}\n", *(line(name, value) for value in values), "-\n"]
    parts += [f"replace: {name}\n-\n" for lower, (name, _) in before.items() if lower not in after]
    if not parts:
        return ""
    return line("dn", str(old.dn)) + "changetype: modify\n" + "".join(parts) + "\n"


def write_delete(dn: Dn) -> str:
    """A change that removes an entry."""
    return line("dn", str(dn)) + "changetype: delete\n\n"
