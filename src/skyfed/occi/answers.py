"""Answers in the rendering that the caller chose: model, entities, collections, results, errors (OCCI digest 6-9)."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from skyfed.core.errors import NotAcceptable, SkyfedError
from skyfed.core.text import one_line
from skyfed.occi.model import Category, Link, Resource
from skyfed.occi.negotiation import ACCEPTED, PLAIN, Form, Rendering
from skyfed.occi.negotiation import form as negotiated
from skyfed.occi.wire import json, text
from skyfed.web.errors import problem, problem_headers

try:
    _VERSION = version("skyfed")
except PackageNotFoundError:  # running from a source tree that is not installed
    _VERSION = "0"

COMMON: Final = {
    "server": f"skyfed/{_VERSION} OCCI/1.1 OCCI/1.2",  # GFD.223 demands OCCI/x.y here
    "accept": ACCEPTED,
    "vary": "Accept, User-Agent",
}


class Found(msgspec.Struct, frozen=True):
    """An entity and the path where it is."""

    entity: Resource | Link
    location: str


def model(form: Form, categories: Sequence[Category]) -> tuple[bytes, dict[str, str]]:
    """The query interface's answer: body and headers, with an ETag."""
    headers: dict[str, str] = {}
    if form.rendering is Rendering.JSON:
        body = json.model(categories, form.dialect)
    elif form.rendering is Rendering.OCCI:
        body, headers = _headers(text.category_fields(text.without_commas(categories)))
    else:
        body = text.body(text.category_fields(categories))
    digest = hashlib.sha256(b"\0".join([form.media.encode(), form.dialect.value.encode(), body]))
    for value in headers.values():
        digest.update(value.encode())
    return body, {**headers, "etag": f'"{digest.hexdigest()[:32]}"', "cache-control": "private, no-cache"}


def entity(form: Form, found: Found) -> Response:
    """One entity in full."""
    return _entity(form, found, 200, {})


def collection(form: Form, found: Sequence[Found], origin: str, *, of_links: bool = False) -> Response:
    """A collection: locations in text, entities in JSON. An empty one is an empty body, not an error."""
    if form.rendering is Rendering.JSON:
        resources = [one.entity for one in found if isinstance(one.entity, Resource)]
        links = [one.entity for one in found if isinstance(one.entity, Link)]
        return answer(form, 200, json.collection(resources, links, form.dialect, of_links=of_links), {})
    return _locations(form, [origin + one.location for one in found], 200, {})


def created(form: Form, found: Found, origin: str) -> Response:
    """201 with every way to say where the new entity is: clients look in different places (OCCI digest 9)."""
    uri = origin + found.location
    if form.rendering is Rendering.JSON:
        return _entity(form, found, 201, {"location": uri})
    return _locations(form, [uri], 201, {"location": uri})


def done(form: Form, found: Found | None = None) -> Response:
    """The result of an action or deletion. 200 with `OK`: pOCCI takes a 204 for a failed action. In JSON the entity, or
    nothing where it is gone."""
    if form.rendering is not Rendering.JSON:
        return answer(form, 200, b"OK\n", {})
    return _entity(form, found, 200, {}) if found is not None else Response(status_code=204, headers=COMMON)


def options(allow: Iterable[str]) -> Response:
    """What may be done here."""
    return Response(status_code=204, headers={**COMMON, "allow": ", ".join(allow)})


def answer(form: Form, status: int, body: bytes, headers: Mapping[str, str]) -> Response:
    """`body` with the headers that every answer has."""
    return Response(body, status, {**COMMON, **headers}, media_type=form.media)


def error(problem_found: SkyfedError, scope: Scope) -> Response:
    """An error in the caller's rendering: one line of text, `X-OCCI-Error` in text/occi, a problem object in JSON."""
    try:
        form = negotiated(Headers(scope=scope).get("accept"), None, uri_list=False)
    except NotAcceptable:
        form = Form(Rendering.PLAIN, PLAIN)
    headers = {**COMMON, **problem_headers(problem_found)}
    reason = one_line(problem_found.message, 2000)
    if form.rendering is Rendering.JSON:
        body = msgspec.json.encode({**problem(problem_found, scope), "error": reason})
    else:
        body = f"{reason} ({problem_found.code})\n".encode()
    if form.rendering is Rendering.OCCI:
        headers["x-occi-error"] = reason.encode("ascii", "replace").decode()
    return Response(body, problem_found.status, headers, media_type=form.media)


def _entity(form: Form, found: Found, status: int, headers: Mapping[str, str]) -> Response:
    one = found.entity
    if form.rendering is Rendering.JSON:
        body = json.resource(one, form.dialect) if isinstance(one, Resource) else json.link(one, form.dialect)
        return answer(form, status, body, headers)
    fields = (
        text.resource_fields(one, found.location)
        if isinstance(one, Resource)
        else text.link_fields(one, found.location)
    )
    if form.rendering is Rendering.OCCI:
        body, more = _headers(fields)
        return answer(form, status, body, {**headers, **more})
    return answer(form, status, text.body(fields), headers)


def _locations(form: Form, uris: Sequence[str], status: int, headers: Mapping[str, str]) -> Response:
    if form.rendering is Rendering.URI_LIST:
        return answer(form, status, text.uri_list(uris), headers)
    if form.rendering is Rendering.OCCI:
        body, more = _headers(text.location_fields(uris))
        return answer(form, status, body, {**headers, **more})
    return answer(form, status, text.body(text.location_fields(uris)), headers)


def _headers(fields: Iterable[text.Field]) -> tuple[bytes, dict[str, str]]:
    """text/occi: all is in the header; the body says OK."""
    return b"OK\n", dict(text.headers(fields))
