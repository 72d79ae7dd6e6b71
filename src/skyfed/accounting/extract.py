"""From compute's usage events to cloud records v0.4. Pure: the same journal always gives the same records.

A machine gives a record when its state changes, when a sample comes and its last record is old, and at each end of a
month, so that a month's usage is booked to that month exactly (accounting digest 4.3, 7.2).
"""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from skyfed.accounting.model import CloudRecord, Month, month_of
from skyfed.compute.model import Counters, UsageEvent, UsageStatus, UsageSummary, VmState
from skyfed.compute.usage import RUNNING, advance
from skyfed.core.clock import epoch
from skyfed.core.ids import derived_uuid

# Network amounts are decimal GB, rounded down; being cumulative, the remainder is carried over (compute digest 9).
GB = 10**9


class Producer(msgspec.Struct, frozen=True, kw_only=True):
    """What the site says of itself in every record. `interval`: seconds between records of a machine whose state
    does not change."""

    cloud_compute_service: str
    cloud_type: str
    interval: int = 3600


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's usage so far. `carried`: seconds since its last real event that are counted already, because a month
    ended in between; `reported`: measurement time of its last record."""

    summary: UsageSummary
    carried: float = 0.0
    reported: int = 0

    @property
    def ended(self) -> bool:
        """Whether its owner has let go of it: its usage does not change any more."""
        return self.summary.end is not None

    @property
    def gone(self) -> bool:
        """Whether nothing more will come of it."""
        return self.summary.last.new is VmState.DELETED


def follow(machine: Machine | None, event: UsageEvent, producer: Producer) -> tuple[Machine, list[CloudRecord]]:
    """The machine after one more event, and the records that the event gives."""
    if machine is None:
        machine = Machine(summary=advance(None, event))
        return _reported(machine, event.when, producer)
    records: list[CloudRecord] = []
    for boundary in _boundaries(machine, event.when):
        machine, record = _close_month(machine, boundary, producer, event)
        records.append(record)
    was_ended = machine.ended
    # What was counted up to the end of a month is not counted again.
    rest = max(0.0, event.elapsed - machine.carried)
    when = max(event.when, machine.summary.last.when)
    summary = advance(machine.summary, msgspec.structs.replace(event, elapsed=rest, when=when))
    machine = msgspec.structs.replace(machine, summary=summary, carried=0.0)
    due = event.old != event.new or epoch(when) - machine.reported >= producer.interval
    if was_ended or not due:
        return machine, records
    machine, more = _reported(machine, when, producer)
    return machine, records + more


def close_months(machine: Machine, now: datetime, producer: Producer) -> tuple[Machine, list[CloudRecord]]:
    """Records for the months that have ended for a machine that does not run, and of which no event may come for long.

    A running machine is left alone: its next sample tells how much of what it used belongs to which month.
    """
    records: list[CloudRecord] = []
    if machine.ended or machine.summary.last.new in RUNNING:
        return machine, records
    for boundary in _boundaries(machine, now):
        machine, record = _close_month(machine, boundary, producer, None)
        records.append(record)
    return machine, records


def latest(records: Sequence[CloudRecord]) -> list[CloudRecord]:
    """The last record of each machine and month: the repository would replace the others by it."""
    return list({(record.vm_uuid, record.month): record for record in records}.values())


def _boundaries(machine: Machine, until: datetime) -> Iterator[datetime]:
    """The starts of months after the machine's last event, up to and including `until`; none once it has ended."""
    if machine.ended:
        return
    month = month_of(epoch(machine.summary.last.when))
    while (start := _start_of_next(month)) <= until:
        yield start
        month = Month(start.year, start.month)


def _start_of_next(month: Month) -> datetime:
    year, number = (month.year + 1, 1) if month.month == 12 else (month.year, month.month + 1)
    return datetime(year, number, 1, tzinfo=UTC)


def _close_month(
    machine: Machine, boundary: datetime, producer: Producer, following: UsageEvent | None
) -> tuple[Machine, CloudRecord]:
    """The machine as it was at `boundary`, and the record that closes the month before.

    Counters are interpolated between the last event and the `following` one.
    """
    last = machine.summary.last
    seconds = (boundary - last.when).total_seconds()
    counters = machine.summary.counters
    if following is not None:
        left = max(0.0, following.elapsed - machine.carried)
        seconds = min(seconds, left)
        counters = _between(counters, following.counters, seconds / left if left else 0.0)
    moment = msgspec.structs.replace(last, old=last.new, when=boundary, elapsed=seconds, counters=counters)
    machine = msgspec.structs.replace(
        machine, summary=advance(machine.summary, moment), carried=machine.carried + seconds
    )
    # The record tells the state at midnight but is dated a second before it: the month of a record is the month of
    # its measurement time (digest 4.2), and this one closes the old month.
    at = epoch(boundary) - 1
    return msgspec.structs.replace(machine, reported=at), record_of(machine.summary, at, producer)


def _between(before: Counters, after: Counters, share: float) -> Counters:
    def part(old: float | None, new: float | None) -> float | None:
        return old if old is None or new is None else old + max(0.0, new - old) * share

    def whole(old: int | None, new: int | None) -> int | None:
        value = part(old, new)
        return None if value is None else int(value)

    return Counters(
        cpu_seconds=part(before.cpu_seconds, after.cpu_seconds),
        net_in_bytes=whole(before.net_in_bytes, after.net_in_bytes),
        net_out_bytes=whole(before.net_out_bytes, after.net_out_bytes),
    )


def _reported(machine: Machine, when: datetime, producer: Producer) -> tuple[Machine, list[CloudRecord]]:
    at = epoch(machine.summary.end or when)
    return msgspec.structs.replace(machine, reported=at), [record_of(machine.summary, at, producer)]


def record_of(summary: UsageSummary, at: int, producer: Producer) -> CloudRecord:
    """The record of a machine's usage as measured at `at` (accounting digest 3.1, 7.1).

    Durations are rounded down, so that wall time never exceeds EndTime − StartTime. What nobody measured is left out.
    """
    last = summary.last
    owner, counters, benchmark = last.owner, summary.counters, last.benchmark
    return CloudRecord(
        record_create_time=at,
        vm_uuid=last.vm_id,
        site_name=last.site,
        cloud_compute_service=producer.cloud_compute_service,
        machine_name=last.title or None,
        # Local identifiers need not say who it is; GlobalUserName does.
        local_user_id=derived_uuid(last.site, owner.subject),
        local_group_id=owner.project or owner.vo,
        global_user_name=owner.subject,
        fqan=owner.fqans[0] if owner.fqans else owner.vo,
        status=summary.status.value,
        start_time=epoch(summary.start),
        end_time=epoch(summary.end) if summary.end and summary.status is UsageStatus.COMPLETED else None,
        suspend_duration=int(summary.suspend_seconds),
        wall_duration=int(summary.wall_seconds),
        cpu_duration=None if counters.cpu_seconds is None else int(counters.cpu_seconds),
        cpu_count=Decimal(last.cores),
        network_inbound=None if counters.net_in_bytes is None else counters.net_in_bytes // GB,
        network_outbound=None if counters.net_out_bytes is None else counters.net_out_bytes // GB,
        public_ip_count=last.public_ips,
        memory=last.memory_mib,
        disk=math.ceil(last.disk_gib),
        benchmark_type=benchmark.type if benchmark else None,
        benchmark=Decimal(str(benchmark.value)).quantize(Decimal("0.001")) if benchmark else None,
        image_id=last.image_identifier,
        cloud_type=producer.cloud_type,
    )
