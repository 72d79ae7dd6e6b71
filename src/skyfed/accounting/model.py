"""Usage records and monthly summaries as values. No I/O.

Names are those of the APEL cloud usage record v0.4 (accounting digest 3.1, 3.2). Instants are epoch seconds in UTC
and durations are seconds, as on the wire and in SQL; memory is MB, disk and network GB. `None` = nobody said, not 0.
"""

import re
from collections.abc import Collection
from decimal import Decimal
from typing import NamedTuple

import msgspec

from skyfed.core.clock import from_epoch

# The literal that stands for "no value" wherever a name is part of a key (never SQL NULL, never the empty string).
NO_NAME = "None"
# GlobalUserName in views that may not show who it was (accounting digest 10).
WITHHELD = "withheld"

STARTED, SUSPENDED, COMPLETED = "started", "suspended", "completed"
STATUSES = frozenset({STARTED, SUSPENDED, COMPLETED, "error", "paused", "stopped", "unknown"})


class Month(NamedTuple):
    """A calendar month in UTC. `Month(0, 0)` is the reference's bin for records without a measurement time."""

    year: int
    month: int

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"


NO_MONTH = Month(0, 0)


_IRREGULAR = {
    "vm_uuid": "VMUUID",
    "fqan": "FQAN",
    "vo": "VO",
    "vo_group": "VOGroup",
    "vo_role": "VORole",
    "public_ip_count": "PublicIPCount",
    "number_of_vms": "NumberOfVMs",
}


def standard_key(name: str) -> str:
    """The standard's key for one of our attributes: `SiteName`, `VMUUID`. Messages and JSON views use it."""
    return _IRREGULAR.get(name) or "".join(part.capitalize() for part in name.split("_"))


class CloudRecord(msgspec.Struct, frozen=True, kw_only=True, rename=standard_key):
    """What one virtual machine has used since it started, as measured at one instant. Counters are cumulative."""

    record_create_time: int | None = None
    """When it was measured; derived by `measurement_time` where a producer does not say."""
    vm_uuid: str
    site_name: str
    cloud_compute_service: str | None = None
    machine_name: str | None = None
    local_user_id: str | None = None
    local_group_id: str | None = None
    global_user_name: str | None = None
    """Distinguished name of the person, slash form, or a community identifier."""
    fqan: str | None = None
    status: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    suspend_duration: int | None = None
    wall_duration: int | None = None
    cpu_duration: int | None = None
    cpu_count: Decimal | None = None
    network_type: str | None = None
    network_inbound: int | None = None
    network_outbound: int | None = None
    public_ip_count: int | None = None
    memory: int | None = None
    disk: int | None = None
    benchmark_type: str | None = None
    benchmark: Decimal | None = None
    storage_record_id: str | None = None
    image_id: str | None = None
    cloud_type: str | None = None

    @property
    def completed(self) -> bool:
        """Whether the machine has ended; producers differ in the case of the letters."""
        return (self.status or "").lower() == COMPLETED

    @property
    def measurement_time(self) -> int | None:
        """When the counters were read (accounting digest 4.2); None where the record does not tell."""
        if self.completed:
            return self.end_time
        if self.record_create_time is not None:
            return self.record_create_time
        if self.start_time is None:
            return None
        return self.start_time + (self.suspend_duration or 0) + (self.wall_duration or 0)

    @property
    def month(self) -> Month:
        """The month the record is booked to: with the VMUUID it is the record's key."""
        return month_of(self.measurement_time)


class CloudSummary(msgspec.Struct, frozen=True, kw_only=True, rename=standard_key):
    """The usage of one month by the machines that agree in every field of the key (accounting digest 3.2).

    Durations and network are of this month only; network may be negative where a counter was reset.
    """

    site_name: str
    cloud_compute_service: str
    month: int
    year: int
    global_user_name: str
    vo: str
    vo_group: str
    vo_role: str
    status: str
    cloud_type: str | None
    image_id: str
    earliest_start_time: int | None
    latest_start_time: int | None
    wall_duration: int | None
    cpu_duration: int | None
    cpu_count: Decimal
    network_inbound: int | None
    network_outbound: int | None
    memory: int | None
    disk: int | None
    benchmark_type: str
    benchmark: Decimal
    number_of_vms: int


class JournalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record as the repository holds it. `current` is false once another has replaced it."""

    record: CloudRecord
    received: int
    message: int
    current: bool


class DayUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one VO has used at one site since midnight UTC, as far as records have come in."""

    site: str
    vo: str
    vms: int
    """Machines with a record measured today."""
    running: int
    """Of these, the ones last seen running."""
    wall_seconds: int
    cpu_seconds: int
    latest: int
    """Measurement time of the newest record."""


def month_of(instant: int | None) -> Month:
    """The month in UTC that holds `instant`; `NO_MONTH` for None and for instants that no calendar has."""
    if instant is None:
        return NO_MONTH
    try:
        moment = from_epoch(instant)
    except (ValueError, OverflowError, OSError):
        return NO_MONTH
    return Month(moment.year, moment.month)


class VoNames(NamedTuple):
    """Who the usage is booked to: literal `None` where the FQAN does not say."""

    vo: str
    group: str
    role: str


def vo_names(fqan: str | None) -> VoNames:
    """VO, VOGroup and VORole of a record's FQAN (accounting digest 3.1).

    Laxer than `identity.Fqan`: producers send bare VO names, several FQANs separated by `;` (the first counts), and
    `Role=` in any case.
    """
    first = (fqan or "").split(";", 1)[0].strip()
    if not first or first == NO_NAME:
        return VoNames(NO_NAME, NO_NAME, NO_NAME)
    if not first.startswith("/"):
        return VoNames(first, NO_NAME, NO_NAME)
    group: list[str] = []
    for part in first.split("/")[1:]:
        if part.lower().startswith("role="):
            return VoNames(group[0] if group else NO_NAME, "/" + "/".join(group), part)
        if part.lower().startswith("capability="):
            break
        group.append(part)
    return VoNames(group[0] or NO_NAME, "/" + "/".join(group), NO_NAME)


class Remark(msgspec.Struct, frozen=True):
    """Something odd about an accepted record. `code` is one of W01 … W08 (accounting digest 3.1; W08 is ours)."""

    code: str
    vm_uuid: str
    text: str


def remarks(
    record: CloudRecord,
    *,
    now: int,
    previous: CloudRecord | None = None,
    sites: Collection[str] | None = None,
    vos: Collection[str] | None = None,
) -> list[Remark]:
    """The quality report of one record.

    `previous` is the last record of the same machine; `sites` and `vos` are those the federation knows (None = not
    known here, so not judged).
    """
    found: list[tuple[str, str]] = []
    start, end, wall = record.start_time, record.end_time, record.wall_duration
    if start is not None and end is not None and end < start:
        found.append(("W01", f"EndTime {end} is before StartTime {start}"))
    if start is not None and wall is not None and wall > max(now - start, 0):
        found.append(("W02", f"WallDuration {wall} is longer than the machine can have run since {start}"))
    if previous is not None:
        found += [("W03", text) for text in _decreased(previous, record)]
    if not record.cpu_count:
        found.append(("W04", "CpuCount is missing or 0"))
    if (record.status or "").lower() not in STATUSES:
        found.append(("W05", f"Status '{record.status}' is none of {', '.join(sorted(STATUSES))}"))
    vo = vo_names(record.fqan).vo
    if sites is not None and record.site_name not in sites:
        found.append(("W06", f"SiteName '{record.site_name}' is not registered"))
    if vos is not None and vo not in vos:
        found.append(("W06", f"the VO '{vo}' is not known"))
    if record.month == NO_MONTH:
        found.append(("W07", "the record does not tell when it was measured; it is booked to no month"))
    return [Remark(code, record.vm_uuid, text) for code, text in found]


_COUNTERS = (
    ("WallDuration", "wall_duration"),
    ("CpuDuration", "cpu_duration"),
    ("NetworkInbound", "network_inbound"),
    ("NetworkOutbound", "network_outbound"),
)


def _decreased(previous: CloudRecord, record: CloudRecord) -> list[str]:
    """The counters that went back although time did not."""
    before, now = previous.measurement_time, record.measurement_time
    if before is None or now is None or now < before:
        return []
    texts = []
    for key, name in _COUNTERS:
        old, new = getattr(previous, name), getattr(record, name)
        if old is not None and new is not None and new < old:
            texts.append(f"{key} went from {old} back to {new}")
    return texts


_MONTH = re.compile(r"(\d{4})-(\d{2})", re.ASCII)


def parse_month(text: str) -> Month:
    """`2026-11` as a month. Raises ValueError on anything else."""
    match = _MONTH.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 12 or int(match[1]) == 0:
        raise ValueError(f"'{text}' is not a month; right is YYYY-MM, such as 2026-11")
    return Month(int(match[1]), int(match[2]))
