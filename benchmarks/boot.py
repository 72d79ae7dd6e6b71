"""`./bench boot`: from asking for a machine to SSH answering, against the bare QEMU command line to the same guest.

`compare` takes any way to ask for a machine: the engine contract through the engine host, and OCCI at a running site.
"""

import asyncio
import hashlib
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from figures import emit, interleaved, progress

from skyfed.compute.contract import VmSpec
from skyfed.compute.engines.libvirt.nocloud import context_disk
from skyfed.compute.engines.libvirt.ports import choose
from skyfed.compute.engines.remote import RemoteEngine
from skyfed.compute.guest.build import MEMORY_MIB, build
from skyfed.compute.guest.cli import default_cache
from skyfed.compute.model import Context, DiskFormat
from skyfed.core.clock import SystemClock
from skyfed.federation.nodes import DEMO_VO, FLAVOURS
from skyfed.federation.seed import GUEST_TITLE
from skyfed.federation.tour import RESEARCHER, Traveller
from skyfed.federation.up import bring_up, take_down
from skyfed.occi.client import OcciClient, Order

ROUNDS = 10
FLAVOUR = "tiny"
PATIENCE = 120.0
# A connection that was made before the guest had an address may hang in QEMU's user network: ask again instead.
TRY_SECONDS = 0.25
PAUSE = 0.01
PEER = "bare QEMU command line, the same guest, disks and devices"


@dataclass(frozen=True)
class Machine:
    """One that was asked for: `port` on this host's loopback leads to its SSH; `end` takes it away again."""

    port: int
    end: Callable[[], None]


Begin = Callable[[], Machine]


def compare(name: str, begin: Begin, bare: Begin, rounds: int = ROUNDS) -> None:
    """Emit the median seconds from calling `begin` to SSH answering, against `bare`, in interleaved pairs."""
    ours, theirs = interleaved(rounds, lambda: seconds_to_ssh(begin), lambda: seconds_to_ssh(bare))
    emit(name, ours, "s", PEER, theirs)


def seconds_to_ssh(begin: Begin) -> float:
    """How long it takes; the machine is gone when this returns."""
    started = time.monotonic()
    machine = begin()
    try:
        while not _answers(machine.port):
            if time.monotonic() - started > PATIENCE:
                raise SystemExit(f"no SSH on port {machine.port} within {PATIENCE:.0f} s")
            time.sleep(PAUSE)
        return time.monotonic() - started
    finally:
        machine.end()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), TRY_SECONDS) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def bare_qemu(base: Path, folder: Path, memory_mib: int = MEMORY_MIB) -> Begin:
    """QEMU as a person would call it, with the devices that the libvirt engine's domain document gives."""
    context = folder / "context.iso"
    context.write_bytes(context_disk(str(uuid.uuid4()), Context(hostname="bare")))

    def begin() -> Machine:
        port = choose()
        disk = folder / f"{port}.qcow2"
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(disk)]
        subprocess.run(create, check=True)
        options = {
            "-machine": ["pc,usb=off"],
            "-accel": ["tcg,tb-size=64"],
            "-cpu": ["max"],
            "-m": [str(memory_mib)],
            "-display": ["none"],
            "-serial": [f"file:{folder}/serial.log"],
            "-drive": [
                f"file={disk},format=qcow2,if=virtio,cache=writeback,discard=unmap",
                f"file={context},format=raw,if=virtio,readonly=on",
            ],
            "-netdev": [f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22"],
            "-device": ["virtio-net-pci,netdev=n0,romfile=", "virtio-rng-pci", "virtio-balloon-pci"],
        }
        words = [word for option, values in options.items() for value in values for word in (option, value)]
        process = subprocess.Popen(["qemu-system-x86_64", "-nodefaults", "-no-user-config", *words])

        def end() -> None:
            process.kill()
            process.wait()
            disk.unlink()

        return Machine(port, end)

    return begin


@contextmanager
def engine_host(folder: Path) -> Iterator[Path]:
    """The engine host as a site runs it; its socket."""
    path = folder / "run" / "engine.sock"
    argv = [sys.executable, "-m", "skyfed.compute.engines.host", "--root", str(folder / "root"), "--socket", str(path)]
    with (folder / "host.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            while not path.exists() and process.poll() is None:
                time.sleep(PAUSE)
            yield path
        finally:
            process.terminate()


def engine_boot(base: Path, folder: Path) -> None:
    """The engine contract: `create` over the socket, then SSH."""
    with engine_host(folder) as path, asyncio.Runner() as runner:

        async def connected() -> RemoteEngine:
            return RemoteEngine(path)

        engine = runner.run(connected())
        health = runner.run(engine.probe())
        if not health.ok:
            raise SystemExit(f"the engine does not work: {health.detail}")
        progress(f"{health.version}, {health.acceleration}")
        sha512 = hashlib.sha512(base.read_bytes()).hexdigest()
        runner.run(engine.import_image(sha512, str(base), DiskFormat.QCOW2))

        def begin() -> Machine:
            spec = VmSpec(
                id=str(uuid.uuid4()),
                title="bench",
                image_sha512=sha512,
                cores=1,
                memory_mib=MEMORY_MIB,
                disk_gib=0.0,
                context=Context(hostname="engine"),
            )
            vm = runner.run(engine.create(spec))
            return Machine(vm.endpoints[0].port, lambda: runner.run(engine.delete(spec.id)))

        try:
            compare("engine_boot", begin, bare_qemu(base, folder))
        finally:
            runner.run(engine.close())


def guest_base(folder: Path) -> Path:
    """The demonstration guest, uncompressed as the engine keeps it: both sides read the same bytes."""
    image = build(folder / "guest.qcow2", default_cache(), progress).path
    base = folder / "base.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(image), str(base)], check=True)
    return base


def occi_boot(base: Path, folder: Path) -> None:
    """The whole way: a researcher's OCCI create at a running site, with a proxy, then SSH."""
    progress("starting a federation")
    clock = SystemClock()
    places = bring_up(folder / "run", clock, detach=False)
    try:
        alice = Traveller(places, RESEARCHER, DEMO_VO, clock)
        progress(alice.make_proxy())
        client = OcciClient(places.url("alpha", "occi"), alice.http)
        order = Order(image=GUEST_TITLE, flavour=FLAVOUR)

        def begin() -> Machine:
            location = client.create(order)
            while not (machine := client.get(location)).ssh_port:
                time.sleep(PAUSE)
            return Machine(machine.ssh_port, lambda: client.delete(location))

        compare("occi_boot", begin, bare_qemu(base, folder, FLAVOURS["alpha"][FLAVOUR]["memory_mib"]))
    finally:
        take_down(places)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="skyfed-boot-") as name:
        folder = Path(name)
        base = guest_base(folder)
        engine_boot(base, folder)
        occi_boot(base, folder)


if __name__ == "__main__":
    main()
