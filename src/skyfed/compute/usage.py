"""Usage: monotone counters, step-free durations, and the fold from events to what a record says. Pure
functions."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import reduce
from typing import TypeVar

import msgspec

from skyfed.compute.contract import VmCounters
from skyfed.compute.model import Counters, UsageEvent, UsageStatus, UsageSummary, VmState

T = TypeVar("T", int, float)

RUNNING = frozenset({VmState.ACTIVE, VmState.STOPPING, VmState.RESTARTING, VmState.SUSPENDING, VmState.SAVING})
"""States in which the guest runs. A guest that is being asked to shut down still computes: it counts as
wall time until the hypervisor has seen it end."""

ENDED = frozenset({VmState.DELETING, VmState.DELETED})
"""From the request to delete on, nothing is counted: how long the engine needs for it is not the owner's
usage."""

CLOCK_TOLERANCE = 0.5
"""Seconds that wall and monotonic clock may differ by without being called a step: readings are not
simultaneous."""


# -- counters ------------------------------------------------------------------------------------------------


class Meter(msgspec.Struct, frozen=True, kw_only=True):
    """Counters over all boots: `base` of the boots that ended, `boot` and `now` of the present one.

    Hypervisor counters begin at zero with each boot (compute digest 4.5 trap b); the sum never decreases.
    """

    base: Counters = Counters()
    before: str = ""
    boot: str = ""
    now: Counters = Counters()
    at: datetime | None = None
    """Of the newest sample: the last proof that the guest ran."""

    @property
    def total(self) -> Counters:
        return _plus(self.base, self.now)

    def read(self, sample: VmCounters) -> "Meter":
        """The meter after a sample; a late one of the boot before is ignored: it is in `base` already."""
        fresh = Counters(
            cpu_seconds=sample.cpu_seconds,
            net_in_bytes=sample.net_in_bytes,
            net_out_bytes=sample.net_out_bytes,
        )
        if sample.boot == self.boot:
            return msgspec.structs.replace(self, now=at_least(fresh, self.now), at=sample.at)
        if sample.boot == self.before:
            return self
        return Meter(base=self.total, before=self.boot, boot=sample.boot, now=fresh, at=sample.at)


def _plus(a: Counters, b: Counters) -> Counters:
    return Counters(
        cpu_seconds=_sum(a.cpu_seconds, b.cpu_seconds),
        net_in_bytes=_sum(a.net_in_bytes, b.net_in_bytes),
        net_out_bytes=_sum(a.net_out_bytes, b.net_out_bytes),
    )


def at_least(a: Counters, b: Counters) -> Counters:
    """The larger of each; unknown only where both are."""
    return Counters(
        cpu_seconds=_max(a.cpu_seconds, b.cpu_seconds),
        net_in_bytes=_max(a.net_in_bytes, b.net_in_bytes),
        net_out_bytes=_max(a.net_out_bytes, b.net_out_bytes),
    )


def _sum(a: T | None, b: T | None) -> T | None:
    return b if a is None else a if b is None else a + b


def _max(a: T | None, b: T | None) -> T | None:
    return b if a is None else a if b is None else max(a, b)


# -- time ----------------------------------------------------------------------------------------------------


class Stamp(msgspec.Struct, frozen=True):
    """How an event is dated."""

    when: datetime
    elapsed: float
    """Seconds since the machine's last event, steps of the wall clock left out."""
    ahead: float
    """Seconds by which this machine's dates are ahead of the wall clock, since that was set back."""


def stamp(at: datetime, *, now: datetime, last: datetime, step: float) -> Stamp:
    """Date what happened `at`, the present being `now` and the machine's last event dated `last`.

    `step`: by how much the wall clock jumped against the clock of that date (seconds, positive: forward). Dates never
    go back and durations leave the jump out: a clock set back by an hour neither makes a record end before it began
    nor loses an hour of usage. The machine's dates then stay ahead of the clock; those of new machines are not.
    """
    jump = step if abs(step) > CLOCK_TOLERANCE else 0.0
    at = min(at, now)
    elapsed = max(0.0, (at - last).total_seconds() - jump)
    return Stamp(max(at, last + timedelta(seconds=elapsed)), elapsed, max(0.0, -jump))


# -- the fold ------------------------------------------------------------------------------------------------


def fold(events: Iterable[UsageEvent], *, until: datetime | None = None) -> UsageSummary:
    """The usage of one machine from all its events in order; `until` counts its present state up to then.

    Raises ValueError without events or with events of several machines.
    """
    summary = reduce(advance, events, None)
    if summary is None:
        raise ValueError("fold needs at least the event of the machine's creation")
    return summary if until is None else _until(summary, until)


def advance(summary: UsageSummary | None, event: UsageEvent) -> UsageSummary:
    """The summary after one more event: a reader that keeps summaries needs only new events."""
    if summary is None:
        return UsageSummary(
            status=_status(event.new, launched=event.new in RUNNING),
            start=event.when,
            launched=event.when if event.new in RUNNING else None,
            counters=event.counters,
            last=event,
        )
    if event.vm_id != summary.last.vm_id:
        raise ValueError(f"fold is per machine: event of {event.vm_id} after those of {summary.last.vm_id}")
    if summary.end is not None:
        return msgspec.structs.replace(summary, counters=at_least(event.counters, summary.counters), last=event)
    counted = _counted(summary, event.elapsed)
    launched = summary.launched or (event.when if event.new in RUNNING else None)
    # `unknown` is not a state of the guest but of our knowledge: what was last known goes on being counted.
    shown = event if event.new is not VmState.UNKNOWN else _as(event, summary.last.new)
    return msgspec.structs.replace(
        counted,
        status=_status(shown.new, launched=launched is not None),
        launched=launched,
        end=event.when if event.new in ENDED else None,
        counters=at_least(event.counters, summary.counters),
        last=shown,
    )


def _counted(summary: UsageSummary, seconds: float) -> UsageSummary:
    """`summary` after `seconds` more in its present state."""
    state = summary.last.new
    if state in ENDED or summary.launched is None:
        return summary
    if state in RUNNING:
        return msgspec.structs.replace(summary, wall_seconds=summary.wall_seconds + seconds)
    return msgspec.structs.replace(summary, suspend_seconds=summary.suspend_seconds + seconds)


def _until(summary: UsageSummary, moment: datetime) -> UsageSummary:
    return _counted(summary, max(0.0, (moment - summary.last.when).total_seconds()))


def _status(state: VmState, *, launched: bool) -> UsageStatus:
    if state in ENDED:
        return UsageStatus.COMPLETED
    if state in RUNNING or not launched or state in (VmState.PENDING, VmState.BUILDING, VmState.RESIZING):
        return UsageStatus.STARTED
    return UsageStatus.SUSPENDED


def _as(event: UsageEvent, state: VmState) -> UsageEvent:
    return msgspec.structs.replace(event, new=state)
