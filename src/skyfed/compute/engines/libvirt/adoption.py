"""After a start: what the disk, libvirt and the process table say about our machines, made one."""

import asyncio
import logging
import re
import shutil
from datetime import datetime
from pathlib import Path

import msgspec

from skyfed.compute.engines.libvirt import processes
from skyfed.compute.engines.libvirt.domain import is_uuid, name
from skyfed.compute.engines.libvirt.domains import Domains
from skyfed.compute.engines.libvirt.machines import OFF, RUNNING, Machines
from skyfed.compute.engines.libvirt.observed import Observation
from skyfed.compute.engines.libvirt.records import Record, Records
from skyfed.compute.model import VmState
from skyfed.core.clock import from_epoch

log = logging.getLogger(__name__)

# The root element of libvirt's notes (`<domstatus state='running' reason='booted' pid='123'>`), near their beginning.
_PID = re.compile(rb"<domstatus [^>]*\bpid='(\d+)'")
_HEAD_BYTES = 4096


def clear_ended(root: Path) -> None:
    """Before libvirt opens: forget its notes of running machines whose process is not there.

    Killed early in a start it leaves such a note without a process number, and libvirt 9 then holds that machine's lock
    for ever when it tries to take it over.
    """
    for note in (root / "run" / "qemu").glob("vm-*.xml"):
        id = note.stem.removeprefix("vm-")
        found = _PID.search(note.read_bytes()[:_HEAD_BYTES])
        if is_uuid(id) and not (found and processes.runs(int(found.group(1)), id)):
            log.info("machine %s has no process any more", id)
            note.unlink()
            note.with_suffix(".pid").unlink(missing_ok=True)
    _clear_probes(root)


def _clear_probes(root: Path) -> None:
    """End the QEMUs (without a machine) that libvirt asked what they can do when it was killed, and remove their folders."""
    for folder in (root / "lib" / "qemu").glob("qmp-*"):
        pid_file = folder / "qmp.pid"
        text = pid_file.read_text().strip() if pid_file.exists() else ""
        if text.isdigit() and processes.names(int(text), folder.name):
            log.info("process %s was left by a probe; ended", text)
            processes.kill(int(text))
        shutil.rmtree(folder, ignore_errors=True)


def forget_traces(root: Path, id: str) -> None:
    """Removes what libvirt keeps, or left when it was killed, of a machine that is no more."""
    (root / "log" / "qemu" / f"{name(id)}.log").unlink(missing_ok=True)
    for note in (root / "run" / "qemu").glob(f"{name(id)}.*"):
        note.unlink()
    # libvirt cuts the name in these folders to 20 characters
    for folder in (root / "lib" / "qemu").glob(f"domain-*-{name(id)[:20]}"):
        shutil.rmtree(folder, ignore_errors=True)


async def adopt(records: Records, machines: Machines, domains: Domains, root: Path) -> frozenset[str]:
    """Takes in every machine with a record as it is now, and ends QEMUs that libvirt does not know.

    Gives the machines whose guest is off already but whose QEMU still waits to be ended.
    """
    loaded = {id: await asyncio.to_thread(records.load, id) for id in await asyncio.to_thread(records.ids)}
    states = await domains.states()
    ending = set()
    for id, saved in loaded.items():
        if saved is None:
            continue
        seen = states.get(id)
        record = _as_it_is(saved, seen, records.folder(id))
        machines.adopt(record)
        if record.state in OFF and seen is not None and seen.state is VmState.STOPPING:
            ending.add(id)
    await asyncio.to_thread(_end_orphans, root, states)
    return frozenset(ending)


async def traces(records: Records, domains: Domains) -> list[tuple[str, datetime]]:
    """Every UUID that has a folder or a domain, with the time of its folder."""
    ids = await asyncio.to_thread(records.ids) | await domains.ids()
    return [(id, await asyncio.to_thread(_touched, records.folder(id))) for id in sorted(ids)]


def _as_it_is(record: Record, seen: Observation | None, folder: Path) -> Record:
    state = seen.state if seen is not None else VmState.STOPPED
    if state is VmState.STOPPING:  # the guest is off, and its process waits for libvirt
        if record.state is VmState.RESTARTING:
            return record  # which lets it boot again
        state = VmState.STOPPED
    if state in RUNNING:
        # What it was told when we died is told again by the service above, which knows what is wanted.
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
