"""The guest's whole user land: busybox, dropbear with its libraries, kernel modules and our start-up scripts."""

import gzip
import re
from importlib.resources import files
from pathlib import Path

from skyfed.compute.guest.cpio import Archive
from skyfed.compute.guest.modules import in_order
from skyfed.compute.guest.packages import run
from skyfed.core.errors import NotFound

# What the drivers of our domain document, and of other clouds' usual one, need. Everything else loads with them.
WANTED_MODULES = (
    "virtio_pci",
    "virtio_rng",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_utf8",
    "nls_iso8859-1",
    "evdev",
    "button",
)

_ETC = {
    # The star is no password's hash: keys are the only way in.
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/profile": "export PATH=/sbin:/bin PS1='\\u@\\h:\\w\\$ '\n",
    "etc/os-release": 'ID=skyfed-guest\nNAME="Skyfed demonstration guest"\nPRETTY_NAME="Skyfed demonstration guest"\n',
}

# `libz.so.1 => /path/libz.so.1 (0x…)`, or the loader itself, without an arrow
_LOADED = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


def initramfs(root: Path) -> bytes:
    """The compressed archive, made from packages unpacked in `root`. The same bytes for the same packages."""
    archive = Archive()
    for folder in ("proc", "sys", "dev", "run", "mnt", "var/run", "var/log", "tmp"):
        archive.folder(folder)
    archive.folder("root", 0o700)
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    for path, text in _ETC.items():
        archive.file(path, text.encode(), 0o600 if path == "etc/shadow" else 0o644)
    _scripts(archive)
    _busybox(archive, root)
    _dropbear(archive, root)
    _modules(archive, root)
    return gzip.compress(bytes(archive), compresslevel=9, mtime=0)


def script(name: str) -> bytes:
    """One of the files that lie beside this module."""
    return (files("skyfed.compute.guest") / "files" / name).read_bytes()


def _scripts(archive: Archive) -> None:
    archive.file("etc/inittab", script("inittab"))
    archive.file("etc/rc", script("rc"), 0o755)
    archive.file("etc/udhcpc", script("udhcpc"), 0o755)
    # busybox's acpid runs the script that is named by its built-in table for the power key
    archive.file("etc/acpi/PWRF/00000080", script("power"), 0o755)


def _busybox(archive: Archive, root: Path) -> None:
    busybox = _one(root, "bin/busybox", "usr/bin/busybox")
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.link("init", "bin/busybox")
    for applet in run([str(busybox), "--list"]).split():
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    archive.link("sbin", "bin")
    archive.link("usr/bin", "../bin")
    archive.link("usr/sbin", "../bin")


def _dropbear(archive: Archive, root: Path) -> None:
    server = _one(root, "usr/sbin/dropbear")
    archive.file("bin/dropbear", server.read_bytes(), 0o755)
    archive.file("bin/dropbearkey", _one(root, "usr/bin/dropbearkey").read_bytes(), 0o755)
    loader = _one(root, "lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2").resolve()
    folders = [root / "lib/x86_64-linux-gnu", root / "usr/lib/x86_64-linux-gnu"]
    # The packages' own loader says which of their files it would load: no need to read ELF here.
    argv = [str(loader), "--library-path", ":".join(map(str, folders)), "--list", str(server)]
    for found in _LOADED.findall(run(argv)):
        library = Path(found)
        if library.is_relative_to(root):
            archive.file(f"lib/{library.name}", library.read_bytes(), 0o755)
    archive.file("lib64/ld-linux-x86-64.so.2", loader.read_bytes(), 0o755)


def _modules(archive: Archive, root: Path) -> None:
    tree = next((folder for folder in (root / "lib/modules", root / "usr/lib/modules") if folder.is_dir()), None)
    if tree is None:
        raise NotFound("the kernel package has no lib/modules", code="no_kernel_module")
    modules = in_order(tree, WANTED_MODULES)
    for module in modules:
        archive.file(f"lib/modules/{module.name}.ko", module.content)
    archive.file("lib/modules/order", "".join(f"{module.name}\n" for module in modules).encode())


def _one(root: Path, *paths: str) -> Path:
    for path in paths:
        if (root / path).is_file():
            return root / path
    raise NotFound(f"the packages have no file {paths[0]}", code="package_file_missing")
