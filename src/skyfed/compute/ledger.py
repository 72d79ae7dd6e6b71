"""Every change of a machine goes through here: row and usage event in one transaction, then the projection.

Decisions are pure functions from the row to changes (`lifecycle`), taken inside the transaction: two of
them never see the same state.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from skyfed.compute import store
from skyfed.compute.contract import EngineVm, VmCounters
from skyfed.compute.lifecycle import Change, Record
from skyfed.compute.model import UsageEvent, Vm, VmState
from skyfed.compute.projection import Projection
from skyfed.compute.usage import CLOCK_TOLERANCE, ENDED, RUNNING, Meter, Stamp, stamp
from skyfed.core.clock import Clock
from skyfed.core.sql import Database
from skyfed.core.text import one_line

Decide = Callable[[Record], Sequence[Change]]
MAX_FAULT = 500
SAMPLES_A_JOB = 64
"""Machines whose counters one job stores: creates that come meanwhile wait for no more than that."""


class Ledger:
    """Writes machines. `site` is the registry name that usage events carry."""

    def __init__(self, db: Database, projection: Projection, *, clock: Clock, site: str) -> None:
        self._db = db
        self._projection = projection
        self._clock = clock
        self._site = site
        # How far wall and monotonic clock were apart at each machine's last event: the difference to the present
        # value is what the wall clock was set by in between. Those not here had their last event before our start.
        self._offsets: dict[str, float] = {}
        self._start_offset = self._offset()
        self._steady_offset = self._start_offset
        self._writing: set[asyncio.Task[Record | None]] = set()

    async def load(self) -> None:
        """Fill the projection from the database."""
        for record in await self._db.aread(store.live):
            self._projection.put(record)

    async def apply(self, vm_id: str, decide: Decide, *, view: EngineVm | None = None) -> Record | None:
        """Store what `decide` makes of the machine's row, with what `view` says of its addresses and
        counters.

        Returns the row as it is now; None: there is none. What `decide` raises comes out, with nothing
        stored. A cancelled caller does not stop the write: the projection learns of it all the same.
        """
        writing = asyncio.create_task(self._apply(vm_id, decide, view))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    async def _apply(self, vm_id: str, decide: Decide, view: EngineVm | None) -> Record | None:
        pen = self._pen(vm_id)

        def job(conn: Connection) -> tuple[Record | None, bool]:
            row = store.record(conn, vm_id)
            if row is None:
                return None, False
            new = row if view is None else _with_view(row, view)
            events = 0
            for change in decide(row):
                new, event = pen.change(new, change)
                if event is not None:
                    store.append(conn, event)
                    events += 1
            return _stored(conn, row, new), events > 0

        record, told = await self._db.awrite(job)
        self._done(record, pen, told)
        return record

    def opened(self, conn: Connection, vm: Vm) -> UsageEvent:
        """Write the first usage event of a machine whose row is being inserted."""
        event = _event(self._site, vm, None, Stamp(vm.created, 0.0, 0.0), Meter())
        store.append(conn, event)
        return event

    def created(self, record: Record) -> None:
        """Show a machine that has just been inserted."""
        self._offsets[record.vm.id] = self._offset()
        self._projection.put(record)
        self._projection.usage.bump()

    async def read(self, samples: Iterable[VmCounters], *, checkpoint: frozenset[str]) -> None:
        """Store counters; machines in `checkpoint` get a usage event that holds their total so far."""
        by_id = {sample.id: sample for sample in samples}
        ids = sorted({*by_id, *checkpoint})
        for start in range(0, len(ids), SAMPLES_A_JOB):
            part = ids[start : start + SAMPLES_A_JOB]
            await self._read({vm_id: by_id.get(vm_id) for vm_id in part}, checkpoint)

    async def _read(self, samples: Mapping[str, VmCounters | None], checkpoint: frozenset[str]) -> None:
        pens = {vm_id: self._pen(vm_id) for vm_id in samples}

        def job(conn: Connection) -> list[tuple[Record, Pen, bool]]:
            written = []
            for vm_id, sample in samples.items():
                row = store.record(conn, vm_id)
                if row is None or row.vm.observed is VmState.DELETED:
                    continue
                new = _with_sample(row, sample)
                told = vm_id in checkpoint and new.vm.observed not in ENDED
                if told:
                    new, event = pens[vm_id].sample(new)
                    store.append(conn, event)
                written.append((_stored(conn, row, new), pens[vm_id], told))
            return written

        for record, pen, told in await self._db.awrite(job):
            self._done(record, pen, told)

    def stepped(self) -> bool:
        """Whether the wall clock has jumped since this was asked last. All machines should be checkpointed then, so that
        no reader after our end has to know of the jump."""
        before, self._steady_offset = self._steady_offset, self._offset()
        return abs(self._steady_offset - before) > CLOCK_TOLERANCE

    def _done(self, record: Record | None, pen: "Pen", told: bool) -> None:
        if record is None:
            return
        if record.vm.observed is VmState.DELETED:
            self._offsets.pop(record.vm.id, None)
        elif told:
            self._offsets[record.vm.id] = pen.offset
        self._projection.put(record)
        if told:
            self._projection.usage.bump()

    def _pen(self, vm_id: str) -> "Pen":
        offset = self._offset()
        step = offset - self._offsets.get(vm_id, self._start_offset)
        return Pen(site=self._site, now=self._clock.now(), offset=offset, step=step)

    def _offset(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()


class Pen(msgspec.Struct, frozen=True, kw_only=True):
    """Writes changes into records at one instant."""

    site: str
    now: datetime
    offset: float
    step: float

    def change(self, record: Record, change: Change) -> tuple[Record, UsageEvent | None]:
        """The record after `change`, and the usage event if its state is a new one."""
        vm = record.vm
        fault = one_line(change.fault, MAX_FAULT) if change.fault else None
        desired = change.desired or vm.desired
        if change.observed is vm.observed:
            new = msgspec.structs.replace(vm, desired=desired, fault=fault)
            return msgspec.structs.replace(record, vm=new, method=change.method), None
        stamp = self._stamp(record, change.at)
        new = msgspec.structs.replace(
            vm,
            observed=change.observed,
            desired=desired,
            fault=fault,
            changed=stamp.when,
            launched=vm.launched or (stamp.when if change.observed in RUNNING else None),
            terminated=vm.terminated or (stamp.when if change.observed in ENDED else None),
        )
        return _stamped(msgspec.structs.replace(record, vm=new, method=change.method), stamp), _event(
            self.site, new, vm.observed, stamp, record.meter
        )

    def sample(self, record: Record) -> tuple[Record, UsageEvent]:
        """The record and a usage event that changes nothing but holds the counters."""
        stamp = self._stamp(record, None)
        return _stamped(record, stamp), _event(self.site, record.vm, record.vm.observed, stamp, record.meter)

    def _stamp(self, record: Record, at: datetime | None) -> Stamp:
        # Dates that are ahead of the clock since an earlier jump stay so: the clock jumped back against them.
        step = self.step - record.ahead
        return stamp(at or self.now, now=self.now, last=record.stamp, step=step)


def _stamped(record: Record, stamp: Stamp) -> Record:
    return msgspec.structs.replace(record, stamp=stamp.when, ahead=stamp.ahead)


def _event(site: str, vm: Vm, old: VmState | None, stamp: Stamp, meter: Meter) -> UsageEvent:
    return UsageEvent(
        seq=0,
        vm_id=vm.id,
        when=stamp.when,
        elapsed=stamp.elapsed,
        old=old,
        new=vm.observed,
        site=site,
        title=vm.title,
        owner=vm.owner,
        image_id=vm.image_id,
        image_identifier=vm.image_identifier,
        flavour=vm.flavour.term,
        cores=vm.flavour.cores,
        memory_mib=vm.flavour.memory_mib,
        disk_gib=vm.flavour.disk_gib,
        benchmark=vm.flavour.benchmark,
        counters=meter.total,
        public_ips=_public(vm),
    )


def _public(vm: Vm) -> int:
    addresses = (ipaddress.ip_address(address) for address in vm.addresses)
    return sum(address.is_global for address in addresses)


def _stored(conn: Connection, row: Record, new: Record) -> Record:
    if new == row:
        return row
    vm = msgspec.structs.replace(new.vm, version=row.vm.version + 1)
    new = msgspec.structs.replace(new, vm=vm)
    store.update(conn, new)
    return new


def _with_view(record: Record, view: EngineVm) -> Record:
    """The record with addresses as the engine shows them now. Counters come in even while it is being
    deleted."""
    vm = msgspec.structs.replace(record.vm, endpoints=view.endpoints, nics=view.nics, disks=view.disks)
    return _with_sample(msgspec.structs.replace(record, vm=vm), view.counters)


def _with_sample(record: Record, sample: VmCounters | None) -> Record:
    if sample is None:
        return record
    return msgspec.structs.replace(record, meter=record.meter.read(sample))
