"""What guests use, read often enough that little is lost when one ends by itself (compute digest 4.5)."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import libvirt

from skyfed.compute.contract import VmCounters
from skyfed.compute.engines.libvirt import processes
from skyfed.compute.engines.libvirt.connection import Connection
from skyfed.compute.engines.libvirt.domain import name
from skyfed.compute.engines.libvirt.machines import RUNNING, Machines
from skyfed.compute.engines.libvirt.processes import Hypervisor
from skyfed.core.clock import Clock

_NANOSECONDS = 1e9


class Sampler:
    """Feeds `machines.count`. Reads /proc for one machine, asks libvirt once for all."""

    def __init__(self, machines: Machines, clock: Clock, pid_folder: Path) -> None:
        self._machines = machines
        self._clock = clock
        self._pid_folder = pid_folder
        self._processes: dict[str, Hypervisor] = {}

    def take(self, id: str) -> None:
        """A sample of one machine now, where its process is still there. Microseconds: no thread needed."""
        for counters in self.read([id]).values():
            self._machines.count(counters)

    def read(self, ids: Iterable[str]) -> dict[str, VmCounters]:
        """What the processes of these machines have used so far, of those that are there; changes nothing."""
        found = {}
        for id in ids:
            process = self._process(id)
            used = processes.cpu_seconds(process.pid) if process else None
            if process and used is not None:
                found[id] = VmCounters(id=id, boot=process.boot, at=self._clock.now(), cpu_seconds=used)
        return found

    def take_all(self) -> None:
        """A sample of every running machine."""
        running = [record.id for record in self._machines if record.state in RUNNING]
        for id in running:
            self.take(id)
        for id in self._processes.keys() - set(running):
            del self._processes[id]

    async def sweep(self, connection: Connection) -> tuple[VmCounters, ...]:
        """Counters of all running machines by one bulk call that waits for no busy monitor."""
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        now = self._clock.now()
        answer = await connection.sweep(connection.raw.getAllDomainStats, libvirt.VIR_DOMAIN_STATS_CPU_TOTAL, flags)
        for domain, values in answer:
            self._take_from(domain.UUIDString(), values, now)
        self.take_all()
        found = (self._machines.counters(record.id) for record in self._machines if record.state in RUNNING)
        return tuple(counters for counters in found if counters is not None)

    def _take_from(self, id: str, values: dict[str, Any], now: datetime) -> None:
        process = self._process(id)
        if process and "cpu.time" in values:
            self._count(id, process, values["cpu.time"] / _NANOSECONDS, now)

    def _count(self, id: str, process: Hypervisor, used: float, at: datetime) -> None:
        self._machines.count(VmCounters(id=id, boot=process.boot, at=at, cpu_seconds=used))

    def _process(self, id: str) -> Hypervisor | None:
        """Looked up once a boot: `forget` makes it look again."""
        known = self._processes.get(id)
        if known is None:
            known = processes.find(self._pid_folder / f"{name(id)}.pid", id)
            if known is not None:
                self._processes[id] = known
        return known

    def forget(self, id: str) -> None:
        """The machine's process has ended."""
        self._processes.pop(id, None)
