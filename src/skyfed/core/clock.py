"""Time, passed in. Code that needs the time takes a `Clock`, so that tests stand still or jump."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What code may ask about time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds on a clock that never steps: for durations and deadlines."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class FixedClock:
    """A clock that moves only when told."""

    def __init__(self, now: datetime) -> None:
        if now.tzinfo is None:
            raise ValueError("FixedClock needs an aware datetime (tzinfo=UTC)")
        self._now = now.astimezone(UTC)
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Step the wall clock only, as NTP or an operator does."""
        self._now += timedelta(seconds=seconds)


def iso(moment: datetime) -> str:
    """`2026-11-23T04:40:00Z`: UTC, whole seconds, as GLUE2, HEPiX lists and JSON views write it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_iso(text: str) -> datetime:
    """The instant that `iso` wrote. Raises ValueError on any other form."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def epoch(moment: datetime) -> int:
    """Whole seconds since 1970-01-01T00:00:00Z, rounded down."""
    return int(moment.timestamp() // 1)


def from_epoch(seconds: float) -> datetime:
    """The aware UTC instant of a Unix time."""
    return datetime.fromtimestamp(seconds, UTC)
