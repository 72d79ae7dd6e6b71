"""The task supervisor restarts, waits, wakes, and shows."""

import asyncio
from datetime import UTC, datetime

import pytest

from skyfed.core.clock import FixedClock
from skyfed.core.errors import NotFound, Unavailable
from skyfed.core.tasks import Supervisor

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_a_failing_task_is_started_again_and_its_error_is_visible() -> None:
    async def scenario() -> None:
        supervisor = Supervisor(FixedClock(NOON))
        runs = 0
        again = asyncio.Event()

        async def run() -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise Unavailable("the engine is down")
            again.set()
            await asyncio.Event().wait()

        supervisor.task("reconciler", run)
        await asyncio.wait_for(again.wait(), 5)
        (status,) = supervisor.status()
        assert (status.state, status.last_error, status.last_error_at) == ("running", "the engine is down", NOON)
        await supervisor.stop()
        assert supervisor.status()[0].state == "stopped"

    asyncio.run(scenario())


def test_a_periodic_task_runs_at_once_and_when_woken() -> None:
    async def scenario() -> None:
        supervisor = Supervisor(FixedClock(NOON))
        ran = asyncio.Semaphore(0)

        async def run() -> None:
            supervisor.progress("publish", "1 of 2\nimages")
            assert supervisor.status()[0].progress == "1 of 2 images"
            ran.release()

        supervisor.every("publish", 3600, run)
        await asyncio.wait_for(ran.acquire(), 5)
        await asyncio.to_thread(supervisor.wake, "publish")
        await asyncio.wait_for(ran.acquire(), 5)
        with pytest.raises(NotFound, match="publish"):
            supervisor.wake("publsh")
        await supervisor.stop()

    asyncio.run(scenario())


def test_two_tasks_cannot_have_one_name() -> None:
    async def scenario() -> None:
        supervisor = Supervisor(FixedClock(NOON))

        async def run() -> None:
            await asyncio.Event().wait()

        supervisor.task("a", run)
        with pytest.raises(ValueError, match="exists"):
            supervisor.task("a", run)
        await supervisor.stop()

    asyncio.run(scenario())
