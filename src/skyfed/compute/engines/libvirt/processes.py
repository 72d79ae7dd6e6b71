"""QEMU processes as the kernel shows them: which is ours, what it has used, whether one was left over."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from skyfed.compute.engines.libvirt.domain import is_uuid

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Hypervisor:
    """One QEMU process. `boot` names this process among all that ever ran: its counters start from zero."""

    pid: int
    boot: str


def find(pid_file: Path, id: str) -> Hypervisor | None:
    """The process of machine `id`, by libvirt's pid file; None where that is stale or absent."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    started = _started(pid)
    if started is None or not runs(pid, id):
        return None
    return Hypervisor(pid, f"{boot_id()[:8]}-{pid}-{started}")


def runs(pid: int, id: str) -> bool:
    """Whether process `pid` is the QEMU of machine `id`."""
    return _uuid(_arguments(pid)) == id


def cpu_seconds(pid: int) -> float | None:
    """Processor time used by all threads of the process, as libvirt's cpu.time counts; None once it is buried."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else None


def running(root: Path) -> Iterator[tuple[int, str]]:
    """Process and machine UUID of every QEMU whose files lie under `root`."""
    marker = f"{root}/".encode()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        arguments = _arguments(int(entry.name))
        id = _uuid(arguments)
        if id and b"qemu" in arguments[0] and any(marker in argument for argument in arguments):
            yield int(entry.name), id


def names(pid: int, word: str) -> bool:
    """Whether `word` stands in the command line of process `pid`."""
    return any(word.encode() in argument for argument in _arguments(pid))


def kill(pid: int) -> None:
    """Ends a process at once; one that is gone is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _uuid(arguments: list[bytes]) -> str:
    """The value of QEMU's option -uuid."""
    for option, value in pairwise(arguments):
        if option == b"-uuid" and is_uuid(text := value.decode("ascii", "replace")):
            return text
    return ""


def _arguments(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from `state` on (proc(5): field 3); the name before them may contain anything."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return fields if fields and fields[0] != "X" else []


def _started(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[19] if fields else None


def boot_id() -> str:
    """Changes with each boot of this host."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
