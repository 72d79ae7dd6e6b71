"""Closes the gap between what owners asked for and what the engine has.

One worker a machine at a time asks the engine for the next thing (`lifecycle.next_call`) until nothing is
left to ask; events and periodic look-ups tell what really happened. A crash at any point is repaired by the
next look-up: the row is written before the engine is asked, and what the engine makes carries the row's UUID.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import msgspec

from skyfed.compute import store
from skyfed.compute.contract import (
    TRANSIENT,
    Capabilities,
    Engine,
    EngineEvent,
    EngineHealth,
    EngineVm,
    EventKind,
    VmSpec,
    error_code,
)
from skyfed.compute.ledger import Ledger
from skyfed.compute.lifecycle import Call, Change, Record, next_call, seen, vanished
from skyfed.compute.model import (
    DesiredState,
    ImageState,
    RestartMethod,
    StopMethod,
    Vm,
    VmState,
)
from skyfed.compute.projection import Projection
from skyfed.compute.settings import ComputeSettings
from skyfed.compute.usage import RUNNING
from skyfed.core.clock import Clock
from skyfed.core.errors import SkyfedError
from skyfed.core.log import event as log_event
from skyfed.core.sql import Database
from skyfed.core.text import one_line

log = logging.getLogger(__name__)

LAST_RETRY_SECONDS = 30.0
# How long the engine may take to follow a request that it has accepted, before it is asked again.
PATIENCE_SECONDS = 120.0
# Engine events that are stored at once: a burst shares one commit, memory stays bounded.
EVENTS_IN_FLIGHT = 256


class _Issued(msgspec.Struct, frozen=True):
    """A request that the engine has accepted: not to be repeated unless it forgets or takes too long."""

    call: Call
    method: str
    at: float

    def same(self, call: Call, record: Record) -> bool:
        return (self.call, self.method) == (call, record.method)


class _EngineFailed(Exception):
    """What an engine call raised: told apart from failures of our own, which are no news of the machine."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Worker:
    """What is asking the engine for one machine. `nudged` ends its pauses."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.nudged = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Reconciler:
    """Owns all calls to the engine that concern machines. Lives on one event loop."""

    def __init__(
        self,
        engine: Engine,
        db: Database,
        ledger: Ledger,
        projection: Projection,
        *,
        settings: ComputeSettings,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._db = db
        self._ledger = ledger
        self._projection = projection
        self._settings = settings
        self._clock = clock
        self._wake = wake
        self._slots = asyncio.Semaphore(settings.engine_calls)
        self._workers: dict[str, _Worker] = {}
        self._issued: dict[str, _Issued] = {}
        # Grows when the engine may have forgotten what it was asked for.
        self._epoch = 0
        # Counts what the engine has told; a look-up that began before a later telling is old news for that
        # machine.
        self._tellings = 0
        self._told: dict[str, int] = {}
        self._unknown: dict[str, float] = {}
        self._checkpointed = clock.monotonic()
        self._closing = False
        # Images on their way in, by SHA-512, and how many imports have begun so far.
        self._incoming: dict[str, int] = {}
        self._imports = 0
        self.synced = asyncio.Event()
        """Set once the engine's machines have been looked up for the first time."""
        self.health = EngineHealth(ok=False, engine="", version="", acceleration="", detail="not asked yet")
        self.capabilities: Capabilities | None = None
        projection.on_record(self.consider)

    async def close(self) -> None:
        """Stop asking the engine. What is under way there goes on, and is found again at the next start."""
        self._closing = True
        tasks = [worker.task for worker in self._workers.values() if worker.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what the engine tells -------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Store what happens in the engine, as it happens. Ends when the engine's stream ends."""
        storing: set[asyncio.Task[None]] = set()
        try:
            async for event in self._engine.events():
                # Tasks begin in the order they are made, and so do their writes.
                task = asyncio.create_task(self._tell(event))
                storing.add(task)
                task.add_done_callback(storing.discard)
                task.add_done_callback(self._told_in_vain)
                if len(storing) >= EVENTS_IN_FLIGHT:
                    await asyncio.wait(storing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in storing:
                task.cancel()  # what is being written is written all the same: see Ledger.apply

    def _told_in_vain(self, task: asyncio.Task[None]) -> None:
        """What could not be stored is found again by a look-up."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an engine event could not be stored", exc_info=error)
            self._wake()

    async def _tell(self, event: EngineEvent) -> None:
        if event.kind is EventKind.RESYNC:
            self._epoch += 1
            self._issued.clear()
            self._wake()
        elif event.kind is EventKind.GONE and event.id is not None:
            self._mark(event.id)
            await self._ledger.apply(event.id, lambda record: vanished(record.vm, event.at))
        elif event.vm is not None:
            await self._observe(event.vm)

    async def _observe(self, view: EngineVm, *, answer: bool = False) -> None:
        self._mark(view.id)
        await self._ledger.apply(view.id, lambda record: seen(record, view, answer=answer), view=view)

    def _mark(self, vm_id: str) -> None:
        self._tellings += 1
        self._told[vm_id] = self._tellings

    # -- look-ups --------------------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Compare everything once. Raises what the engine raises when it cannot be asked."""
        try:
            self.health = await self._engine.probe()
            if self.capabilities is None and self.health.ok:
                self.capabilities = await self._engine.capabilities()
            await self._reconcile()
        except Exception as error:
            text = error.message if isinstance(error, SkyfedError) else "the engine cannot be asked"
            self.health = msgspec.structs.replace(self.health, ok=False, detail=text)
            raise

    async def _reconcile(self) -> None:
        before = self._tellings
        views = {view.id: view for view in await self._engine.list()}
        await asyncio.gather(*(self._compare(record, views, before) for record in self._projection.records()))
        if not self.synced.is_set():
            # Before this, no request was repeated: a restart that is done already must not be done twice.
            self.synced.set()
        for record in self._projection.records():
            self.consider(record)
        await self._remove_orphans([vm_id for vm_id in views if self._projection.record(vm_id) is None])
        await self._compare_images()
        for vm_id in self._told.keys() - views.keys():
            if self._projection.record(vm_id) is None:
                del self._told[vm_id]

    async def _compare(self, record: Record, views: dict[str, EngineVm], before: int) -> None:
        vm_id = record.vm.id
        if vm_id in self._workers or self._told.get(vm_id, 0) > before:
            return
        view = views.get(vm_id)
        if view is not None:
            if seen(record, view) or _moved(record.vm, view):  # else there is nothing to write
                await self._observe(view)
        elif record.vm.desired is not DesiredState.DELETED:
            at = _last_proof(record)
            await self._ledger.apply(vm_id, lambda row: vanished(row.vm, at))

    async def _remove_orphans(self, unknown: Sequence[str]) -> None:
        """Delete what the engine has and nobody owns: at once what was deleted here, later what was never
        known."""
        if not unknown:
            self._unknown.clear()
            return
        # On the writer, so that every create that was queued before the look-up has been stored.
        ours = await self._db.awrite(lambda conn: store.known(conn, unknown))
        now = self._clock.monotonic()
        self._unknown = {vm_id: self._unknown.get(vm_id, now) for vm_id in unknown if vm_id not in ours}
        due = [
            vm_id for vm_id in unknown if vm_id in ours or now - self._unknown[vm_id] >= self._settings.orphan_seconds
        ]
        for vm_id in due:
            if self._projection.record(vm_id) is not None:
                continue  # created while we looked
            log_event(log, logging.WARNING, "deleting a guest that nobody owns", vm=vm_id)
            try:
                async with self._slots:
                    await _asked(self._engine.delete(vm_id))
            except _EngineFailed as failure:
                log.warning("guest %s is still there: %s", vm_id, failure)  # the next look-up tries again

    @property
    def unknown(self) -> tuple[str, ...]:
        """Guests in the engine that this service never made: deleted after `orphan_seconds`."""
        return tuple(sorted(self._unknown))

    @contextmanager
    def importing(self, sha512: str) -> Iterator[None]:
        """Inside, the image is on its way in and not to be cleaned away."""
        self._imports += 1
        self._incoming[sha512] = self._incoming.get(sha512, 0) + 1
        try:
            yield
        finally:
            self._incoming[sha512] -= 1
            if not self._incoming[sha512]:
                del self._incoming[sha512]

    async def _compare_images(self) -> None:
        before, imports = dict(self._incoming), self._imports
        present = await self._engine.images()
        images = self._projection.images()
        if (before, imports) == (self._incoming, self._imports):  # none began or ended while the engine was asked
            self._projection.held_by_engine(present, self._clock.now())
        needed = {image.sha512 for image in images if image.state is ImageState.AVAILABLE}
        needed |= {record.image_sha512 for record in self._projection.records()}
        needed |= self._incoming.keys() | before.keys()
        for sha512 in sorted(present - needed):
            log_event(log, logging.INFO, "removing an image that nothing needs", sha512=sha512)
            await self._engine.remove_image(sha512)

    # -- counters --------------------------------------------------------------------------------------------

    async def sample(self) -> None:
        """Read the counters once; store them, as usage events where it is time."""
        if not self.synced.is_set():
            return  # a guest that ended while we were away must not be counted up to now
        samples = [sample for sample in await self._engine.stats() if self._projection.record(sample.id) is not None]
        now = self._clock.monotonic()
        checkpoint: frozenset[str] = frozenset()
        if self._ledger.stepped():
            checkpoint = frozenset(record.vm.id for record in self._projection.records())
        elif now - self._checkpointed >= self._settings.checkpoint_seconds:
            self._checkpointed = now
            checkpoint = frozenset(sample.id for sample in samples)
        await self._ledger.read(samples, checkpoint=checkpoint)

    # -- workers ---------------------------------------------------------------------------------------------

    def consider(self, record: Record) -> None:
        """Start or wake the machine's worker if the engine has to be asked for something."""
        vm_id = record.vm.id
        call = None if self._closing or not self.synced.is_set() else next_call(record)
        if call is None:
            self._issued.pop(vm_id, None)
            return
        issued = self._issued.get(vm_id)
        if issued is not None and not issued.same(call, record):
            del self._issued[vm_id]
        worker = self._workers.get(vm_id)
        if worker is not None and (worker.call is call or call is not Call.DELETE):
            worker.nudged.set()
        elif not self._wait_on(call, record):
            if worker is not None and worker.task is not None:
                worker.task.cancel()  # whatever it waits for does not matter any more
            self._workers[vm_id] = worker = _Worker(call)
            worker.task = asyncio.create_task(self._work(vm_id, worker), name=f"vm-{vm_id}")

    async def _work(self, vm_id: str, worker: _Worker) -> None:
        retry = self._settings.retry_seconds
        try:
            while (record := self._projection.record(vm_id)) is not None:
                call = next_call(record)
                if call is None or self._wait_on(call, record):
                    return
                worker.call = call
                worker.nudged.clear()
                if await self._try_anyway(call, record):
                    retry = self._settings.retry_seconds
                    continue
                await _sleep_unless(worker.nudged, retry)
                retry = min(LAST_RETRY_SECONDS, retry * 2)
        finally:
            if self._workers.get(vm_id) is worker:
                del self._workers[vm_id]

    def _wait_on(self, call: Call, record: Record) -> bool:
        """Whether the engine has accepted this very request and may still be given time to follow."""
        issued = self._issued.get(record.vm.id)
        patience = PATIENCE_SECONDS + (self._settings.stop_grace_seconds if call is Call.STOP else 0.0)
        return issued is not None and issued.same(call, record) and self._clock.monotonic() - issued.at < patience

    async def _try_anyway(self, call: Call, record: Record) -> bool:
        try:
            return await self._try(call, record)
        except Exception:
            # Ours, not the engine's (the database, say): the machine's state is not in doubt, so just try again.
            log.exception("%s of %s could not be done", call, record.vm.id)
            return False

    async def _try(self, call: Call, record: Record) -> bool:
        """Ask the engine once. False: to be tried again after a while."""
        try:
            async with self._slots:
                # The wait for a slot may have been long: ask only for what is still wanted.
                now = self._projection.record(record.vm.id)
                if now is None or next_call(now) is not call:
                    return True
                issued = self._issued.get(now.vm.id)
                if call is Call.RESTART and issued is not None:
                    await self._give_up_restart(now.vm)
                    return True
                epoch = self._epoch
                await self._ask(call, now)
                after = self._projection.record(now.vm.id)
                if after is not None and next_call(after) is call and epoch == self._epoch:
                    self._issued[now.vm.id] = _Issued(call, now.method, self._clock.monotonic())
        except _EngineFailed as failure:
            self._issued.pop(record.vm.id, None)
            return await self._failed(call, record, failure.error)
        return True

    async def _ask(self, call: Call, record: Record) -> None:
        vm = record.vm
        match call:
            case Call.CREATE:
                await self._create(record)
            case Call.START:
                await self._answer(vm, await _asked(self._engine.start(vm.id)))
            case Call.STOP:
                method = StopMethod(record.method)
                grace = 0.0 if method is StopMethod.POWEROFF else self._settings.stop_grace_seconds
                await self._answer(vm, await _asked(self._engine.stop(vm.id, method, grace)))
            case Call.RESTART:
                view = await _asked(self._engine.restart(vm.id, RestartMethod(record.method)))
                await self._answer(vm, view)
            case Call.DELETE:
                await self._delete(vm)

    async def _answer(self, vm: Vm, view: EngineVm) -> None:
        await self._observe(view, answer=True)
        log_event(log, logging.INFO, "engine answered", vm=vm.id, state=view.state)

    async def _create(self, record: Record) -> None:
        vm = record.vm
        if vm.observed is VmState.PENDING:
            building = Change(observed=VmState.BUILDING)
            await self._ledger.apply(vm.id, lambda row: (building,) if row.vm.observed is VmState.PENDING else ())
        context = await self._db.aread(lambda conn: store.context(conn, vm.id))
        spec = VmSpec(
            id=vm.id,
            title=vm.title,
            image_sha512=record.image_sha512,
            cores=vm.flavour.cores,
            memory_mib=vm.flavour.memory_mib,
            disk_gib=vm.flavour.disk_gib,
            context=context,
            owner_digest=vm.owner.digest,
            vo=vm.owner.vo,
        )
        view = await _asked(self._engine.create(spec))
        if view.state is VmState.STOPPED and view.booted is None:
            view = await _asked(self._engine.start(vm.id))  # made by an earlier try that died before switching on
        await self._answer(vm, view)

    async def _delete(self, vm: Vm) -> None:
        if vm.launched is not None:
            await self._last_counters(vm.id)
        await _asked(self._engine.delete(vm.id))
        self._mark(vm.id)
        await self._ledger.apply(vm.id, lambda row: vanished(row.vm, None))

    async def _last_counters(self, vm_id: str) -> None:
        """Take the counters with us before the machine is gone. Not knowing them is no reason to keep it."""
        try:
            await self._observe(await _asked(self._engine.get(vm_id)))
        except _EngineFailed as failure:
            log.info("no last counters of %s: %s", vm_id, one_line(str(failure)))

    async def _give_up_restart(self, vm: Vm) -> None:
        """The guest did not follow a restart in time: show what it does, and say so."""
        view = await _asked(self._engine.get(vm.id))
        fault = "the guest did not follow the restart; try method 'cold'"
        changes = Change(observed=view.state, at=view.since, fault=fault)
        if view.state is VmState.ACTIVE:
            await self._ledger.apply(vm.id, lambda row: (changes,) if row.vm == vm else ())
        else:
            await self._observe(view, answer=True)

    async def _failed(self, call: Call, record: Record, error: Exception) -> bool:
        """Decide after a failed call. False: try again later."""
        vm = record.vm
        code = error_code(error)
        text = _for_owner(error)
        expected = isinstance(error, SkyfedError | OSError)
        log.warning("%s of %s failed (%s)", call, vm.id, code, exc_info=not expected)
        if code in TRANSIENT or call is Call.DELETE:
            await self._note(vm, f"waiting to {call}: {text}")
            return False
        if code == "not_found" and call is not Call.CREATE:
            await self._ledger.apply(vm.id, lambda row: vanished(row.vm, None))
            return True
        if call in (Call.CREATE, Call.START):
            await self._settle(vm, Change(observed=VmState.ERROR, fault=f"{call} failed: {text}"))
            return True
        return await self._refused(vm, f"{call} failed: {text}")

    async def _refused(self, vm: Vm, fault: str) -> bool:
        """The engine will not stop or restart it: go back to what it really is."""
        try:
            view = await _asked(self._engine.get(vm.id))
        except _EngineFailed as failure:
            await self._note(vm, _for_owner(failure.error))
            return False
        if view.state in RUNNING:
            change = Change(observed=VmState.ACTIVE, at=view.since, desired=DesiredState.ACTIVE, fault=fault)
            await self._settle(vm, change)
        else:
            await self._observe(view, answer=True)
        return True

    async def _settle(self, vm: Vm, change: Change) -> None:
        """Store `change` unless its owner has asked for something else meanwhile."""

        def decide(row: Record) -> Sequence[Change]:
            return (change,) if (row.vm.desired, row.vm.changed) == (vm.desired, vm.changed) else ()

        await self._ledger.apply(vm.id, decide)

    async def _note(self, vm: Vm, fault: str) -> None:
        """Say why it takes so long."""

        def decide(row: Record) -> Sequence[Change]:
            if row.vm.observed is not vm.observed or row.vm.fault == fault:
                return ()
            return (Change(observed=row.vm.observed, fault=fault, method=row.method),)

        await self._ledger.apply(vm.id, decide)


Answer = TypeVar("Answer")


async def _asked(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except Exception as error:
        raise _EngineFailed(error) from error


def _for_owner(error: Exception) -> str:
    """What an owner may read of an engine's failure: the words of the contract's errors, nothing of others."""
    return error.message if isinstance(error, SkyfedError) else "the engine failed; its log says why"


def _moved(vm: Vm, view: EngineVm) -> bool:
    return (vm.endpoints, vm.nics, vm.disks) != (view.endpoints, view.nics, view.disks)


def _last_proof(record: Record) -> datetime:
    """When the machine was last known to be there: for one that vanished while nobody looked."""
    read = record.meter.at
    return record.vm.changed if read is None else max(read, record.vm.changed)


async def _sleep_unless(nudged: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await nudged.wait()
    except TimeoutError:
        return
