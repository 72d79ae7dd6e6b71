"""The administration API on the node's socket: JSON in and out. The socket's mode is the access check."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skyfed.core.errors import Invalid, TooLarge
from skyfed.voms.service import Organisations, Wanted, WantedVo, Who

MAX_BODY = 4 << 20
T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


class _Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str
    description: str = ""


class _Role(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str


class _Fqan(Who, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fqan: str


class _Suspension(Who, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: str


class _Ban(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    who: str
    reason: str = ""


class _Declaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    vos: tuple[WantedVo, ...]


def admin_routes(organisations: Organisations) -> list[BaseRoute]:
    """Routes: `/apply`, `/vos`, `/vos/{vo}`, `/vos/{vo}/groups|roles|members`, `/vos/{vo}/members/ACTION`, `/bans`.

    Actions: `remove grant revoke suspend restore issued`. The parameter `actor` names who is at work, for the audit.
    """
    return [*_vo_routes(organisations), *_member_routes(organisations), *_ban_routes(organisations)]


def _vo_routes(organisations: Organisations) -> list[BaseRoute]:
    async def vos(_request: Request) -> Response:
        return await _run(organisations.vos)

    async def create(request: Request) -> Response:
        return await _run(organisations.create_vo, await _body(request, WantedVo), _actor(request))

    async def apply(request: Request) -> Response:
        declaration = await _body(request, _Declaration)
        return await _run(organisations.apply, declaration.vos, _actor(request))

    async def show(request: Request) -> Response:
        return await _run(organisations.vo, _vo(request))

    async def group(request: Request) -> Response:
        body = await _body(request, _Group)
        return await _run(organisations.create_group, _vo(request), body.path, body.description, _actor(request))

    async def role(request: Request) -> Response:
        body = await _body(request, _Role)
        return await _run(organisations.create_role, _vo(request), body.name, _actor(request))

    return [
        Route("/apply", apply, methods=["POST"]),
        Route("/vos", vos, methods=["GET"]),
        Route("/vos", create, methods=["POST"]),
        Route("/vos/{vo}", show, methods=["GET"]),
        Route("/vos/{vo}/groups", group, methods=["POST"]),
        Route("/vos/{vo}/roles", role, methods=["POST"]),
    ]


def _member_routes(organisations: Organisations) -> list[BaseRoute]:
    async def members(request: Request) -> Response:
        return await _run(organisations.members, _vo(request))

    async def add(request: Request) -> Response:
        return await _run(organisations.add_member, _vo(request), await _body(request, Wanted), _actor(request))

    async def remove(request: Request) -> Response:
        return await _run(organisations.remove_member, _vo(request), await _body(request, Who), _actor(request))

    async def grant(request: Request) -> Response:
        body = await _body(request, _Fqan)
        return await _run(organisations.grant, _vo(request), body, body.fqan, _actor(request))

    async def revoke(request: Request) -> Response:
        body = await _body(request, _Fqan)
        return await _run(organisations.revoke, _vo(request), body, body.fqan, _actor(request))

    async def suspend(request: Request) -> Response:
        body = await _body(request, _Suspension)
        return await _run(organisations.suspend, _vo(request), body, body.reason, _actor(request))

    async def restore(request: Request) -> Response:
        return await _run(organisations.restore, _vo(request), await _body(request, Who), _actor(request))

    async def issued(request: Request) -> Response:
        return await _run(organisations.issued, _vo(request), await _body(request, Who))

    actions: dict[str, Endpoint] = {
        "remove": remove,
        "grant": grant,
        "revoke": revoke,
        "suspend": suspend,
        "restore": restore,
        "issued": issued,
    }
    return [
        Route("/vos/{vo}/members", members, methods=["GET"]),
        Route("/vos/{vo}/members", add, methods=["POST"]),
        *(Route(f"/vos/{{vo}}/members/{name}", action, methods=["POST"]) for name, action in actions.items()),
    ]


def _ban_routes(organisations: Organisations) -> list[BaseRoute]:
    async def bans(_request: Request) -> Response:
        return await _run(organisations.bans)

    async def ban(request: Request) -> Response:
        body = await _body(request, _Ban)
        return await _run(organisations.ban, body.who, body.reason, _actor(request))

    async def unban(request: Request) -> Response:
        return await _run(organisations.unban, (await _body(request, _Ban)).who, _actor(request))

    return [
        Route("/bans", bans, methods=["GET"]),
        Route("/bans", ban, methods=["POST"]),
        Route("/bans/remove", unban, methods=["POST"]),
    ]


def _vo(request: Request) -> str:
    name: str = request.path_params["vo"]
    return name


def _actor(request: Request) -> str:
    return request.query_params.get("actor", "administrator")[:255]


async def _run(method: Callable[..., object], *arguments: object) -> Response:
    """The method's result as JSON; 204 where there is none. It blocks on the database, so it runs in a thread."""
    result = await asyncio.to_thread(method, *arguments)
    if result is None:
        return Response(status_code=204)
    return Response(msgspec.json.encode(result), media_type="application/json")


async def _body(request: Request, kind: type[T]) -> T:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise TooLarge(f"the request has more than {MAX_BODY} bytes", code="body_size")
    try:
        return msgspec.json.decode(bytes(data), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the request is not what is wanted here: {error}", code="body") from error
