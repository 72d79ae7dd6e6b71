"""What every engine must do, told as stories over a `World`. Each engine's test module makes the world and inherits.

The worlds differ in how a guest halts, crashes or becomes ready, and in what a restart of the engine is; the stories
do not.
"""

import asyncio
import functools
import hashlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from skyfed.compute.contract import Engine, EngineEvent, EngineVm, EventKind, VmSpec, error_code
from skyfed.compute.model import Action, Context, DiskFormat, RestartMethod, StopMethod, VmState
from skyfed.core.errors import Conflict, Invalid, NotFound, Unavailable

PATIENCE = 60.0
"""Seconds after which something that should have happened has not, on a machine that is busy with other tests."""


class World(ABC):
    """An engine with one imported image, its events, and a hand on its guests. An async context manager."""

    memory_mib = 128
    image: str
    """SHA-512 of the imported image."""

    def __init__(self) -> None:
        self.engine: Engine
        self.events: list[EngineEvent] = []
        self._heard = asyncio.Condition()
        self._listener: asyncio.Task[None] | None = None
        self._made: set[str] = set()

    @abstractmethod
    async def open(self) -> Engine:
        """A new engine over the same world: the first one, or after a restart."""

    @abstractmethod
    async def kill(self) -> None:
        """The engine ends without a word; guests go on."""

    @abstractmethod
    async def halt(self, id: str) -> None:
        """The guest switches itself off."""

    @abstractmethod
    async def crash(self, id: str) -> None:
        """The guest's hypervisor dies."""

    @abstractmethod
    def image_file(self) -> Path:
        """A qcow2 file that can be imported."""

    async def ready(self, id: str) -> None:
        """Waits until the guest has told its console that it is up."""
        async with asyncio.timeout(PATIENCE):
            while b"READY" not in await self.engine.console_log(id, 1 << 16):
                await asyncio.sleep(0.02)

    async def __aenter__(self) -> "World":
        self.engine = await self.open()
        self._listener = asyncio.create_task(self._listen())
        await self.heard(lambda event: event.kind is EventKind.RESYNC)
        file = self.image_file()
        self.image = hashlib.sha512(file.read_bytes()).hexdigest()
        await self.engine.import_image(self.image, str(file), DiskFormat.QCOW2)
        return self

    async def __aexit__(self, *_: object) -> None:
        for id in self._made:
            await self.engine.delete(id)
        await self._hang_up()
        await self.engine.close()

    async def restart(self) -> None:
        """Kills the engine and opens another one over what it leaves."""
        await self._hang_up()
        await self.kill()
        self.events.clear()
        self.engine = await self.open()
        self._listener = asyncio.create_task(self._listen())

    async def _hang_up(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener

    async def _listen(self) -> None:
        async for event in self.engine.events():
            async with self._heard:
                self.events.append(event)
                self._heard.notify_all()

    async def heard(self, wanted: Callable[[EngineEvent], bool]) -> EngineEvent:
        """The first event, past or to come, that is `wanted`."""
        async with asyncio.timeout(PATIENCE), self._heard:
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                await self._heard.wait()

    async def reaches(self, id: str, state: VmState) -> EngineVm:
        """The machine once it is in `state`: told by an event, and agreed to by a look-up."""
        async with asyncio.timeout(PATIENCE), self._heard:
            while not any(event.id == id and event.vm and event.vm.state is state for event in self.events):
                await self._heard.wait()
            self.events = [event for event in self.events if event.id != id]
        vm = await self.engine.get(id)
        assert vm.state is state
        return vm

    def spec(self, **changes: Any) -> VmSpec:
        id = str(uuid.uuid4())
        values = {
            "id": id,
            "title": f"machine {id[:4]} <&'\">",
            "image_sha512": self.image,
            "cores": 1,
            "memory_mib": self.memory_mib,
            "disk_gib": 1.0,
            "context": Context(hostname="conformance", ssh_keys=self.ssh_keys()),
        }
        return VmSpec(**{**values, **changes})

    def ssh_keys(self) -> tuple[str, ...]:
        return ()

    async def made(self, spec: VmSpec | None = None) -> EngineVm:
        """A machine that is active; deleted with the world."""
        spec = spec or self.spec()
        self._made.add(spec.id)
        await self.engine.create(spec)
        return await self.reaches(spec.id, VmState.ACTIVE)


def story(test: Callable[[Any, World], Awaitable[None]]) -> Callable[[Any, World], None]:
    """Runs the test on an event loop of its own, inside its world."""

    @functools.wraps(test)
    def run(self: object, world: World) -> None:
        async def whole() -> None:
            async with world:
                await test(self, world)

        asyncio.run(asyncio.wait_for(whole(), 3 * PATIENCE))

    return run


class EngineConformance:
    """Inherit, and give a fixture `world`."""

    @story
    async def test_a_machine_is_made_restarted_stopped_started_and_deleted(self, world: World) -> None:
        vm = await world.made()
        assert vm.booted is not None
        assert vm.since >= vm.booted
        assert vm.fault is None
        assert [endpoint.guest_port for endpoint in vm.endpoints] == [22]
        assert [disk.size_gib for disk in vm.disks] == [1.0]
        assert len(vm.nics) == 1

        await world.engine.restart(vm.id, RestartMethod.COLD)
        again = await world.reaches(vm.id, VmState.ACTIVE)
        assert again.since > vm.since

        await world.engine.stop(vm.id, StopMethod.POWEROFF, 0.0)
        off = await world.reaches(vm.id, VmState.STOPPED)
        assert off.since > again.since
        assert off.endpoints == ()
        assert off.booted == vm.booted

        await world.engine.start(vm.id)
        on = await world.reaches(vm.id, VmState.ACTIVE)
        assert on.booted is not None
        assert on.booted > off.since
        assert [nic.mac for nic in on.nics] == [nic.mac for nic in vm.nics]

        await world.engine.delete(vm.id)
        await world.heard(lambda event: event.kind is EventKind.GONE and event.id == vm.id)
        with pytest.raises(NotFound):
            await world.engine.get(vm.id)
        assert vm.id not in {other.id for other in await world.engine.list()}

    @story
    async def test_a_create_with_the_same_identifier_gives_the_same_machine(self, world: World) -> None:
        spec = world.spec()
        first = await world.made(spec)
        second = await world.engine.create(spec)
        assert (second.id, second.booted, second.since) == (first.id, first.booted, first.since)
        assert [vm.id for vm in await world.engine.list()].count(spec.id) == 1

    @story
    async def test_a_create_with_the_identifier_of_a_stopped_machine_does_not_start_it(self, world: World) -> None:
        spec = world.spec()
        await world.made(spec)
        await world.engine.stop(spec.id, StopMethod.POWEROFF, 0.0)
        await world.reaches(spec.id, VmState.STOPPED)
        assert (await world.engine.create(spec)).state is VmState.STOPPED

    @story
    async def test_starting_what_runs_and_stopping_what_is_stopped_change_nothing(self, world: World) -> None:
        vm = await world.made()
        assert (await world.engine.start(vm.id)).booted == vm.booted
        await world.engine.stop(vm.id, StopMethod.POWEROFF, 0.0)
        off = await world.reaches(vm.id, VmState.STOPPED)
        assert (await world.engine.stop(vm.id, StopMethod.GRACEFUL, 5.0)).since == off.since

    @story
    async def test_only_an_active_machine_is_restarted(self, world: World) -> None:
        vm = await world.made()
        await world.engine.stop(vm.id, StopMethod.POWEROFF, 0.0)
        await world.reaches(vm.id, VmState.STOPPED)
        with pytest.raises(Conflict) as refused:
            await world.engine.restart(vm.id, RestartMethod.COLD)
        assert error_code(refused.value) == "conflict"

    @story
    async def test_an_unknown_machine_is_not_found_and_may_be_deleted(self, world: World) -> None:
        engine, id = world.engine, str(uuid.uuid4())
        for call in (
            engine.get(id),
            engine.start(id),
            engine.stop(id, StopMethod.POWEROFF, 0.0),
            engine.restart(id, RestartMethod.WARM),
            engine.console_log(id, 100),
        ):
            with pytest.raises(NotFound) as refused:
                await call
            assert error_code(refused.value) == "not_found"
        await engine.delete(id)

    @story
    async def test_a_machine_from_an_absent_image_is_refused_and_leaves_nothing(self, world: World) -> None:
        before = await world.engine.list()
        spec = world.spec(image_sha512="ab" * 64)
        with pytest.raises(NotFound):
            await world.engine.create(spec)
        assert await world.engine.list() == before

    @story
    async def test_a_machine_that_does_not_fit_is_refused_as_no_capacity(self, world: World) -> None:
        spec = world.spec(memory_mib=1 << 30)
        with pytest.raises(Unavailable) as refused:
            await world.engine.create(spec)
        assert error_code(refused.value) == "no_capacity"
        assert spec.id not in {vm.id for vm in await world.engine.list()}

    @story
    async def test_a_guest_follows_the_power_button(self, world: World) -> None:
        vm = await world.made()
        await world.ready(vm.id)
        answer = await world.engine.stop(vm.id, StopMethod.GRACEFUL, PATIENCE)
        assert answer.state in (VmState.STOPPING, VmState.STOPPED)
        off = await world.reaches(vm.id, VmState.STOPPED)
        assert off.fault is None
        assert off.counters is not None
        assert off.counters.cpu_seconds is not None

    @story
    async def test_a_guest_that_ignores_the_power_button_is_switched_off(self, world: World) -> None:
        vm = await world.made()  # still in its firmware, or told to ignore it
        await self.deafen(world, vm.id)
        await world.engine.stop(vm.id, StopMethod.ACPIOFF, 0.3)
        await world.reaches(vm.id, VmState.STOPPED)

    async def deafen(self, world: World, id: str) -> None:
        """Makes the guest ignore the power button; a real one does by itself while it boots."""

    @story
    async def test_pulling_the_plug_ends_a_stop_that_waits_for_the_guest(self, world: World) -> None:
        vm = await world.made()
        await self.deafen(world, vm.id)
        await world.engine.stop(vm.id, StopMethod.GRACEFUL, 10 * PATIENCE)
        with pytest.raises(Conflict):
            await world.engine.start(vm.id)
        await world.engine.stop(vm.id, StopMethod.POWEROFF, 0.0)
        await world.reaches(vm.id, VmState.STOPPED)

    @story
    async def test_a_warm_restart_keeps_the_process_and_its_counters(self, world: World) -> None:
        vm = await world.made()
        await world.ready(vm.id)
        before = await self.counters(world, vm.id)
        await world.engine.restart(vm.id, RestartMethod.WARM)
        again = await world.reaches(vm.id, VmState.ACTIVE)
        assert again.since > vm.since
        after = await self.counters(world, vm.id)
        assert after.boot == before.boot
        assert after.cpu_seconds >= before.cpu_seconds

    @staticmethod
    async def counters(world: World, id: str) -> Any:
        return next(counters for counters in await world.engine.stats() if counters.id == id)

    @story
    async def test_a_guest_that_halts_itself_is_stopped(self, world: World) -> None:
        vm = await world.made()
        await world.ready(vm.id)
        await world.halt(vm.id)
        off = await world.reaches(vm.id, VmState.STOPPED)
        assert off.fault is None
        assert off.counters is not None

    @story
    async def test_a_machine_whose_hypervisor_dies_is_in_error_and_can_be_started(self, world: World) -> None:
        vm = await world.made()
        await world.crash(vm.id)
        broken = await world.reaches(vm.id, VmState.ERROR)
        assert broken.fault
        await world.engine.start(vm.id)
        assert (await world.reaches(vm.id, VmState.ACTIVE)).fault is None

    @story
    async def test_counters_are_those_of_running_machines_and_start_anew_with_each_boot(self, world: World) -> None:
        vm = await world.made()
        first = await self.counters(world, vm.id)
        second = await self.counters(world, vm.id)
        assert second.boot == first.boot
        assert second.at >= first.at
        assert second.cpu_seconds >= first.cpu_seconds
        await world.engine.stop(vm.id, StopMethod.POWEROFF, 0.0)
        await world.reaches(vm.id, VmState.STOPPED)
        assert vm.id not in {counters.id for counters in await world.engine.stats()}
        await world.engine.start(vm.id)
        await world.reaches(vm.id, VmState.ACTIVE)
        assert (await self.counters(world, vm.id)).boot != first.boot

    @story
    async def test_machines_outlive_the_engine(self, world: World) -> None:
        running, stopped = await world.made(), await world.made()
        await world.engine.stop(stopped.id, StopMethod.POWEROFF, 0.0)
        off = await world.reaches(stopped.id, VmState.STOPPED)
        await world.restart()
        found = {vm.id: vm for vm in await world.engine.list()}
        assert found[running.id].state is VmState.ACTIVE
        assert (found[running.id].since, found[running.id].booted) == (running.since, running.booted)
        assert found[running.id].endpoints == running.endpoints
        assert (found[stopped.id].state, found[stopped.id].since) == (VmState.STOPPED, off.since)
        await world.engine.stop(running.id, StopMethod.POWEROFF, 0.0)
        await world.reaches(running.id, VmState.STOPPED)

    @story
    async def test_a_guest_that_halts_while_the_engine_is_away_is_found_stopped(self, world: World) -> None:
        vm = await world.made()
        await world.ready(vm.id)
        used = await self.counters(world, vm.id)
        await world._hang_up()
        await world.kill()
        await world.halt(vm.id)
        reopened = datetime.now(UTC)
        world.engine = await world.open()
        world._listener = asyncio.create_task(world._listen())
        async with asyncio.timeout(PATIENCE):
            while (found := await world.engine.get(vm.id)).state is not VmState.STOPPED:
                await asyncio.sleep(0.02)
        assert vm.since < found.since < reopened
        assert found.booted == vm.booted
        # It is known what it used, by a sample that does not say that it ran on.
        assert found.counters is not None
        assert (found.counters.boot, found.counters.cpu_seconds >= used.cpu_seconds) == (used.boot, True)
        assert found.counters.at < reopened

    @story
    async def test_machines_are_made_side_by_side(self, world: World) -> None:
        specs = [world.spec() for _ in range(4)]
        made = await asyncio.gather(*(world.made(spec) for spec in specs))
        assert {vm.id for vm in made} == {spec.id for spec in specs}
        assert len({vm.endpoints[0].port for vm in made}) == 4
        await asyncio.gather(*(world.engine.delete(spec.id) for spec in specs))
        assert not {spec.id for spec in specs} & {vm.id for vm in await world.engine.list()}

    @story
    async def test_an_image_is_removed_when_the_last_disk_that_stands_on_it_goes(self, world: World) -> None:
        vm = await world.made()
        await world.engine.stop(vm.id, StopMethod.POWEROFF, 0.0)
        await world.reaches(vm.id, VmState.STOPPED)
        await world.engine.remove_image(world.image)
        assert world.image not in await world.engine.images()
        with pytest.raises(NotFound):
            await world.engine.create(world.spec())
        await world.engine.start(vm.id)
        await world.reaches(vm.id, VmState.ACTIVE)
        await world.engine.delete(vm.id)
        await world.engine.remove_image(world.image)
        assert world.image not in await world.engine.images()

    @story
    async def test_an_image_is_imported_as_often_as_one_likes(self, world: World) -> None:
        await world.engine.import_image(world.image, str(world.image_file()), DiskFormat.QCOW2)
        assert world.image in await world.engine.images()
        await world.engine.remove_image(world.image)
        await world.engine.remove_image(world.image)
        await world.engine.import_image(world.image, str(world.image_file()), DiskFormat.QCOW2)
        assert world.image in await world.engine.images()

    @story
    async def test_an_image_file_that_is_not_there_is_refused(self, world: World) -> None:
        with pytest.raises(Invalid):
            await world.engine.import_image("cd" * 64, "/nonexistent/image", DiskFormat.QCOW2)
        assert "cd" * 64 not in await world.engine.images()

    @story
    async def test_the_engine_says_what_it_is_and_what_it_can(self, world: World) -> None:
        health = await world.engine.probe()
        assert health.ok
        assert health.version
        capabilities = await world.engine.capabilities()
        assert capabilities.actions == frozenset(Action)
        assert DiskFormat.QCOW2 in capabilities.disk_formats

    @story
    async def test_a_closed_engine_ends_its_streams(self, world: World) -> None:
        stream = world.engine.events()
        assert (await anext(stream)).kind is EventKind.RESYNC
        await world.engine.close()
        async with asyncio.timeout(PATIENCE):
            async for _ in stream:
                continue
        world.engine = await world.open()
