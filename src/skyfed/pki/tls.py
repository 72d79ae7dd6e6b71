"""TLS contexts. A server's proves possession of a key and descent from an anchor, nothing more: the application
judges the rest.

So a server context lets expired and revoked certificates and proxies (RFC 3820) through the handshake, where a
refusal could not be explained, and never resumes sessions by ticket, since a resumed session may come without the
peer's chain.
"""

import logging
import ssl
import threading
from pathlib import Path

from skyfed.core.clock import Clock
from skyfed.core.errors import Invalid
from skyfed.pki.trust import TrustStore

log = logging.getLogger(__name__)

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for.
NO_CHECK_TIME = 0x200000
RECHECK_SECONDS = 1.0

_Stat = tuple[int, int, int]


def server_context(anchors_pem: str, cert: Path, key: Path, *, require_certificate: bool = False) -> ssl.SSLContext:
    """A context for one state of trust and one host credential. Raises Invalid (`tls_credential`)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED if require_certificate else ssl.CERT_OPTIONAL
    # Set outright: whatever else a Python release turns on by default (X509_STRICT since 3.13) refuses real proxies.
    flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_ALLOW_PROXY_CERTS | NO_CHECK_TIME
    context.verify_flags = ssl.VerifyFlags(flags)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    _load(context, anchors_pem, cert, key)
    return context


def client_context(
    anchors_pem: str, cert: Path | None = None, key: Path | None = None, *, system_roots: bool = False
) -> ssl.SSLContext:
    """A context that verifies servers (name, time, descent) and presents `cert`, which may be a proxy file that holds
    its key and chain. `system_roots` adds the operating system's authorities. Raises Invalid (`tls_credential`)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if system_roots:
        context.load_default_certs()
    _load(context, anchors_pem, cert, key)
    return context


def _load(context: ssl.SSLContext, anchors_pem: str, cert: Path | None, key: Path | None) -> None:
    if anchors_pem:
        context.load_verify_locations(cadata=anchors_pem)
    if cert is None:
        return
    try:
        # The empty pass phrase: an encrypted key is an error here, not a question on a terminal that nobody watches.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"cannot use {cert} with key {key or cert} for TLS: {error}", code="tls_credential") from error


class _Watched:
    """A context that is rebuilt when the trust directory or the credential's files change."""

    def __init__(self, trust: TrustStore, cert: Path | None, key: Path | None, clock: Clock) -> None:
        self._trust = trust
        self._cert = cert
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._built_from = self._state()
        self._checked_at = clock.monotonic()
        self._context = self._build()

    def current(self) -> ssl.SSLContext:
        """The context for the present state; the previous one while the present state cannot be used (logged)."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._checked_at >= RECHECK_SECONDS:
                self._checked_at = now
                self._rebuild()
            return self._context

    def _rebuild(self) -> None:
        state = self._state()
        if state == self._built_from:
            return
        try:
            self._context = self._build()
        except Invalid as error:
            log.warning("TLS keeps its earlier credential and anchors: %s", error.message)
        # Not tried again before something changes.
        self._built_from = state

    def _state(self) -> tuple[int, _Stat | None, _Stat | None]:
        return self._trust.generation, _stat(self._cert), _stat(self._key)

    def _build(self) -> ssl.SSLContext:
        raise NotImplementedError


class ServerTls(_Watched):
    """The server side of TLS. `context` goes to the listener; it hands every connection the context of the moment.

    A context can gain anchors but not lose them, so a changed trust directory needs a new one; the server name
    callback is where a connection can be given another, and it is called for clients that send no name too.
    """

    def __init__(
        self, trust: TrustStore, cert: Path, key: Path, clock: Clock, *, require_certificate: bool = False
    ) -> None:
        self._require = require_certificate
        self._host = (cert, key)
        super().__init__(trust, cert, key, clock)
        self.context = self._build()
        self.context.sni_callback = self._choose

    def _build(self) -> ssl.SSLContext:
        cert, key = self._host
        return server_context(self._trust.anchors.pem(), cert, key, require_certificate=self._require)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self.current()


class ClientTls(_Watched):
    """The client side: `current()` is the context for the next connection."""

    def __init__(
        self,
        trust: TrustStore,
        clock: Clock,
        *,
        cert: Path | None = None,
        key: Path | None = None,
        system_roots: bool = False,
    ) -> None:
        self._system_roots = system_roots
        super().__init__(trust, cert, key, clock)

    def _build(self) -> ssl.SSLContext:
        pem = self._trust.anchors.pem()
        return client_context(pem, self._cert, self._key, system_roots=self._system_roots)


def _stat(path: Path | None) -> _Stat | None:
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
