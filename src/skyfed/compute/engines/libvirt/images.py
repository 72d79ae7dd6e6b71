"""The image cache: one immutable qcow2 base per SHA-512 of what was delivered, machines' disks stand on it."""

import asyncio
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from oslo_utils.imageutils import format_inspector

from skyfed.compute.contract import engine_error
from skyfed.compute.engines.libvirt import qemu_img
from skyfed.compute.engines.libvirt.settings import Settings
from skyfed.compute.model import DiskFormat
from skyfed.core.text import one_line, shown

_GIB = 1 << 30
_HEX = frozenset("0123456789abcdef")
_INSPECTOR = {
    DiskFormat.QCOW2: format_inspector.QcowInspector,
    DiskFormat.VMDK: format_inspector.VMDKInspector,
    DiskFormat.VDI: format_inspector.VDIInspector,
    DiskFormat.VHD: format_inspector.VHDInspector,
}


class ImageCache:
    """Files under `root`/images. `in_use` says whether a machine's disk stands on an image."""

    def __init__(self, settings: Settings, in_use: Callable[[str], bool]) -> None:
        self._settings = settings
        self._in_use = in_use
        self._folder = settings.root / "images"
        # Conversions saturate disk and processor by themselves; a second one would only slow down both.
        self._one_at_a_time = asyncio.Lock()

    def open(self) -> None:
        """Makes the folder and clears what a conversion left that died half-way."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        for partial in self._folder.glob(".new-*"):
            partial.unlink()

    def base(self, sha512: str) -> Path:
        """Where the base of this image is, or would be."""
        return self._folder / f"{sha512}.qcow2"

    def all(self) -> frozenset[str]:
        """The images that machines can be made from."""
        return frozenset(base.stem for base in self._folder.glob("*.qcow2") if not self._retired(base.stem).exists())

    def virtual_bytes(self, sha512: str) -> int:
        """The size the guest sees. Raises NotFound (`not_found`) where the image is not, or is retired."""
        if not is_sha512(sha512) or self._retired(sha512).exists():
            raise _absent(sha512)
        try:
            with self.base(sha512).open("rb") as base:
                return int.from_bytes(base.read(32)[24:32])  # the size field of the qcow2 header
        except FileNotFoundError:
            raise _absent(sha512) from None

    async def add(self, sha512: str, path: Path, disk_format: DiskFormat) -> None:
        """Takes the image file in. Raises Invalid, Unavailable, TimedOut; then nothing is left behind."""
        if not is_sha512(sha512):
            raise engine_error("invalid", f"{shown(sha512)} is no SHA-512 (128 lower-case hexadecimal digits)")
        if disk_format not in qemu_img.QEMU_DRIVER:
            raise engine_error("invalid", f"this engine cannot start machines from {disk_format} images")
        async with self._one_at_a_time:
            if not self.base(sha512).exists():
                await self._convert(sha512, path, disk_format)
            self._retired(sha512).unlink(missing_ok=True)

    async def _convert(self, sha512: str, path: Path, disk_format: DiskFormat) -> None:
        most = int(self._settings.max_disk_gib * _GIB)
        needed = await asyncio.to_thread(inspect, path, disk_format, most)
        free = shutil.disk_usage(self._folder).free - int(self._settings.spare_disk_gib * _GIB)
        if free < needed:
            raise engine_error(
                "no_capacity", f"the image needs {needed >> 20} MiB of disk; {max(0, free) >> 20} are free"
            )
        partial = self._folder / f".new-{secrets.token_hex(8)}"
        try:
            # twice the virtual size: room for qcow2's own tables, whatever the image claims
            await qemu_img.convert(
                path, disk_format, partial, max_bytes=2 * most, seconds=self._settings.import_seconds
            )
            await asyncio.to_thread(_publish, partial, self.base(sha512))
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, sha512: str) -> None:
        """Drops an image; one that disks stand on is only retired, and goes with the last of them."""
        if not is_sha512(sha512) or not self.base(sha512).exists():
            return
        self._retired(sha512).touch()
        self.tidy(sha512)

    def tidy(self, sha512: str) -> None:
        """Deletes a retired image that no disk stands on any more."""
        if self._retired(sha512).exists() and not self._in_use(sha512):
            self.base(sha512).unlink(missing_ok=True)
            self._retired(sha512).unlink()

    def _retired(self, sha512: str) -> Path:
        return self._folder / f"{sha512}.retired"


def is_sha512(text: str) -> bool:
    """Whether `text` is a SHA-512 in lower-case hexadecimal: nothing else becomes part of a path."""
    return len(text) == 128 and _HEX.issuperset(text)


def inspect(path: Path, disk_format: DiskFormat, most_bytes: int) -> int:
    """The bytes a conversion will take at most. Raises Invalid for a file that is not what it is said to be, that
    reaches for other files (backing file, external data), or that is too large (compute digest 4.6)."""
    descriptor = _open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        # Nothing in a raw image is read by us: there is nothing to check but its size.
        virtual = size if disk_format is DiskFormat.RAW else _inspected(descriptor, disk_format)
    finally:
        os.close(descriptor)
    if not 0 < virtual <= most_bytes:
        raise engine_error("invalid", f"the image's disk has {virtual} bytes; from 1 to {most_bytes} are accepted here")
    return virtual


def _open_regular(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise engine_error("invalid", f"the image file cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise engine_error("invalid", "the image is not a regular file")
    return descriptor


def _inspected(descriptor: int, disk_format: DiskFormat) -> int:
    try:
        # by descriptor: the same file that was found to be a regular one
        inspector = _INSPECTOR[disk_format].from_file(f"/proc/self/fd/{descriptor}")
        inspector.safety_check()
        return int(inspector.virtual_size)
    except (format_inspector.ImageFormatError, format_inspector.SafetyCheckFailed) as refused:
        raise engine_error("invalid", f"the {disk_format} image is refused: {one_line(str(refused))}") from refused


def _publish(partial: Path, base: Path) -> None:
    """Durable and whole, or not there."""
    descriptor = os.open(partial, os.O_RDWR)
    try:
        os.fchmod(descriptor, 0o444)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(base)
    folder = os.open(base.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _absent(sha512: str) -> Exception:
    return engine_error("not_found", f"the image {shown(sha512, 16)} is not in this engine's cache")
