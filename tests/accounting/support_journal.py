"""A usage journal in memory, as compute keeps one."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from skyfed.accounting.extract import Producer
from skyfed.compute.model import Benchmark, Counters, Owner, UsageEvent, VmState

PRODUCER = Producer(cloud_compute_service="alpha.localhost", cloud_type="skyfed/0.1.0 (libvirt)", interval=3600)
ALICE = Owner(
    subject="/DC=test/CN=alice", issuer="/CN=CA", vo="demo.skyfed",
    fqans=("/demo.skyfed/Role=NULL/Capability=NULL", "/demo.skyfed/sub/Role=NULL/Capability=NULL"),
)  # fmt: skip
P, B, A, S, D, G = (
    VmState.PENDING, VmState.BUILDING, VmState.ACTIVE, VmState.STOPPED, VmState.DELETING, VmState.DELETED,
)  # fmt: skip


class Journal:
    """Events in order; `source` for the sender. Counters follow from how long the machine was active."""

    def __init__(self) -> None:
        self.events: list[UsageEvent] = []
        self._cpu: dict[str, float] = {}

    def add(
        self, vm: str, when: datetime, new: VmState, *, elapsed: float | None = None, **values: object
    ) -> UsageEvent:
        before = next((event for event in reversed(self.events) if event.vm_id == vm), None)
        if elapsed is None:
            elapsed = (when - before.when).total_seconds() if before else 0.0
        if before is not None and before.new is A:
            self._cpu[vm] = self._cpu.get(vm, 0.0) + elapsed / 2
        given: dict[str, object] = {
            "seq": len(self.events) + 1, "vm_id": vm, "when": when, "elapsed": elapsed, "old": before.new if before else None,
            "new": new, "site": "ALPHA", "title": f"machine {vm}", "owner": ALICE, "image_id": "i1",
            "image_identifier": "https://market.example/image", "flavour": "small", "cores": 2, "memory_mib": 512,
            "disk_gib": 1.5, "benchmark": Benchmark(type="HEPSPEC06", value=10.5), "public_ips": 0,
            "counters": Counters(cpu_seconds=self._cpu[vm]) if vm in self._cpu else Counters(),
        }  # fmt: skip
        self.events.append(UsageEvent(**{**given, **values}))  # type: ignore[arg-type]
        return self.events[-1]

    def life(self, vm: str, start: datetime, steps: Iterable[tuple[float, VmState]]) -> None:
        """Events of one machine: seconds after `start`, and the state from then on."""
        for seconds, state in steps:
            self.add(vm, start + timedelta(seconds=seconds), state)

    async def usage_events(
        self, since_seq: int = 0, limit: int = 1000, *, vm_id: str | None = None
    ) -> tuple[UsageEvent, ...]:
        found = [event for event in self.events if event.seq > since_seq and vm_id in (None, event.vm_id)]
        return tuple(found[:limit])
