"""Telling others that something changed: a version that grows, awaited or called back."""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class Changes:
    """A counter that grows with each change. Used from one event loop; reading `version` is free."""

    def __init__(self) -> None:
        self.version = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._callbacks: list[Callable[[], None]] = []

    def bump(self) -> None:
        """Count a change and tell everybody."""
        self.version += 1
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for callback in tuple(self._callbacks):
            try:
                callback()
            except Exception:
                # Whoever caused the change must not suffer from whoever listens.
                log.exception("a subscriber failed")

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at each change, on the event loop; it must be quick. Returns what ends it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def wait(self, after: int) -> int:
        """Return the version as soon as it is larger than `after` (at once if it already is)."""
        while self.version <= after:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.version
