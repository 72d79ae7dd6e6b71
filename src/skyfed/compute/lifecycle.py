"""What a machine's life allows: from what the engine shows to what we record, and from there to the
engine's next call.

Pure functions over values, so that every rule can be tested without database, engine or time.

Three rules decide doubtful cases. *The world wins*: a guest that halts itself is `stopped` and stays so,
one that runs though nobody here asked is `active`; we never start what its owner shut down from inside.
*The owner wins over the world in one thing*: what was deleted stays deleted. *A look-up tells only what it
can*: while a request is under way (`building`, `stopping`, `restarting`), the state from before the request
is no news.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

import msgspec

from skyfed.compute.contract import EngineVm
from skyfed.compute.model import Action, DesiredState, StopMethod, Vm, VmState, target
from skyfed.compute.usage import Meter
from skyfed.core.errors import Conflict


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's row: what is shown of it, and what only the service needs."""

    vm: Vm
    image_sha512: str
    method: str
    """Of the stop or restart that was asked for and is not done; empty: none."""
    stamp: datetime
    """Date of its newest usage event."""
    ahead: float = 0.0
    """Seconds by which its dates are ahead of the wall clock (`usage.stamp`)."""
    meter: Meter


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a machine's life, to be stored together with its usage event."""

    observed: VmState
    at: datetime | None = None
    """When it happened; None: now."""
    desired: DesiredState | None = None
    """None: as it is."""
    fault: str | None = None
    method: str = ""


class Call(StrEnum):
    """What the reconciler asks of the engine."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    DELETE = "delete"


_ASKED: Mapping[Action, VmState] = MappingProxyType(
    {Action.START: VmState.BUILDING, Action.STOP: VmState.STOPPING, Action.RESTART: VmState.RESTARTING}
)
_STARTING = frozenset({VmState.PENDING, VmState.BUILDING})
_TOLD = frozenset({VmState.ERROR, VmState.SUSPENDED, VmState.HIBERNATED, VmState.UNKNOWN})
_UNDER_WAY = frozenset({*_STARTING, VmState.STOPPING, VmState.RESTARTING})


def asked(record: Record, action: Action, method: str) -> Change | None:
    """What an action that its owner asks for does to the row; None: it is already so, or on its way.

    A machine that is shutting down may still be told to `poweroff`: a guest that does not listen is no
    reason to wait. Raises Conflict (`illegal_transition`) where the state does not allow it (compute digest
    2.3).
    """
    vm = record.vm
    harder = method == StopMethod.POWEROFF != record.method
    if action is Action.STOP and vm.observed is VmState.STOPPING and harder:
        return Change(observed=VmState.STOPPING, desired=DesiredState.STOPPED, method=method)
    if action is not Action.RESTART and vm.observed in (target(action), _ASKED[action]):
        return None
    if action not in vm.actions:
        offered = ", ".join(sorted(vm.actions)) or "none until that is over"
        raise Conflict(
            f"cannot {action} a machine that is {vm.observed}; actions it offers now: {offered}",
            code="illegal_transition",
        )
    desired = DesiredState.STOPPED if action is Action.STOP else DesiredState.ACTIVE
    return Change(observed=_ASKED[action], desired=desired, method="" if action is Action.START else method)


def deleted(vm: Vm) -> Change | None:
    """What a deletion does to the row; None: it was asked for before."""
    if vm.desired is DesiredState.DELETED:
        return None
    return Change(observed=VmState.DELETING, desired=DesiredState.DELETED)


def next_call(record: Record) -> Call | None:
    """What the engine has to be asked for now; None: desired and observed agree, or it is for the owner to
    act."""
    vm = record.vm
    if vm.desired is DesiredState.DELETED:
        return Call.DELETE if vm.observed is not VmState.DELETED else None
    if vm.observed in _STARTING and vm.desired is DesiredState.ACTIVE:
        return Call.CREATE if vm.launched is None else Call.START
    if vm.observed is VmState.STOPPING and record.method:
        return Call.STOP
    if vm.observed is VmState.RESTARTING and record.method:
        return Call.RESTART
    return None


def seen(record: Record, view: EngineVm, *, answer: bool = False) -> tuple[Change, ...]:
    """What to record when the engine shows `view`; empty: nothing new.

    `answer`: the view is the engine's answer to the request under way, so it is news whatever its date.
    """
    vm = record.vm
    if vm.desired is DesiredState.DELETED:
        return ()
    news = answer or _dated(record, view.since) >= vm.changed
    if view.state is VmState.ACTIVE:
        return _seen_active(record, view, news=news)
    if view.state is VmState.STOPPED:
        return _seen_stopped(record, view)
    if view.state in _TOLD and view.state is not vm.observed and (news or vm.observed not in _UNDER_WAY):
        return (Change(observed=view.state, at=view.since, fault=view.fault),)
    if view.state is VmState.STOPPING and vm.observed is VmState.ACTIVE:
        return (Change(observed=VmState.STOPPING, at=view.since),)
    return ()


def vanished(vm: Vm, at: datetime | None) -> tuple[Change, ...]:
    """What to record when the engine holds nothing of the machine; `at`: when it went, None: nobody saw it
    go."""
    if vm.desired is DesiredState.DELETED:
        return () if vm.observed is VmState.DELETED else (Change(observed=VmState.DELETED, at=at),)
    if vm.observed is VmState.ERROR or (vm.launched is None and vm.observed in _STARTING):
        return ()
    fault = "the machine is gone from the engine: it was removed or lost there, not deleted by its owner"
    return (Change(observed=VmState.ERROR, at=at, desired=DesiredState.STOPPED, fault=fault),)


def _seen_active(record: Record, view: EngineVm, *, news: bool) -> tuple[Change, ...]:
    vm = record.vm
    if vm.observed is VmState.ACTIVE:
        return ()
    if vm.observed is VmState.STOPPING and vm.desired is DesiredState.STOPPED:
        return ()  # the guest has not followed yet, or the request was lost: the reconciler asks again
    if vm.observed is VmState.RESTARTING and not news:
        return ()  # not reset yet
    return (_running(view.since),)


def _seen_stopped(record: Record, view: EngineVm) -> tuple[Change, ...]:
    vm = record.vm
    halted = Change(observed=VmState.STOPPED, at=_ended(record, view), desired=DesiredState.STOPPED, fault=view.fault)
    if vm.observed not in _STARTING and vm.observed is not VmState.STOPPED:
        return (halted,)
    # Did it run, and end, without anybody here to see it? Then that run is recorded first.
    if view.booted is not None and (vm.launched is None or _dated(record, view.booted) >= vm.changed):
        return (_running(view.booted), halted)
    return ()


def _ended(record: Record, view: EngineVm) -> datetime:
    """When it stopped: no earlier than the last sample of its counters, which a running guest alone can give. An
    engine that was away at the end may know no more than when the guest last wrote to its console."""
    samples = (record.meter.at, view.counters.at if view.counters else None)
    return max([view.since, *(at for at in samples if at is not None)])


def _dated(record: Record, moment: datetime) -> datetime:
    """A moment that the engine measured, on the time line of the machine's own dates."""
    return moment + timedelta(seconds=record.ahead)


def _running(since: datetime) -> Change:
    return Change(observed=VmState.ACTIVE, at=since, desired=DesiredState.ACTIVE)
