"""After a start: what the disk, libvirt and the process table say about our machines, made one."""

import asyncio
import logging
from datetime import datetime
from pathlib import Path

import msgspec

from skyfed.compute.engines.libvirt import processes
from skyfed.compute.engines.libvirt.domains import Domains
from skyfed.compute.engines.libvirt.machines import OFF, RUNNING, Machines
from skyfed.compute.engines.libvirt.observed import Observation
from skyfed.compute.engines.libvirt.records import Record, Records
from skyfed.compute.model import VmState
from skyfed.core.clock import from_epoch

log = logging.getLogger(__name__)


async def adopt(records: Records, machines: Machines, domains: Domains, root: Path) -> dict[str, datetime]:
    """Takes in every machine with a record as it is now, and ends QEMUs that libvirt does not know.

    Gives the machines whose guest is off already but whose QEMU still waits to be ended, and since when.
    """
    states = await domains.states()
    guests_off = {}
    for id in await asyncio.to_thread(records.ids):
        record = await asyncio.to_thread(records.load, id)
        if record is None:
            continue
        record = _as_it_is(record, states.get(id), records.folder(id))
        machines.adopt(record)
        if record.state is VmState.STOPPING:
            guests_off[id] = record.since
    await asyncio.to_thread(_end_orphans, root, states)
    return guests_off


async def traces(records: Records, domains: Domains) -> list[tuple[str, datetime]]:
    """Every UUID that has a folder or a domain, with the time of its folder."""
    ids = await asyncio.to_thread(records.ids) | await domains.ids()
    return [(id, await asyncio.to_thread(_touched, records.folder(id))) for id in sorted(ids)]


def _as_it_is(record: Record, seen: Observation | None, folder: Path) -> Record:
    state = seen.state if seen is not None else VmState.STOPPED
    if state in RUNNING:
        # What it was told when we died is told again by the service above, which knows what is wanted.
        if state is VmState.STOPPING:
            since = _ended(record, folder)
        else:
            since = record.since if record.state is state else _started(record, folder)
        starting = record.booted is None or record.state in OFF or record.state is VmState.BUILDING
        booted = since if starting else record.booted
        return msgspec.structs.replace(record, whole=True, state=state, since=since, booted=booted, fault=None)
    if not record.whole or record.state is VmState.DELETING or record.state in OFF:
        return record
    return msgspec.structs.replace(record, state=state, since=_ended(record, folder), fault=None)


def _ended(record: Record, folder: Path) -> datetime:
    """It ended while nobody watched: its last word on the console is the best witness of when."""
    return max(record.since, _touched(folder / "serial.log"))


def _started(record: Record, folder: Path) -> datetime:
    """A record that is not `active` of a machine that runs: its boot was under way when we died."""
    return max(record.since, _touched(folder / "context.iso"))


def _touched(path: Path) -> datetime:
    return from_epoch(path.stat().st_mtime if path.exists() else 0)


def _end_orphans(root: Path, states: dict[str, Observation]) -> None:
    for pid, id in processes.running(root):
        seen = states.get(id)
        if seen is None or seen.state not in RUNNING:
            log.warning("process %d of machine %s is unknown to libvirt; ended", pid, id)
            processes.kill(pid)
