"""Usage: the fold, the meter and the stamps, as pure functions and through the service."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.compute.contract import VmCounters
from skyfed.compute.model import Action, Counters, UsageEvent, UsageStatus, VmState
from skyfed.compute.usage import ENDED, Meter, advance, fold, stamp
from support import compute_site
from support.compute_site import START, HandClock, Run, Site, owner

STATES = [state for state in VmState if state is not VmState.PENDING]


def event(
    new: VmState, seconds: float, before: float = 0.0, old: VmState | None = None, **counters: float
) -> UsageEvent:
    """An event `seconds` after START, its predecessor `before` seconds after START."""
    return UsageEvent(
        seq=0,
        vm_id="v",
        when=START + timedelta(seconds=seconds),
        elapsed=seconds - before,
        old=old,
        new=new,
        site="ALPHA",
        title="t",
        owner=owner(),
        image_id="i",
        image_identifier="i",
        flavour="tiny",
        cores=1,
        memory_mib=128,
        disk_gib=0.0,
        counters=Counters(**counters),  # type: ignore[arg-type]
    )


def life(*steps: tuple[VmState, float]) -> list[UsageEvent]:
    """Events at the given seconds after START."""
    moments = [0.0, *(seconds for _, seconds in steps)]
    return [event(state, seconds, before) for (state, seconds), before in zip(steps, moments, strict=False)]


def test_wall_is_the_time_the_guest_ran_and_suspend_the_time_it_did_not() -> None:
    whole = fold(
        life(
            (VmState.PENDING, 0),
            (VmState.BUILDING, 1),
            (VmState.ACTIVE, 5),
            (VmState.STOPPING, 60),
            (VmState.STOPPED, 65),
            (VmState.BUILDING, 100),
            (VmState.ACTIVE, 102),
            (VmState.DELETING, 110),
            (VmState.DELETED, 130),
        )
    )
    assert whole.start == START
    assert whole.launched == START + timedelta(seconds=5)
    assert whole.end == START + timedelta(seconds=110)
    assert whole.wall_seconds == 60 + 8
    assert whole.suspend_seconds == 37
    assert whole.status is UsageStatus.COMPLETED


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([VmState.PENDING], UsageStatus.STARTED),
        ([VmState.PENDING, VmState.ERROR], UsageStatus.STARTED),
        ([VmState.PENDING, VmState.ACTIVE], UsageStatus.STARTED),
        ([VmState.PENDING, VmState.ACTIVE, VmState.STOPPING], UsageStatus.STARTED),
        ([VmState.PENDING, VmState.ACTIVE, VmState.STOPPED], UsageStatus.SUSPENDED),
        ([VmState.PENDING, VmState.ACTIVE, VmState.ERROR], UsageStatus.SUSPENDED),
        ([VmState.PENDING, VmState.ACTIVE, VmState.UNKNOWN], UsageStatus.STARTED),
        ([VmState.PENDING, VmState.DELETING], UsageStatus.COMPLETED),
    ],
)
def test_the_status_is_one_that_a_record_may_have(states: list[VmState], status: UsageStatus) -> None:
    assert fold(life(*((state, float(n)) for n, state in enumerate(states)))).status is status


def test_a_machine_that_runs_now_can_be_counted_up_to_now() -> None:
    events = life((VmState.PENDING, 0), (VmState.ACTIVE, 5))
    assert fold(events).wall_seconds == 0
    assert fold(events, until=START + timedelta(seconds=65)).wall_seconds == 60
    assert fold(events, until=START).wall_seconds == 0


def test_what_nobody_measured_stays_absent() -> None:
    summary = fold([event(VmState.PENDING, 0), event(VmState.ACTIVE, 1, cpu_seconds=2.5)])
    assert summary.counters == Counters(cpu_seconds=2.5)
    assert summary.counters.net_in_bytes is None


def test_a_fold_of_nothing_or_of_two_machines_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least"):
        fold([])
    other = UsageEvent(
        **{**{f: getattr(event(VmState.ACTIVE, 1), f) for f in UsageEvent.__struct_fields__}, "vm_id": "w"}
    )
    with pytest.raises(ValueError, match="per machine"):
        fold([event(VmState.PENDING, 0), other])


counted = st.none() | st.integers(0, 10**12)
events = st.lists(
    st.tuples(
        st.sampled_from(STATES),
        st.floats(0, 1e6),
        st.none() | st.floats(0, 1e6),
        counted,
        counted,
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(events)
def test_the_fold_of_every_prefix_only_grows(
    steps: list[tuple[VmState, float, float | None, int | None, int | None]],
) -> None:
    summary = fold([event(VmState.PENDING, 0)])
    now = 0.0
    for state, seconds, cpu, net_in, net_out in steps:
        one = event(state, now + seconds, now)
        one = UsageEvent(
            **{
                **{f: getattr(one, f) for f in UsageEvent.__struct_fields__},
                "counters": Counters(cpu_seconds=cpu, net_in_bytes=net_in, net_out_bytes=net_out),
            }
        )
        before, summary = summary, advance(summary, one)
        now += seconds
        assert summary.wall_seconds >= before.wall_seconds
        assert summary.suspend_seconds >= before.suspend_seconds
        for name in Counters.__struct_fields__:
            assert (getattr(summary.counters, name) or 0) >= (getattr(before.counters, name) or 0)
        assert (summary.end is None) == (summary.status is not UsageStatus.COMPLETED and before.end is None)
        if before.end is not None:
            assert (summary.end, summary.wall_seconds) == (before.end, before.wall_seconds) or state not in ENDED
    ended = summary.end or summary.last.when
    if summary.launched is not None and not any(state in ENDED for state, *_ in steps[:-1]):
        total = (ended - summary.launched).total_seconds()
        assert summary.wall_seconds + summary.suspend_seconds == pytest.approx(total, abs=0.01)


samples = st.lists(st.tuples(st.integers(0, 3), counted, counted, st.none() | st.floats(0, 1e9)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(samples)
def test_a_meter_never_goes_back_whatever_boots_and_samples_come(
    read: list[tuple[int, int | None, int | None, float | None]],
) -> None:
    meter = Meter()
    for boot, net_in, net_out, cpu in read:
        before = meter.total
        meter = meter.read(
            VmCounters(id="v", boot=str(boot), at=START, cpu_seconds=cpu, net_in_bytes=net_in, net_out_bytes=net_out)
        )
        for name in Counters.__struct_fields__:
            assert (getattr(meter.total, name) or 0) >= (getattr(before, name) or 0)


def test_a_meter_adds_up_the_boots_and_ignores_a_late_sample_of_the_last() -> None:
    def sample(boot: str, cpu: float) -> VmCounters:
        return VmCounters(id="v", boot=boot, at=START, cpu_seconds=cpu)

    meter = Meter().read(sample("a", 10)).read(sample("a", 30)).read(sample("b", 5)).read(sample("a", 30))
    assert meter.total == Counters(cpu_seconds=35)


@pytest.mark.parametrize("step", [-3600.0, 0.0, 3600.0])
def test_a_stamp_measures_the_time_without_the_step_of_the_clock(step: float) -> None:
    now = START + timedelta(seconds=600 + step)
    dated = stamp(now, now=now, last=START, step=step)
    assert dated.elapsed == 600
    assert dated.when >= START + timedelta(seconds=600)
    assert dated.ahead == max(0.0, -step)


@settings(max_examples=150, deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6))
def test_a_stamp_never_goes_back(at: int, now: int, step: float) -> None:
    last = START

    def moment(seconds: int) -> datetime:
        return START + timedelta(seconds=seconds)

    dated = stamp(moment(at), now=moment(now), last=last, step=step)
    assert dated.elapsed >= 0
    assert dated.when >= last


# -- through the service ------------------------------------------------------------------------------------------


def test_a_record_s_durations_are_the_measured_ones(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        clock.advance(100)
        site.engine.latency = compute_site.Latency(boot=7.0, shutdown=3.0)
        vm = await site.create(image)
        created = clock.now()
        await clock.asleep()  # it boots
        clock.advance(7)
        await site.until(vm.id, VmState.ACTIVE)
        clock.advance(100)
        await site.service.act(vm.id, Action.STOP, owner(), method="graceful")
        await clock.asleep()  # it shuts down
        clock.advance(3)
        await site.until(vm.id, VmState.STOPPED)
        clock.advance(50)
        await site.service.delete(vm.id, owner())
        ended = clock.now()
        await site.gone(vm.id)
        summary = fold(await site.service.usage_events())
        assert (summary.start, summary.end) == (created, ended)
        assert (summary.wall_seconds, summary.suspend_seconds) == (103, 50)
        assert summary.status is UsageStatus.COMPLETED
        assert summary.last.benchmark is not None
        assert summary.last.site == "ALPHA"
        # The simulated guest keeps half a core busy from power-on, which is before it is active.
        assert summary.counters.cpu_seconds == pytest.approx(110 * 0.5)
        assert summary.counters.net_in_bytes == 110_000

    run(story)


def test_counters_go_on_over_boots_and_are_checkpointed(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        for boot in range(3):
            clock.advance(100)
            await site.service._reconciler.sample()
            await site.service.act(vm.id, Action.STOP, owner())
            await site.until(vm.id, VmState.STOPPED)
            summary = fold(await site.service.usage_events(vm_id=vm.id))
            assert summary.counters.cpu_seconds == pytest.approx(50 * (boot + 1))
            await site.service.act(vm.id, Action.START, owner())
            await site.until(vm.id, VmState.ACTIVE)
        before = len(await site.service.usage_events())
        clock.advance(1000)
        await site.service._reconciler.sample()
        checkpoint = (await site.service.usage_events())[before:]
        assert [(one.old, one.new) for one in checkpoint] == [(VmState.ACTIVE, VmState.ACTIVE)]
        assert checkpoint[0].counters.cpu_seconds == pytest.approx(150 + 500)

    run(story)


@pytest.mark.parametrize("step", [-7200.0, 7200.0])
def test_a_step_of_the_clock_neither_loses_nor_invents_usage(run: Run, clock: HandClock, step: float) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        clock.advance(300)
        clock.step(step)
        clock.advance(300)
        await site.service._reconciler.sample()  # notices the step
        clock.advance(100)
        await site.crash()
        await site.start()
        await site.service.act(vm.id, Action.STOP, owner())
        await site.until(vm.id, VmState.STOPPED)
        events = await site.service.usage_events()
        assert fold(events).wall_seconds == pytest.approx(700, abs=1)
        assert [one.when for one in events] == sorted(one.when for one in events)

    run(story)


def test_a_step_is_left_out_even_if_nobody_noticed_it_before_the_end(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        clock.advance(300)
        clock.step(-3600)
        clock.advance(300)
        await site.service.act(vm.id, Action.STOP, owner())
        await site.until(vm.id, VmState.STOPPED)
        summary = fold(await site.service.usage_events())
        assert summary.wall_seconds == pytest.approx(600, abs=1)

    run(story)


def test_usage_events_are_read_by_cursor(run: Run) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image())
        events = await site.service.usage_events()
        assert [one.new for one in events] == [VmState.PENDING, VmState.BUILDING, VmState.ACTIVE]
        assert [one.old for one in events] == [None, VmState.PENDING, VmState.BUILDING]
        assert await site.service.usage_events(events[0].seq, 1) == events[1:2]
        assert await site.service.usage_events(events[-1].seq) == ()
        assert {one.vm_id for one in events} == {vm.id}

    run(story)
