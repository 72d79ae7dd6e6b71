"""The OCCI front door: one ASGI application over the raw path, its own dispatcher, every rendering (GFD.223)."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from skyfed.core.errors import Forbidden, Invalid, NotAllowed, NotImplementedHere, TooLarge
from skyfed.core.log import event
from skyfed.core.text import shown
from skyfed.occi import answers, dispatch, negotiation
from skyfed.occi import infrastructure as infra
from skyfed.occi.dispatch import Query, Target, What
from skyfed.occi.entities import Version
from skyfed.occi.model import REQUEST_LIMITS, Message
from skyfed.occi.negotiation import Form, Rendering
from skyfed.occi.service import Caller, Filter, OcciService
from skyfed.occi.wire import json, text
from skyfed.web.access import principal, verdict
from skyfed.web.errors import REQUEST_ID

log = logging.getLogger(__name__)

Handler = Callable[["Exchange"], Awaitable[Response]]

_OCCI_FIELDS = frozenset({b"category", b"x-occi-category", b"link", b"x-occi-attribute", b"x-occi-location"})


class Exchange:
    """One request, as far as it is understood before anything is done."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.request = Request(scope, receive)
        self.method: str = scope["method"]
        self.headers = Headers(scope=scope)
        self.version: Version | None = negotiation.version(self.headers.get("user-agent", ""))
        self.query: Query = dispatch.query(scope["query_string"])
        self.target: Target
        self.caller: Caller

    def form(self, *, uri_list: bool) -> Form:
        """What to answer in; settled before anything is changed."""
        return negotiation.form(self.headers.get("accept"), self.version, uri_list=uri_list)

    def fields(self) -> list[tuple[str, str]]:
        """The OCCI fields of the header."""
        return [
            (name.decode("latin-1"), _decoded(value))
            for name, value in self.scope["headers"]
            if name.lower() in _OCCI_FIELDS
        ]

    async def message(self) -> Message:
        """The request's content. Raises Invalid, TooLarge, UnsupportedType."""
        fields = self.fields()
        rendering = negotiation.content(self.headers.get("content-type"), has_fields=bool(fields))
        body = await self._body()
        if rendering is Rendering.OCCI:
            return text.parse_fields(fields)
        if rendering is Rendering.JSON:
            return json.parse(body) if body.strip() else Message()
        if rendering is Rendering.URI_LIST:
            return Message(locations=text.parse_uri_list(body))
        return text.parse_body(body)

    def filter(self) -> Filter:
        """What a GET or DELETE on a collection is limited to."""
        message = text.parse_fields(self.fields())
        categories = [one.type_id for one in message.categories]
        if self.query.category:
            categories.append(self.query.category)
        return Filter(tuple(categories), message.attributes)

    async def _body(self) -> bytes:
        chunks, size = [], 0
        async for chunk in self.request.stream():
            size += len(chunk)
            if size > REQUEST_LIMITS.body:
                raise TooLarge(f"the body is larger than {REQUEST_LIMITS.body} bytes", code="body_size")
            chunks.append(chunk)
        return b"".join(chunks)


class OcciApp:
    """The ASGI application. `public_url` is the service's URL as clients know it; empty: the request's Host is believed."""

    def __init__(self, service: OcciService, public_url: str) -> None:
        self._service = service
        parts = urlsplit(public_url)
        self._origin = f"{parts.scheme}://{parts.netloc}" if public_url else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive)
        exchange.caller = self._caller(scope)
        catalogue = self._service.catalogue(exchange.caller)
        path = scope.get("raw_path") or scope["path"].encode()
        exchange.target = dispatch.target(path, catalogue, self._service.names.prefix)
        response = await self._handler(exchange)(exchange)
        if exchange.method == "HEAD":
            response.body = b""  # Content-Length stays that of the GET
        await response(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        """Who calls. A credential whose attribute certificate does not hold is told why, not only that it has no VO."""
        who = principal(scope)
        broken = verdict(scope).vo_reason
        if not who.vos and broken is not None:
            raise Forbidden(f"the credential gives no rights in a VO here: {broken.message}", code=broken.code)
        return self._service.caller(who)

    def _handler(self, exchange: Exchange) -> Handler:
        allow = dispatch.allowed(exchange.target)
        if exchange.method not in allow:
            raise NotAllowed(
                f"{shown(exchange.method, 20)} is not defined on this {exchange.target.what.value}; "
                f"{', '.join(allow)} are",
                allow=allow,
            )
        method = "GET" if exchange.method == "HEAD" else exchange.method
        handlers: dict[tuple[What, str], Handler] = {
            (What.QUERY, "GET"): self._show_model,
            (What.COLLECTION, "GET"): self._list,
            (What.COLLECTION, "POST"): self._post_collection,
            (What.COLLECTION, "DELETE"): self._delete_collection,
            (What.ENTITY, "GET"): self._show,
            (What.ENTITY, "POST"): self._post_entity,
            (What.ENTITY, "DELETE"): self._delete,
        }
        if method == "OPTIONS":
            return self._options
        found = handlers.get((exchange.target.what, method))
        if found is None:
            raise NotImplementedHere(f"{method} on {_article(exchange.target)} is not offered by this service")
        return found

    async def _options(self, exchange: Exchange) -> Response:
        return answers.options(dispatch.allowed(exchange.target))

    async def _show_model(self, exchange: Exchange) -> Response:
        form = exchange.form(uri_list=False)
        wanted = exchange.filter().categories
        body, headers = self._service.rendered_model(exchange.caller, form, wanted[0] if wanted else "")
        if exchange.headers.get("if-none-match", "") in (headers["etag"], f"W/{headers['etag']}"):
            kept = {"etag": headers["etag"], "cache-control": headers["cache-control"]}
            return Response(status_code=304, headers={**answers.COMMON, **kept})
        return answers.answer(form, 200, body, headers)

    async def _list(self, exchange: Exchange) -> Response:
        form = exchange.form(uri_list=True)
        found = self._service.list(exchange.caller, exchange.target.kind, exchange.filter(), exchange.version)
        if exchange.query.number:
            first = (exchange.query.page - 1) * exchange.query.number
            found = found[first : first + exchange.query.number]
        of_links = exchange.target.kind in (infra.NETWORKINTERFACE, infra.LINK)
        return answers.collection(form, found, self._base(exchange), of_links=of_links)

    async def _post_collection(self, exchange: Exchange) -> Response:
        if exchange.query.action:
            return await self._act(exchange, self._service.own(exchange.caller, Filter()))
        if exchange.target.kind != infra.COMPUTE:
            raise NotImplementedHere(f"making something in {_article(exchange.target)} is not offered by this service")
        form = exchange.form(uri_list=True)
        found = await self._service.create(exchange.caller, await exchange.message(), exchange.version)
        self._audit(exchange, "create", found.location)
        return answers.created(form, found, self._base(exchange))

    async def _post_entity(self, exchange: Exchange) -> Response:
        if not exchange.query.action:
            raise NotImplementedHere(
                "changing an entity is not offered by this service; actions are: POST with ?action=", code="no_update"
            )
        return await self._act(exchange, (exchange.target.id,))

    async def _act(self, exchange: Exchange, ids: Sequence[str]) -> Response:
        if exchange.target.kind != infra.COMPUTE:
            raise Invalid(f"{_article(exchange.target)} has no actions; computes have", code="no_action")
        form = exchange.form(uri_list=False)
        message = await exchange.message()
        action = self._service.invocation(exchange.caller, exchange.query.action, message)
        found = await self._service.act(exchange.caller, ids, action, exchange.version)
        for one in found:
            self._audit(exchange, exchange.query.action, one.location)
        return answers.done(form, found[0] if exchange.target.what is What.ENTITY else None)

    async def _delete_collection(self, exchange: Exchange) -> Response:
        if exchange.target.kind != infra.COMPUTE:
            raise NotImplementedHere(f"deleting {_article(exchange.target)} is not offered by this service")
        form = exchange.form(uri_list=False)
        for id in self._service.own(exchange.caller, exchange.filter()):
            await self._remove(exchange, id)
        return answers.done(form)

    async def _show(self, exchange: Exchange) -> Response:
        form = exchange.form(uri_list=False)
        found = self._service.get(exchange.caller, exchange.target.kind, exchange.target.id, exchange.version)
        return answers.entity(form, found)

    async def _delete(self, exchange: Exchange) -> Response:
        if exchange.target.kind != infra.COMPUTE:
            self._service.get(exchange.caller, exchange.target.kind, exchange.target.id, exchange.version)
            raise NotImplementedHere(f"deleting {_article(exchange.target)} is not offered by this service")
        form = exchange.form(uri_list=False)
        await self._remove(exchange, exchange.target.id)
        return answers.done(form)

    async def _remove(self, exchange: Exchange, id: str) -> None:
        location = await self._service.delete(exchange.caller, id)
        self._audit(exchange, "delete", location)

    def _base(self, exchange: Exchange) -> str:
        """Scheme and authority for absolute URIs."""
        if self._origin:
            return self._origin
        host = exchange.headers.get("host", "")
        if not host or len(host) > 255 or not all(c.isascii() and (c.isalnum() or c in ".-:[]") for c in host):
            raise Invalid(f"the Host header is {shown(host)}; right is the service's name and port", code="host")
        return f"{exchange.scope['scheme']}://{host}"

    def _audit(self, exchange: Exchange, what: str, location: str) -> None:
        """One line for each change (OCCI digest 13)."""
        owner = exchange.caller.owner
        event(
            log,
            logging.INFO,
            "change",
            what=what,
            entity=location,
            dn=owner.subject,
            vo=owner.vo,
            request_id=exchange.scope.get(REQUEST_ID, ""),
        )


def _article(target: Target) -> str:
    if target.what is What.QUERY:
        return "the query interface"
    word = target.category.term if target.category is not None else "everything"
    return f"the collection of {word}" if target.what is What.COLLECTION else f"a {word}"


def _decoded(value: bytes) -> str:
    """Header values are UTF-8 from most clients, Latin-1 from the rest."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
