"""What an image file really is, found out from its bytes before any other tool sees it (images digest I).

Header parsing is oslo.utils' (kept up to date with QEMU's traps by the OpenStack projects); here are the checks that
it lacks: ceilings on the virtual size, internal snapshots, encryption, table sizes, backing format extensions, other
formats' magic in front of "raw" data.
"""

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyfed.core.errors import Invalid
from skyfed.core.text import one_line

CHUNK = 1 << 20
GIB = 1 << 30

# Names are those of the compute service's DiskFormat.
FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhd", "iso")
_REFUSED_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK descriptor"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"conectix", "VHD"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"QED\0", "QED"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (257, b"ustar", "tar (OVA)"),
)
_QCOW2_HEADER = 104
_QCOW2_EXTENSIONS_END = 0
_QCOW2_BACKING_FORMAT = 0xE2792ACA
_QCOW2_DATA_FILE = 0x44415441
_INCOMPATIBLE_CORRUPT = 1 << 1
# QEMU's own limits (QCOW_MAX_L1_SIZE, QCOW_MAX_REFTABLE_SIZE).
_MAX_L1_ENTRIES = (32 << 20) // 8
_MAX_REFCOUNT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class InspectionLimits:
    """What a site accepts."""

    formats: tuple[str, ...] = ("raw", "qcow2", "vmdk", "vdi", "iso")
    max_virtual_bytes: int = 200 * GIB


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file is: its format, the size of the disk that a guest sees, the size of the file."""

    format: str
    virtual_size: int
    size: int


def inspect(path: Path, limits: InspectionLimits, progress: Callable[[int], None] = lambda _done: None) -> Inspection:
    """Inspect the file at `path`. Raises Invalid: `format_unsafe`, `format_refused`, `format_ambiguous`,
    `virtual_size`, `image_empty`."""
    size = path.stat().st_size
    if size == 0:
        raise Invalid("the image is empty", code="image_empty")
    inspector = _detect(path, progress)
    name = _NAMES.get(str(inspector), str(inspector))
    if name not in limits.formats:
        accepted = ", ".join(limits.formats)
        raise Invalid(f"the image is of format {name}; accepted here: {accepted}", code="format_refused")
    _own_checks(path, name)
    _library_checks(inspector)
    virtual = size if name in ("raw", "iso") else int(inspector.virtual_size)
    if not 0 < virtual <= limits.max_virtual_bytes:
        message = f"the image declares a disk of {virtual} bytes; up to {limits.max_virtual_bytes} are accepted here"
        raise Invalid(message, code="virtual_size")
    return Inspection(name, virtual, size)


# A raw disk with a partition table is a raw disk; the inspector tells it apart because it checks the table.
_NAMES = {"gpt": "raw"}


def _detect(path: Path, progress: Callable[[int], None]) -> Any:
    # oslo.utils comes with the [site] extra only, and warns about every suspicious header on its own logger.
    from oslo_utils.imageutils import format_inspector

    format_inspector.LOG.setLevel(logging.ERROR)
    with path.open("rb") as file:
        wrapper = format_inspector.InspectWrapper(file)
        done = 0
        while wrapper.formats is None and (chunk := wrapper.read(CHUNK)):
            done += len(chunk)
            progress(done)
        wrapper.close()
        found = list(wrapper.formats or [])
    names = {str(inspector) for inspector in found}
    if names == {"iso", "gpt"}:  # bootable CD images carry a partition table for USB sticks
        return next(inspector for inspector in found if str(inspector) == "iso")
    if len(found) != 1:
        raise Invalid(
            f"the image looks like several formats at once: {', '.join(sorted(names))}", code="format_ambiguous"
        )
    return found[0]


def _library_checks(inspector: Any) -> None:
    from oslo_utils.imageutils import format_inspector

    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        reasons = "; ".join(str(failure) for failure in error.failures.values())
        raise Invalid(f"the image is not safe to use: {one_line(reasons)}", code="format_unsafe") from error
    except format_inspector.ImageFormatError as error:
        raise Invalid(f"the image cannot be checked: {one_line(str(error))}", code="format_unsafe") from error


def _own_checks(path: Path, name: str) -> None:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if name == "qcow2":
        _check_qcow2(head)
    elif name == "raw":
        _check_raw(head)


def _check_raw(head: bytes) -> None:
    for offset, magic, what in _REFUSED_MAGIC:
        if head[offset : offset + len(magic)] == magic:
            raise Invalid(f"the image begins like {what} but is not a sound one", code="format_unsafe")


def _check_qcow2(head: bytes) -> None:
    if len(head) < _QCOW2_HEADER:
        raise _unsafe("the qcow2 header is cut off")
    version, backing_offset = struct.unpack_from(">IQ", head, 4)
    cluster_bits, _size, crypt, l1_entries = struct.unpack_from(">IQII", head, 20)
    refcount_clusters, snapshots = struct.unpack_from(">II", head, 56)
    checks = (
        (version not in (2, 3), f"qcow2 version {version} is unknown"),
        (backing_offset != 0, "it has a backing file"),
        (not 9 <= cluster_bits <= 21, f"its cluster size of 2^{cluster_bits} is out of range"),
        (crypt != 0, "it is encrypted"),
        (snapshots != 0, "it holds internal snapshots"),
        (l1_entries > _MAX_L1_ENTRIES, f"its L1 table of {l1_entries} entries is out of range"),
        (refcount_clusters << (cluster_bits & 31) > _MAX_REFCOUNT_BYTES, "its refcount table is out of range"),
    )
    for wrong, why in checks:
        if wrong:
            raise _unsafe(why)
    header_length = 72
    if version == 3:
        incompatible, header_length = struct.unpack_from(">Q20xI", head, 72)
        if incompatible & _INCOMPATIBLE_CORRUPT:
            raise _unsafe("it is marked corrupt")
    _check_extensions(head, header_length)


def _check_extensions(head: bytes, position: int) -> None:
    """Header extensions: a list of (type, length, data padded to 8) that ends with type 0."""
    while position + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, position)
        if kind == _QCOW2_EXTENSIONS_END:
            return
        if kind == _QCOW2_BACKING_FORMAT:
            raise _unsafe("it names the format of a backing file")
        if kind == _QCOW2_DATA_FILE:
            raise _unsafe("it names an external data file")
        position += 8 + (length + 7) // 8 * 8
    raise _unsafe("its header extensions do not end")


def _unsafe(why: str) -> Invalid:
    return Invalid(f"the qcow2 image is not accepted: {why}", code="format_unsafe")
