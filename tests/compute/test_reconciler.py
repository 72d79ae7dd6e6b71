"""What the reconciler repairs: crashes of the service, of the engine, and what happens behind our back."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from skyfed.compute.contract import VmSpec
from skyfed.compute.engines.simulated import SimulatedEngine
from skyfed.compute.model import Action, Context, DesiredState, Vm, VmState
from skyfed.compute.usage import fold
from skyfed.core.errors import Conflict, Invalid, NotFound, TimedOut, Unavailable
from support.compute_site import (
    START,
    HandClock,
    Latency,
    Run,
    Site,
    SteppedDatabase,
    SteppedEngine,
    Steps,
    owner,
    settings,
    within,
)

# -- behind our back ----------------------------------------------------------------------------------------------


def test_a_guest_that_halts_itself_is_stopped_at_that_moment_and_stays_so(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        clock.advance(100)
        site.engine.halt(vm.id)
        vm = await site.until(vm.id, VmState.STOPPED)
        assert vm.changed == clock.now()
        await site.reconcile()
        assert site.service.get(vm.id, None).observed is VmState.STOPPED
        await site.service.act(vm.id, Action.START, owner())
        await site.until(vm.id, VmState.ACTIVE)

    run(story)


def test_a_guest_that_crashes_is_in_error_with_the_fault_and_can_be_started(run: Run) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        site.engine.crash(vm.id, "guest panicked")
        vm = await site.until(vm.id, VmState.ERROR)
        assert vm.fault == "guest panicked"
        await site.service.act(vm.id, Action.START, owner())
        vm = await site.until(vm.id, VmState.ACTIVE)
        assert vm.fault is None

    run(story)


def test_a_guest_deleted_behind_our_back_is_in_error_and_can_be_deleted(run: Run) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        site.engine.vanish(vm.id)
        vm = await site.until(vm.id, VmState.ERROR)
        assert "gone from the engine" in str(vm.fault)
        await site.service.act(vm.id, Action.START, owner())
        await site.until(vm.id, VmState.ERROR)
        await site.service.delete(vm.id, owner())
        await site.gone(vm.id)

    run(story)


def test_what_happened_while_the_service_was_down_is_dated_when_it_happened(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        halted, vanished, runs = [await site.running(image) for _ in range(3)]
        clock.advance(50)
        await site.service._reconciler.sample()
        await site.crash()
        clock.advance(100)
        site.engine.halt(halted.id)
        site.engine.vanish(vanished.id)
        clock.advance(1000)
        await site.start()
        await site.until(halted.id, VmState.STOPPED)
        await site.until(vanished.id, VmState.ERROR)
        assert site.service.get(runs.id, None).observed is VmState.ACTIVE
        walls = {vm.id: fold(await site.service.usage_events(vm_id=vm.id)) for vm in (halted, vanished)}
        assert walls[halted.id].wall_seconds == 150
        # Nobody saw it go: it is known to have run at the last sample, not after.
        assert walls[vanished.id].wall_seconds == 50

    run(story)


def test_running_guests_are_adopted_after_a_restart_without_being_touched(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        boots = site.host.machines[vm.id].boots
        await site.crash()
        clock.advance(60)
        await site.start()
        assert site.service.get(vm.id, owner()).observed is VmState.ACTIVE
        assert site.host.machines[vm.id].boots == boots
        assert len(await site.service.usage_events()) == 3
        await site.service.act(vm.id, Action.STOP, owner())
        await site.until(vm.id, VmState.STOPPED)
        assert fold(await site.service.usage_events()).wall_seconds == 60

    run(story)


def test_a_guest_that_nobody_here_made_is_deleted_only_after_its_time(site: Site, run: Run, clock: HandClock) -> None:
    site.settings = settings(orphan_seconds=600.0)

    async def story(site: Site) -> None:
        image = await site.image()
        stranger = VmSpec(
            id="11111111-1111-4111-8111-111111111111",
            title="x",
            image_sha512=image.sha512,
            cores=1,
            memory_mib=128,
            disk_gib=0.0,
            context=Context(),
        )
        await site.engine.create(stranger)
        await site.reconcile()
        assert site.service.unknown_guests == (stranger.id,)
        clock.advance(599)
        await site.reconcile()
        assert stranger.id in site.host.machines
        clock.advance(2)
        await site.reconcile()
        assert site.host.machines == {}

    run(story)


def test_a_guest_whose_deletion_is_recorded_is_deleted_at_once(site: Site, run: Run) -> None:
    site.settings = settings(orphan_seconds=600.0)

    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        spec = site.host.machines[vm.id].spec
        await site.service.delete(vm.id, owner())
        await site.gone(vm.id)
        await site.engine.create(spec)
        await site.reconcile()
        assert site.host.machines == {}

    run(story)


# -- an engine that fails -------------------------------------------------------------------------------------------


def test_creates_are_accepted_while_the_engine_is_down_and_done_when_it_is_back(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        site.engine.fail("create", Unavailable("the engine host is down", code="engine_down"), times=5)
        vm = await site.create(image)
        vm = await site.until(vm.id, VmState.ACTIVE)
        assert vm.fault is None

    run(story)


def test_the_owner_is_told_why_it_takes_so_long(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        site.engine.fail("create", Unavailable("the host has no room", code="no_capacity"), times=1000)
        vm = await site.create(image)
        await site.when(lambda: site.service.get(vm.id, None).fault is not None, "a reason")
        assert site.service.get(vm.id, None).fault == "waiting to create: the host has no room"
        assert site.service.get(vm.id, None).observed is VmState.BUILDING
        await site.service.delete(vm.id, owner())
        await site.gone(vm.id)

    run(story)


def test_a_create_that_cannot_succeed_ends_in_error_with_the_reason(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        site.engine.fail("create", Invalid("the image is broken", code="invalid"))
        vm = await site.create(image)
        vm = await site.until(vm.id, VmState.ERROR)
        assert vm.fault == "create failed: the image is broken"
        site.engine.fail("create", RuntimeError("Traceback: /secret/path"))
        vm = await site.create(image)
        vm = await site.until(vm.id, VmState.ERROR)
        assert "secret" not in str(vm.fault)

    run(story)


@pytest.mark.parametrize("call", ["create", "start", "stop", "restart", "delete"])
def test_an_answer_that_got_lost_is_found_again(run: Run, call: str) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        site.engine.fail(call, TimedOut("no answer", code="timed_out"), done=True)
        vm = await site.running(image)
        await site.service.act(vm.id, Action.RESTART, owner())
        await site.until(vm.id, VmState.ACTIVE)
        await site.service.act(vm.id, Action.STOP, owner())
        await site.until(vm.id, VmState.STOPPED)
        await site.service.act(vm.id, Action.START, owner())
        await site.until(vm.id, VmState.ACTIVE)
        await site.service.delete(vm.id, owner())
        await site.gone(vm.id)
        assert site.host.machines == {}

    run(story)


def test_a_stop_that_the_engine_refuses_leaves_it_running_with_the_reason(run: Run) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        site.engine.fail("stop", Invalid("not this one", code="invalid"))
        await site.service.act(vm.id, Action.STOP, owner())
        vm = await site.until(vm.id, VmState.ACTIVE)
        await site.when(lambda: site.service.get(vm.id, None).fault is not None, "a reason")
        vm = site.service.get(vm.id, None)
        assert (vm.desired, vm.fault) == (DesiredState.ACTIVE, "stop failed: not this one")

    run(story)


def test_a_machine_can_be_deleted_while_the_engine_hangs_in_its_creation(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        site.engine.latency = Latency(call=1000.0)
        vm = await site.create(image)
        await site.until(vm.id, VmState.BUILDING)
        await site.service.delete(vm.id, owner())
        assert site.service.list(None) == ()
        site.engine.latency = Latency()
        clock.advance(2000)
        await site.gone(vm.id)
        assert site.host.machines == {}

    run(story)


def test_an_engine_that_restarts_in_the_middle_of_everything_loses_nothing(run: Run, clock: HandClock) -> None:
    """The graceful stop's timer dies with the engine, the boots go on: a resync finds out what is left to do."""

    async def story(site: Site) -> None:
        image = await site.image()
        site.latency = Latency(shutdown=1000.0)
        stopping = await site.running(image)
        deaf = site.host.machines[stopping.id]
        deaf.ignores_power_button = True
        site.engine.latency = site.latency
        await site.service.act(stopping.id, Action.STOP, owner(), method="graceful")
        await clock.asleep()
        if deaf.transition is not None:
            deaf.transition.cancel()
        deaf.state = VmState.ACTIVE
        site.latency = Latency()
        site.engine.latency = site.latency
        site.engine._events.resync()
        await site.when(lambda: deaf.state is VmState.STOPPING, "the button pressed again")
        clock.advance(100)
        await site.until(stopping.id, VmState.STOPPED)

    run(story)


def test_an_engine_that_cannot_be_asked_for_a_while_changes_no_usage(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        asked, halted = await site.running(image), await site.running(image)
        clock.advance(10)
        for call in ("list", "stats", "get", "stop"):
            site.engine.fail(call, Unavailable("the engine host is down", code="engine_down"), times=1000)
        with pytest.raises(Unavailable):
            await site.reconcile()
        with pytest.raises(Unavailable):
            await site.service._reconciler.sample()
        clock.advance(20)
        SimulatedEngine(site.host, clock=clock).halt(halted.id)  # another engine over the same host: nobody hears of it
        await site.service.act(asked.id, Action.STOP, owner(), method="poweroff")
        clock.advance(10)
        site.engine._failures.clear()
        site.engine._events.resync()
        ended = {vm.id: await site.until(vm.id, VmState.STOPPED) for vm in (asked, halted)}
        walls = {vm.id: fold(await site.service.usage_events(vm_id=vm.id)).wall_seconds for vm in (asked, halted)}
        assert walls == {asked.id: 40, halted.id: 30}
        assert [ended[vm.id].changed - START for vm in (asked, halted)] == [
            timedelta(seconds=40),
            timedelta(seconds=30),
        ]

    run(story)


def test_the_health_says_what_is_wrong_with_the_engine(run: Run) -> None:
    async def story(site: Site) -> None:
        assert site.service.engine_health.ok
        site.engine.fail("list", Unavailable("socket is gone", code="engine_down"), times=100)
        with pytest.raises(Unavailable):
            await site.reconcile()
        assert (site.service.engine_health.ok, site.service.engine_health.detail) == (False, "socket is gone")
        site.engine._failures.clear()
        await site.reconcile()
        assert site.service.engine_health.ok

    run(story)


def test_the_service_starts_and_answers_without_an_engine(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        vm = await site.running(image)
        await site.crash()
        site.engine.fail("list", Unavailable("down", code="engine_down"))
        await site.start(engine=site.engine, sync=False)
        assert site.service.get(vm.id, None).observed is VmState.ACTIVE
        new = await site.create(image)
        assert new.observed is VmState.PENDING
        await within(site.service.synced())
        await site.until(new.id, VmState.ACTIVE)

    run(story)


# -- killed at every step -------------------------------------------------------------------------------------------

TOKEN = "the-same-at-every-try"


async def whole_life(site: Site) -> str:
    """What a patient client does: every request is tried until its effect is there."""
    image = await site.image()
    vm = await site.create(image, token=TOKEN)
    await site.until(vm.id, VmState.ACTIVE)
    await site.service.act(vm.id, Action.STOP, owner())
    await site.until(vm.id, VmState.STOPPED)
    await site.service.act(vm.id, Action.START, owner())
    await site.until(vm.id, VmState.ACTIVE)
    await site.service.delete(vm.id, owner())
    await site.gone(vm.id)
    return vm.id


async def lived(site: Site) -> Vm | None:
    """The machine of TOKEN, or None where it is already deleted."""
    try:
        return await site.create(await site.image(), token=TOKEN)
    except Conflict:
        return None


async def finish(site: Site) -> None:
    """Go on after the crash, from wherever the machine is, to its deletion."""
    vm = await lived(site)
    if vm is not None:
        await site.until(vm.id, VmState.ACTIVE, VmState.STOPPED)
        await site.service.delete(vm.id, owner())
        await site.gone(vm.id)
    await site.when(lambda: not site.service._projection.records(), "nothing left")
    await site.reconcile()


def play(directory: Path, freeze_at: int | None, after: Callable[[Site], Awaitable[None]]) -> str:
    """A whole life frozen and killed at step `freeze_at`, then a new service over what is left. Returns where."""
    site = Site(directory)
    steps = Steps(freeze_at)

    async def whole() -> None:
        try:
            await site.start()
            await site.crash()
            database = SteppedDatabase(
                f"sqlite:///{directory}/compute.db",
                name="compute",
                metadata=site.db._metadata,
                migrations="skyfed.compute.migrations",
            )
            database.steps = steps
            await site.start(engine=SteppedEngine(site.engine, steps), db=database)  # type: ignore[arg-type]
            living = asyncio.create_task(whole_life(site))
            frozen = asyncio.create_task(steps.frozen.wait())
            done, _ = await asyncio.wait({living, frozen}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            assert done, "neither finished nor frozen"
            if living in done and not steps.frozen.is_set():
                living.result()
                frozen.cancel()
                return
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            await site.crash()
            await site.start()
            await after(site)
        finally:
            await site.stop()

    asyncio.run(asyncio.wait_for(whole(), 60))
    return steps.frozen_in


def test_killed_at_any_step_no_machine_is_lost_doubled_or_orphaned(tmp_path: Path) -> None:
    """Every write and engine call of a machine's life, before and after it takes effect."""

    async def after(site: Site) -> None:
        await finish(site)
        assert site.host.machines == {}, "an orphan is left in the engine"
        events = await site.service.usage_events()
        assert len({event.vm_id for event in events}) <= 1, "a retried create made a second machine"
        if events:
            assert [event.new for event in events].count(VmState.DELETED) == 1
            for before, event in pairwise(events):
                assert event.old is before.new, "the chain of states is broken"
            assert fold(events).end is not None

    where = []
    for step in range(1, 200):
        directory = tmp_path / str(step)
        directory.mkdir()
        frozen_in = play(directory, step, after)
        if not frozen_in:
            break
        where.append(frozen_in)
    assert {"before create", "after create", "before stop", "after start", "before delete", "after delete"} <= set(
        where
    )
    assert where.count("after write") >= 8


def test_a_run_that_nobody_saw_begin_is_counted_from_its_beginning(tmp_path: Path) -> None:
    """Killed right after the engine has made the machine; its guest halts before the service is back."""

    async def after(site: Site) -> None:
        events = await site.service.usage_events()
        await site.until(events[0].vm_id, VmState.STOPPED)
        events = await site.service.usage_events()
        assert [event.new for event in events] == [
            VmState.PENDING,
            VmState.BUILDING,
            VmState.ACTIVE,
            VmState.STOPPED,
        ]
        assert fold(events).wall_seconds == 40

    site = Site(tmp_path)
    steps = Steps(None)

    async def whole() -> None:
        try:
            await site.start()
            image = await site.image()
            await site.crash()
            await site.start(engine=SteppedEngine(site.engine, steps))  # type: ignore[arg-type]
            steps.freeze_at = steps.count + 2
            await site.create(image)
            await within(steps.frozen.wait())
            assert steps.frozen_in == "after create"
            await site.crash()
            (vm_id,) = site.host.machines
            assert isinstance(site.clock, HandClock)
            site.clock.advance(40)
            site.engine.halt(vm_id)
            site.clock.advance(1000)
            await site.start()
            await after(site)
        finally:
            await site.stop()

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_a_restart_asked_for_before_a_crash_is_done_once(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        clock.advance(10)
        await site.service._reconciler.close()
        await site.service.act(vm.id, Action.RESTART, owner())
        clock.advance(10)
        await site.crash()
        await site.start()
        await site.until(vm.id, VmState.ACTIVE)
        machine = site.host.machines[vm.id]
        assert machine.since == clock.now()
        clock.advance(10)
        await site.crash()
        await site.start()
        await site.reconcile()
        assert machine.since == clock.now() - timedelta(seconds=10)

    run(story)


def test_an_unknown_machine_is_not_found(run: Run) -> None:
    async def story(site: Site) -> None:
        for call in (site.service.act("x", Action.STOP, None), site.service.delete("x", None)):
            with pytest.raises(NotFound):
                await call

    run(story)
