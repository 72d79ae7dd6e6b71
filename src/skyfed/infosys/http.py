"""The administration API of the information system: how it stands, and an update at once."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skyfed.core.errors import Unavailable
from skyfed.infosys.directory import Directory, UpdateStats
from skyfed.infosys.slapd import Slapd
from skyfed.infosys.top import SourceStatus


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How an information server stands."""

    level: str
    url: str
    pid: int | None
    entries: int
    last_update: UpdateStats | None
    refused: tuple[tuple[str, str], ...]
    sources: tuple[SourceStatus, ...] = ()
    registry_error: str = ""


Sources = Callable[[], tuple[tuple[SourceStatus, ...], str]]
Refresh = Callable[[], Awaitable[UpdateStats]]


def admin_routes(level: str, slapd: Slapd, directory: Directory, sources: Sources, refresh: Refresh) -> list[BaseRoute]:
    """`GET /status`, `POST /refresh` (answers when the update is done)."""

    async def status(_request: Request) -> Response:
        found, registry_error = sources()
        return _json(
            Status(
                level=level,
                url=slapd.url,
                pid=slapd.pid,
                entries=len(directory.tree),
                last_update=directory.stats,
                refused=directory.refusals,
                sources=found,
                registry_error=registry_error,
            )
        )

    async def update(_request: Request) -> Response:
        try:
            # A client that goes away does not stop an update half-way.
            stats = await asyncio.shield(asyncio.ensure_future(refresh()))
        except OSError as error:
            raise Unavailable(f"the update failed: {error}", code="update") from error
        return _json(stats)

    return [Route("/status", status, methods=["GET"]), Route("/refresh", update, methods=["POST"])]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
