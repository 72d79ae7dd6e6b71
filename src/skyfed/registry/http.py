"""The registry's doors: the read interface (PI) for everybody, the administration API on the node's socket."""

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from skyfed.core.clock import from_iso
from skyfed.core.errors import Invalid, TooLarge
from skyfed.core.text import one_line, shown
from skyfed.registry import formats, pi
from skyfed.registry.model import CertificationStatus, Infrastructure, Site
from skyfed.registry.service import Registry
from skyfed.web import access

MAX_ADMIN_BODY = 4 << 20
PUBLIC_PREFIX = "/gocdbpi/public"

# Clients ask with and without the slash, and some by the name of the script (digest 4.1).
_PATHS = tuple(f"/gocdbpi/{door}{end}" for door in ("public", "private") for end in ("", "/", "/index.php"))


class Readers(msgspec.Struct, frozen=True, kw_only=True):
    """Who may read personal data (level 3): any accepted credential, or the subjects listed only."""

    anybody_known: bool = True
    subjects: frozenset[str] = frozenset()


def is_public(scope: Scope) -> bool:
    """Requests that pass without a credential: the public door. Level 3 methods still ask for one there."""
    path: str = scope["path"]
    return path == PUBLIC_PREFIX or path.startswith(PUBLIC_PREFIX + "/")


# -- read interface ---------------------------------------------------------------------------------------------


def pi_routes(registry: Registry, public_url: str, readers: Readers) -> list[BaseRoute]:
    """The routes of the PI. `public_url` is the base of the links in paged answers."""

    async def answer(request: Request) -> Response:
        base = public_url.rstrip("/") + request.url.path
        try:
            params = pi.parameters(request.scope["query_string"].decode("latin-1"))
            if pi.method_of(params) in pi.PROTECTED_METHODS:
                _authorise(request, readers)
            text = await asyncio.to_thread(registry.answer, params, base)
        except pi.Refused as refused:
            text = refused.text
        # Status 200 and this type for errors too: clients of the reference implementation rely on it (digest 4.2).
        return Response(text, media_type="application/xml", headers={"cache-control": "no-cache"})

    return [Route(path, answer, methods=["GET", "HEAD"]) for path in _PATHS]


def _authorise(request: Request, readers: Readers) -> None:
    verdict = access.verdict(request.scope)
    if verdict.principal is None:
        if verdict == access.NO_CREDENTIAL:
            raise pi.Refused(pi.NO_IDENTIFIER)
        # The reference knows no refused credentials, TLS keeps them out: its text, and the reason.
        reason = verdict.reason.message if verdict.reason else "the credential is refused"
        raise pi.Refused(f"{pi.NO_IDENTIFIER} ({formats.escaped(one_line(reason, 300))})")
    if not readers.anybody_known and verdict.principal.subject not in readers.subjects:
        raise pi.Refused(pi.NOT_ENTITLED)


# -- administration ---------------------------------------------------------------------------------------------


class Apply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A declaration to apply; `source` is named in messages."""

    declaration: dict[str, Any]
    source: str = "declaration"
    changed_by: str = "administrator"
    dry_run: bool = False
    prune: bool = False


class SetCertification(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of certification status."""

    status: CertificationStatus
    reason: str
    changed_by: str = "administrator"
    force: bool = False


class SetInfrastructure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A move between production and test bed."""

    infrastructure: Infrastructure
    changed_by: str = "administrator"


def admin_routes(registry: Registry) -> list[BaseRoute]:
    """The administration API: JSON in and out."""

    async def apply(request: Request) -> Response:
        body = await _body(request, Apply)
        changes = await asyncio.to_thread(
            registry.apply,
            body.declaration,
            changed_by=body.changed_by,
            source=body.source,
            dry_run=body.dry_run,
            prune=body.prune,
        )
        return _json(changes)

    async def sites(request: Request) -> Response:
        if (at := request.query_params.get("at")) is None:
            return _json(registry.topology().sites)
        try:
            moment = from_iso(at)
        except ValueError as error:
            raise Invalid(f"at is {shown(at)}; it must be an instant like 2026-11-23T04:40:00Z", code="at") from error
        found: tuple[Site, ...] = (await asyncio.to_thread(registry.as_of, moment))[0]
        return _json(found)

    async def site(request: Request) -> Response:
        return _json(await asyncio.to_thread(registry.site, request.path_params["name"]))

    async def services(_request: Request) -> Response:
        return _json(registry.topology().services)

    async def service_types(_request: Request) -> Response:
        return _json(registry.topology().service_types)

    async def certification(request: Request) -> Response:
        body = await _body(request, SetCertification)
        changed = await asyncio.to_thread(
            registry.set_certification,
            request.path_params["name"],
            body.status,
            reason=body.reason,
            changed_by=body.changed_by,
            force=body.force,
        )
        return _json(changed)

    async def infrastructure(request: Request) -> Response:
        body = await _body(request, SetInfrastructure)
        changed = await asyncio.to_thread(
            registry.set_infrastructure,
            request.path_params["name"],
            body.infrastructure,
            changed_by=body.changed_by,
        )
        return _json(changed)

    return [
        Route("/sites", apply, methods=["POST"]),
        Route("/sites", sites, methods=["GET"]),
        Route("/sites/{name}", site, methods=["GET"]),
        Route("/sites/{name}/certification", certification, methods=["PUT"]),
        Route("/sites/{name}/infrastructure", infrastructure, methods=["PUT"]),
        Route("/services", services, methods=["GET"]),
        Route("/service-types", service_types, methods=["GET"]),
    ]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


T = TypeVar("T", Apply, SetCertification, SetInfrastructure)


async def _body(request: Request, kind: type[T]) -> T:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_ADMIN_BODY:
            raise TooLarge(f"the request has more than {MAX_ADMIN_BODY} bytes", code="body_size")
    try:
        return msgspec.json.decode(bytes(data), type=kind)
    except msgspec.DecodeError as error:
        raise Invalid(f"the request is not what is wanted here: {error}", code="body") from error
