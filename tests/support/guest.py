"""The demonstration guest, built once and kept between runs, and an SSH key that opens it."""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from skyfed.compute.guest.build import Guest, build
from skyfed.compute.guest.cli import default_cache
from support.peers import need

_NEEDS = ("qemu-system-x86_64", "qemu-img", "apt-get", "dpkg-deb", "syslinux", "mcopy", "mkfs.vfat", "ssh")


@cache
def guest(folder: Path) -> Guest:
    """The built guest at `folder`/guest.qcow2; skips (fails with CI=true) where a program for it is missing."""
    for program in _NEEDS:
        need(program)
    return build(folder / "guest.qcow2", default_cache(), print)


@dataclass(frozen=True)
class Key:
    """A key pair; `public` is its authorized_keys line."""

    private: Path
    public: str


def new_key(folder: Path, name: str = "id") -> Key:
    private = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", private], check=True)
    return Key(private, private.with_suffix(".pub").read_text().strip())


def ssh(key: Key, port: int, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs `command` in the guest as root, by key only."""
    fixed = [
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    fixed += ["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
    argv = ["ssh", *fixed, *options, "-i", str(key.private), "-p", str(port), "root@127.0.0.1", command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
