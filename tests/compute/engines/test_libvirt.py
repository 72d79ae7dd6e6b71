"""The libvirt engine keeps the contract with real guests, through its host process, as a site runs it."""

import asyncio
import ctypes
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from compute.engines.conformance import EngineConformance, World, story
from skyfed.compute.contract import Engine, EngineVm, VmSpec
from skyfed.compute.engines.libvirt import processes
from skyfed.compute.engines.remote import RemoteEngine
from skyfed.compute.model import Context, DiskFormat, StopMethod, VmState
from skyfed.core.errors import Invalid, NotFound
from support.guest import Key, guest, new_key, ssh
from support.peers import need

pytestmark = pytest.mark.peer

START_SECONDS = 60.0
PR_SET_CHILD_SUBREAPER = 36


class HostProcess:
    """The engine host as its own process, killed and started as often as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.socket = folder / "run" / "engine.sock"
        self._log = (folder / "host.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def argv(self) -> list[str]:
        module = "skyfed.compute.engines.host"
        return [sys.executable, "-m", module, "--root", str(self.root), "--socket", str(self.socket)]

    def start(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(self.argv(), stdout=self._log, stderr=self._log)

    async def answers(self) -> None:
        """Waits until it serves."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                assert self._process is not None
                assert self._process.poll() is None, "the engine host ended; see host.log"
                with suppress(OSError):
                    _, writer = await asyncio.open_unix_connection(str(self.socket))
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to the process that works; its attendant reports the end as a shell would."""
        if self._process is not None:
            attendant = self._process.pid
            (child,) = Path(f"/proc/{attendant}/task/{attendant}/children").read_text().split()[:1]
            os.kill(int(child), signal.SIGKILL)
            assert self._process.wait(10) == 128 + signal.SIGKILL
            self._process = None

    def stop(self) -> int:
        """As a supervisor stops it."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(30)
        finally:
            self._process = None

    def end(self) -> None:
        """Whatever state it is in, and with every guest of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        for pid, _ in processes.running(self.root):
            processes.kill(pid)
        self._log.close()

    def guests(self) -> set[str]:
        """Machines that a QEMU process runs for."""
        return {id for _, id in processes.running(self.root)}


class LibvirtWorld(World):
    """Real guests of a host process that lasts over the tests."""

    def __init__(self, host: HostProcess, image: Path, key: Key) -> None:
        super().__init__()
        self.host = host
        self.key = key
        self._image = image
        self._ports: dict[str, int] = {}

    async def open(self) -> Engine:
        self.host.start()
        await self.host.answers()
        return RemoteEngine(self.host.socket)

    async def kill(self) -> None:
        await self.engine.close()
        self.host.kill()

    async def halt(self, id: str) -> None:
        # With no engine QEMU outlives its guest, and nobody says goodbye to SSH.
        alive = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1")
        await asyncio.to_thread(ssh, self.key, self._ports[id], "poweroff -f", *alive)

    async def crash(self, id: str) -> None:
        for pid, owner in processes.running(self.host.root):
            if owner == id:
                os.kill(pid, signal.SIGKILL)

    async def made(self, spec: VmSpec | None = None) -> EngineVm:
        vm = await super().made(spec)
        self._ports[vm.id] = vm.endpoints[0].port
        return vm

    def image_file(self) -> Path:
        return self._image

    def ssh_keys(self) -> tuple[str, ...]:
        return (self.key.public,)


@contextmanager
def a_slow_undertaker() -> Iterator[None]:
    """Inside, orphans fall to this process, which buries none of them by itself: as process 1 of many a container."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lv")


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[HostProcess]:
    need("qemu-system-x86_64")
    process = HostProcess(folder)
    yield process
    process.end()


@pytest.fixture(scope="module")
def key(folder: Path) -> Key:
    return new_key(folder)


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    return guest(folder).path


@pytest.fixture
def world(host: HostProcess, image: Path, key: Key) -> Iterator[LibvirtWorld]:
    world = LibvirtWorld(host, image, key)
    yield world
    # Every test: nothing of it is left.
    assert host.guests() == set()
    assert list((host.root / "machines").iterdir()) == []
    for folder in ("log/qemu", "run/qemu", "lib/qemu"):
        assert list((host.root / folder).glob("*vm-*")) == []


class TestLibvirtEngine(EngineConformance):
    @story
    async def test_a_guest_takes_key_name_and_user_data_from_its_context(self, world: World) -> None:
        assert isinstance(world, LibvirtWorld)
        context = Context(
            ssh_keys=(
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA x",
                world.key.public,
            ),
            hostname="node-7.example.org",
            user_data=b"#!/bin/sh\necho told > /run/told\n",
        )
        vm = await world.made(world.spec(context=context))
        await world.ready(vm.id)
        port = vm.endpoints[0].port
        done = await asyncio.to_thread(
            ssh, world.key, port, "hostname; while [ ! -s /run/told ]; do usleep 10000; done; cat /run/told"
        )
        assert done.stdout.split() == ["node-7.example.org", "told"]
        stranger = new_key(world.host.root.parent, "stranger")
        assert (await asyncio.to_thread(ssh, stranger, port, "true")).returncode == 255

    @story
    async def test_a_port_that_somebody_has_taken_is_chosen_anew_and_reported(self, world: World) -> None:
        vm = await world.made()
        await world.engine.stop(vm.id, StopMethod.POWEROFF, 0.0)
        await world.reaches(vm.id, VmState.STOPPED)
        await world.engine.start(vm.id)
        kept = await world.reaches(vm.id, VmState.ACTIVE)
        assert kept.endpoints == vm.endpoints
        await world.engine.stop(vm.id, StopMethod.POWEROFF, 0.0)
        await world.reaches(vm.id, VmState.STOPPED)
        with socket.socket() as squatter:
            squatter.bind(("127.0.0.1", vm.endpoints[0].port))
            squatter.listen()
            await world.engine.start(vm.id)
            moved = await world.reaches(vm.id, VmState.ACTIVE)
        assert moved.endpoints[0].port != vm.endpoints[0].port

    @story
    async def test_images_that_reach_for_other_files_or_are_not_what_they_are_said_to_be_are_refused(
        self, world: World
    ) -> None:
        assert isinstance(world, LibvirtWorld)
        folder = world.host.root.parent
        hostile = {
            "backing": ["-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "-u", "{}", "1M"],
            "external": ["-f", "qcow2", "-o", f"data_file={folder}/external.raw", "{}", "1M"],
            "flat": ["-f", "vmdk", "-o", "subformat=monolithicFlat", "{}", "1M"],
            "huge": ["-f", "qcow2", "{}", "300G"],
            "vdi": ["-f", "vdi", "{}", "1M"],
        }
        for name, arguments in hostile.items():
            file = folder / f"{name}.img"
            subprocess.run(["qemu-img", "create", "-q", *(word.format(file) for word in arguments)], check=True)
            sha512 = hashlib.sha512(file.read_bytes()).hexdigest()
            disk_format = DiskFormat.VMDK if name == "flat" else DiskFormat.QCOW2
            with pytest.raises(Invalid):
                await world.engine.import_image(sha512, str(file), disk_format)
            assert sha512 not in await world.engine.images()
        link = folder / "link.img"
        link.symlink_to(world.image_file())
        with pytest.raises(Invalid):
            await world.engine.import_image("ef" * 64, str(link), DiskFormat.QCOW2)
        with pytest.raises(Invalid):
            await world.engine.import_image("../../etc", str(world.image_file()), DiskFormat.QCOW2)
        assert list((world.host.root / "images").glob(".new-*")) == []

    @story
    async def test_images_of_every_format_that_is_offered_are_taken(self, world: World) -> None:
        assert isinstance(world, LibvirtWorld)
        offered = (await world.engine.capabilities()).disk_formats - {DiskFormat.QCOW2}
        for disk_format in offered:
            file = world.host.root.parent / f"good.{disk_format}"
            name = {"vhd": "vpc"}.get(disk_format, disk_format)
            subprocess.run(["qemu-img", "convert", "-O", name, str(world.image_file()), str(file)], check=True)
            sha512 = hashlib.sha512(file.read_bytes()).hexdigest()
            await world.engine.import_image(sha512, str(file), disk_format)
            assert sha512 in await world.engine.images()
            await world.engine.remove_image(sha512)

    @story
    async def test_identifiers_that_are_no_uuids_reach_no_file(self, world: World) -> None:
        for id in ("../../etc", "", "x" * 300, "{11111111-2222-4333-8444-555555555555}"):
            with pytest.raises(Invalid):
                await world.engine.create(world.spec(id=id))
            await world.engine.delete(id)
            with pytest.raises(NotFound):
                await world.engine.console_log(id, 10)

    @story
    async def test_contexts_that_cannot_be_delivered_are_refused_and_leave_nothing(self, world: World) -> None:
        for context in (
            Context(hostname="no host"),
            Context(ssh_keys=("ssh-ed25519 AAAA\nroot: x",)),
            Context(ssh_keys=("nonsense",)),
            Context(user_data=b"x" * (1 << 17)),
        ):
            with pytest.raises(Invalid):
                await world.engine.create(world.spec(context=context))
        assert await world.engine.list() == ()

    @story
    async def test_whenever_the_host_is_killed_during_a_create_or_delete_nothing_is_lost_or_doubled(
        self, world: World
    ) -> None:
        assert isinstance(world, LibvirtWorld)
        seed = int(os.environ.get("SKYFED_SEED") or random.randrange(1 << 32))
        print(f"seed {seed}")  # shown if the test fails
        moments = random.Random(seed)
        for _ in range(int(os.environ.get("SKYFED_KILLS", "3"))):
            spec = world.spec()
            world._made.add(spec.id)
            create = asyncio.create_task(world.engine.create(spec))
            await asyncio.sleep(moments.uniform(0.0, 0.35))
            await world.restart()
            await asyncio.gather(create, return_exceptions=True)
            listed = {vm.id for vm in await world.engine.list()}
            assert world.host.guests() <= listed
            vm = await world.engine.create(spec)
            assert vm.state is VmState.ACTIVE
            assert [id for _, id in processes.running(world.host.root)] == [spec.id]
            delete = asyncio.create_task(world.engine.delete(spec.id))
            await asyncio.sleep(moments.uniform(0.0, 0.3))
            await world.restart()
            await asyncio.gather(delete, return_exceptions=True)
            assert world.host.guests() <= {vm.id for vm in await world.engine.list()}
            await world.engine.delete(spec.id)
            assert world.host.guests() == set()
            assert await world.engine.list() == ()

    @story
    async def test_a_guest_that_is_off_is_shown_so_though_nobody_has_buried_its_process(self, world: World) -> None:
        assert isinstance(world, LibvirtWorld)
        vm = await world.made()
        await world.ready(vm.id)
        (pid,) = [pid for pid, id in processes.running(world.host.root) if id == vm.id]
        with a_slow_undertaker():
            await world.restart()
            await world.engine.stop(vm.id, StopMethod.GRACEFUL, 60.0)
            off = await world.reaches(vm.id, VmState.STOPPED)
            await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            start = asyncio.create_task(world.engine.start(vm.id))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(start), 0.5)
            os.waitpid(pid, 0)
            await start
            again = await world.reaches(vm.id, VmState.ACTIVE)
        assert again.booted is not None
        assert again.booted > off.since

    @story
    async def test_leftovers_on_disk_are_listed_as_building_and_can_be_deleted(self, world: World) -> None:
        assert isinstance(world, LibvirtWorld)
        spec = world.spec()
        folder = world.host.root / "machines" / spec.id
        folder.mkdir()
        (folder / "context.iso").write_bytes(b"half")
        assert [(vm.id, vm.state) for vm in await world.engine.list()] == [(spec.id, VmState.BUILDING)]
        await world.engine.delete(spec.id)
        assert await world.engine.list() == ()

    @story
    async def test_a_qemu_that_libvirt_does_not_know_is_ended_at_the_next_start(self, world: World) -> None:
        assert isinstance(world, LibvirtWorld)
        await world._hang_up()
        await world.kill()
        spec = world.spec()
        serial = f"file:{world.host.root}/orphan.log"
        orphan = subprocess.Popen(
            ["qemu-system-x86_64", "-uuid", spec.id, "-S", "-display", "none", "-nodefaults", "-serial", serial]
        )
        try:
            world.engine = await world.open()
            await world.engine.list()
            assert await asyncio.to_thread(orphan.wait, 10) == -signal.SIGKILL
        finally:
            orphan.kill()
            orphan.wait()


def test_a_second_host_process_on_the_same_root_ends_with_a_sentence(host: HostProcess) -> None:
    host.start()
    asyncio.run(host.answers())
    second = subprocess.run(host.argv(), capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert "another engine host runs" in second.stderr


def test_a_host_that_is_told_to_stop_leaves_its_guests_running(host: HostProcess, image: Path, key: Key) -> None:
    async def whole() -> None:
        async with LibvirtWorld(host, image, key) as world:
            vm = await world.made()
            await world._hang_up()
            await world.engine.close()
            begun = time.monotonic()
            assert await asyncio.to_thread(host.stop) == 0
            assert time.monotonic() - begun < 10
            assert host.guests() == {vm.id}
            world.engine = await world.open()
            assert (await world.engine.get(vm.id)).since == vm.since

    asyncio.run(whole())
