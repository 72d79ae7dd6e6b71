"""Keeps the snapshot fresh: one supervised task a source, so that one that fails or hangs does not hold up the others."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from skyfed.core.clock import Clock
from skyfed.core.errors import SkyfedError
from skyfed.core.tasks import Supervisor
from skyfed.core.text import one_line
from skyfed.portal.model import Reading, Snapshot
from skyfed.portal.overview import Overview, overview

Read = Callable[[], Any]


class Portal:
    """What the federation looks like now. `readers` are the sources by their name in `Snapshot`; each blocks, in a thread."""

    def __init__(self, readers: Mapping[str, Read], clock: Clock, *, refresh: timedelta) -> None:
        self._readers = dict(readers)
        self._clock = clock
        self._refresh = refresh
        self._snapshot = msgspec.structs.replace(Snapshot(), **{name: Reading() for name in readers})

    @property
    def snapshot(self) -> Snapshot:
        """The readings so far."""
        return self._snapshot

    def overview(self) -> Overview:
        """What to show now."""
        return overview(self._snapshot, self._clock.now(), self._refresh)

    def start(self, tasks: Supervisor) -> None:
        """Ask every source now and then, in the running event loop."""
        for name in self._readers:
            tasks.every(name, self._refresh.total_seconds(), lambda name=name: self.read(name))  # type: ignore[misc]

    async def read(self, name: str) -> None:
        """Ask one source now. A failure is noted in the snapshot, and raised for the supervisor to note."""
        reading: Reading[Any] = getattr(self._snapshot, name)
        try:
            value = await asyncio.to_thread(self._readers[name])
        except Exception as error:
            # The reason is shown to everybody: the family's messages are made for that, others are not.
            known = isinstance(error, SkyfedError) and type(error) is not SkyfedError
            text = one_line(str(error), 300) if known else "it gave an answer that we could not read"
            self._put(name, reading.failed(text, self._clock.now()))
            raise
        self._put(name, reading.succeeded(value, self._clock.now()))

    def _put(self, name: str, reading: Reading[Any]) -> None:
        changes = {name: reading, "version": self._snapshot.version + 1}
        self._snapshot = msgspec.structs.replace(self._snapshot, **changes)
