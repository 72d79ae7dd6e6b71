"""The machines of one engine: their records in memory, on disk, and as events to whoever watches."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import datetime

import msgspec

from skyfed.compute.contract import EngineEvent, EngineVm, EventKind, VmCounters, engine_error
from skyfed.compute.engines.broadcast import Broadcast
from skyfed.compute.engines.libvirt.domain import GATEWAY, GUEST_ADDRESS, SSH_PORT
from skyfed.compute.engines.libvirt.records import Record, Records
from skyfed.compute.engines.ordering import Ordering
from skyfed.compute.model import Disk, Endpoint, Nic, VmState
from skyfed.core.text import shown

log = logging.getLogger(__name__)

RUNNING = frozenset(
    {VmState.ACTIVE, VmState.BUILDING, VmState.STOPPING, VmState.RESTARTING, VmState.SUSPENDED, VmState.SUSPENDING}
)
"""States in which a hypervisor process may be there."""
OFF = frozenset({VmState.STOPPED, VmState.ERROR, VmState.HIBERNATED})
"""States in which there is none."""


class Machines:
    """Lives on one event loop. Every change goes through `put`, `enter` or `drop`."""

    def __init__(self, records: Records, events: Broadcast) -> None:
        self._records = records
        self._events = events
        self._known: dict[str, Record] = {}
        self._counters: dict[str, VmCounters] = {}
        self._saving = Ordering()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._known.values()))

    def find(self, id: str) -> Record | None:
        """The record, if there is one."""
        return self._known.get(id)

    def get(self, id: str) -> Record:
        """The record. Raises NotFound."""
        record = self._known.get(id)
        if record is None:
            raise engine_error("not_found", f"there is no machine {shown(id)}")
        return record

    def adopt(self, record: Record) -> None:
        """Takes in what the disk holds, without an event."""
        self._known[record.id] = record

    async def put(self, record: Record) -> None:
        """A new or changed record; on disk when this returns. Published if its state is new."""
        last = self._known.get(record.id)
        self._known[record.id] = record
        self._changed.set()
        news = None if last and (last.state, last.since) == (record.state, record.since) else self.seen(record)
        await self._save(record.id, news)

    def enter(self, id: str, state: VmState, at: datetime, fault: str | None = None) -> None:
        """`state` began `at`. Nothing happens if the machine is in that state already.

        Look-ups show it at once; it is published once it is on disk, so that who was told finds it after a crash.
        """
        record = self._known.get(id)
        if record is None or (record.state, record.fault) == (state, fault):
            return
        since = max(at, record.since)  # a clock that steps back must not order a state before the one it follows
        changed = msgspec.structs.replace(record, state=state, since=since, fault=fault)
        if state is VmState.ACTIVE and record.state is VmState.BUILDING:
            changed = msgspec.structs.replace(changed, booted=since)
        if state not in RUNNING:
            last = self._counters.pop(id, None) or record.counters
            changed = msgspec.structs.replace(changed, counters=last)
        self._change(changed)

    def rebooted(self, id: str, at: datetime) -> None:
        """The guest booted again in the same process: `active` once more, from `at`."""
        record = self._known.get(id)
        # libvirt tells twice about one reset
        if record is None or (record.state is VmState.ACTIVE and (at - record.since).total_seconds() < 1):
            return
        since = max(at, record.since)
        self._change(msgspec.structs.replace(record, state=VmState.ACTIVE, since=since, fault=None))

    async def saved(self, id: str) -> None:
        """Waits until every change of the machine so far is on disk."""
        async with self._saving.only(id):
            return

    async def erase(self, id: str) -> bool:
        """Forgets the machine and removes its folder; whether there was anything."""
        known = self._known.pop(id, None) is not None
        self._counters.pop(id, None)
        self._changed.set()
        # After any change that is being saved, which would bring the folder back.
        async with self._saving.only(id):
            return await asyncio.to_thread(self._records.remove, id) or known

    def say_gone(self, id: str, at: datetime) -> None:
        """Tells everyone that nothing more is held of the machine."""
        self._events.publish(EngineEvent(kind=EventKind.GONE, at=at, id=id))

    def count(self, counters: VmCounters) -> None:
        """The newest counters of a running machine; older ones, or fewer seconds of the same boot, change nothing."""
        last = self._counters.get(counters.id)
        if last is None or last.boot != counters.boot or (counters.cpu_seconds or 0) >= (last.cpu_seconds or 0):
            self._counters[counters.id] = counters

    def counters(self, id: str) -> VmCounters | None:
        """The last known."""
        record = self._known.get(id)
        return self._counters.get(id) or (record.counters if record else None)

    async def reached(self, id: str, states: frozenset[VmState], seconds: float) -> bool:
        """Waits until the machine is in one of `states` (or gone); False if it is not within `seconds`."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                while (record := self._known.get(id)) is not None and record.state not in states:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def settle(self) -> None:
        """Waits until every change is on disk."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def seen(self, record: Record) -> EngineVm:
        """A machine as the contract shows it."""
        if not record.whole and record.state is VmState.BUILDING:
            return leftover(record.id, record.since)
        ssh = Endpoint(name="ssh", host="127.0.0.1", port=record.ssh_port, guest_port=SSH_PORT)
        nic = Nic(id=f"{record.id}_0", interface="eth0", mac=record.mac, address=GUEST_ADDRESS, gateway=GATEWAY)
        disk = Disk(id=f"{record.id}_root", device="vda", size_gib=record.disk_gib)
        return EngineVm(
            id=record.id,
            state=record.state,
            since=record.since,
            booted=record.booted,
            fault=record.fault,
            endpoints=(ssh,) if record.state in RUNNING and record.ssh_port else (),
            nics=(nic,),
            disks=(disk,),
            counters=self.counters(record.id),
        )

    def _change(self, record: Record) -> None:
        self._known[record.id] = record
        self._changed.set()
        task = asyncio.get_running_loop().create_task(self._save(record.id, self.seen(record)))
        self._tasks.add(task)
        task.add_done_callback(self._saved)

    async def _save(self, id: str, news: EngineVm | None) -> None:
        """In the order of the changes, and so are their events."""
        async with self._saving.only(id):
            record = self._known.get(id)
            if record is not None:
                await asyncio.to_thread(self._records.save, record)
            if news is not None:
                self._events.publish(EngineEvent(kind=EventKind.STATE, at=news.since, id=id, vm=news))

    def _saved(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a machine's record could not be saved: %s", task.exception())


def leftover(id: str, since: datetime) -> EngineVm:
    """What an unfinished create left, for the service above to create again or delete."""
    return EngineVm(id=id, state=VmState.BUILDING, since=since)
