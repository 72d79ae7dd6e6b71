"""The compute service as a service of a node. The engine is passed in: engines are imported by `node` alone."""

import asyncio

from skyfed.compute.contract import Engine
from skyfed.compute.http import admin_routes
from skyfed.compute.service import ComputeService
from skyfed.compute.settings import ComputeSettings as Settings
from skyfed.compute.tables import metadata
from skyfed.core.errors import Invalid
from skyfed.core.sql import Database
from skyfed.core.text import plural
from skyfed.web.runtime import Assembly, Health, Runtime


def assemble(settings: Settings, runtime: Runtime, engine: Engine) -> Assembly:
    """Wire the compute service of a site on `engine`, which it closes at its end. `offers` is the ComputeService.

    Raises Invalid on a node without a site name: usage could not be told whose it is."""
    if not runtime.site:
        raise Invalid("the compute service needs node.site, the site's name in the registry", code="settings_value")
    url = settings.database or f"sqlite:///{runtime.data / 'compute.db'}"
    database = Database(url, name="compute", metadata=metadata, migrations="skyfed.compute.migrations")
    service = ComputeService(
        engine, database, settings=settings, clock=runtime.clock, tasks=runtime.tasks, site=runtime.site
    )

    async def start() -> None:
        await asyncio.to_thread(runtime.data.mkdir, mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(database.open)
        await service.start()

    async def stop() -> None:
        await service.stop()
        await engine.close()
        await asyncio.to_thread(database.close)

    async def health() -> Health:
        return _health(service)

    return Assembly(admin=admin_routes(service), start=start, stop=stop, health=health, offers=service)


def _health(service: ComputeService) -> Health:
    engine = service.engine_health
    vms, images = len(service.list(None)), len(service.catalogue().images)
    detail = f"{plural(vms, 'machine')}, {plural(images, 'image')}"
    if engine.ok:
        detail += f" on {engine.engine} {engine.version} ({engine.acceleration})"
    else:
        detail += f"; engine: {engine.detail}"
    if absent := len(service.absent_images):
        detail += f"; {plural(absent, 'image')} lost by the engine"
    if unknown := len(service.unknown_guests):
        detail += f"; {plural(unknown, 'guest')} without an owner"
    return Health(ok=engine.ok, detail=detail)


__all__ = ["Settings", "assemble"]
