"""The VO service and its attribute authority as a service of a node."""

import asyncio
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from skyfed.core.errors import Invalid
from skyfed.core.settings import setting
from skyfed.core.sql import Database
from skyfed.core.text import plural
from skyfed.pki.tls import ServerTls
from skyfed.voms import store
from skyfed.voms.authority import Address, Authority, Signer
from skyfed.voms.door import Door
from skyfed.voms.http import admin_routes
from skyfed.voms.listener import StreamListener
from skyfed.voms.service import Organisations
from skyfed.voms.tables import metadata
from skyfed.web.runtime import Assembly, Health, Runtime


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the VO service."""

    database: Annotated[
        str, setting("Database URL; empty: SQLite in the service's data directory. postgresql+psycopg://… for many.")
    ] = ""
    default_vo: Annotated[
        str,
        setting("VO meant by a request that names none, from a member of several; empty: such a request is refused."),
    ] = ""
    match_issuer: Annotated[
        bool, setting("A member is known by subject and CA; false: by subject alone (CAs that changed their name).")
    ] = True


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """Wire the VO service into a node. Raises Invalid without a listener."""
    if runtime.listener is None:
        raise Invalid("the VO service needs [services.voms.listen]", code="settings_value")
    listen = runtime.listener
    url = settings.database or f"sqlite:///{runtime.data / 'voms.db'}"
    database = Database(url, name="voms", metadata=metadata, migrations="skyfed.voms.migrations")
    running: list[StreamListener] = []

    async def start() -> None:
        runtime.data.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(database.open)
        # TLS must see a client certificate before it lets anybody in: that is how clients know this protocol.
        tls = ServerTls(runtime.trust, runtime.host.cert, runtime.host.key, runtime.clock, require_certificate=True)
        signer = Signer(runtime.host.cert, runtime.host.key, runtime.clock)
        listener = StreamListener(tls.context, runtime.clock)
        running.append(listener)
        port = listener.bind(listen.host, listen.port)
        authority = Authority(
            database,
            runtime.judge,
            signer,
            _address(listen.public_url, port),
            runtime.clock,
            default_vo=settings.default_vo,
            match_issuer=settings.match_issuer,
        )
        listener.serve(Door(authority).answer)

    async def stop() -> None:
        for listener in running:
            await listener.stop()
        await asyncio.to_thread(database.close)

    async def health() -> Health:
        vos = await database.aread(store.vos)
        issued = await database.aread(store.count_issued)
        return Health(ok=True, detail=f"{plural(len(vos), 'VO')}, {plural(issued, 'attribute certificate')} issued")

    return Assembly(admin=admin_routes(Organisations(database, runtime.clock)), start=start, stop=stop, health=health)


def _address(public_url: str, port: int) -> Address:
    """What stands in attribute certificates: the public name; its port, or the one that the kernel chose."""
    parts = urlsplit(public_url)
    return Address(parts.hostname or "localhost", parts.port or port)
