"""A disk that boots: the whole of it one FAT16 file system with syslinux in its boot sector.

Made with mtools and syslinux on a plain file: no loop device, no mount, no root.
"""

import os
from pathlib import Path

from skyfed.compute.guest.initramfs import script
from skyfed.compute.guest.packages import run

DISK_MIB = 32
# 2026-01-01T00:00:00Z on every file, so that the same input gives the same disk.
_EPOCH = 1767225600


def disk(kernel: Path, initrd: Path, work: Path, out: Path) -> None:
    """Writes the bootable disk as compressed qcow2 to `out`, with `work` for what lies between."""
    raw = work / "disk.raw"
    config = work / "syslinux.cfg"
    config.write_bytes(script("syslinux.cfg"))
    # mtools looks for settings in the home folder and refuses disks it finds odd; neither is wanted here.
    env = os.environ | {
        "SOURCE_DATE_EPOCH": str(_EPOCH),
        "TZ": "UTC",
        "MTOOLSRC": os.devnull,
        "MTOOLS_SKIP_CHECK": "1",
        "PATH": os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")),
    }
    run(
        ["mkfs.vfat", "--invariant", "-F", "16", "-n", "SKYFED", "-C", str(raw), str(DISK_MIB * 1024)],
        env=env,
    )
    run(["syslinux", "--install", str(raw)], env=env)
    for source, name in ((kernel, "vmlinuz"), (initrd, "initrd.gz"), (config, "syslinux.cfg")):
        os.utime(source, (_EPOCH, _EPOCH))
        run(["mcopy", "-m", "-i", str(raw), str(source), f"::{name}"], env=env)
    run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(out)], timeout=120)
