"""APEL text messages: cloud records v0.2/v0.4 in and out, cloud summaries v0.4 out (accounting digest 2, 3). Sans-IO.

The reader gives the verdicts of APEL 2.5.0's loader, including its tolerances; one bad record rejects the whole
message. Where the reference leaves a value to its database (integers beyond BIGINT, texts beyond the column), the
reader does what a non-strict MySQL does: cuts the value and says so (remark W08).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import NamedTuple

import msgspec

from skyfed.accounting.model import NO_NAME, CloudRecord, CloudSummary, Remark, standard_key
from skyfed.core.clock import epoch
from skyfed.core.errors import Invalid, TooLarge
from skyfed.core.text import shown

RECORD_TYPE = "APEL-cloud-message"
SUMMARY_TYPE = "APEL-cloud-summary-message"
RECORD_HEADER = f"{RECORD_TYPE}: v0.4"
SUMMARY_HEADER = f"{SUMMARY_TYPE}: v0.4"
SEPARATOR = "%%"

MAX_MESSAGE_BYTES = 10 * 1024 * 1024
MAX_RECORDS = 5000
MAX_LINE = 64 * 1024

# Sums of a million records must still fit 64 bits, whatever a hostile producer sends.
_MOST_COUNT = 10**13
_LAST_INSTANT = 253_402_300_799  # 9999-12-31T23:59:59Z: the last that calendars and databases hold
_THOUSANDTH = Decimal("0.001")
_MOST = Decimal("9999999.999")  # DECIMAL(10,3)

_INTEGER = re.compile(r"[+-]?\d{1,100}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d{1,100}(\.\d{0,100})?|\.\d{1,100})([eE][+-]?\d{1,3})?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NULLS = frozenset({"", "null", "none"})
# Accepted and ignored: the repository derives them itself (accounting digest 3.1).
_IGNORED = frozenset({"UpdateTime", "MeasurementTime", "MeasurementMonth", "MeasurementYear"})


class _Bad(ValueError):
    """A value that its field does not take; the text says what would be right."""


class _Value(NamedTuple):
    """A value as read; `cut` says what had to be taken off it to fit."""

    value: str | int | Decimal
    cut: str = ""


def _text(limit: int) -> Callable[[str], _Value]:
    def read(text: str) -> _Value:
        return _Value(text) if len(text) <= limit else _Value(text[:limit], f"is cut to {limit} characters")

    return read


def _integer(text: str) -> _Value:
    if not _INTEGER.fullmatch(text):
        raise _Bad("right is a whole number")
    value = int(text)
    if abs(value) > _MOST_COUNT:
        return _Value(_MOST_COUNT if value > 0 else -_MOST_COUNT, f"is beyond {_MOST_COUNT} and cut to it")
    return _Value(value)


def _decimal(least: Decimal) -> Callable[[str], _Value]:
    def read(text: str) -> _Value:
        if not _DECIMAL.fullmatch(text):
            raise _Bad("right is a number")
        value = Decimal(text)
        if not least <= value <= _MOST:
            return _Value(min(max(value, least), _MOST), f"is outside {least} … {_MOST} and cut to it")
        return _Value(value.quantize(_THOUSANDTH, ROUND_HALF_UP))

    return read


def _instant(text: str) -> _Value:
    right = "right is epoch seconds or ISO 8601 in UTC"
    if _INTEGER.fullmatch(text):
        value = int(text)
    else:
        try:
            moment = datetime.fromisoformat(text)
            value = epoch(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        except (ValueError, OverflowError) as error:
            raise _Bad(right) from error
    if not 0 <= value <= _LAST_INSTANT:
        raise _Bad(right)
    return _Value(value)


class _Field(NamedTuple):
    """A key of the record, the attribute that holds it and how its text is read."""

    key: str
    name: str
    read: Callable[[str], _Value]


_TEXT = _text(255)
_AMOUNT = _decimal(Decimal(0))  # CpuCount is unsigned
# Readers by attribute where the value is not a name of at most 255 characters.
_READERS: dict[str, Callable[[str], _Value]] = {
    **dict.fromkeys(("record_create_time", "start_time", "end_time"), _instant),
    **dict.fromkeys(("suspend_duration", "wall_duration", "cpu_duration"), _integer),
    **dict.fromkeys(("network_inbound", "network_outbound", "public_ip_count", "memory", "disk"), _integer),
    "cpu_count": _AMOUNT,
    "benchmark_type": _text(50),
    "benchmark": _decimal(-_MOST),
}
# In the order in which APEL writes them, which is the order of the attributes.
_FIELDS = tuple(_Field(standard_key(name), name, _READERS.get(name, _TEXT)) for name in CloudRecord.__struct_fields__)
_BY_KEY = {field.key: field for field in _FIELDS}
_MANDATORY = ("VMUUID", "SiteName")


class CloudMessage(msgspec.Struct, frozen=True):
    """A message as read: its records in their order, and what had to be cut to fit."""

    version: str
    records: tuple[CloudRecord, ...]
    remarks: tuple[Remark, ...] = ()


# -- reading ----------------------------------------------------------------------------------------------------


def parse(body: bytes | str) -> CloudMessage:
    """The cloud records of an APEL text message.

    Raises Invalid (codes `message_encoding`, `message_type`, `message_header`, `record_line`, `unknown_field`,
    `missing_field`, `field_value`) naming the record by its place in the message; TooLarge over `MAX_MESSAGE_BYTES`,
    `MAX_RECORDS`, `MAX_LINE`.
    """
    text = _decoded(body).strip()
    header, _, rest = text.partition("\n")
    kind, colon, version = header.partition(":")
    if not colon:
        raise Invalid(
            f"the first line {shown(header)} is no message header; right is '{RECORD_HEADER}'", code="message_header"
        )
    if kind.strip() != RECORD_TYPE:
        raise Invalid(
            f"messages of type {shown(kind.strip())} are not read here; right is '{RECORD_HEADER}'", code="message_type"
        )
    pieces = [piece for piece in rest.split(SEPARATOR) if piece.strip()]
    if len(pieces) > MAX_RECORDS:
        raise TooLarge(f"{len(pieces)} records in one message; at most {MAX_RECORDS} are read", code="too_many_records")
    read = [_record(piece, number) for number, piece in enumerate(pieces, 1)]
    notes = tuple(note for _, found in read for note in found)
    # The reference ignores the version: v0.4 is a superset, and producers announce versions that never were.
    return CloudMessage(version.strip(" :\t\r"), tuple(record for record, _ in read), notes)


def _decoded(body: bytes | str) -> str:
    if len(body) > MAX_MESSAGE_BYTES:
        raise TooLarge(f"a message of {len(body)} bytes; at most {MAX_MESSAGE_BYTES} are read", code="message_size")
    if isinstance(body, bytes):
        try:
            body = body.decode()
        except UnicodeDecodeError as error:
            raise Invalid(
                f"the message is neither ASCII nor UTF-8 (byte {error.start})", code="message_encoding"
            ) from error
    if bad := _CONTROL.search(body):
        raise Invalid(f"the message holds the control character U+{ord(bad[0]):04X}", code="message_encoding")
    return body


def _record(piece: str, number: int) -> tuple[CloudRecord, list[Remark]]:
    values: dict[str, str | int | Decimal | None] = {}
    cuts: list[str] = []
    for key, text in _lines(piece, number):
        if key in _IGNORED:
            continue
        field = _BY_KEY.get(key)
        if field is None:
            raise Invalid(f"record {number}: unknown field {shown(key)}", code="unknown_field")
        if text.lower() in _NULLS:
            values[field.name] = None
            continue
        try:
            value, cut = field.read(text)
        except (_Bad, InvalidOperation) as error:
            raise Invalid(f"record {number}: {key} has the value {shown(text)}; {error}", code="field_value") from error
        # cASO writes `EndTime: 0` for machines that still run: no instant we account for is 0.
        values[field.name] = None if field.read is _instant and value == 0 else value
        if cut:
            cuts.append(f"{key} {cut}")
    for key in _MANDATORY:
        if values.get(_BY_KEY[key].name) is None:
            raise Invalid(f"record {number}: the mandatory field {key} has no value", code="missing_field")
    record = CloudRecord(**values)  # type: ignore[arg-type]  # each field's reader gives the type of its attribute
    return record, [Remark("W08", record.vm_uuid, cut) for cut in cuts]


def _lines(piece: str, number: int) -> Iterator[tuple[str, str]]:
    """Key and value of each line; of a key given twice the last counts, since the caller keeps the last."""
    for line in piece.strip().split("\n"):
        if len(line) > MAX_LINE:
            raise TooLarge(
                f"record {number}: a line of {len(line)} characters; at most {MAX_LINE} are read", code="line_size"
            )
        key, colon, value = line.partition(":")
        if not colon:
            raise Invalid(f"record {number}: {shown(line)} is no 'Key: value' line", code="record_line")
        yield key.strip(), value.strip()


# -- writing ----------------------------------------------------------------------------------------------------


def write_records(records: Iterable[CloudRecord]) -> bytes:
    """A v0.4 message as APEL's unloader writes it, in ASCII.

    Numbers and instants without a value are left out, names without one are `None`.
    """
    return _message(RECORD_HEADER, (_record_lines(record) for record in records))


def write_summaries(summaries: Iterable[CloudSummary]) -> bytes:
    """A cloud summary message v0.4, as APEL's unloader writes it."""
    return _message(SUMMARY_HEADER, (_summary_lines(summary) for summary in summaries))


def _message(header: str, records: Iterable[list[str]]) -> bytes:
    lines = [header]
    for record in records:
        lines += [*record, SEPARATOR]
    return ("\n".join(lines) + "\n").encode("ascii")


def _record_lines(record: CloudRecord) -> list[str]:
    lines = []
    for key, name, read in _FIELDS:
        value = getattr(record, name)
        if key == "Benchmark":
            lines.append(f"{key}: {_float(value or Decimal(0))}")
        elif isinstance(value, Decimal):
            lines.append(f"{key}: {_plain(value)}")
        elif isinstance(value, int):
            lines.append(f"{key}: {value}")
        elif value is not None or read not in (_instant, _integer, _AMOUNT):
            lines.append(f"{key}: {_safe(value)}")
    return lines


_MAY_LACK_NUMBER = frozenset(
    {"earliest_start_time", "latest_start_time", "wall_duration", "cpu_duration", "network_inbound", "network_outbound",
     "memory", "disk"}
)  # fmt: skip


def _summary_lines(summary: CloudSummary) -> list[str]:
    lines = []
    for name in CloudSummary.__struct_fields__:
        value = getattr(summary, name)
        if value is None and name in _MAY_LACK_NUMBER:
            continue
        text = _float(value) if isinstance(value, Decimal) else str(value) if isinstance(value, int) else _safe(value)
        lines.append(f"{standard_key(name)}: {text}")
    return lines


def _safe(value: str | None) -> str:
    """A name that cannot break out of its line or its record: machine names are whatever users type.

    The format has no escapes, so line ends and control characters become blanks, `%%` becomes `% %`, and what is
    not ASCII `?`.
    """
    if value is None:
        return NO_NAME
    line = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    return re.sub("%(?=%)", "% ", line).encode("ascii", "replace").decode()


def _plain(value: Decimal) -> str:
    """`8`, `0.5`."""
    return str(int(value)) if value == value.to_integral_value() else format(value.normalize(), "f")


def _float(value: Decimal) -> str:
    """`8.0`, `11.5`: as the reference prints floats."""
    text = _plain(value)
    return text if "." in text else f"{text}.0"
