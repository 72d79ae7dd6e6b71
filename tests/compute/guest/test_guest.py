"""The demonstration guest: the parts it is made of, and that it boots and answers as plain QEMU's guest."""

import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyfed.compute.engines.libvirt.nocloud import context_disk
from skyfed.compute.engines.libvirt.ports import choose
from skyfed.compute.guest.build import MEMORY_MIB, READY, build
from skyfed.compute.guest.cli import default_cache
from skyfed.compute.guest.cpio import Archive
from skyfed.compute.guest.modules import in_order
from skyfed.compute.guest.packages import cloud_kernel, run
from skyfed.compute.model import Context
from skyfed.core.errors import NotFound, TimedOut, Unavailable
from support.guest import Key, guest, new_key, ssh
from support.peers import need

BOOT_SECONDS = 60.0


def test_an_archive_is_one_that_cpio_reads_and_the_same_each_time() -> None:
    archive = Archive()
    archive.file("etc/deep/motd", b"hello\n", 0o600)
    archive.link("init", "bin/busybox")
    archive.character_device("dev/console", 5, 1)
    packed = bytes(archive)
    listing = subprocess.run(
        [need("cpio"), "-itv", "--quiet", "--numeric-uid-gid"], input=packed, capture_output=True, check=True
    ).stdout.decode()
    assert "-rw-------   1 0        0               6 Jan  1  1970 etc/deep/motd" in listing
    assert "init -> bin/busybox" in listing
    assert "5,   1" in listing
    again = Archive()
    again.character_device("dev/console", 5, 1)
    again.link("init", "bin/busybox")
    again.file("etc/deep/motd", b"hello\n", 0o600)
    assert bytes(again) == packed


def test_modules_load_after_what_they_need_and_built_in_ones_are_left_out(tmp_path: Path) -> None:
    tree = tmp_path / "6.1"
    tree.mkdir()
    needs = {"virtio": b"virtio_ring", "virtio_ring": b"", "virtio-net": b"virtio,net-failover", "net_failover": b""}
    for name, depends in needs.items():
        (tree / f"{name}.ko").write_bytes(b"\x7fELF license=GPL\0depends=" + depends + b"\0name=x\0")
    (tree / "modules.builtin").write_text("kernel/fs/isofs/isofs.ko\n")
    order = [module.name for module in in_order(tmp_path, ("virtio_net", "isofs"))]
    assert order == ["virtio_ring", "virtio", "net_failover", "virtio_net"]


def test_a_module_that_the_kernel_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no module 'evdev'"):
        in_order(tmp_path, ("evdev",))


def test_a_program_that_fails_or_hangs_or_is_missing_is_told_with_its_words() -> None:
    with pytest.raises(Unavailable, match="No such file") as failed:
        run(["ls", "/nonexistent"])
    assert failed.value.code == "program_failed"
    with pytest.raises(Unavailable) as missing:
        run(["no-such-program-anywhere"])
    assert missing.value.code == "program_missing"
    with pytest.raises(TimedOut):
        run(["sleep", "10"], timeout=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guest")


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    return guest(folder).path


@pytest.fixture(scope="module")
def key(folder: Path) -> Key:
    return new_key(folder)


class PlainGuest:
    """The image under QEMU's own command line, with a context disk, in as little memory as it promises to need."""

    def __init__(self, folder: Path, image: Path, context: Context) -> None:
        self.port = choose()
        self.log = folder / "serial.log"
        self._monitor = folder / "qmp.sock"
        context_file = folder / "context.iso"
        context_file.write_bytes(context_disk("11111111-2222-4333-8444-555555555555", context))
        devices = {
            "-machine": ["pc"],
            "-accel": ["tcg,tb-size=64"],
            "-m": [str(MEMORY_MIB)],
            "-display": ["none"],
            "-serial": [f"file:{self.log}"],
            "-drive": [
                f"file={image},format=qcow2,if=virtio,snapshot=on",
                f"file={context_file},format=raw,if=virtio,readonly=on",
            ],
            "-netdev": [f"user,id=n0,hostfwd=tcp:127.0.0.1:{self.port}-:22"],
            "-device": ["virtio-net-pci,netdev=n0,romfile=", "virtio-rng-pci"],
            "-qmp": [f"unix:{self._monitor},server=on,wait=off"],
        }
        options = [word for option, values in devices.items() for value in values for word in (option, value)]
        self.process = subprocess.Popen(["qemu-system-x86_64", "-nodefaults", *options])

    def wait_for(self, token: str) -> str:
        """The console once `token` is on it."""
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            console = self.log.read_text(errors="replace") if self.log.exists() else ""
            if token in console:
                return console
            assert self.process.poll() is None, "QEMU ended"
            time.sleep(0.02)
        raise AssertionError(f"no {token!r} within {BOOT_SECONDS:.0f} s")

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._monitor))
            talk = monitor.makefile("rw")
            for command in ("qmp_capabilities", "system_powerdown"):
                talk.readline()
                talk.write(json.dumps({"execute": command}) + "\n")
                talk.flush()
            talk.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def plain(tmp_path: Path, image: Path, key: Key) -> Iterator[PlainGuest]:
    context = Context(ssh_keys=(key.public,), hostname="demo-1", user_data=b"#!/bin/sh\necho user data $((6 * 7))\n")
    machine = PlainGuest(tmp_path, image, context)
    yield machine
    machine.end()


@pytest.mark.peer
def test_the_guest_boots_in_little_memory_takes_its_context_and_follows_the_power_button(
    plain: PlainGuest, key: Key
) -> None:
    console = plain.wait_for(READY)
    assert f"{READY} demo-1" in console
    assert "BEGIN SSH HOST KEY KEYS" in console
    done = ssh(key, plain.port, "id -un; hostname; uname -s")
    assert done.stdout.split() == ["root", "demo-1", "Linux"]
    assert ssh(key, plain.port, "true", "-o", "PubkeyAuthentication=no").returncode == 255
    plain.wait_for("USER-DATA ended with status 0")
    assert ssh(key, plain.port, "cat /var/log/user-data.log").stdout == "user data 42\n"
    plain.press_power_button()
    assert plain.process.wait(BOOT_SECONDS) == 0
    assert "POWER BUTTON" in plain.log.read_text()


@pytest.mark.peer
def test_the_same_packages_give_the_same_image_and_a_second_build_only_copies(tmp_path: Path, image: Path) -> None:
    said: list[str] = []
    copied = build(tmp_path / "again.qcow2", default_cache(), said.append)
    assert said == ["the guest image is built already"]
    assert copied.path.read_bytes() == image.read_bytes()
    work = tmp_path / "work"
    work.mkdir()
    (work / "packages").symlink_to(default_cache() / "packages")
    built = build(tmp_path / "anew.qcow2", work, said.append)
    assert built.key == copied.key
    assert hashlib.sha256(built.path.read_bytes()).digest() == hashlib.sha256(image.read_bytes()).digest()
    assert sorted(entry.name for entry in work.iterdir()) == [f"guest-{built.key}.qcow2", "packages"]


@pytest.mark.peer
def test_the_kernel_is_a_concrete_package() -> None:
    need("apt-cache")
    assert cloud_kernel("linux-image-cloud-amd64").startswith("linux-image-")
