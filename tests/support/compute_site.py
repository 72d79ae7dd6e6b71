"""A site's compute service on the simulated engine, for tests of compute and of what stands on it."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from skyfed.compute import tables
from skyfed.compute.contract import Engine
from skyfed.compute.engines.simulated import Latency, SimulatedEngine, SimulatedHost
from skyfed.compute.model import Context, DiskFormat, Image, ImageMeta, Owner, Vm, VmRequest, VmState
from skyfed.compute.service import ComputeService
from skyfed.compute.settings import ComputeSettings, FlavourSettings, LimitSettings
from skyfed.core.clock import Clock, FixedClock
from skyfed.core.sql import Database, Job
from skyfed.core.tasks import Supervisor

T = TypeVar("T")

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA alice"
PATIENCE = 10.0
"""Seconds of real time after which something that should have happened has not."""


def owner(name: str = "alice", vo: str = "demo.skyfed", project: str | None = None) -> Owner:
    return Owner(
        subject=f"/DC=org/DC=skyfed/CN={name}",
        issuer="/DC=org/DC=skyfed/CN=CA",
        vo=vo,
        fqans=(f"/{vo}",),
        project=project,
    )


def settings(**changes: Any) -> ComputeSettings:
    """Two flavours, room for everything, and no waiting."""
    values: dict[str, Any] = {
        "flavours": {
            "tiny": FlavourSettings(cores=1, memory_mib=128, benchmark_type="HEPSPEC06", benchmark_value=10.0),
            "large": FlavourSettings(cores=4, memory_mib=2048, disk_gib=10.0),
        },
        "default_quota": LimitSettings(vms=1000),
        "reconcile_seconds": 3600.0,
        "retry_seconds": 0.01,
        "sample_seconds": 3600.0,
        "orphan_seconds": 0.0,
    }
    return ComputeSettings(**{**values, **changes})


class HandClock(FixedClock):
    """Time that moves by hand; `sleep` ends when it has been moved far enough."""

    def __init__(self, now: datetime = START) -> None:
        super().__init__(now)
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._fell_asleep = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.monotonic() + seconds, done))
        self._fell_asleep.set()
        await done

    async def asleep(self) -> None:
        """Return when somebody sleeps: time can be moved now."""
        while not any(not done.done() for _, done in self._sleepers):
            self._fell_asleep.clear()
            await within(self._fell_asleep.wait())

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        due = [done for end, done in self._sleepers if end <= self.monotonic()]
        self._sleepers = [(end, done) for end, done in self._sleepers if end > self.monotonic()]
        for done in due:
            if not done.done():
                done.set_result(None)


class Site:
    """A compute service that can be started, crashed and started again over the same database and host."""

    def __init__(self, directory: Path, *, chosen: ComputeSettings | None = None, clock: Clock | None = None) -> None:
        self.directory = directory
        self.settings = chosen or settings()
        self.clock = clock or HandClock()
        self.url = f"sqlite:///{directory}/compute.db"
        self.host = SimulatedHost()
        self.latency = Latency()
        self.engine: SimulatedEngine
        self.service: ComputeService
        self.tasks: Supervisor
        self.db: Database
        self._open: list[Database] = []
        self._crashed: list[ComputeService] = []

    def database(self) -> Database:
        return Database(
            self.url,
            name="compute",
            metadata=tables.metadata,
            migrations="skyfed.compute.migrations",
        )

    async def start(self, *, engine: Engine | None = None, db: Database | None = None, sync: bool = True) -> "Site":
        """Start, or start again, with a new engine over the same host unless one is given."""
        if engine is None:
            sleep: Callable[[float], Awaitable[None]] = getattr(self.clock, "sleep", asyncio.sleep)
            self.engine = SimulatedEngine(self.host, clock=self.clock, latency=self.latency, sleep=sleep)
        self.db = db or self.database()
        await asyncio.to_thread(self.db.open)
        self._open.append(self.db)
        self.tasks = Supervisor(self.clock)
        self.service = ComputeService(
            engine or self.engine, self.db, settings=self.settings, clock=self.clock, tasks=self.tasks, site="ALPHA"
        )
        await self.service.start()
        if sync:
            await within(self.service.synced())
        return self

    async def crash(self) -> None:
        """End the service as a kill does: nothing is finished, nothing is said to the engine."""
        await self.tasks.stop()
        await self.service._reconciler.close()
        self._crashed.append(self.service)  # its frozen tasks must not be collected while they wait

    async def stop(self) -> None:
        await self.tasks.stop()
        await self.service.stop()
        for db in self._open:
            await asyncio.to_thread(db.close)
        self._open.clear()

    async def image(self, name: str = "demo", **changes: Any) -> Image:
        """Import an image that members of demo.skyfed and ops may use."""
        path = self.directory / f"{name}.img"
        path.write_bytes(name.encode())
        values: dict[str, Any] = {
            "title": name,
            "disk_format": DiskFormat.QCOW2,
            "size_bytes": len(name),
            "virtual_size_bytes": 1 << 25,
            "sha512": hashlib.sha512(path.read_bytes()).hexdigest(),
            "vos": frozenset({"demo.skyfed", "ops"}),
            "mpuri": f"https://market.example.org/image/{name}:1/",
            "dc_identifier": name,
            "list_identifier": "list-1",
        }
        return await self.service.import_image(ImageMeta(**{**values, **changes}), path)

    async def create(self, image: Image, *, who: Owner | None = None, token: str | None = None, **changes: Any) -> Vm:
        values: dict[str, Any] = {"flavour": "tiny", "title": "one", "context": Context(ssh_keys=(KEY,))}
        request = VmRequest(os_tpl=image.os_tpl_term, token=token, **{**values, **changes})
        return await self.service.create(request, who or owner())

    async def running(self, image: Image, **changes: Any) -> Vm:
        """A machine that is active."""
        vm = await self.create(image, **changes)
        return await self.until(vm.id, VmState.ACTIVE)

    async def until(self, vm_id: str, *states: VmState) -> Vm:
        """The machine once it is in one of `states`."""
        await self.when(lambda: self.service.get(vm_id, None).observed in states, f"{vm_id} in {states}")
        return self.service.get(vm_id, None)

    async def gone(self, vm_id: str) -> None:
        """Return when neither the service nor the engine knows the machine any more."""
        await self.when(lambda: self.service._projection.record(vm_id) is None, f"{vm_id} gone")

    async def when(self, holds: Callable[[], bool], what: str = "") -> None:
        """Return when `holds`; looks at each change. Raises TimeoutError naming what was waited for."""
        changes = self.service.usage_changes, self.service.vm_changes, self.service.catalogue_changes
        try:
            async with asyncio.timeout(PATIENCE):
                while not holds():
                    waits = [asyncio.ensure_future(change.wait(change.version)) for change in changes]
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=0.2)
                    for wait in waits:
                        wait.cancel()
        except TimeoutError:
            raise TimeoutError(f"in {PATIENCE} s this has not come about: {what}") from None

    async def reconcile(self) -> None:
        """One look-up, done."""
        await within(self.service._reconciler.reconcile())


async def within(wanted: Awaitable[T], seconds: float = PATIENCE) -> T:
    """The result of `wanted`, or TimeoutError after `seconds`."""
    return await asyncio.wait_for(wanted, seconds)


class Steps:
    """Counts what a service does to the world outside, and freezes it at one of these steps, for ever.

    Every engine call and every write is two steps: before it is done, and after it but before the answer is heard.
    """

    def __init__(self, freeze_at: int | None) -> None:
        self.freeze_at = freeze_at
        self.count = 0
        self.frozen_in = ""
        self.frozen = asyncio.Event()
        self.thawed = False

    async def step(self, name: str) -> None:
        if self.thawed:
            return
        self.count += 1
        if self.frozen.is_set() or self.count == self.freeze_at:
            self.frozen_in = self.frozen_in or name
            self.frozen.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            raise asyncio.CancelledError


class SteppedEngine:
    """The simulated engine, with steps."""

    COUNTED = frozenset({"create", "start", "stop", "restart", "delete"})

    def __init__(self, engine: SimulatedEngine, steps: Steps) -> None:
        self._engine = engine
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if name not in self.COUNTED:
            return found

        async def call(*args: Any) -> Any:
            await self._steps.step(f"before {name}")
            answer = await found(*args)
            await self._steps.step(f"after {name}")
            return answer

        return call


class SteppedDatabase(Database):
    """The database, with steps."""

    steps: Steps

    async def awrite(self, job: Job[T]) -> T:
        await self.steps.step("before write")
        answer = await super().awrite(job)
        await self.steps.step("after write")
        return answer


Story = Callable[[Site], Awaitable[None]]
Run = Callable[[Story], None]
