"""The QEMU processes of a federation: running guests outlive our processes on purpose, `down` ends them too."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

from skyfed.federation.places import SITES, Places

LOOK_SECONDS = 0.1
_LINK = re.compile(rb"/[\w./-]*/skyfed-[0-9a-f]{16}")


def guest_pids(places: Places) -> list[int]:
    """The pids of all QEMU processes whose files lie below this federation's sites."""
    roots = tuple(os.fsencode(places.node(site)) + b"/" for site in SITES)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_guest(entry, roots):
            found.append(int(entry.name))
    return found


def _is_guest(entry: Path, roots: tuple[bytes, ...]) -> bool:
    try:
        arguments = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:  # ended meanwhile, or another user's
        return False
    if b"qemu-system" not in arguments[0]:
        return False
    return any(root in _unlinked(argument) for argument in arguments for root in roots)


def _unlinked(argument: bytes) -> bytes:
    """`argument` with the short link that stands for a long engine root (`libvirt.connection.short_path`) followed."""
    found = _LINK.search(argument)
    return os.path.realpath(found[0]) + b"/" if found else argument


def end_guests(places: Places, *, grace: float) -> int:
    """Ask every guest's QEMU to quit (it closes its disks properly), kill those that have not after `grace` seconds.

    Returns how many there were.
    """
    first = guest_pids(places)
    _signal(first, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (left := guest_pids(places)) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    _signal(left, signal.SIGKILL)
    return len(first)


def _signal(pids: list[int], sig: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)
