"""The repository's doors: signed messages in, JSON views out; the administration API on the node's socket.

`POST /v1/messages` takes the S/MIME entity, MIME headers included, as SSM puts it into a STOMP frame or an AMS message
(digest 5.1); `POST /api/v1/cloud/record` takes the bare text, as APEL's REST interface does (digest 8.1). Summaries and
the usage of the day are public, without names; everything else needs a credential.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from skyfed.accounting.model import parse_month
from skyfed.accounting.service import Repository
from skyfed.accounting.store import NO_EMPAID, Filter
from skyfed.core.errors import Forbidden, Invalid, TooLarge
from skyfed.core.text import shown
from skyfed.web import access

DEFAULT_PAGE = 100
MAX_PAGE = 1000
# S/MIME adds a certificate chain and a signature to the text.
ENVELOPE_BYTES = 256 * 1024
_PUBLIC = frozenset({"/v1/summaries", "/v1/usage/today"})
_FILTERS = frozenset({"site", "service", "vo", "year", "month", "user", "limit", "offset"})

_encoder = msgspec.json.Encoder(decimal_format="number")


def is_public(scope: Scope) -> bool:
    """What anybody may read: the aggregates without names. `users=true` still asks for a credential."""
    return scope["method"] in ("GET", "HEAD") and scope["path"] in _PUBLIC


def routes(repository: Repository, *, max_message_bytes: int) -> list[BaseRoute]:
    """The public listener's routes."""

    async def post_message(request: Request) -> Response:
        peer = access.principal(request.scope).subject
        body = await _body(request, max_message_bytes + ENVELOPE_BYTES)
        receipt = await asyncio.to_thread(repository.receive, body, peer=peer, empaid=_empaid(request))
        return _json(receipt)

    async def post_record(request: Request) -> Response:
        principal = access.principal(request.scope)
        if principal.kind != "certificate":
            # A proxy speaks for a person; usage is reported by a host.
            raise Forbidden("usage records are sent with a host certificate, not with a proxy", code="proxy_sender")
        body = await _body(request, max_message_bytes)
        await asyncio.to_thread(repository.receive_text, body, peer=principal.subject, empaid=_empaid(request))
        return Response("Data successfully saved for future loading.", 202, media_type="text/plain")

    async def summaries(request: Request) -> Response:
        given = _parameters(request, _FILTERS | {"users"})
        wanted = _filter(given, request)
        if not _flag(given, "users"):
            return _page(request, wanted, await asyncio.to_thread(repository.summaries, wanted))
        principal = access.principal(request.scope)
        return _page(request, wanted, await asyncio.to_thread(repository.user_summaries, wanted, principal))

    async def records(request: Request) -> Response:
        given = _parameters(request, _FILTERS | {"vm", "history"})
        principal = access.principal(request.scope)
        wanted = _filter(given, request)
        history = _flag(given, "history")
        found = await asyncio.to_thread(repository.records, wanted, principal, history=history)
        return _page(request, wanted, found)

    async def today(_request: Request) -> Response:
        since, usage = await asyncio.to_thread(repository.today)
        return _json({"since": since, "usage": usage})

    async def messages(request: Request) -> Response:
        return await _ledger(request, lambda **given: repository.messages(access.principal(request.scope), **given))

    return [
        Route("/v1/messages", post_message, methods=["POST"]),
        Route("/v1/messages", messages, methods=["GET"]),
        Route("/api/v1/cloud/record", post_record, methods=["POST"]),
        Route("/v1/summaries", summaries, methods=["GET"]),
        Route("/v1/records", records, methods=["GET"]),
        Route("/v1/usage/today", today, methods=["GET"]),
    ]


class Forget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose name is to be forgotten."""

    name: str


def admin_routes(repository: Repository) -> list[BaseRoute]:
    """The administration API of the repository."""

    async def status(_request: Request) -> Response:
        return _json({"role": "repository", "repository": await asyncio.to_thread(repository.counts)})

    async def messages(request: Request) -> Response:
        return await _ledger(request, lambda **given: repository.messages(None, **given))

    async def message(request: Request) -> Response:
        entry, text = await asyncio.to_thread(repository.message, request.path_params["id"])
        return _json({"message": entry, "text": text})

    async def reload(request: Request) -> Response:
        return _json(await asyncio.to_thread(repository.reload, request.path_params["id"]))

    async def recompute(_request: Request) -> Response:
        return _json({"summaries": await asyncio.to_thread(repository.recompute)})

    async def forget(request: Request) -> Response:
        body = await _body(request, 64 * 1024)
        try:
            wanted = msgspec.json.decode(body, type=Forget)
        except msgspec.DecodeError as error:
            raise Invalid(f"""the request is not {{"name": DN}}: {error}""", code="body") from error
        return _json({"pseudonym": await asyncio.to_thread(repository.forget, wanted.name)})

    return [
        Route("/status", status, methods=["GET"]),
        Route("/messages", messages, methods=["GET"]),
        Route("/messages/{id:int}", message, methods=["GET"]),
        Route("/messages/{id:int}/reload", reload, methods=["POST"]),
        Route("/recompute", recompute, methods=["POST"]),
        Route("/forget", forget, methods=["POST"]),
    ]


# -- small print ------------------------------------------------------------------------------------------------


def _json(value: object) -> Response:
    return Response(_encoder.encode(value), media_type="application/json", headers={"cache-control": "no-store"})


def _page(request: Request, wanted: Filter, results: Sequence[object]) -> Response:
    """One page; `next` is the query of the following one, null on the last (it may then be empty)."""
    following = None
    if len(results) == wanted.limit:
        again = {**request.query_params, "limit": str(wanted.limit), "offset": str(wanted.offset + wanted.limit)}
        following = f"{request.url.path}?{urlencode(again)}"
    return _json({"count": len(results), "next": following, "results": results})


async def _ledger(request: Request, ask: Callable[..., list[Any]]) -> Response:
    given = _parameters(request, frozenset({"verdict", "before", "limit"}))
    verdict = given.get("verdict")
    if verdict not in (None, "accepted", "rejected"):
        raise Invalid(f"verdict is {shown(verdict)}; it is 'accepted' or 'rejected'", code="parameter")
    before = _number(given, "before", 1, 2**62)
    limit = _number(given, "limit", 1, MAX_PAGE) or DEFAULT_PAGE
    found = await asyncio.to_thread(ask, verdict=verdict, before=before, limit=limit)
    return _json({"count": len(found), "results": found})


async def _body(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise TooLarge(f"the message has more than {limit} bytes", code="message_size")
    return bytes(data)


def _empaid(request: Request) -> str:
    return request.headers.get("empa-id", NO_EMPAID)


def _parameters(request: Request, known: frozenset[str]) -> Mapping[str, str]:
    given = dict(request.query_params)
    unknown = sorted(given.keys() - known)
    if unknown:
        text = f"there is no parameter {shown(unknown[0])} (there are: {', '.join(sorted(known))})"
        raise Invalid(text, code="parameter")
    if "\x00" in "".join(given.values()):
        raise Invalid("a parameter holds a NUL character", code="parameter")  # PostgreSQL takes none
    return given


def _filter(given: Mapping[str, str], request: Request) -> Filter:
    year, month = _number(given, "year", 0, 9999), given.get("month")
    number: int | None = None
    if month is not None and "-" in month:
        try:
            year, number = parse_month(month)
        except ValueError as error:
            raise Invalid(str(error), code="parameter") from error
    elif month is not None:
        number = _number(given, "month", 0, 12)
    user = given.get("user")
    return Filter(
        site=given.get("site"),
        service=given.get("service"),
        vo=given.get("vo"),
        year=year,
        month=number,
        user=access.principal(request.scope).subject if user == "me" else user,
        vm=given.get("vm"),
        limit=_number(given, "limit", 1, MAX_PAGE) or DEFAULT_PAGE,
        offset=_number(given, "offset", 0, 10**9) or 0,
    )


def _number(given: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= value <= most:
        raise Invalid(f"{name} is {shown(text)}; it is a whole number from {least} to {most}", code="parameter")
    return value


def _flag(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "false")
    if text not in ("true", "false"):
        raise Invalid(f"{name} is {shown(text)}; it is 'true' or 'false'", code="parameter")
    return text == "true"
