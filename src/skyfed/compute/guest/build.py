"""Builds the demonstration guest from Debian packages, once per set of their versions."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from skyfed.compute.guest.disk import disk
from skyfed.compute.guest.initramfs import initramfs
from skyfed.compute.guest.packages import (
    Package,
    Progress,
    cloud_kernel,
    fetch,
    resolve,
    unpack,
    with_dependencies,
)
from skyfed.core.errors import NotFound

KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
READY = "SKYFED-GUEST READY"
"""What the guest writes on its serial console once SSH answers; its host name and its uptime follow."""
MEMORY_MIB = 128
"""Least memory it boots in (a current distribution kernel hangs without a word in 96)."""


@dataclass(frozen=True)
class Guest:
    """A built image: `key` names its packages' digests and this builder; `version` is the kernel package's."""

    path: Path
    key: str
    version: str


def build(out: Path, work: Path, progress: Progress) -> Guest:
    """Writes the guest image (compressed qcow2) to `out`; `work` is kept between calls as a cache.

    Needs apt's package lists, dpkg-deb, mkfs.vfat, mtools, syslinux and qemu-img, and no root. A second call with the
    same packages copies. Raises NotFound (no package lists), Unavailable (a program is missing or failed, no network),
    TimedOut, Invalid (a download is not what the signed lists promise).
    """
    work.mkdir(parents=True, exist_ok=True)
    packages = _packages()
    key = _key(packages)
    built = work / f"guest-{key}.qcow2"
    if built.is_file():
        progress("the guest image is built already")
    else:
        # The temporary folder lies beside its target, so that the last step is a rename.
        with tempfile.TemporaryDirectory(dir=work, prefix="building-") as folder:
            _build(packages, work / "packages", Path(folder), built, progress)
    _copy(built, out)
    kernel = next(package for package in packages if package.name.startswith("linux-image-"))
    return Guest(path=out, key=key, version=kernel.file.split("_")[1])


def _packages() -> tuple[Package, ...]:
    names = {cloud_kernel(KERNEL_METAPACKAGE), "busybox-static", *with_dependencies("dropbear-bin")}
    return resolve(sorted(names))


def _key(packages: tuple[Package, ...]) -> str:
    """Changes with any package and with any file of this builder."""
    digest = hashlib.sha256()
    for package in packages:
        digest.update(f"{package.file} {package.sha256}\n".encode())
    here = files("skyfed.compute.guest")
    sources = [*here.iterdir(), *(here / "files").iterdir()]
    for source in sorted((one for one in sources if one.is_file()), key=lambda one: one.name):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _build(packages: tuple[Package, ...], cache: Path, work: Path, built: Path, progress: Progress) -> None:
    debs = fetch(packages, cache, work, progress)
    progress("unpacking the packages")
    root = work / "root"
    unpack(debs, root)
    kernel = next(iter(sorted((root / "boot").glob("vmlinuz-*"))), None)
    if kernel is None:
        raise NotFound("the kernel package has no boot/vmlinuz-*", code="package_file_missing")
    progress("packing the initial file system")
    initrd = work / "initrd.gz"
    initrd.write_bytes(initramfs(root))
    progress("writing the bootable disk")
    image = work / "guest.qcow2"
    disk(kernel, initrd, work, image)
    image.replace(built)


def _copy(source: Path, out: Path) -> None:
    partial = out.with_name(f".{out.name}.new")
    shutil.copyfile(source, partial)
    partial.replace(out)
