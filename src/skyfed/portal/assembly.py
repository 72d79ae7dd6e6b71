"""The portal as a service of a node."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import msgspec

from skyfed.accounting.client import AccountingClient
from skyfed.core.settings import setting
from skyfed.infosys.client import InfosysClient, addresses
from skyfed.portal import http, sources
from skyfed.portal.service import Portal
from skyfed.registry.client import RegistryClient
from skyfed.web.application import Application
from skyfed.web.runtime import Assembly, Health, Runtime

INFOSYS_DEADLINE_SECONDS = 10


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the portal."""

    title: Annotated[str, setting("the federation's name, at the top of the page")] = "Skyfed federation"
    registry_url: Annotated[str, setting("https:// address of the registry; empty: the page shows none")] = ""
    infosys_url: Annotated[
        str, setting("ldap://host:port of the top-level information system, several by comma; empty: none")
    ] = ""
    accounting_url: Annotated[str, setting("https:// address of the accounting repository; empty: none")] = ""
    refresh_seconds: Annotated[
        float, setting("how often each source is asked, seconds"), msgspec.Meta(ge=1, le=3600)
    ] = 15.0


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """Wire the portal into a node. Raises Invalid for an `infosys_url` that names no server."""
    refresh = timedelta(seconds=settings.refresh_seconds)
    portal = Portal(_readers(settings, runtime), runtime.clock, refresh=refresh)
    face = http.Face(portal, runtime.clock, title=settings.title)

    async def start() -> None:
        portal.start(runtime.tasks)

    async def health() -> Health:
        # A source that is down is its own service's illness; the portal shows it and works.
        bad = [f"{s.title} {s.state}" for s in portal.overview().sources if s.state in {"stale", "failed"}]
        return Health(ok=True, detail=", ".join(bad) or "all sources fresh")

    return Assembly(app=Application(face.routes()), public=http.is_public, start=start, health=health)


def _readers(settings: Settings, runtime: Runtime) -> dict[str, Callable[[], Any]]:
    readers: dict[str, Callable[[], Any]] = {}
    if settings.registry_url:
        registry = RegistryClient(runtime.http, settings.registry_url)
        readers["registry"] = lambda: sources.registered_sites(registry)
    if settings.infosys_url:
        infosys = InfosysClient(addresses(settings.infosys_url), deadline=INFOSYS_DEADLINE_SECONDS)
        readers["infosys"] = lambda: sources.offered_sites(infosys)
    if settings.accounting_url:
        accounting = AccountingClient(runtime.http, settings.accounting_url)
        readers["accounting"] = lambda: sources.today(accounting)
    return readers
