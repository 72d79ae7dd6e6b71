"""HTTP/1.1 on one connection: uvicorn's parser and cycle, bounded by the guard, with the peer's chain in the scope.

uvicorn has no limits of its own before a request's head is complete, and does not pass on TLS client certificates.
"""

from __future__ import annotations

import _ssl
import asyncio
import enum
import logging
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from skyfed.core.ids import new_token
from skyfed.core.log import event
from skyfed.web.coalesce import Coalescing
from skyfed.web.guard import Limits, Refused, Sparingly, is_forged
from skyfed.web.measures import REFUSED
from skyfed.web.trusted_front import FIELDS, FORWARDED

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

log = logging.getLogger(__name__)

# How much we read, and throw away, while we linger after a refusal.
LINGER_BYTES = 4 * 1024 * 1024
# What a chunk of a body may spend on its size line; more than this adds up against the head's limit.
CHUNK_FRAMING = 16


class Phase(enum.Enum):
    """What is expected from the peer next."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"
    REFUSED = "refused"


class GuardedHttp(HttpToolsProtocol):
    """One connection. `on_closed` is called once, when it is gone."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        service: str,
        limits: Limits,
        sparingly: Sparingly,
        on_closed: Callable[[], None],
    ) -> None:
        super().__init__(config, server_state, {})
        self._service = service
        self._limits = limits
        self._sparingly = sparingly
        self._on_closed = on_closed
        self._tls: dict[object, object] | None = None
        self._phase = Phase.HEAD
        self._watch: asyncio.TimerHandle | None = None
        self._write_watch: asyncio.TimerHandle | None = None
        self._sent_before = 0
        # Bytes fed that the parser has not handed on: framing, and what it hoards of a field that does not end.
        self._unparsed = 0
        self._fed = 0
        self._head_bytes = 0
        self._header_count = 0
        self._body_bytes = 0
        self._body_since = 0.0
        self._discarded = 0

    # -- the connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        # uvicorn writes an answer's head and body apart. Its cycles only write and close.
        self._out = Coalescing(transport, self.loop)
        self.transport = self._out  # type: ignore[assignment]
        self._tls = tls_extension(transport)
        self._arm(self._limits.head_seconds, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._write_watch is not None:
            self._write_watch.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._on_closed()

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.REFUSED:
            self._discard(len(data))
            return
        self._fed = len(data)
        self._unparsed += self._fed
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No other protocol is spoken here (RFC 9110 7.8 lets a server ignore the wish): answer, then close, since
            # the parser takes whatever follows for that protocol.
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Refused) else _unreadable())
            return
        if self._phase in {Phase.HEAD, Phase.BODY} and self._unparsed > self._limits.header_bytes:
            self._refuse(_head_too_large(self._limits))
            return
        self._watch_peer()

    def _watch_peer(self) -> None:
        """Set the deadline that fits what the peer owes us, unless it runs already."""
        if self._watch is not None:
            return
        if self._phase is Phase.HEAD:
            self._arm(self._limits.head_seconds, self._head_late)
        elif self._phase is Phase.BODY:
            self._body_since = self.loop.time()
            self._arm(self._limits.body_seconds, self._body_late)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_watch is None:
            self._watch_reader()

    def resume_writing(self) -> None:
        if self.flow is not None:
            super().resume_writing()

    def _watch_reader(self) -> None:
        self._sent_before = self._out.sent
        self._write_watch = self.loop.call_later(self._limits.stalled_write_seconds, self._write_late)

    def _write_late(self) -> None:
        """The peer has had its time: a drop now and then does not keep an answer waiting for ever."""
        self._write_watch = None
        if not self.flow.write_paused:
            return
        if self._out.sent - self._sent_before < self._limits.write_rate * self._limits.stalled_write_seconds:
            self._count(Refused(408, "reader_stalled", "the peer does not read its answer"))
            self.transport.abort()
        else:
            self._watch_reader()

    # -- the parser's callbacks; what they raise stops the parser -------------------------------------------------

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        self._phase = Phase.HEAD
        self._head_bytes = self._header_count = self._body_bytes = 0
        self._unparsed = min(self._unparsed, self._fed)  # what came earlier was another message's framing
        super().on_message_begin()
        if self._tls is not None:
            self.scope["extensions"] = {"tls": dict(self._tls)}

    def on_url(self, url: bytes) -> None:
        self._unparsed -= len(url)
        if len(self.url) + len(url) > self._limits.request_line_bytes:
            limit = self._limits.request_line_bytes
            raise Refused(414, "uri_too_long", f"the request target is longer than {limit} bytes")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._head_bytes += len(name) + len(value) + 4
        self._unparsed -= len(name) + len(value)
        if self._header_count > self._limits.headers or self._head_bytes > self._limits.header_bytes:
            raise _head_too_large(self._limits)
        if self._phase is not Phase.HEAD:
            return  # a trailer: uvicorn would add it to the headers that the application is reading already
        name = name.lower()
        if name == b"content-length" and int(value) > self._limits.body_bytes:
            raise _body_too_large(self._limits)
        if not is_forged(name):
            super().on_header(name, value)
        elif name in FIELDS and self._tls is not None:
            # Stripped like all that claims an identity; whether this peer may speak for others is the verdict's to say.
            tls = cast("dict[str, Any]", self.scope["extensions"]["tls"])
            tls.setdefault(FORWARDED, []).append((name, value))

    def on_headers_complete(self) -> None:
        self._disarm()
        self._phase = Phase.BODY
        if len(self.pipeline) >= self._limits.pipelined:
            raise Refused(429, "pipeline_too_long", "too many requests before the first one's answer")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._unparsed = max(0, self._unparsed - len(body) - CHUNK_FRAMING)
        if self._body_bytes > self._limits.body_bytes:
            raise _body_too_large(self._limits)
        if self.cycle.response_complete:
            # The answer is out; a peer that goes on sending has had time to read it.
            self._discard(len(body))
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._disarm()
        self._phase = Phase.NOTHING
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._phase is not Phase.NOTHING:
            self._unset_keepalive_if_required()  # the peer is not idle: the head's or body's deadline runs

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # A task leaves the set one turn of the loop after its answer, so this may count a few that are as good as done.
        busy = len(self.tasks) >= self._limits.requests
        super()._start_asgi_task(cycle, self._busy if busy else app)

    async def _busy(self, _scope: object, _receive: object, send: Any) -> None:
        self._count(Refused(503, "too_busy", f"more than {self._limits.requests} requests in work"))
        status, headers, body = refusal(503, "too_busy", "the service is busy; try again in a moment")
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # -- deadlines and refusals -----------------------------------------------------------------------------------

    def _arm(self, seconds: float, late: Callable[[], None]) -> None:
        self._disarm()
        self._watch = self.loop.call_later(seconds, late)

    def _disarm(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _head_late(self) -> None:
        if self.flow.read_paused:
            # An earlier request's answer is in work, and we do not read meanwhile.
            self._arm(self._limits.head_seconds, self._head_late)
            return
        limit = self._limits.head_seconds
        self._refuse(Refused(408, "head_timeout", f"the request's head took longer than {limit:g} s"))

    def _body_late(self) -> None:
        if self.flow.read_paused:
            # It is the application that does not take the body.
            self._body_since = self.loop.time()
            self._arm(self._limits.body_seconds, self._body_late)
            return
        allowed = self._limits.body_seconds + self._body_bytes / self._limits.body_rate
        left = self._body_since + allowed - self.loop.time()
        if left > 0:
            self._arm(left, self._body_late)
        else:
            self._refuse(Refused(408, "body_timeout", f"the request's body took longer than {allowed:.0f} s"))

    def _refuse(self, refused: Refused) -> None:
        """Answer with `refused` where an answer can still be told from another request's; close in any case."""
        reading_body = self._phase is Phase.BODY
        self._phase = Phase.REFUSED
        self._disarm()
        self._unset_keepalive_if_required()
        self._count(refused)
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if self.pipeline or cycle.response_started or not reading_body:
                self.transport.close()
                return
        self.transport.write(_on_the_wire(refusal(refused.status, refused.code, refused.reason)))
        self.flow.resume_reading()
        # Closed with bytes unread, a socket is reset, and the reset can overtake the answer.
        self.loop.call_later(self._limits.linger_seconds, self.transport.close)

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > LINGER_BYTES:
            self.transport.abort()

    def _count(self, refused: Refused) -> None:
        REFUSED.labels(self._service, refused.code).inc()
        held = self._sparingly.passes(refused.code)
        if held is not None:
            peer = self.client[0] if self.client else "local"
            event(log, logging.WARNING, "request refused by the guard", service=self._service, peer=peer,
                  code=refused.code, reason=refused.reason, held_back=held)  # fmt: skip


def _unreadable() -> Refused:
    return Refused(400, "malformed_http", "this is not an HTTP/1.1 request")


def _head_too_large(limits: Limits) -> Refused:
    text = f"the request's head is over {limits.header_bytes} bytes or {limits.headers} fields"
    return Refused(431, "head_too_large", text)


def _body_too_large(limits: Limits) -> Refused:
    return Refused(413, "body_too_large", f"the request's body is over {limits.body_bytes} bytes")


Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


def refusal(status: int, code: str, reason: str) -> Answer:
    """A plain-text answer that closes the connection: what can be said before any application is asked."""
    body = f"{reason} ({code})\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        (b"x-request-id", new_token().encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"1"))
    return status, headers, body


def _on_the_wire(answer: Answer) -> bytes:
    status, headers, body = answer
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", body])


def tls_extension(transport: asyncio.BaseTransport) -> dict[object, object] | None:
    """`client_cert_chain_der` (leaf first, () without a client certificate), `tls_version`, `cipher`; None without TLS."""
    ssl_object = transport.get_extra_info("ssl_object")
    if ssl_object is None:
        return None
    cipher = ssl_object.cipher()
    return {
        "client_cert_chain_der": peer_chain(ssl_object),
        "tls_version": ssl_object.version(),
        "cipher": cipher[0] if cipher else None,
    }


def peer_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates that the peer sent, DER, leaf first."""
    public = getattr(ssl_object, "get_unverified_chain", None)  # Python 3.13
    if public is not None:
        return tuple(certificate for certificate in public() if certificate)
    inner = ssl_object._sslobj  # type: ignore[attr-defined]  # the only way to the chain before 3.13
    # Without a client certificate this is [None].
    chain = [certificate for certificate in inner.get_unverified_chain() or () if certificate]
    return tuple(certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain)
