"""The engine host as a service of a node: the libvirt engine in a process of its own, served on `run/engine-host.sock`."""

import asyncio

import msgspec

from skyfed.compute.engines.host import EngineHost
from skyfed.compute.engines.libvirt import open_engine
from skyfed.compute.engines.libvirt.settings import Settings
from skyfed.web.runtime import Assembly, Health, Runtime

SOCKET = "engine-host.sock"


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """The engine host; `root` and `probe_image` are relative to the node's directory."""
    node = runtime.run.parent
    image = node / settings.probe_image if settings.probe_image is not None else None
    engine = open_engine(msgspec.structs.replace(settings, root=node / settings.root, probe_image=image), runtime.clock)
    host = EngineHost(engine, node / settings.root, runtime.run / SOCKET)

    async def start() -> None:
        await host.start()
        # The first open of a libvirt root takes a while; the compute service asks as soon as it likes.
        runtime.tasks.task("open", open_now)

    async def open_now() -> None:
        await engine.probe()
        await asyncio.Event().wait()

    async def health() -> Health:
        found = await engine.probe()
        return Health(
            ok=found.ok, detail=f"{found.engine} {found.version}, {found.acceleration}. {found.detail}".strip()
        )

    return Assembly(start=start, stop=host.stop, health=health)


__all__ = ["Settings", "assemble"]
