"""Engine events, handed to any number of readers. A slow reader loses events, never memory, and is told so."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from skyfed.compute.contract import EngineEvent, EventKind
from skyfed.core.clock import Clock

_HELD = 1024
"""Events kept for a reader that is behind: enough for a burst over some hundred machines."""


class Broadcast:
    """Lives on one event loop; `publish` and `close` are called there."""

    def __init__(self, clock: Clock, *, held: int = _HELD) -> None:
        self._clock = clock
        self._held = held
        self._readers: set[_Reader] = set()
        self._closed = False

    def publish(self, event: EngineEvent) -> None:
        """Gives `event` to everyone who reads now."""
        for reader in self._readers:
            if len(reader.events) >= self._held:
                reader.events.clear()
                reader.events.append(self._resync())
            else:
                reader.events.append(event)
            reader.wake.set()

    def resync(self) -> None:
        """Tells everyone that events may have been lost."""
        self.publish(self._resync())

    def close(self) -> None:
        """Ends every stream after what it still holds."""
        self._closed = True
        for reader in self._readers:
            reader.wake.set()

    async def stream(self) -> AsyncIterator[EngineEvent]:
        """Everything from the first `anext` on, a RESYNC first."""
        reader = _Reader()
        reader.events.append(self._resync())
        self._readers.add(reader)
        try:
            while True:
                while reader.events:
                    yield reader.events.popleft()
                if self._closed:
                    return
                reader.wake.clear()
                await reader.wake.wait()
        finally:
            self._readers.discard(reader)

    def _resync(self) -> EngineEvent:
        return EngineEvent(kind=EventKind.RESYNC, at=self._clock.now())


class _Reader:
    def __init__(self) -> None:
        self.events: deque[EngineEvent] = deque()
        self.wake = asyncio.Event()
