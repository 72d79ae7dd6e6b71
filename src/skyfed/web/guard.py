"""What a peer may cost us: limits on size, count and time, who is admitted, and headers that no client may send.

Everything that can happen before an application sees a request is bounded here; `protocol` enforces it on each connection.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from skyfed.core.clock import Clock


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one listener. Sizes are in bytes, times in seconds.

    An OCCI client in text/occi form puts its whole request into header fields, so the head may be far larger than other
    servers allow (specs/occi 6.2). A body may take `body_seconds` plus a second for each `body_rate` bytes that arrived. An
    answer that waits for its reader is cut when in `stalled_write_seconds` fewer than `write_rate` bytes a second left.
    """

    request_line_bytes: int = 16 * 1024
    header_bytes: int = 256 * 1024
    headers: int = 1000
    body_bytes: int = 1024 * 1024
    handshake_seconds: float = 10.0
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    body_rate: int = 16 * 1024
    idle_seconds: float = 30.0
    stalled_write_seconds: float = 60.0
    write_rate: int = 1024
    linger_seconds: float = 1.0
    connections: int = 2000
    connections_per_peer: int = 256
    requests: int = 512
    pipelined: int = 16


class Refused(Exception):
    """The request broke a limit: answer `status` with `reason` and close. Never leaves the protocol class."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason


class Ticket:
    """The right to hold one connection open. Giving it back twice does no harm."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """The connection is gone."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class Admission:
    """Counts open connections, from before their TLS handshake until they are closed."""

    def __init__(self, limits: Limits, on_empty: Callable[[], None] = lambda: None) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._total = 0
        self._on_empty = on_empty

    def admit(self, peer: str) -> Ticket | None:
        """A ticket for a connection from `peer` (see `peer_key`); None when it, or everyone, has too many."""
        if self._total >= self._limits.connections or self._open[peer] >= self._limits.connections_per_peer:
            return None
        self._open[peer] += 1
        self._total += 1
        return Ticket(lambda: self._release(peer))

    @property
    def total(self) -> int:
        """Connections open now."""
        return self._total

    def _release(self, peer: str) -> None:
        self._total -= 1
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]
        if not self._total:
            self._on_empty()


def peer_key(address: object) -> str:
    """Whom a connection is counted for: the IPv4 address, the IPv6 /64 (one host owns all of it), or "local"."""
    if not isinstance(address, tuple) or not address:
        return "local"
    host = str(address[0]).split("%", 1)[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((ip, 64), strict=False))
    return host


# What front ends (Apache mod_ssl, GridSite, nginx VOMS, Envoy, RFC 9440) tell applications about a TLS peer. No front end
# stands before this listener, so whoever sends one lies. CGI-style readers fold `-` and `_`: both are caught.
_FORGED = (
    b"ssl-",
    b"grst-",
    b"voms-",
    b"x-ssl-",
    b"x-grst-",
    b"x-voms-",
    b"client-cert",
    b"x-client-cert",
    b"x-client-verify",
    b"x-client-dn",
    b"x-forwarded-",
    b"forwarded",
    b"remote-user",
    b"x-remote-user",
)


# No name in `_FORGED` is longer. Names are cut to this before they are remembered: clients choose them.
_TELLING_BYTES = 24


def is_forged(name: bytes) -> bool:
    """Whether the header `name` (lower case) claims something that only a trusted front end could know."""
    return _begins_forged(name[:_TELLING_BYTES])


@lru_cache(maxsize=1024)
def _begins_forged(name: bytes) -> bool:
    return name.replace(b"_", b"-").startswith(_FORGED)


class Sparingly:
    """Lets one message of a kind pass each `seconds`, so that an attacker cannot fill the disk with logs."""

    def __init__(self, clock: Clock, seconds: float = 10.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._last: dict[str, float] = {}
        self._held: Counter[str] = Counter()

    def passes(self, kind: str) -> int | None:
        """How many were held back since the last one of this kind that passed; None when this one is held back."""
        now = self._clock.monotonic()
        if now - self._last.get(kind, float("-inf")) < self._seconds:
            self._held[kind] += 1
            return None
        self._last[kind] = now
        return self._held.pop(kind, 0)
