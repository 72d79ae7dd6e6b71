"""What the engine knows of each machine, kept in a folder of its own beside the machine's files.

    ROOT/machines/UUID/{record.json, root.qcow2, context.iso, serial.log}

The folder is made first and removed last: whatever dies in between, the UUID is found again here.
"""

import os
import secrets
import shutil
from datetime import datetime
from pathlib import Path

import msgspec

from skyfed.compute.contract import VmCounters
from skyfed.compute.engines.libvirt.domain import is_uuid
from skyfed.compute.model import VmState


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. `whole` False: its create has not come to its end."""

    id: str
    title: str
    image_sha512: str
    cores: int
    memory_mib: int
    disk_gib: float
    owner_digest: str
    vo: str
    mac: str
    ssh_port: int
    """0 until it first starts; then kept, as long as it is free when the machine starts again."""
    whole: bool
    state: VmState
    since: datetime
    booted: datetime | None = None
    """When the present or last hypervisor process started the guest."""
    fault: str | None = None
    counters: VmCounters | None = None
    """The last known of the last boot, for a machine that is off."""


class Records:
    """The folder of all machines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Makes the folder."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)

    def folder(self, id: str) -> Path:
        """Of one machine. `id` must be a UUID."""
        if not is_uuid(id):
            raise ValueError(f"{id!r} is no UUID")
        return self._folder / id

    def ids(self) -> frozenset[str]:
        """Every machine that has a folder, with or without a record."""
        return frozenset(entry.name for entry in self._folder.iterdir() if is_uuid(entry.name))

    def load(self, id: str) -> Record | None:
        """The record, or None where a create died before there was one (or the disk has lost it)."""
        try:
            return msgspec.json.decode((self.folder(id) / "record.json").read_bytes(), type=Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def save(self, record: Record) -> None:
        """Durable when it returns."""
        folder = self.folder(record.id)
        folder.mkdir(mode=0o711, exist_ok=True)
        write_durably(folder / "record.json", msgspec.json.encode(record), mode=0o600)

    def remove(self, id: str) -> bool:
        """The folder with all that is in it, the record last, so that a half-removed machine is still found; whether
        there was one."""
        folder = self.folder(id)
        if not folder.exists():
            return False
        for entry in folder.iterdir():
            if entry.name != "record.json":
                entry.unlink()
        shutil.rmtree(folder)
        return True


def write_durably(path: Path, content: bytes, *, mode: int) -> None:
    """Replaces `path` by `content` as a whole, on disk before this returns."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
