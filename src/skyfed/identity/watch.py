"""Noticing that files changed, at the price of a few `stat` calls a second."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from skyfed.core.clock import Clock

# Bans must take effect within a second, also on open connections.
INTERVAL_SECONDS = 0.5

_Stamp = tuple[str, int, int, int]


class Watch:
    """Answers whether any of `files()` was written, added or removed since it was last asked; looks twice a second."""

    def __init__(self, files: Callable[[], Iterable[Path]], clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._next_look = float("-inf")
        self._seen: tuple[_Stamp, ...] | None = None

    def changed(self) -> bool:
        """True at the first call, and after a change."""
        now = self._clock.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + INTERVAL_SECONDS
        stamps = tuple(_stamp(path) for path in self._files())
        changed = stamps != self._seen
        self._seen = stamps
        return changed


def _stamp(path: Path) -> _Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - a third of the price of Path.stat, on the way of every request
    except OSError:
        return str(path), 0, 0, 0
    return str(path), status.st_mtime_ns, status.st_size, status.st_ino
