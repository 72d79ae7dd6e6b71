"""Worlds of engines that need no hypervisor."""

from pathlib import Path

from compute.engines.conformance import World
from skyfed.compute.contract import Engine
from skyfed.compute.engines.simulated import Latency, SimulatedEngine, SimulatedHost


class SimulatedWorld(World):
    """The host stays, engines come and go."""

    memory_mib = 128

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.host = SimulatedHost()
        self._file = folder / "image.qcow2"
        self._file.write_bytes(b"an image")

    async def open(self) -> Engine:
        self.simulated = SimulatedEngine(self.host, latency=Latency(boot=0.001, shutdown=0.001))
        return self.simulated

    async def kill(self) -> None:
        await self.simulated.close()

    async def halt(self, id: str) -> None:
        # The guest is the host's: it can halt while there is no engine.
        SimulatedEngine(self.host).halt(id) if self.simulated is not self.engine else self.simulated.halt(id)

    async def crash(self, id: str) -> None:
        self.simulated.crash(id)

    def image_file(self) -> Path:
        return self._file
