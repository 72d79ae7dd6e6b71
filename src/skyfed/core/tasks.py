"""Supervised background tasks: restarted with back-off when they fail, and visible while they run."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from skyfed.core.backoff import pause
from skyfed.core.clock import Clock
from skyfed.core.errors import NotFound, SkyfedError
from skyfed.core.text import one_line

log = logging.getLogger(__name__)

Run = Callable[[], Awaitable[None]]

FIRST_RESTART_SECONDS = 0.5
LAST_RESTART_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """How a background task stands. Times are UTC; `failures` counts those since the last success."""

    name: str
    state: str  # waiting | running | failed | stopped
    since: datetime
    last_success: datetime | None = None
    last_error: str = ""
    last_error_at: datetime | None = None
    failures: int = 0
    progress: str = ""


class Supervisor:
    """Owns the background tasks of one service. Start it by giving it tasks inside a running event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._status: dict[str, TaskStatus] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def task(self, name: str, run: Run) -> None:
        """Keep `run` running for ever: when it raises or returns it is started again, after a growing pause."""
        self._start(name, lambda: self._keep(name, run))

    def every(self, name: str, seconds: float, run: Run) -> None:
        """Call `run` now, then `seconds` after each end or when woken; failures are retried sooner, with back-off."""
        self._start(name, lambda: self._repeat(name, seconds, run))

    def wake(self, name: str) -> None:
        """Let the periodic task `name` run now; callable from any thread. Raises NotFound for an unknown name."""
        if name not in self._wakes:
            raise NotFound(f"there is no background task '{name}' (there are: {', '.join(sorted(self._wakes))})")
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wakes[name].set)

    def progress(self, name: str, text: str) -> None:
        """Say how far the task is; shown by `skyfed status` until it ends. Callable from any thread."""
        if name in self._status:
            self._status[name] = replace(self._status[name], progress=one_line(text))

    def status(self) -> list[TaskStatus]:
        """All tasks, by name."""
        return [self._status[name] for name in sorted(self._status)]

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    # -- inside -------------------------------------------------------------------------------------------------

    def _start(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        if name in self._tasks:
            raise ValueError(f"a background task '{name}' exists already")
        self._loop = asyncio.get_running_loop()
        self._wakes[name] = asyncio.Event()
        self._status[name] = TaskStatus(name, "waiting", self._clock.now())
        self._tasks[name] = asyncio.create_task(_awaiting(body), name=name)

    async def _keep(self, name: str, run: Run) -> None:
        while True:
            began = self._clock.monotonic()
            await self._once(name, run)
            if self._clock.monotonic() - began > LAST_RESTART_SECONDS:
                # It ran long enough to have been well: this failure is the first of its kind.
                self._status[name] = replace(self._status[name], failures=min(1, self._status[name].failures))
            await asyncio.sleep(self._pause(name))

    async def _repeat(self, name: str, seconds: float, run: Run) -> None:
        wake = self._wakes[name]
        while True:
            wake.clear()
            ok = await self._once(name, run)
            pause = seconds if ok else min(seconds, self._pause(name))
            try:
                # Not wait_for: in Python 3.11 it loses a cancellation that comes together with the wake-up.
                async with asyncio.timeout(pause):
                    await wake.wait()
            except TimeoutError:
                continue

    async def _once(self, name: str, run: Run) -> bool:
        self._set(name, state="running")
        try:
            await run()
        except asyncio.CancelledError:
            self._set(name, state="stopped")
            raise
        except Exception as error:
            text = error.message if isinstance(error, SkyfedError) else f"{type(error).__name__}: {error}"
            log.warning("task %s failed: %s", name, one_line(text), exc_info=not isinstance(error, SkyfedError))
            status = self._status[name]
            self._set(
                name,
                state="failed",
                last_error=one_line(text),
                last_error_at=self._clock.now(),
                failures=status.failures + 1,
            )
            return False
        self._set(name, state="waiting", last_success=self._clock.now(), failures=0)
        return True

    def _pause(self, name: str) -> float:
        failures = self._status[name].failures
        return pause(failures, first=FIRST_RESTART_SECONDS, last=LAST_RESTART_SECONDS)

    def _set(self, name: str, *, state: str, **changes: object) -> None:
        self._status[name] = replace(
            self._status[name],
            state=state,
            since=self._clock.now(),
            progress="",
            **changes,  # type: ignore[arg-type]
        )


async def _awaiting(body: Callable[[], Awaitable[None]]) -> None:
    await body()
