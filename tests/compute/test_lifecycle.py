"""The rules of a machine's life, one by one: pure functions."""

from datetime import datetime, timedelta

import msgspec
import pytest

from skyfed.compute.contract import EngineVm
from skyfed.compute.lifecycle import Call, Change, Record, asked, deleted, next_call, seen, vanished
from skyfed.compute.model import Action, DesiredState, Flavour, Vm, VmState, legal_actions
from skyfed.compute.usage import Meter
from skyfed.core.errors import Conflict
from support.compute_site import START, owner

LATER = START + timedelta(seconds=10)
EARLIER = START - timedelta(seconds=10)


def row(
    observed: VmState, desired: DesiredState = DesiredState.ACTIVE, *, method: str = "", launched: bool = True
) -> Record:
    """A machine that has been in `observed` since START."""
    vm = Vm(
        id="v",
        token=None,
        title="t",
        hostname="h",
        image_id="i",
        image_term="t",
        image_identifier="i",
        flavour=Flavour(term="tiny", cores=1, memory_mib=128, disk_gib=0.0),
        owner=owner(),
        desired=desired,
        observed=observed,
        created=EARLIER,
        launched=EARLIER if launched else None,
        changed=START,
    )
    return Record(vm=vm, image_sha512="s", method=method, stamp=START, meter=Meter())


def view(
    state: VmState, since: datetime = LATER, *, booted: datetime | None = None, fault: str | None = None
) -> EngineVm:
    return EngineVm(id="v", state=state, since=since, booted=booted, fault=fault)


def states(changes: tuple[Change, ...]) -> list[VmState]:
    return [change.observed for change in changes]


@pytest.mark.parametrize("state", list(VmState))
@pytest.mark.parametrize("action", list(Action))
def test_an_action_is_taken_exactly_where_it_is_offered_or_already_so(state: VmState, action: Action) -> None:
    record = row(state)
    already = {
        Action.START: {VmState.ACTIVE, VmState.BUILDING},
        Action.STOP: {VmState.STOPPED, VmState.STOPPING},
        Action.RESTART: set(),
    }[action]
    if state in already:
        assert asked(record, action, "graceful" if action is Action.STOP else "") is None
    elif action in legal_actions(state):
        change = asked(record, action, "")
        assert change is not None
        assert change.observed in (VmState.BUILDING, VmState.STOPPING, VmState.RESTARTING)
    else:
        with pytest.raises(Conflict):
            asked(record, action, "")


@pytest.mark.parametrize("state", [s for s in VmState if s not in (VmState.DELETING, VmState.DELETED)])
def test_a_machine_can_be_deleted_in_any_state(state: VmState) -> None:
    change = deleted(row(state).vm)
    assert change is not None
    assert (change.observed, change.desired) == (VmState.DELETING, DesiredState.DELETED)
    assert deleted(row(VmState.DELETING, DesiredState.DELETED).vm) is None


@pytest.mark.parametrize(
    ("record", "call"),
    [
        (row(VmState.PENDING, launched=False), Call.CREATE),
        (row(VmState.BUILDING, launched=False), Call.CREATE),
        (row(VmState.BUILDING), Call.START),
        (row(VmState.STOPPING, DesiredState.STOPPED, method="poweroff"), Call.STOP),
        (row(VmState.STOPPING), None),
        (row(VmState.RESTARTING, method="cold"), Call.RESTART),
        (row(VmState.ACTIVE), None),
        (row(VmState.STOPPED, DesiredState.STOPPED), None),
        (row(VmState.ERROR), None),
        (row(VmState.DELETING, DesiredState.DELETED), Call.DELETE),
        (row(VmState.DELETED, DesiredState.DELETED), None),
    ],
)
def test_the_engine_is_asked_for_what_is_missing_and_nothing_else(record: Record, call: Call | None) -> None:
    assert next_call(record) is call


def test_a_guest_that_halts_itself_is_stopped_and_not_started_again() -> None:
    (change,) = seen(row(VmState.ACTIVE), view(VmState.STOPPED))
    assert (change.observed, change.desired, change.at) == (VmState.STOPPED, DesiredState.STOPPED, LATER)


def test_a_machine_that_is_started_is_not_taken_for_stopped_by_an_old_look() -> None:
    assert seen(row(VmState.BUILDING), view(VmState.STOPPED, EARLIER, booted=EARLIER)) == ()
    assert seen(row(VmState.PENDING, launched=False), view(VmState.STOPPED)) == ()


def test_a_run_that_began_and_ended_while_nobody_looked_is_recorded() -> None:
    booted = START + timedelta(seconds=2)
    changes = seen(row(VmState.BUILDING, launched=False), view(VmState.STOPPED, LATER, booted=booted))
    assert [(change.observed, change.at) for change in changes] == [(VmState.ACTIVE, booted), (VmState.STOPPED, LATER)]
    changes = seen(row(VmState.STOPPED, DesiredState.STOPPED), view(VmState.STOPPED, LATER, booted=booted))
    assert states(changes) == [VmState.ACTIVE, VmState.STOPPED]


def test_a_guest_that_still_runs_has_not_stopped_yet() -> None:
    assert seen(row(VmState.STOPPING, DesiredState.STOPPED, method="graceful"), view(VmState.ACTIVE)) == ()


def test_a_restart_is_over_when_the_engine_has_seen_the_reset() -> None:
    record = row(VmState.RESTARTING, method="cold")
    assert seen(record, view(VmState.ACTIVE, EARLIER)) == ()
    assert states(seen(record, view(VmState.ACTIVE, LATER))) == [VmState.ACTIVE]
    assert states(seen(record, view(VmState.ACTIVE, EARLIER), answer=True)) == [VmState.ACTIVE]


def test_an_error_of_before_the_start_is_no_news_but_one_of_after_is() -> None:
    assert seen(row(VmState.BUILDING), view(VmState.ERROR, EARLIER, fault="old")) == ()
    (change,) = seen(row(VmState.BUILDING), view(VmState.ERROR, LATER, fault="new"))
    assert change.fault == "new"


def test_what_runs_though_nobody_asked_is_shown_as_running() -> None:
    (change,) = seen(row(VmState.STOPPED, DesiredState.STOPPED), view(VmState.ACTIVE))
    assert (change.observed, change.desired) == (VmState.ACTIVE, DesiredState.ACTIVE)


@pytest.mark.parametrize("state", list(VmState))
def test_nothing_that_the_engine_shows_brings_a_deleted_machine_back(state: VmState) -> None:
    assert seen(row(VmState.DELETING, DesiredState.DELETED), view(state), answer=True) == ()


@pytest.mark.parametrize("state", list(VmState))
@pytest.mark.parametrize("shown", list(VmState))
def test_seeing_the_same_twice_is_no_news_the_second_time(state: VmState, shown: VmState) -> None:
    record = row(state)
    for change in seen(record, view(shown, booted=LATER)):
        vm = msgspec.structs.replace(
            record.vm,
            observed=change.observed,
            desired=change.desired or record.vm.desired,
            changed=LATER,
            launched=LATER,
        )
        record = msgspec.structs.replace(record, vm=vm, method=change.method)
    after = seen(record, view(shown, booted=LATER - timedelta(seconds=1)))
    assert states(after) == []


def test_a_machine_that_vanished_is_in_error_with_the_reason() -> None:
    (change,) = vanished(row(VmState.ACTIVE).vm, LATER)
    assert (change.observed, change.desired, change.at) == (VmState.ERROR, DesiredState.STOPPED, LATER)
    assert "gone from the engine" in str(change.fault)
    assert vanished(row(VmState.PENDING, launched=False).vm, LATER) == ()
    assert states(vanished(row(VmState.DELETING, DesiredState.DELETED).vm, LATER)) == [VmState.DELETED]


def test_a_guest_ran_at_least_until_its_counters_were_last_read() -> None:
    record = msgspec.structs.replace(row(VmState.ACTIVE), meter=Meter(at=LATER))
    (change,) = seen(record, view(VmState.STOPPED, EARLIER))
    assert change.at == LATER
