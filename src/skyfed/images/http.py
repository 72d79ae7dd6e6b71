"""The image service's doors: lists and files for everybody, uploads for endorsers, the administration API on the
node's socket."""

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from skyfed.core.errors import Forbidden, Invalid, NotFound, TooLarge
from skyfed.core.sql import Database
from skyfed.core.tasks import Supervisor
from skyfed.core.text import shown
from skyfed.images import events
from skyfed.images.files import FileStore
from skyfed.images.model import Description
from skyfed.images.publisher import Publisher
from skyfed.images.subscriber import TASK, Subscriber
from skyfed.pki import names
from skyfed.web import access

MAX_ADMIN_BODY = 1 << 20
# Small pieces cost a thread hop each; this much is gathered before a write.
WRITE_BYTES = 1 << 20
_PUBLIC_PREFIXES = ("/lists/", "/files/", "/store/")

T = TypeVar("T")


def is_public(scope: Scope) -> bool:
    """Lists and image files are for everybody to read: what protects them is the signature."""
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path == "/lists" or path.startswith(_PUBLIC_PREFIXES))


# -- publisher --------------------------------------------------------------------------------------------------


def publisher_routes(publisher: Publisher, files: FileStore, uploaders: tuple[str, ...]) -> list[BaseRoute]:
    """The public routes and the endorsers' upload."""

    async def index(_request: Request) -> Response:
        return _json(await asyncio.to_thread(publisher.lists))

    async def imagelist(request: Request) -> Response:
        served = publisher.served(request.path_params["name"])
        headers = {"etag": served.etag, "last-modified": formatdate(served.created, usegmt=True)}
        headers["cache-control"] = "no-cache"
        if _is_known(request, served.etag):
            return Response(status_code=304, headers=headers)
        # Not the message's own type: consumers take the boundary from the body (images digest A.2).
        return Response(served.message, headers=headers, media_type="application/octet-stream")

    async def file(request: Request) -> Response:
        sha512, _, _suffix = str(request.path_params["name"]).partition(".")
        path = files.path(sha512)
        if not await asyncio.to_thread(path.is_file):
            raise NotFound("there is no such image file; the lists name those that are", code="no_file")
        etag = f'"{sha512}"'
        headers = {"etag": etag, "cache-control": "public, max-age=31536000, immutable"}
        if _is_known(request, etag):
            return Response(status_code=304, headers=headers)
        return FileResponse(path, headers=headers, media_type="application/octet-stream")

    async def page(request: Request) -> Response:
        identifier = str(request.path_params["page"]).partition(":")[0]
        document = await asyncio.to_thread(publisher.document, identifier)
        return _json({"hv:image": document})

    async def upload(request: Request) -> Response:
        principal = access.full_principal(request.scope)
        if not any(names.same_text(principal.subject, dn) for dn in uploaders):
            message = f"{shown(principal.subject)} may not publish here; the setting 'uploaders' lists who may"
            raise Forbidden(message, code="not_endorser")
        fields = {**request.query_params, "name": request.path_params["image"]}
        description = _convert(fields, Description)
        with await asyncio.to_thread(files.receive) as incoming:
            pending = bytearray()
            async for chunk in request.stream():
                pending += chunk
                if len(pending) >= WRITE_BYTES:
                    await asyncio.to_thread(incoming.write, bytes(pending))
                    pending.clear()
            await asyncio.to_thread(incoming.write, bytes(pending))
            received = await asyncio.to_thread(incoming.finish)
        name = request.path_params["name"]
        return _json(await asyncio.to_thread(publisher.publish, name, description, received, principal.subject))

    return [
        Route("/lists", index),
        Route("/lists/{name}", imagelist),
        Route("/lists/{name}/images/{image}", upload, methods=["PUT"]),
        Route("/files/{name}", file),
        Route("/store/vo/image/{page}/", page),
        Route("/store/vo/image/{page}", page),
    ]


class AdminPublish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An administrator's image: a file on this machine and what it is."""

    path: str
    image: Description
    publisher: str = "administrator"


def publisher_admin(publisher: Publisher, files: FileStore) -> list[BaseRoute]:
    """The administration API of a publisher."""

    async def index(_request: Request) -> Response:
        return _json(await asyncio.to_thread(publisher.lists))

    async def publish(request: Request) -> Response:
        asked = await _read(request, AdminPublish)
        path = Path(asked.path)
        if not path.is_absolute():
            raise Invalid(f"{shown(asked.path)} is not an absolute path", code="bad_path")
        added = await asyncio.to_thread(files.add, path)
        name = request.path_params["name"]
        return _json(await asyncio.to_thread(publisher.publish, name, asked.image, added, asked.publisher))

    async def withdraw(request: Request) -> Response:
        name, image = request.path_params["name"], request.path_params["image"]
        return _json(await asyncio.to_thread(publisher.withdraw, name, image, "administrator"))

    async def sign(_request: Request) -> Response:
        await asyncio.to_thread(lambda: publisher.renew(force=True))
        return _json(await asyncio.to_thread(publisher.lists))

    return [
        Route("/lists", index),
        Route("/lists/sign", sign, methods=["POST"]),
        Route("/lists/{name}/images", publish, methods=["POST"]),
        Route("/lists/{name}/images/{image}", withdraw, methods=["DELETE"]),
    ]


# -- subscriber -------------------------------------------------------------------------------------------------


def subscriber_admin(subscriber: Subscriber, tasks: Supervisor) -> list[BaseRoute]:
    """The administration API of a subscriber."""

    async def index(_request: Request) -> Response:
        return _json(await subscriber.overview())

    async def refresh(_request: Request) -> Response:
        tasks.wake(TASK)
        return _json({"woken": TASK})

    return [Route("/subscriptions", index), Route("/subscriptions/refresh", refresh, methods=["POST"])]


def event_routes(db: Database) -> list[BaseRoute]:
    """The newest events, of either role."""

    async def index(request: Request) -> Response:
        asked = request.query_params.get("limit", "100")
        limit = int(asked) if asked.isascii() and asked.isdigit() else 100
        return _json(await db.aread(lambda conn: events.latest(conn, limit)))

    return [Route("/events", index)]


# -- shared -----------------------------------------------------------------------------------------------------


def _is_known(request: Request, etag: str) -> bool:
    """If-None-Match, RFC 9110 13.1.2: weak comparison, `*` matches."""
    asked = request.headers.get("if-none-match")
    if asked is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in asked.split(",")}
    return etag in tags or "*" in tags


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _read(request: Request, kind: type[T]) -> T:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_ADMIN_BODY:
            raise TooLarge(f"a request may have at most {MAX_ADMIN_BODY} bytes", code="too_large")
    return _checked(lambda: msgspec.json.decode(bytes(body), type=kind))


def _convert(fields: dict[str, Any], kind: type[T]) -> T:
    return _checked(lambda: msgspec.convert(fields, kind, strict=False))


def _checked(read: Callable[[], T]) -> T:
    try:
        return read()
    except msgspec.DecodeError as error:
        raise Invalid(f"the request cannot be read: {error}", code="bad_request") from error
