"""The simulated engine keeps the contract; and what only it can do to those above it."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from compute.engines.conformance import EngineConformance, World, story
from compute.engines.worlds import SimulatedWorld
from skyfed.compute.contract import EventKind, engine_error
from skyfed.compute.engines.simulated import Room, SimulatedEngine
from skyfed.compute.model import DiskFormat, VmState
from skyfed.core.clock import FixedClock
from skyfed.core.errors import Unavailable


@pytest.fixture
def world(tmp_path: Path) -> World:
    return SimulatedWorld(tmp_path)


class TestSimulatedEngine(EngineConformance):
    async def deafen(self, world: World, id: str) -> None:
        assert isinstance(world, SimulatedWorld)
        world.host.machines[id].ignores_power_button = True

    @story
    async def test_a_failure_can_come_before_or_after_the_work(self, world: World) -> None:
        assert isinstance(world, SimulatedWorld)
        world.simulated.fail("create", engine_error("engine_down", "not now"))
        spec = world.spec()
        with pytest.raises(Unavailable):
            await world.engine.create(spec)
        assert await world.engine.list() == ()
        world.simulated.fail("create", engine_error("engine_down", "the answer is lost"), done=True)
        with pytest.raises(Unavailable):
            await world.engine.create(spec)
        assert [vm.id for vm in await world.engine.list()] == [spec.id]

    @story
    async def test_a_half_made_machine_is_listed_as_building_and_made_anew(self, world: World) -> None:
        assert isinstance(world, SimulatedWorld)
        spec = world.spec()
        world.simulated.leave_half_made(spec)
        assert [(vm.id, vm.state) for vm in await world.engine.list()] == [(spec.id, VmState.BUILDING)]
        assert (await world.made(spec)).state is VmState.ACTIVE

    @story
    async def test_a_machine_can_fail_to_boot(self, world: World) -> None:
        assert isinstance(world, SimulatedWorld)
        world.host.boot_faults.append("no bootable device")
        spec = world.spec()
        await world.engine.create(spec)
        assert (await world.reaches(spec.id, VmState.ERROR)).fault == "no bootable device"

    @story
    async def test_a_machine_can_vanish(self, world: World) -> None:
        assert isinstance(world, SimulatedWorld)
        vm = await world.made()
        world.simulated.vanish(vm.id)
        await world.heard(lambda event: event.kind is EventKind.GONE and event.id == vm.id)
        assert await world.engine.list() == ()


def test_a_full_host_takes_no_more_machines(tmp_path: Path) -> None:
    world = SimulatedWorld(tmp_path)
    world.host.room = Room(vms=1)

    async def whole() -> None:
        async with world:
            await world.made()
            with pytest.raises(Unavailable):
                await world.engine.create(world.spec())

    asyncio.run(whole())


def test_counters_follow_the_clock_that_is_passed_in(tmp_path: Path) -> None:
    clock = FixedClock(datetime(2026, 11, 23, tzinfo=UTC))
    file = tmp_path / "image"
    file.write_bytes(b"an image")

    async def whole() -> None:
        world = SimulatedWorld(tmp_path)
        engine = SimulatedEngine(clock=clock)
        await engine.import_image("ab" * 64, str(file), DiskFormat.RAW)
        world.image = "ab" * 64
        await engine.create(world.spec(cores=2))
        await asyncio.sleep(0)
        clock.advance(10)
        (counters,) = await engine.stats()
        assert (counters.cpu_seconds, counters.net_in_bytes, counters.net_out_bytes) == (10.0, 10_000, 5_000)

    asyncio.run(whole())
