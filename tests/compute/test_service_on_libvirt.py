"""The service on the real libvirt engine: each in a process of its own, with real guests."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from compute.engines.test_libvirt import HostProcess
from skyfed.compute.model import UsageEvent, VmState
from skyfed.compute.usage import fold
from support.compute_process import ServiceProcess
from support.guest import guest, new_key, ssh
from support.peers import need

pytestmark = pytest.mark.peer


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    need("qemu-system-x86_64")
    process = HostProcess(tmp_path_factory.mktemp("sl"))
    process.start()
    yield process
    process.end()


@pytest.fixture
def service(tmp_path: Path, host: HostProcess) -> Iterator[ServiceProcess]:
    found = ServiceProcess(tmp_path, host.socket)
    yield found
    found.end()


def test_a_researcher_s_machine_outlives_service_and_engine_host_and_leaves_nothing(
    service: ServiceProcess, host: HostProcess, tmp_path: Path
) -> None:
    built = guest(tmp_path)
    key = new_key(tmp_path)
    service.start()
    meta = {
        "title": "Skyfed demo",
        "disk_format": "qcow2",
        "size_bytes": built.path.stat().st_size,
        "virtual_size_bytes": 1 << 25,
        "sha512": hashlib.sha512(built.path.read_bytes()).hexdigest(),
        "vos": ["demo.skyfed"],
        "mpuri": "https://market.example.org/image/demo:1/",
    }
    image = service.ask("image", meta=meta, path=str(built.path))

    def port_of() -> int:
        return int(service.ask("get", vm=vm["id"])["endpoints"][0]["port"])

    def command(text: str) -> str:
        deadline = time.monotonic() + 60
        while (done := ssh(key, port_of(), text)).returncode != 0:
            assert time.monotonic() < deadline, done.stderr
        return done.stdout.strip()

    request = {
        "os_tpl": image["os_tpl_term"],
        "flavour": "tiny",
        "title": "My VM",
        "context": {"ssh_keys": [key.public]},
    }
    vm = service.ask("create", request=request)
    vm = service.ask("until", vm=vm["id"], states=["active"])
    assert command("hostname") == "my-vm"
    boot = command("cat /proc/sys/kernel/random/boot_id")

    # The service is killed: the guest goes on and is adopted.
    service.kill()
    service.start()
    assert service.ask("get", vm=vm["id"])["observed"] == "active"
    assert command("cat /proc/sys/kernel/random/boot_id") == boot

    # So is the engine host.
    host.kill()
    host.start()
    service.ask("reconcile_when_up")
    assert service.ask("get", vm=vm["id"])["observed"] == "active"
    assert command("cat /proc/sys/kernel/random/boot_id") == boot

    # A restart gives another boot, a stop is measured, a guest that halts itself is stopped.
    service.ask("act", vm=vm["id"], action="restart")
    service.ask("until", vm=vm["id"], states=["active"])
    assert command("cat /proc/sys/kernel/random/boot_id") != boot
    before = time.time()
    service.ask("act", vm=vm["id"], action="stop", method="graceful")
    service.ask("until", vm=vm["id"], states=["stopped"])
    after = time.time()
    assert host.guests() == set()
    service.ask("act", vm=vm["id"], action="start")
    service.ask("until", vm=vm["id"], states=["active"])
    command("true")
    ssh(key, port_of(), "poweroff -f", "-o", "ServerAliveInterval=1")  # ends with the guest, whatever it says
    service.ask("until", vm=vm["id"], states=["stopped"])
    service.ask("delete", vm=vm["id"])
    service.ask("gone", vm=vm["id"])
    assert host.guests() == set()
    assert list((host.root / "machines").iterdir()) == []

    events = msgspec.convert(service.ask("events"), list[UsageEvent])
    stopped = next(event for event in events if event.new is VmState.STOPPED)
    assert before - 1 <= stopped.when.timestamp() <= after + 1
    summary = fold(events)
    assert summary.start == msgspec.convert(vm["created"], type(summary.start))
    assert summary.counters.cpu_seconds is not None
    assert summary.counters.cpu_seconds > 1
    assert summary.counters.net_in_bytes is None, "user-mode networking counts nothing, which is not 0"
