"""The compute service as a service of a node, on the engine that its settings name: engines are known here alone."""

from pathlib import Path

from skyfed.compute import assembly
from skyfed.compute.contract import Engine
from skyfed.compute.engines.remote import RemoteEngine
from skyfed.compute.engines.simulated import SimulatedEngine
from skyfed.compute.settings import ComputeSettings as Settings
from skyfed.node.engine import SOCKET
from skyfed.web.runtime import Assembly, Runtime


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """The compute service on its engine."""
    return assembly.assemble(settings, runtime, _engine(settings, runtime))


def _engine(settings: Settings, runtime: Runtime) -> Engine:
    if settings.engine == "simulated":
        return SimulatedEngine(clock=runtime.clock)
    path = Path(settings.engine_socket) if settings.engine_socket else runtime.run / SOCKET
    return RemoteEngine(path, clock=runtime.clock)


__all__ = ["Settings", "assemble"]
