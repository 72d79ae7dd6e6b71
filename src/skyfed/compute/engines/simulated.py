"""The simulated engine: the whole contract without a hypervisor, for tests, demonstrations and load.

What lasts (machines, images) is a `SimulatedHost`; the engine is the software that drives it. A second engine over
the same host is what a restart of the real one is: it finds everything as the first left it.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from skyfed.compute.contract import (
    Capabilities,
    EngineEvent,
    EngineHealth,
    EngineVm,
    EventKind,
    VmCounters,
    VmSpec,
    engine_error,
)
from skyfed.compute.engines.broadcast import Broadcast
from skyfed.compute.engines.ordering import Ordering
from skyfed.compute.model import Action, Disk, DiskFormat, Endpoint, Nic, RestartMethod, StopMethod, VmState
from skyfed.core.clock import Clock, SystemClock
from skyfed.core.text import shown

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Latency:
    """Seconds that things take."""

    call: float = 0.0
    """Before any call has its effect."""
    boot: float = 0.0
    """From create, start or restart to active."""
    shutdown: float = 0.0
    """From the power button to stopped."""


@dataclass(frozen=True)
class Room:
    """What the simulated host has."""

    vms: int = 1000
    cores: int = 1000
    memory_mib: int = 1_000_000
    disk_gib: float = 100_000.0


@dataclass
class Machine:
    """One simulated machine. `whole` False: a create died half-way."""

    spec: VmSpec
    state: VmState
    since: datetime
    port: int
    fault: str | None = None
    whole: bool = True
    boots: int = 0
    booted: datetime | None = None
    runs: bool = False
    last: VmCounters | None = None
    console: bytearray = field(default_factory=bytearray)
    ignores_power_button: bool = False
    transition: asyncio.Task[None] | None = None


@dataclass
class SimulatedHost:
    """What outlives the engine: machines and images, and how the guests behave."""

    room: Room = field(default_factory=Room)
    machines: dict[str, Machine] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    retired: set[str] = field(default_factory=set)
    """Images removed while a machine's disk stood on them."""
    next_port: int = 20000
    boot_faults: deque[str] = field(default_factory=deque)
    """Why the next machines will not boot, one each."""


@dataclass
class _Failure:
    error: Exception
    done: bool


class SimulatedEngine:
    """The engine contract in memory. `fail`, `halt`, `crash` and `vanish` are for tests."""

    def __init__(
        self,
        host: SimulatedHost | None = None,
        *,
        clock: Clock | None = None,
        latency: Latency | None = None,
        network_counters: bool = True,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.host = host or SimulatedHost()
        self.latency = latency or Latency()
        self._clock = clock or SystemClock()
        self._network_counters = network_counters
        self._sleep = sleep
        self._events = Broadcast(self._clock)
        self._ordering = Ordering()
        self._failures: dict[str, deque[_Failure]] = defaultdict(deque)

    # --- what tests do to it -----------------------------------------------------------------------------------

    def fail(self, call: str, error: Exception, *, times: int = 1, done: bool = False) -> None:
        """The next `times` calls of `call` raise `error`; with `done` the work is done and only the answer lost."""
        self._failures[call].extend(_Failure(error, done) for _ in range(times))

    def halt(self, id: str) -> None:
        """The guest switches itself off."""
        self._interrupt(self._machine(id))
        self._ended(self._machine(id), VmState.STOPPED)

    def crash(self, id: str, fault: str = "the guest crashed") -> None:
        """The hypervisor process dies."""
        self._interrupt(self._machine(id))
        self._ended(self._machine(id), VmState.ERROR, fault)

    def vanish(self, id: str) -> None:
        """Somebody removes the machine behind our back."""
        self._remove(self._machine(id))

    def leave_half_made(self, spec: VmSpec) -> None:
        """What a create leaves that died before the machine was whole."""
        machine = Machine(spec, VmState.BUILDING, self._clock.now(), self._port(), whole=False)
        self.host.machines[spec.id] = machine

    # --- the contract ------------------------------------------------------------------------------------------

    async def probe(self) -> EngineHealth:
        try:
            await self._call("probe")
        except Exception as error:  # noqa: BLE001  (a sick engine is reported, not raised: the contract)
            return EngineHealth(ok=False, engine="simulated", version="1", acceleration="none", detail=str(error))
        return EngineHealth(ok=True, engine="simulated", version="1", acceleration="none")

    async def capabilities(self) -> Capabilities:
        await self._call("capabilities")
        room = self.host.room
        return Capabilities(
            actions=frozenset(Action),
            disk_formats=frozenset(DiskFormat),
            network_counters=self._network_counters,
            cores=room.cores,
            memory_mib=room.memory_mib,
            disk_gib=room.disk_gib,
        )

    async def import_image(self, sha512: str, path: str, disk_format: DiskFormat) -> None:
        lost = await self._call("import_image")
        if not await asyncio.to_thread(Path(path).is_file):
            raise engine_error("invalid", f"there is no image file for {disk_format} image {shown(sha512, 16)}")
        self.host.images.add(sha512)
        self.host.retired.discard(sha512)
        _raise(lost)

    async def remove_image(self, sha512: str) -> None:
        lost = await self._call("remove_image")
        if sha512 in self.host.images and self._in_use(sha512):
            self.host.retired.add(sha512)
        self.host.images.discard(sha512)
        _raise(lost)

    async def images(self) -> frozenset[str]:
        await self._call("images")
        return frozenset(self.host.images)

    async def create(self, spec: VmSpec) -> EngineVm:
        async with self._ordering.only(spec.id):
            lost = await self._call("create")
            machine = self.host.machines.get(spec.id)
            if machine is None or not machine.whole:
                machine = self._make(spec)
                self._boot(machine, VmState.BUILDING)
            _raise(lost)
            return self._seen(machine)

    async def start(self, id: str) -> EngineVm:
        async with self._ordering.only(id):
            lost = await self._call("start")
            machine = self._machine(id)
            if machine.state in (VmState.STOPPED, VmState.ERROR, VmState.SUSPENDED, VmState.HIBERNATED):
                self._boot(machine, VmState.BUILDING)
            elif machine.state is VmState.STOPPING:
                raise engine_error("conflict", "the machine is stopping; start it when it is stopped")
            _raise(lost)
            return self._seen(machine)

    async def stop(self, id: str, method: StopMethod, grace: float) -> EngineVm:
        async with self._ordering.only(id):
            lost = await self._call("stop")
            machine = self._machine(id)
            if machine.state not in (VmState.STOPPED, VmState.ERROR):
                if method is StopMethod.POWEROFF:
                    self._interrupt(machine)
                    self._ended(machine, VmState.STOPPED)
                elif machine.state is not VmState.STOPPING:
                    self._press_button(machine, grace)
            _raise(lost)
            return self._seen(machine)

    async def restart(self, id: str, method: RestartMethod) -> EngineVm:
        async with self._ordering.only(id):
            lost = await self._call("restart")
            machine = self._machine(id)
            if machine.state is not VmState.ACTIVE:
                raise engine_error(
                    "conflict", f"the machine is {machine.state}; only an active one can be restarted ({method})"
                )
            self._boot(machine, VmState.RESTARTING)
            _raise(lost)
            return self._seen(machine)

    async def delete(self, id: str) -> None:
        async with self._ordering.only(id):
            lost = await self._call("delete")
            if id in self.host.machines:
                self._remove(self.host.machines[id])
            _raise(lost)

    async def get(self, id: str) -> EngineVm:
        await self._call("get")
        return self._seen(self._machine(id))

    async def list(self) -> tuple[EngineVm, ...]:
        await self._call("list")
        return tuple(self._seen(machine) for machine in self.host.machines.values())

    async def stats(self) -> tuple[VmCounters, ...]:
        await self._call("stats")
        return tuple(self._counters(machine) for machine in self.host.machines.values() if machine.runs)

    async def console_log(self, id: str, tail_bytes: int) -> bytes:
        await self._call("console_log")
        console = self._machine(id).console
        return bytes(console[max(0, len(console) - tail_bytes) :])

    def events(self) -> AsyncIterator[EngineEvent]:
        return self._events.stream()

    async def close(self) -> None:
        self._events.close()

    # --- how it works ------------------------------------------------------------------------------------------

    async def _call(self, name: str) -> Exception | None:
        """Waits as long as a call takes. Raises what `fail` asked for, or gives it back to be raised at the end."""
        await self._sleep(self.latency.call)
        if not self._failures[name]:
            return None
        failure = self._failures[name].popleft()
        if failure.done:
            return failure.error
        raise failure.error

    def _machine(self, id: str) -> Machine:
        machine = self.host.machines.get(id)
        if machine is None:
            raise engine_error("not_found", f"there is no machine {shown(id)}")
        return machine

    def _make(self, spec: VmSpec) -> Machine:
        if spec.image_sha512 not in self.host.images:
            raise engine_error("not_found", f"the image {shown(spec.image_sha512, 16)} is not in the cache")
        others = [machine.spec for id, machine in self.host.machines.items() if id != spec.id]
        room = self.host.room
        if (
            len(others) + 1 > room.vms
            or sum(other.cores for other in others) + spec.cores > room.cores
            or sum(other.memory_mib for other in others) + spec.memory_mib > room.memory_mib
            or sum(other.disk_gib for other in others) + spec.disk_gib > room.disk_gib
        ):
            raise engine_error("no_capacity", "the host has no room for this machine; try again later")
        machine = Machine(spec, VmState.BUILDING, self._clock.now(), self._port())
        self.host.machines[spec.id] = machine
        return machine

    def _port(self) -> int:
        self.host.next_port += 1
        return self.host.next_port

    def _boot(self, machine: Machine, through: VmState) -> None:
        self._interrupt(machine)
        if through is VmState.BUILDING:  # a new hypervisor process; a reset keeps the process and its counters
            machine.boots += 1
            machine.booted = self._clock.now()
            machine.runs = True
        self._enter(machine, through)

        async def boot() -> None:
            await self._sleep(self.latency.boot)
            if self.host.boot_faults:
                self._ended(machine, VmState.ERROR, self.host.boot_faults.popleft())
                return
            machine.console += f"SIMULATED READY {machine.spec.title} boot {machine.boots}\n".encode()
            self._enter(machine, VmState.ACTIVE)

        machine.transition = asyncio.get_running_loop().create_task(boot())

    def _press_button(self, machine: Machine, grace: float) -> None:
        self._interrupt(machine)
        self._enter(machine, VmState.STOPPING)
        ignored = machine.ignores_power_button or self.latency.shutdown > grace

        async def shut_down() -> None:
            await self._sleep(grace if ignored else self.latency.shutdown)
            self._ended(machine, VmState.STOPPED)

        machine.transition = asyncio.get_running_loop().create_task(shut_down())

    def _interrupt(self, machine: Machine) -> None:
        if machine.transition is not None and machine.transition is not asyncio.current_task():
            machine.transition.cancel()
        machine.transition = None

    def _enter(self, machine: Machine, state: VmState, fault: str | None = None) -> None:
        machine.state, machine.since, machine.fault = state, self._clock.now(), fault
        self._publish(EventKind.STATE, machine.spec.id, self._seen(machine))

    def _ended(self, machine: Machine, state: VmState, fault: str | None = None) -> None:
        if machine.runs:
            machine.last = self._counters(machine)
            machine.runs = False
        self._enter(machine, state, fault)

    def _remove(self, machine: Machine) -> None:
        self._interrupt(machine)
        del self.host.machines[machine.spec.id]
        if not self._in_use(machine.spec.image_sha512):
            self.host.retired.discard(machine.spec.image_sha512)
        self._publish(EventKind.GONE, machine.spec.id, None)

    def _in_use(self, sha512: str) -> bool:
        return any(machine.spec.image_sha512 == sha512 for machine in self.host.machines.values())

    def _publish(self, kind: EventKind, id: str, vm: EngineVm | None) -> None:
        self._events.publish(EngineEvent(kind=kind, at=vm.since if vm else self._clock.now(), id=id, vm=vm))

    def _seen(self, machine: Machine) -> EngineVm:
        spec = machine.spec
        if not machine.whole:
            return EngineVm(id=spec.id, state=VmState.BUILDING, since=machine.since)
        endpoint = Endpoint(name="ssh", host="127.0.0.1", port=machine.port, guest_port=22)
        number = machine.port % 0xFFFFFF
        mac = "52:54:00:" + ":".join(f"{number >> shift & 0xFF:02x}" for shift in (16, 8, 0))
        nic = Nic(id=f"{spec.id}_0", interface="eth0", mac=mac, address="10.0.2.15", gateway="10.0.2.2")
        return EngineVm(
            id=spec.id,
            state=machine.state,
            since=machine.since,
            booted=machine.booted,
            fault=machine.fault,
            endpoints=(endpoint,) if machine.runs else (),
            nics=(nic,),
            disks=(Disk(id=f"{spec.id}_root", device="vda", size_gib=spec.disk_gib),),
            counters=self._counters(machine) if machine.runs else machine.last,
        )

    def _counters(self, machine: Machine) -> VmCounters:
        """Every core is half busy; a kilobyte a second comes in and half of one goes out."""
        now = self._clock.now()
        seconds = max(0.0, (now - (machine.booted or now)).total_seconds())
        return VmCounters(
            id=machine.spec.id,
            boot=str(machine.boots),
            at=now,
            cpu_seconds=seconds * machine.spec.cores * 0.5,
            net_in_bytes=int(seconds * 1000) if self._network_counters else None,
            net_out_bytes=int(seconds * 500) if self._network_counters else None,
        )


def _raise(lost: Exception | None) -> None:
    if lost is not None:
        raise lost
