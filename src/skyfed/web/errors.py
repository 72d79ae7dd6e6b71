"""The error family on the wire: problem+json (RFC 9457) or text, and the boundary that no exception crosses.

The boundary is the outermost layer of every application: it gives each request an identifier, turns what is raised into an
answer, and writes the access log.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable

import msgspec
from markupsafe import escape
from prometheus_client import Counter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skyfed.core import errors
from skyfed.core.clock import Clock
from skyfed.core.errors import SkyfedError
from skyfed.core.ids import new_token
from skyfed.core.log import event
from skyfed.core.text import one_line
from skyfed.web.measures import REQUESTS, SECONDS
from skyfed.web.negotiation import best

log = logging.getLogger(__name__)
access_log = logging.getLogger("skyfed.web.access_log")

Render = Callable[[SkyfedError, Scope], Response]

VERDICT = "skyfed.verdict"
REQUEST_ID = "skyfed.request_id"

_PROBLEM = "application/problem+json"
_FORMS = (_PROBLEM, "application/json", "text/plain", "text/html")
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


# Random once a process, then counted: unique, and a hundred times cheaper than randomness for each request.
_REQUEST_PREFIX = new_token(6)
_request_numbers = itertools.count(1)


def new_request_id() -> str:
    """A name for one request, unique among all processes and restarts."""
    return f"{_REQUEST_PREFIX}-{next(_request_numbers):x}"


def render(error: SkyfedError, scope: Scope) -> Response:
    """`error` in the form that the request accepts: problem+json (also for no preference), plain text, or a bare page."""
    form = best(Headers(scope=scope).get("accept"), _FORMS) or "text/plain"
    headers = problem_headers(error)
    if form == "text/plain":
        body = f"{one_line(error.message, 2000)} ({error.code})\n"
        return Response(body, error.status, headers, media_type="text/plain")
    if form == "text/html":
        body = f"<!doctype html><title>{error.status}</title><p>{escape(one_line(error.message, 2000))}</p>\n"
        return Response(body, error.status, headers, media_type="text/html")
    return Response(msgspec.json.encode(problem(error, scope)), error.status, headers, media_type=form)


def problem(error: SkyfedError, scope: Scope) -> dict[str, object]:
    """The members of RFC 9457, plus `code` and `request_id`."""
    return {
        "type": "about:blank",
        "title": _title(error),
        "status": error.status,
        "detail": one_line(error.message, 2000),
        "code": error.code,
        "request_id": scope.get(REQUEST_ID, ""),
    }


def problem_headers(error: SkyfedError) -> dict[str, str]:
    """The header fields that go with an error in any form: Retry-After, Allow, WWW-Authenticate, never cached."""
    headers = {"cache-control": "no-store"}
    if error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    if isinstance(error, errors.NotAllowed):
        headers["allow"] = ", ".join(error.allow)
    if error.status == errors.Unauthenticated.status:
        # RFC 9110 11.6.1 wants a challenge; there is no registered scheme for TLS client certificates.
        headers["www-authenticate"] = 'TLS-Client-Certificate realm="skyfed"'
    return headers


def _title(error: SkyfedError) -> str:
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in type(error).__name__)
    return words.strip().capitalize()


def from_http_exception(error: HTTPException) -> SkyfedError:
    """Starlette's own refusals (no route, wrong method) as the family."""
    if error.status_code == errors.NotFound.status:
        return errors.NotFound("there is nothing at this path")
    if error.status_code == errors.NotAllowed.status:
        allow = tuple(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return errors.NotAllowed(f"this path allows {', '.join(allow)} only", allow=allow)
    family = errors.Invalid if error.status_code < 500 else errors.Unavailable
    return family(str(error.detail))


class Boundary:
    """ASGI middleware, outermost. An unexpected exception becomes a 500 that names the request and nothing else; its trace is
    in the log under the same `request_id`."""

    def __init__(self, app: ASGIApp, *, service: str, clock: Clock, render: Render = render) -> None:
        self._app = app
        self._service = service
        self._clock = clock
        self._render = render
        self._seconds = SECONDS.labels(service)
        self._counters: dict[tuple[str, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no websockets here; lifespan is the node's business
        request_id = scope[REQUEST_ID] = new_request_id()
        exchange = _Exchange(send, request_id)
        started = self._clock.monotonic()
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = exchange.status or 499  # nginx's number for it; nobody is there to read an answer
        except Exception as error:
            known = self._family(error, scope)
            if exchange.status:
                # Half an answer is out: cutting the connection is the only way to say that it is not whole.
                raise
            await self._render(known, scope)(scope, receive, exchange.send)
        finally:
            self._note(scope, exchange, self._clock.monotonic() - started)

    def _family(self, error: Exception, scope: Scope) -> SkyfedError:
        """What is told about `error`; what is not the client's doing is logged."""
        if isinstance(error, HTTPException):
            return from_http_exception(error)
        expected = isinstance(error, SkyfedError) and type(error) is not SkyfedError
        if isinstance(error, SkyfedError) and expected and error.status < 500:
            return error
        log.log(
            logging.WARNING if expected else logging.ERROR,
            "request %s of %s failed: %s %s: %s",
            scope[REQUEST_ID],
            self._service,
            scope["method"],
            one_line(scope["path"], 200),
            one_line(str(error)),
            exc_info=None if expected else error,
        )
        if isinstance(error, SkyfedError) and expected:
            return error
        return SkyfedError(f"something went wrong here; the log has it under request {scope[REQUEST_ID]}")

    def _counter(self, method: str, status: int) -> Counter:
        counter = self._counters.get((method, status))
        if counter is None:
            counter = self._counters[method, status] = REQUESTS.labels(self._service, method, str(status))
        return counter

    def _note(self, scope: Scope, exchange: "_Exchange", seconds: float) -> None:
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "other"
        self._counter(method, exchange.status).inc()
        self._seconds.observe(seconds)
        if not access_log.isEnabledFor(logging.INFO):
            return
        verdict = scope.get(VERDICT)
        principal = verdict.principal if verdict is not None else None
        client = scope.get("client")
        event(
            access_log,
            logging.INFO,
            "request",
            service=self._service,
            request_id=exchange.request_id,
            peer=client[0] if client else "local",
            method=method,
            path=one_line(scope["path"], 200),
            status=exchange.status,
            bytes=exchange.sent,
            ms=round(seconds * 1000, 2),
            dn=principal.subject if principal else (verdict.subject if verdict is not None else ""),
            vo=principal.vo_names[0] if principal and principal.vos else "",
            refused=verdict.reason.code if verdict is not None and verdict.reason else "",
        )


class _Exchange:
    """What went out, and the headers that every answer has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0
        self.sent = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # A new list: a prepared answer's own list serves many requests.
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            if not any(name == b"x-content-type-options" for name, _ in headers):
                headers.append(_NOSNIFF)
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
            if message.get("more_body"):
                # uvicorn returns at once from a send to a peer that has gone: without this an endless stream would never
                # let the loop notice.
                await asyncio.sleep(0)
        await self._send(message)
