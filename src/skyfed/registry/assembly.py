"""The registry as a service of a node."""

import asyncio
from typing import Annotated, Literal

import msgspec
from starlette.applications import Starlette

from skyfed.core.errors import Invalid
from skyfed.core.settings import setting
from skyfed.core.sql import Database
from skyfed.registry import http, pi
from skyfed.registry.service import Registry
from skyfed.registry.tables import metadata
from skyfed.web.runtime import Assembly, Health, Runtime


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the registry."""

    database: Annotated[
        str, setting("Database URL; empty: SQLite in the service's data directory. postgresql+psycopg://… for many.")
    ] = ""
    default_scope: Annotated[
        str,
        setting("Scope that is applied to service queries without one, and that new sites get. Clients expect EGI."),
    ] = "EGI"
    default_scope_match: Annotated[
        Literal["all", "any"], setting("How several scopes in one query count where the client does not say.")
    ] = "all"
    default_scope_on_sites: Annotated[
        bool, setting("Apply the default scope to site queries too; the reference implementation does not.")
    ] = False
    scopes: Annotated[
        dict[str, str], setting("Further scopes that sites and services may carry: name = description.")
    ] = msgspec.field(
        default_factory=lambda: {
            "Local": "Only of interest to the site itself",
            "FedCloud": "Part of the cloud federation",
        }
    )
    page_size: Annotated[int, setting("Rows on a page of a paged answer."), msgspec.Meta(ge=1, le=10_000)] = 100
    lenient: Annotated[
        bool, setting("Accept what old clients send (`page`) and keep a quirk of the reference (leading OR).")
    ] = True
    personal_data: Annotated[
        Literal["any_credential", "listed"],
        setting("Who may read contacts (get_site): any accepted credential, or only the subjects listed."),
    ] = "any_credential"
    personal_data_readers: Annotated[
        tuple[str, ...], setting("Subjects, as /DC=org/CN=name, that may read contacts when personal_data = 'listed'.")
    ] = ()
    portal_url: Annotated[
        str,
        setting("Base of the page addresses in the answers (GOCDB_PORTAL_URL); empty: below the service's own URL."),
    ] = ""


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """Wire the registry into a node. Raises Invalid without a listener."""
    if runtime.listener is None:
        raise Invalid("the registry needs [services.registry.listen]", code="settings_value")
    public_url = runtime.listener.public_url.rstrip("/")
    url = settings.database or f"sqlite:///{runtime.data / 'registry.db'}"
    database = Database(url, name="registry", metadata=metadata, migrations="skyfed.registry.migrations")
    options = pi.Options(
        portal=(settings.portal_url or f"{public_url}/portal").rstrip("/"),
        default_scope=settings.default_scope,
        default_scope_match=settings.default_scope_match,
        default_scope_on_sites=settings.default_scope_on_sites,
        max_page_size=settings.page_size,
        lenient=settings.lenient,
    )
    registry = Registry(database, runtime.clock, scopes=settings.scopes, options=options)
    readers = http.Readers(
        anybody_known=settings.personal_data == "any_credential", subjects=frozenset(settings.personal_data_readers)
    )

    async def start() -> None:
        runtime.data.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(database.open)
        await asyncio.to_thread(registry.open)

    async def stop() -> None:
        await asyncio.to_thread(database.close)

    async def health() -> Health:
        topology = registry.topology()
        return Health(ok=True, detail=f"{len(topology.sites)} sites, {len(topology.services)} services")

    return Assembly(
        app=Starlette(routes=http.pi_routes(registry, public_url, readers)),
        public=http.is_public,
        admin=http.admin_routes(registry),
        start=start,
        stop=stop,
        health=health,
    )
