"""The libvirt engine: the contract on one host's QEMU (compute digest 4).

All state lives on the event loop of whoever uses the engine; libvirt and the disk are reached through threads. What
libvirt tells is told to the loop, where a machine's record changes, is saved, and is published.
"""

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import libvirt
import msgspec

from skyfed.compute.contract import (
    STOP_GRACE,
    Capabilities,
    EngineEvent,
    EngineHealth,
    EngineVm,
    VmCounters,
    VmSpec,
    engine_error,
)
from skyfed.compute.engines.broadcast import Broadcast
from skyfed.compute.engines.libvirt import console, ports, qemu_img
from skyfed.compute.engines.libvirt.acceleration import Verdict, judge
from skyfed.compute.engines.libvirt.adoption import adopt, clear_ended, forget_traces, traces
from skyfed.compute.engines.libvirt.connection import Connection, embedded_uri, forget_short_path, run_event_loop
from skyfed.compute.engines.libvirt.domain import Domain, document, is_uuid
from skyfed.compute.engines.libvirt.domains import Domains
from skyfed.compute.engines.libvirt.images import ImageCache
from skyfed.compute.engines.libvirt.machines import OFF, RUNNING, Machines, leftover
from skyfed.compute.engines.libvirt.nocloud import context_disk
from skyfed.compute.engines.libvirt.observed import from_event
from skyfed.compute.engines.libvirt.records import Record, Records, write_durably
from skyfed.compute.engines.libvirt.sampler import Sampler
from skyfed.compute.engines.libvirt.settings import Settings
from skyfed.compute.engines.ordering import Ordering
from skyfed.compute.model import Action, DiskFormat, RestartMethod, StopMethod, VmState
from skyfed.core.clock import Clock, SystemClock
from skyfed.core.errors import SkyfedError
from skyfed.core.text import shown

log = logging.getLogger(__name__)

_EMULATOR = "qemu-system-x86_64"
_GIB = 1 << 30
# One reading of /proc a machine: what a guest uses in its last second may be missing from its record, not more.
_KEEPING_SECONDS = 1.0
# libvirt's own wait before it gives a process up is 15 s with SIGTERM, then 15 s with SIGKILL.
_OFF_SECONDS = 35.0
# Between libvirt's answer and its event of the same thing.
_WORD_SECONDS = 1.0
_REOPEN_SECONDS = 5.0
_PORT_ATTEMPTS = 3


@dataclass(frozen=True)
class _Open:
    """What is there once the engine is open."""

    domains: Domains
    verdict: Verdict
    version: str
    emulator: Path


class LibvirtEngine:
    """The engine contract on this host. Opens with the first call; safe for one process a root at a time."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        # Overlays and running QEMUs name their files by absolute path, whatever our working directory is later.
        self._settings = msgspec.structs.replace(settings, root=settings.root.absolute())
        self._root = self._settings.root
        self._clock = clock or SystemClock()
        self._events = Broadcast(self._clock)
        self._ordering = Ordering()
        self._records = Records(self._root / "machines")
        self._machines = Machines(self._records, self._events)
        self._images = ImageCache(self._settings, self._in_use)
        self._sampler = Sampler(self._machines, self._clock, _pid_folder(self._settings))
        self._opening: asyncio.Task[_Open] | None = None
        self._retry_at = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._following: dict[str, asyncio.Task[None]] = {}
        # Guests that are off, whose hypervisor process has not ended yet: set once it has.
        self._ending: dict[str, asyncio.Event] = {}
        self._closed = False

    # --- the contract ------------------------------------------------------------------------------------------

    async def probe(self) -> EngineHealth:
        try:
            opened = await self._usable()
        except SkyfedError as sick:
            return EngineHealth(ok=False, engine="libvirt", version="", acceleration="none", detail=sick.message)
        verdict = opened.verdict
        return EngineHealth(
            ok=True,
            engine="libvirt",
            version=opened.version,
            acceleration=verdict.acceleration,
            detail=verdict.reason,
        )

    async def capabilities(self) -> Capabilities:
        await self._usable()
        return Capabilities(
            actions=frozenset(Action),
            disk_formats=frozenset(qemu_img.QEMU_DRIVER),
            # A user-mode interface has no counters in libvirt or QEMU.
            network_counters=False,
            cores=os.cpu_count(),
            memory_mib=self._memory_mib(),
            disk_gib=round(shutil.disk_usage(self._root).total / _GIB, 1),
        )

    async def import_image(self, sha512: str, path: str, disk_format: DiskFormat) -> None:
        await self._usable()
        await self._images.add(sha512, Path(path), disk_format)

    async def remove_image(self, sha512: str) -> None:
        await self._usable()
        self._images.remove(sha512)

    async def images(self) -> frozenset[str]:
        await self._usable()
        return await asyncio.to_thread(self._images.all)

    async def create(self, spec: VmSpec) -> EngineVm:
        if not is_uuid(spec.id):
            raise engine_error("invalid", f"{shown(spec.id)} is no UUID in lower case")
        opened = await self._usable()
        async with self._ordering.only(spec.id):
            record = self._machines.find(spec.id)
            if record is not None and record.whole:
                return self._machines.seen(record)
            await self._wipe(spec.id, opened)
            try:
                return await self._make(spec, opened)
            except BaseException:
                # Also when cancelled: nothing half-made stays, unless this process dies here; then `list` shows it.
                await asyncio.shield(self._unmake(spec.id, opened))
                raise

    async def start(self, id: str) -> EngineVm:
        opened = await self._usable()
        async with self._ordering.only(id):
            record = self._machines.get(id)
            if record.state is VmState.SUSPENDED:
                await opened.domains.resume(id)
                await self._machines.reached(id, frozenset({VmState.ACTIVE}) | OFF, _OFF_SECONDS)
            elif record.state in OFF:
                await self._boot(record, opened)
            elif record.state in (VmState.STOPPING, VmState.DELETING):
                raise engine_error("conflict", f"the machine is {record.state}; start it when it is stopped")
            return await self._saved(id)

    async def stop(self, id: str, method: StopMethod, grace: float) -> EngineVm:
        opened = await self._usable()
        async with self._ordering.only(id):
            record = self._machines.get(id)
            if record.state in RUNNING:
                if method is StopMethod.POWEROFF or record.state is VmState.SUSPENDED or grace <= 0:
                    await self._power_off(id, opened)
                elif record.state is not VmState.STOPPING:
                    await opened.domains.press_power_button(id)
                    self._machines.enter(id, VmState.STOPPING, self._clock.now())
                    self._follow(id, self._see_off(id, grace, opened))
            return await self._saved(id)

    async def restart(self, id: str, method: RestartMethod) -> EngineVm:
        opened = await self._usable()
        async with self._ordering.only(id):
            record = self._machines.get(id)
            if record.state is not VmState.ACTIVE:
                raise engine_error("conflict", f"the machine is {record.state}; only an active one can be restarted")
            self._machines.enter(id, VmState.RESTARTING, self._clock.now())
            try:
                await (opened.domains.reset if method is RestartMethod.COLD else opened.domains.reboot)(id)
            except SkyfedError:
                await self._look(id, opened)
                raise
            if method is not RestartMethod.COLD:
                self._follow(id, self._see_rebooted(id, opened))
            return await self._saved(id)

    async def delete(self, id: str) -> None:
        if not is_uuid(id):
            return
        opened = await self._usable()
        async with self._ordering.only(id):
            record = self._machines.find(id)
            if record is not None:
                self._machines.enter(id, VmState.DELETING, self._clock.now())
            await self._unmake(id, opened)
            if record is not None:
                self._images.tidy(record.image_sha512)

    async def get(self, id: str) -> EngineVm:
        await self._usable()
        return self._machines.seen(self._machines.get(id))

    async def list(self) -> tuple[EngineVm, ...]:
        opened = await self._usable()
        found = [self._machines.seen(record) for record in self._machines]
        known = {vm.id for vm in found}
        for id, since in await traces(self._records, opened.domains):
            if id not in known and self._machines.find(id) is None:
                found.append(leftover(id, since))
        return tuple(found)

    async def stats(self) -> tuple[VmCounters, ...]:
        opened = await self._usable()
        return await self._sampler.sweep(opened.domains.connection)

    async def console_log(self, id: str, tail_bytes: int) -> bytes:
        await self._usable()
        record = self._machines.get(id)
        return await asyncio.to_thread(console.tail, self._file(record.id, "serial.log"), tail_bytes)

    def events(self) -> AsyncIterator[EngineEvent]:
        return self._events.stream()

    async def close(self) -> None:
        self._closed = True
        tasks = [task for task in (self._keeper, *self._following.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._opening is not None:
            opened = (await asyncio.gather(self._opening, return_exceptions=True))[0]
            if isinstance(opened, _Open):
                await asyncio.to_thread(opened.domains.connection.close)
                if not any(record.state in RUNNING for record in self._machines):
                    await asyncio.to_thread(forget_short_path, self._root)
        await self._machines.settle()
        self._events.close()

    # --- opening -----------------------------------------------------------------------------------------------

    async def _usable(self) -> _Open:
        """The open engine. Raises Unavailable (`engine_down`) where it does not open; tries again after a while."""
        loop = asyncio.get_running_loop()
        failed = self._opening is not None and self._opening.done() and self._opening.exception() is not None
        if self._opening is None or (failed and loop.time() >= self._retry_at):
            if self._closed:
                raise engine_error("engine_down", "the engine is closed")
            self._retry_at = loop.time() + _REOPEN_SECONDS
            self._opening = loop.create_task(self._open())
        # Not cancelled with the one who asked first: others wait for it too.
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Open:
        try:
            await asyncio.to_thread(self._lay_out)
            # Before libvirt opens, which ends the processes of guests that went off while nobody watched.
            used = await asyncio.to_thread(lambda: self._sampler.read(self._records.ids()))
            run_event_loop()
            uri = self._settings.uri or await asyncio.to_thread(self._embedded)
            connection = await asyncio.to_thread(Connection, uri)
            opened = await self._opened(connection, used)
        except SkyfedError as refused:
            log.exception("the engine does not open")
            raise engine_error("engine_down", f"the engine does not open: {refused.message}") from refused
        except OSError as refused:
            log.exception("the engine does not open")
            raise engine_error("engine_down", f"the engine does not open: {refused.strerror}") from refused
        self._keeper = self._keeper or asyncio.get_running_loop().create_task(self._keep())
        self._events.resync()
        return opened

    def _lay_out(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        # Disks and contexts are for this user alone; only a system-wide libvirt runs QEMU as another.
        self._root.chmod(0o711 if self._settings.uri.startswith("qemu:///system") else 0o700)
        self._records.open()
        self._images.open()

    def _embedded(self) -> str:
        clear_ended(self._root)
        return embedded_uri(self._root)

    async def _opened(self, connection: Connection, used: dict[str, VmCounters]) -> _Open:
        loop = asyncio.get_running_loop()

        looked = False
        early: list[Callable[[], None]] = []

        def hear(word: Callable[[], None]) -> None:
            if looked:
                word()
            else:
                early.append(word)

        def lifecycle(id: str, event: int, detail: int) -> None:
            loop.call_soon_threadsafe(hear, partial(self._on_lifecycle, id, event, detail, self._clock.now()))

        def rebooted(id: str) -> None:
            loop.call_soon_threadsafe(hear, partial(self._on_reboot, id, self._clock.now()))

        def lost() -> None:
            loop.call_soon_threadsafe(self._on_lost)

        try:
            domains = Domains(connection)
            emulator = _emulator()
            version = await domains.version()
            cache = self._root / "acceleration.json"
            verdict = await judge(self._settings.acceleration, self._settings.probe_image, emulator, version, cache)
            log.info("%s on %s: %s", version, verdict.acceleration, verdict.reason)
            for id in tuple(self._ending):
                self._ended(id)  # while there was no connection nobody could have told
            # Events first, so that nothing that happens while we look is missed; they wait until we have looked, which
            # dates better what happened before.
            connection.watch(lifecycle, rebooted, lost)
            for id in await adopt(self._records, self._machines, domains, self._root):
                self._await_end(id)
            for id, counters in used.items():
                if (record := self._machines.find(id)) is not None:
                    # A reading says that the guest ran when it was taken: of one that is off, no later than its end.
                    at = record.since if record.state in OFF else counters.at
                    self._machines.count(msgspec.structs.replace(counters, at=at))
            looked = True
            for word in early:
                word()
        except BaseException:
            await asyncio.to_thread(connection.close)
            raise
        return _Open(domains=domains, verdict=verdict, version=version, emulator=emulator)

    def _on_lost(self) -> None:
        """libvirtd went away (never in embedded mode): open again at once, so that events come again."""
        log.warning("the connection to libvirt is lost")
        lost, self._opening = self._opening, None
        if self._closed or lost is None:
            return

        async def reopen() -> None:
            connection = (await lost).domains.connection
            await asyncio.to_thread(connection.close)
            await self._usable()

        self._follow("connection", reopen())

    # --- what libvirt tells ------------------------------------------------------------------------------------

    def _on_lifecycle(self, id: str, event: int, detail: int, at: datetime) -> None:
        record = self._machines.find(id)
        if record is None or record.state is VmState.DELETING:
            return
        if event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
            self._on_guest_off(id, record.state, at)
            return
        observation = from_event(event, detail)
        if observation is None:
            return
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and self._ended(id):
            self._sampler.forget(id)
            return
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            self._sampler.forget(id)
            self._sampler.take(id)
        if observation.state is VmState.ACTIVE:
            self._ended(id)
            if record.state in (VmState.STOPPING, VmState.RESTARTING):
                return
        state, fault = observation.state, observation.fault
        if state is VmState.ERROR and record.state is VmState.STOPPING:
            state, fault = VmState.STOPPED, None  # it was told to end, and ended
        self._machines.enter(id, state, at, fault)
        if state in OFF:
            self._sampler.forget(id)

    def _on_guest_off(self, id: str, state: VmState, at: datetime) -> None:
        """The guest is off; QEMU waits to be ended by libvirt, so its counters can still be read, and are final.

        The machine is stopped from now on, though its process may take seconds more: process 1 of a container buries
        late what an engine host that was killed has left to it. Who needs the process gone waits for that (`_over`).
        """
        self._sampler.take(id)
        if state is not VmState.RESTARTING:  # else libvirt lets the same process boot again
            self._machines.enter(id, VmState.STOPPED, at)
            self._await_end(id)

    def _await_end(self, id: str) -> None:
        if id not in self._ending:
            self._ending[id] = asyncio.Event()
            self._follow(id, self._see_ended(id, self._ending[id]))

    def _ended(self, id: str) -> bool:
        """Notes the end of the process of a guest that is off; False: there is none such."""
        ending = self._ending.pop(id, None)
        if ending is not None:
            ending.set()
        return ending is not None

    def _on_reboot(self, id: str, at: datetime) -> None:
        record = self._machines.find(id)
        if record is not None and record.state in (VmState.ACTIVE, VmState.RESTARTING):
            self._machines.rebooted(id, at)

    async def _keep(self) -> None:
        """Every second: counters, and consoles that grow too long."""
        while True:
            await asyncio.sleep(_KEEPING_SECONDS)
            self._sampler.take_all()
            logs = [self._file(record.id, "serial.log") for record in self._machines if record.state in RUNNING]
            try:
                await asyncio.to_thread(_trim_all, logs, self._settings.console_bytes)
            except OSError as error:
                log.warning("a console log could not be trimmed: %s", error)

    # --- what it does ------------------------------------------------------------------------------------------

    async def _make(self, spec: VmSpec, opened: _Open) -> EngineVm:
        context = await asyncio.to_thread(context_disk, spec.id, spec.context)
        # From here to the record nothing else runs: an image is not removed between the look and the record.
        size = max(self._images.virtual_bytes(spec.image_sha512), int(spec.disk_gib * _GIB))
        self._check(spec, size)
        record = Record(
            id=spec.id,
            title=spec.title,
            image_sha512=spec.image_sha512,
            cores=spec.cores,
            memory_mib=spec.memory_mib,
            disk_gib=size / _GIB,
            owner_digest=spec.owner_digest,
            vo=spec.vo,
            mac=_new_mac(),
            ssh_port=0,
            whole=False,
            state=VmState.BUILDING,
            since=self._clock.now(),
        )
        await self._machines.put(record)
        base = self._images.base(spec.image_sha512)
        await asyncio.to_thread(write_durably, self._file(spec.id, "context.iso"), context, mode=0o600)
        await qemu_img.overlay(base, self._file(spec.id, "root.qcow2"), size)
        await self._run(record, opened)
        made = self._machines.get(spec.id)
        if made.state is VmState.BUILDING:  # libvirt's event may come a moment later than its answer
            now = self._clock.now()
            made = msgspec.structs.replace(made, state=VmState.ACTIVE, since=now, booted=now)
        made = msgspec.structs.replace(made, whole=True)
        await self._machines.put(made)
        return self._machines.seen(self._machines.get(spec.id))

    def _check(self, spec: VmSpec, size: int) -> None:
        if spec.cores < 1 or spec.memory_mib < 1:
            raise engine_error("invalid", f"{spec.cores} cores and {spec.memory_mib} MiB: both must be at least 1")
        if size > self._settings.max_disk_gib * _GIB:
            raise engine_error(
                "invalid", f"a disk of {size / _GIB:.1f} GiB; {self._settings.max_disk_gib} GiB are the limit here"
            )
        self._check_memory(spec.memory_mib)
        if shutil.disk_usage(self._root).free < self._settings.spare_disk_gib * _GIB:
            raise engine_error("no_capacity", "the host has no disk space left for another machine")

    def _check_memory(self, memory_mib: int) -> None:
        used = sum(record.memory_mib for record in self._machines if record.state in RUNNING)
        if used + memory_mib > self._memory_mib():
            raise engine_error(
                "no_capacity",
                f"the host has {max(0, self._memory_mib() - used)} MiB of memory left; the machine needs {memory_mib}",
            )

    async def _boot(self, record: Record, opened: _Open) -> None:
        """Starts a machine that is off. A refusal leaves it in error, with the reason."""
        self._check_memory(record.memory_mib)
        await self._over(record.id, opened)
        self._machines.enter(record.id, VmState.BUILDING, self._clock.now())
        try:
            await self._run(record, opened)
        except SkyfedError as refused:
            self._machines.enter(record.id, VmState.ERROR, self._clock.now(), refused.message)
            raise
        self._machines.enter(record.id, VmState.ACTIVE, self._clock.now())

    async def _run(self, record: Record, opened: _Open) -> None:
        """Defines the domain anew and starts it, on another port where somebody else has taken ours."""
        port = record.ssh_port
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = await asyncio.to_thread(ports.choose, port)
            await self._machines.put(msgspec.structs.replace(self._machines.get(record.id), ssh_port=port))
            try:
                await opened.domains.run(document(self._domain(record, port, opened)))
            except SkyfedError as refused:
                if "host forwarding" not in refused.message or attempt == _PORT_ATTEMPTS:
                    raise
                port = 0
            else:
                return

    def _domain(self, record: Record, port: int, opened: _Open) -> Domain:
        return Domain(
            id=record.id,
            title=record.title,
            cores=record.cores,
            memory_mib=record.memory_mib,
            acceleration=opened.verdict.acceleration,
            emulator=opened.emulator,
            root_disk=self._file(record.id, "root.qcow2"),
            base=self._images.base(record.image_sha512),
            context_disk=self._file(record.id, "context.iso"),
            serial_log=self._file(record.id, "serial.log"),
            mac=record.mac,
            ssh_port=port,
            outbound=self._settings.outbound,
            tcg_cache_mib=self._settings.tcg_cache_mib,
            image_sha512=record.image_sha512,
            owner_digest=record.owner_digest,
            vo=record.vo,
        )

    async def _power_off(self, id: str, opened: _Open) -> None:
        self._unfollow(id)
        self._sampler.take(id)
        self._machines.enter(id, VmState.STOPPING, self._clock.now())
        try:
            await opened.domains.destroy(id)
        except SkyfedError:
            await self._look(id, opened)
            raise
        # The state follows libvirt's event; where the domain was off already there is none.
        if not await self._machines.reached(id, OFF, _WORD_SECONDS):
            self._machines.enter(id, VmState.STOPPED, self._clock.now())

    async def _over(self, id: str, opened: _Open) -> None:
        """Returns when the process of a guest that is off has ended, and libvirt's word of it has come."""
        ending = self._ending.get(id)
        if ending is None:
            return
        await opened.domains.destroy(id)
        try:
            async with asyncio.timeout(_WORD_SECONDS):
                await ending.wait()
        except TimeoutError:
            self._ended(id)  # it came before we listened

    async def _look(self, id: str, opened: _Open) -> None:
        """After a refusal: the state is what libvirt says, not what was about to be."""
        seen = await opened.domains.state(id)
        if id not in self._ending:
            self._machines.enter(id, seen.state, self._clock.now(), seen.fault)

    async def _see_off(self, id: str, grace: float, opened: _Open) -> None:
        """Presses the power button again now and then (a booting guest overlooks it), and forces at the end."""
        if await self._insist(id, OFF, grace, opened.domains.press_power_button):
            return
        async with self._ordering.only(id):
            record = self._machines.find(id)
            if record is not None and record.state is VmState.STOPPING:
                self._following.pop(id, None)  # this very task, which `_power_off` would cancel
                await self._power_off(id, opened)

    async def _see_ended(self, id: str, ending: asyncio.Event) -> None:
        """libvirt asks the process of a guest that is off to end; one that does not listen is ended by force."""
        try:
            async with asyncio.timeout(_OFF_SECONDS):
                await ending.wait()
        except TimeoutError:
            opened = await self._usable()
            async with self._ordering.only(id):
                if self._ending.get(id) is ending:
                    await opened.domains.destroy(id)

    async def _see_rebooted(self, id: str, opened: _Open) -> None:
        if await self._insist(id, frozenset({VmState.ACTIVE}) | OFF, STOP_GRACE, opened.domains.reboot):
            return
        async with self._ordering.only(id):
            record = self._machines.find(id)
            if record is not None and record.state is VmState.RESTARTING:
                await opened.domains.reset(id)

    async def _insist(
        self, id: str, states: frozenset[VmState], seconds: float, ask: Callable[[str], Awaitable[None]]
    ) -> bool:
        """Waits for one of `states`, asking again after 2, 4, 8, … seconds. False: not within `seconds`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = 2.0
        while not await self._machines.reached(id, states, min(pause, deadline - loop.time())):
            if loop.time() >= deadline:
                return False
            pause *= 2
            try:
                await ask(id)
            except SkyfedError as error:
                log.info("machine %s was not asked again: %s", id, error.message)
        return True

    async def _wipe(self, id: str, opened: _Open) -> bool:
        """Ends and removes all that there is of a machine; whether there was anything."""
        self._unfollow(id)
        domain = await opened.domains.remove(id, self._root)
        record = await self._machines.erase(id)
        self._sampler.forget(id)
        self._ended(id)
        await asyncio.to_thread(forget_traces, self._root, id)
        return domain or record

    async def _unmake(self, id: str, opened: _Open) -> None:
        if await self._wipe(id, opened):
            self._machines.say_gone(id, self._clock.now())

    def _follow(self, id: str, work: Coroutine[object, object, None]) -> None:
        self._unfollow(id)
        task = asyncio.get_running_loop().create_task(work)
        self._following[id] = task

        def done(ended: asyncio.Task[None]) -> None:
            if self._following.get(id) is ended:
                del self._following[id]
            if not ended.cancelled() and ended.exception() is not None:
                log.error("%s: %s", id, ended.exception())

        task.add_done_callback(done)

    def _unfollow(self, id: str) -> None:
        task = self._following.pop(id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _saved(self, id: str) -> EngineVm:
        """The machine as it is now, once that is on disk."""
        await self._machines.saved(id)
        return self._machines.seen(self._machines.get(id))

    def _in_use(self, sha512: str) -> bool:
        return any(record.image_sha512 == sha512 for record in self._machines)

    def _file(self, id: str, name: str) -> Path:
        return self._records.folder(id) / name

    def _memory_mib(self) -> int:
        if self._settings.memory_mib is not None:
            return self._settings.memory_mib
        return max(256, (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20) - 1024)


def _emulator() -> Path:
    found = shutil.which(_EMULATOR)
    if found is None:
        raise engine_error("engine_down", f"{_EMULATOR} is not installed (Debian package qemu-system-x86)")
    return Path(found)


def _trim_all(logs: list[Path], limit: int) -> None:
    for file in logs:
        console.trim(file, limit)


def _new_mac() -> str:
    """In the range that QEMU has always used: 52:54:00 and 24 random bits."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


def _pid_folder(settings: Settings) -> Path:
    """Where libvirt keeps its pid files for this connection."""
    if settings.uri.startswith("qemu:///system"):
        return Path("/run/libvirt/qemu")
    if settings.uri.startswith("qemu:///session"):
        return Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")) / "libvirt" / "qemu" / "run"
    return settings.root / "run" / "qemu"
