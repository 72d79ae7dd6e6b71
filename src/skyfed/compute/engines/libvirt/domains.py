"""What the engine does to domains, in words of its own: each of these is one or two libvirt calls in a thread."""

import logging
from pathlib import Path
from typing import Any

import libvirt

from skyfed.compute.engines.libvirt import processes
from skyfed.compute.engines.libvirt.connection import Connection
from skyfed.compute.engines.libvirt.domain import is_uuid, name
from skyfed.compute.engines.libvirt.observed import Observation, from_state
from skyfed.compute.model import VmState

log = logging.getLogger(__name__)

_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class Domains:
    """All raise errors of the engine's closed set."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._raw = connection.raw

    async def version(self) -> str:
        """`9.0.0 with QEMU 7.2.22`."""

        def ask() -> str:
            return f"{_dotted(self._raw.getLibVersion())} with QEMU {_dotted(self._raw.getVersion())}"

        return await self.connection.call(ask)

    async def run(self, document: str) -> None:
        """Defines the domain, or defines it anew, and starts it."""

        def run() -> None:
            self._raw.defineXML(document).createWithFlags(0)

        await self.connection.call(run)

    async def press_power_button(self, id: str) -> None:
        await self._on(id, lambda domain: domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))

    async def reboot(self, id: str) -> None:
        """The power button, and a reset when the guest is off."""
        await self._on(id, lambda domain: domain.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN))

    async def reset(self, id: str) -> None:
        await self._on(id, lambda domain: domain.reset(0))

    async def resume(self, id: str) -> None:
        await self._on(id, lambda domain: domain.resume())

    async def destroy(self, id: str) -> None:
        """Off at once; one that is off is fine."""

        def destroy() -> None:
            domain = self._find(id)
            if domain is not None:
                _end(domain)

        await self.connection.call(destroy)

    async def remove(self, id: str, root: Path) -> bool:
        """Off, undefined, and no process of it left; whether there was a domain."""

        def remove() -> bool:
            domain = self._find(id)
            if domain is not None:
                _end(domain)
                domain.undefineFlags(_UNDEFINE)
            for pid, owner in processes.running(root):
                if owner == id:
                    log.warning("process %d of machine %s was left over; ended", pid, id)
                    processes.kill(pid)
            return domain is not None

        return await self.connection.call(remove)

    async def states(self) -> dict[str, Observation]:
        """Every machine of ours that libvirt knows, by UUID; waits until libvirt has taken over running ones."""

        def ask() -> dict[str, Observation]:
            # Unlike look-ups, this waits for the take-over of each running domain after libvirt's own start.
            self._raw.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BALLOON, 0)
            return {domain.UUIDString(): from_state(*domain.state()) for domain in self._ours()}

        return await self.connection.call(ask)

    async def state(self, id: str) -> Observation:
        """Of one machine; stopped where there is no domain."""

        def ask() -> Observation:
            domain = self._find(id)
            return from_state(*domain.state()) if domain is not None else Observation(VmState.STOPPED)

        return await self.connection.call(ask)

    async def ids(self) -> frozenset[str]:
        """UUIDs of the same, without waiting for any machine."""
        return await self.connection.call(lambda: frozenset(domain.UUIDString() for domain in self._ours()))

    def _ours(self) -> list[Any]:
        return [
            domain
            for domain in self._raw.listAllDomains(0)
            if is_uuid(domain.UUIDString()) and domain.name() == name(domain.UUIDString())
        ]

    async def _on(self, id: str, work: Any) -> None:
        def call() -> None:
            work(self._raw.lookupByUUIDString(id))

        await self.connection.call(call)

    def _find(self, id: str) -> Any | None:
        """Not by a look-up, which libvirt logs as an error where there is none."""
        return next((domain for domain in self._raw.listAllDomains(0) if domain.UUIDString() == id), None)


def _end(domain: Any) -> None:
    """SIGTERM first, so that QEMU writes back what it holds; then by force. Off already is fine."""
    for flags in (libvirt.VIR_DOMAIN_DESTROY_GRACEFUL, 0):
        if not domain.isActive():
            return
        try:
            domain.destroyFlags(flags)
        except libvirt.libvirtError as error:
            if flags == 0 and domain.isActive():
                raise
            log.info("domain %s did not end at once: %s", domain.name(), error)


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
