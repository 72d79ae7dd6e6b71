"""The compute service as a process of its own, told what to do in JSON lines, to be killed at any moment.

`python -m support.compute_process DIRECTORY SOCKET`: the service over DIRECTORY/compute.db on the engine host at SOCKET.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from skyfed.compute import tables
from skyfed.compute.engines.remote import RemoteEngine
from skyfed.compute.model import Action, ImageMeta, VmRequest, VmState
from skyfed.compute.service import ComputeService
from skyfed.core.clock import SystemClock
from skyfed.core.errors import SkyfedError, Unavailable
from skyfed.core.sql import Database
from skyfed.core.tasks import Supervisor
from support.compute_site import owner, settings

TESTS = Path(__file__).parent.parent


class Died(Exception):
    """The process was killed before it answered."""


class ServiceProcess:
    """One at a time; `start` again after `kill`. Calls block up to their answer."""

    def __init__(self, directory: Path, socket: Path) -> None:
        self._directory = directory
        self._socket = socket
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (directory / "service.log").open("ab")

    def start(self) -> None:
        """Start; returns when it has looked its engine up."""
        argv = [sys.executable, "-m", "support.compute_process", str(self._directory), str(self._socket)]
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.ask("synced")

    def ask(self, call: str, **arguments: Any) -> Any:
        """The answer. Raises Died, or RuntimeError with the service's refusal (`code: message`)."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"call": call, **arguments}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise Died(call) from None
        line = process.stdout.readline()
        if not line:
            raise Died(call)
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def end(self) -> None:
        self.kill()
        self._log.close()


class _Inside:
    """What the process does for each call."""

    def __init__(self, service: ComputeService) -> None:
        self._service = service

    async def answer(self, line: bytes) -> dict[str, Any]:
        told = json.loads(line)
        try:
            return {"value": msgspec.to_builtins(await getattr(self, told.pop("call"))(**told))}
        except SkyfedError as error:
            return {"error": f"{error.code}: {error.message}"}
        except TimeoutError:
            return {"error": "timed_out: it did not come about"}

    async def synced(self) -> None:
        await asyncio.wait_for(self._service.synced(), 60)

    async def image(self, meta: dict[str, Any], path: str) -> object:
        return await self._service.import_image(msgspec.convert(meta, ImageMeta), Path(path))

    async def create(self, request: dict[str, Any]) -> object:
        return await self._service.create(msgspec.convert(request, VmRequest), owner())

    async def act(self, vm: str, action: str, method: str = "") -> object:
        return await self._service.act(vm, Action(action), owner(), method=method)

    async def delete(self, vm: str) -> None:
        await self._service.delete(vm, owner())

    async def get(self, vm: str) -> object:
        return self._service.get(vm, owner())

    async def until(self, vm: str, *, states: list[str], seconds: float = 60.0) -> object:
        wanted = {VmState(state) for state in states}
        await self._when(lambda: self._service.get(vm, owner()).observed in wanted, seconds)
        return self._service.get(vm, owner())

    async def gone(self, vm: str) -> None:
        await self._when(lambda: self._service._projection.record(vm) is None, 60.0)

    async def events(self) -> object:
        return await self._service.usage_events(limit=10_000)

    async def reconcile(self) -> None:
        await self._service._reconciler.reconcile()

    async def reconcile_when_up(self) -> None:
        """After the engine host was killed: as soon as it answers again."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await self.reconcile()
                except Unavailable:
                    await asyncio.sleep(0.1)

    async def _when(self, holds: Callable[[], bool], seconds: float) -> None:
        changes = self._service.vm_changes
        async with asyncio.timeout(seconds):
            while True:
                version = changes.version
                if holds():
                    return
                await changes.wait(version)


async def _main(directory: Path, socket: Path) -> None:
    clock = SystemClock()
    db = Database(
        f"sqlite:///{directory}/compute.db",
        name="compute",
        metadata=tables.metadata,
        migrations="skyfed.compute.migrations",
    )
    await asyncio.to_thread(db.open)
    tasks = Supervisor(clock)
    engine = RemoteEngine(socket, clock=clock)
    service = ComputeService(
        engine, db, settings=settings(reconcile_seconds=2.0, sample_seconds=2.0), clock=clock, tasks=tasks, site="ALPHA"
    )
    await service.start()
    inside = _Inside(service)
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        sys.stdout.buffer.write(json.dumps(await inside.answer(line)).encode() + b"\n")
        sys.stdout.buffer.flush()
    await tasks.stop()
    await service.stop()
    await engine.close()
    await asyncio.to_thread(db.close)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2])))
