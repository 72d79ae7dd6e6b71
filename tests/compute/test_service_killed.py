"""The service as a process, killed with SIGKILL at random moments, on a simulated engine in another process (this one)."""

import asyncio
import hashlib
import random
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skyfed.compute.engines.host import EngineHost
from skyfed.compute.engines.simulated import Latency, SimulatedEngine, SimulatedHost
from skyfed.compute.model import UsageEvent, VmState
from skyfed.compute.usage import fold
from support.compute_process import Died, ServiceProcess

KILLS = 6


class HostThread:
    """An engine host over a simulated engine, on an event loop of its own."""

    def __init__(self, directory: Path) -> None:
        self.host = SimulatedHost()
        self.socket = directory / "run" / "engine.sock"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        latency = Latency(call=0.01, boot=0.03, shutdown=0.03)
        engine = SimulatedEngine(self.host, latency=latency)
        self._server = EngineHost(engine, directory / "root", self.socket)
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[HostThread]:
    found = HostThread(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def service(tmp_path: Path, engine: HostThread) -> Iterator[ServiceProcess]:
    found = ServiceProcess(tmp_path, engine.socket)
    yield found
    found.end()


def image(service: ServiceProcess, directory: Path) -> Any:
    path = directory / "demo.img"
    path.write_bytes(b"demo")
    meta = {
        "title": "demo",
        "disk_format": "qcow2",
        "size_bytes": 4,
        "virtual_size_bytes": 1 << 20,
        "sha512": hashlib.sha512(b"demo").hexdigest(),
        "vos": ["demo.skyfed"],
    }
    return service.ask("image", meta=meta, path=str(path))


def live(service: ServiceProcess, term: str, token: str) -> None:
    """A whole life, from wherever it is now: done when it is deleted."""
    try:
        vm = service.ask("create", request={"os_tpl": term, "flavour": "tiny", "token": token})["id"]
    except RuntimeError as refused:
        if str(refused).startswith("token_used"):
            return
        raise
    service.ask("until", vm=vm, states=["active", "stopped"])
    for action, state in (("stop", "stopped"), ("start", "active"), ("restart", "active")):
        service.ask("act", vm=vm, action=action)
        service.ask("until", vm=vm, states=[state])
    service.ask("delete", vm=vm)


def test_a_service_killed_at_random_moments_loses_and_doubles_nothing(
    service: ServiceProcess, engine: HostThread, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    service.start()
    term = image(service, tmp_path)["os_tpl_term"]
    tokens = [f"token-{number}" for number in range(KILLS)]
    for token in tokens:
        killer = threading.Timer(dice.uniform(0.0, 0.5), service.kill)
        killer.start()
        try:
            live(service, term, token)
        except (Died, ValueError, AssertionError):
            pass  # killed in the middle, even of a pipe
        finally:
            killer.join()
        service.start()
        image(service, tmp_path)
        live(service, term, token)
    events = msgspec.convert(service.ask("events"), list[UsageEvent])
    for vm_id in {event.vm_id for event in events}:
        service.ask("gone", vm=vm_id)
    service.ask("reconcile")
    assert engine.host.machines == {}, "an orphan is left in the engine"
    events = msgspec.convert(service.ask("events"), list[UsageEvent])
    lives = {vm_id: [one for one in events if one.vm_id == vm_id] for vm_id in {event.vm_id for event in events}}
    assert len(lives) == len(tokens), "each token made exactly one machine"
    for chain in lives.values():
        assert chain[0].old is None
        assert all(after.old is before.new for before, after in pairwise(chain))
        assert [one.new for one in chain].count(VmState.DELETED) == 1
        assert fold(chain).wall_seconds > 0
