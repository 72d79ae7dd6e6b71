"""One call at a time for each machine, any number for different ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Ordering:
    """Locks by name, kept only while someone holds or awaits them. Lives on one event loop."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def only(self, name: str) -> AsyncIterator[None]:
        """Inside, nobody else is inside with the same `name`; those waiting come in the order they asked."""
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)
