"""The one outbound HTTP client: every request has a deadline, a size cap and an address policy.

Synchronous on purpose: commands call it directly and services call it in threads. The TLS context is passed in;
whoever builds it decides what is trusted and which credential is presented.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import create_connection

from skyfed.core import errors
from skyfed.core.errors import Forbidden, Invalid, SkyfedError, TimedOut, TooLarge, Unavailable
from skyfed.core.text import one_line, shown
from skyfed.core.unixpath import short

DEFAULT_DEADLINE = 30.0
DEFAULT_MAX_BYTES = 16 << 20
MAX_REDIRECTS = 5
MAX_POOLS = 32
CHUNK = 1 << 18

TlsContext = ssl.SSLContext | Callable[[], ssl.SSLContext]


class AddressPolicy(msgspec.Struct, frozen=True):
    """Which addresses may be connected to. Public ones always; others only inside `allow` (CIDR networks)."""

    allow: tuple[str, ...] = ()

    def permits(self, address: str) -> bool:
        """Whether `address` (text of an IP address) may be connected to."""
        ip = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_global and not ip.is_multicast:
            return True
        return any(ip in ipaddress.ip_network(net) for net in self.allow)


# Commands are typed by the person they act for, so they may reach whatever that person can.
ANY_ADDRESS = AddressPolicy(allow=("0.0.0.0/0", "::/0"))


class Response(msgspec.Struct, frozen=True):
    """A whole answer. `headers` has lower-case names; repeated fields are joined with `, `."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    @property
    def text(self) -> str:
        """The body as UTF-8; bytes that are not become replacement characters."""
        return self.body.decode(errors="replace")

    def json(self, kind: Any = None) -> Any:
        """The body as JSON (as `kind` when given). Raises Unavailable: a peer that answers nonsense is out of order."""
        try:
            return msgspec.json.decode(self.body, type=kind) if kind is not None else msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise Unavailable(
                f"{self.url} answered {self.status} with something that is not the JSON we expect: {error}",
                code="bad_answer",
            ) from error

    def raise_for_status(self) -> "Response":
        """This answer when 2xx or 304; otherwise the error of the family that fits, with the peer's own words."""
        if 200 <= self.status < 300 or self.status == 304:
            return self
        said, code = _reason(self)
        raise _error_class(self.status)(
            f"{urlsplit(self.url).netloc or self.url} says {self.status}: {said}",
            **({"code": code} if code else {}),
        )


class Stream:
    """An answer whose body is read in chunks. `status` and `headers` are known at once."""

    def __init__(self, response: urllib3.BaseHTTPResponse, url: str, max_bytes: int, watch: "_Watch") -> None:
        self.status = response.status
        self.headers = _headers(response)
        self.url = url
        self._response = response
        self._max_bytes = max_bytes
        self._watch = watch

    def chunks(self) -> Iterator[bytes]:
        """The body's bytes as they come. Raises TooLarge past the cap, TimedOut, Unavailable."""
        seen = 0
        with _translated(self.url, self._watch):
            while chunk := self._response.read(CHUNK, decode_content=False):
                seen += len(chunk)
                if seen > self._max_bytes:
                    raise TooLarge(f"{self.url} sends more than {self._max_bytes} bytes", code="answer_too_large")
                yield chunk


class Client:
    """Outbound HTTP. Safe to share between threads."""

    def __init__(
        self,
        *,
        ssl_context: TlsContext | None = None,
        policy: AddressPolicy = ANY_ADDRESS,
        user_agent: str = "skyfed",
        unix_socket: Path | None = None,
        trusted: str = "",
    ) -> None:
        """`trusted` says in words whom `ssl_context` trusts: whoever reads that a server is not trusted is told."""
        self._ssl_context = ssl_context
        self._policy = policy
        self._user_agent = user_agent
        self._unix_socket = unix_socket
        self._trusted = trusted
        self._pools: dict[tuple[str, str, int, int], urllib3.HTTPConnectionPool] = {}
        self._lock = threading.Lock()

    @property
    def policy(self) -> AddressPolicy:
        """Where this client may connect to, for what connects by other means (LDAP) under the same rule."""
        return self._policy

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        deadline: float = DEFAULT_DEADLINE,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Response:
        """The whole answer, whatever its status.

        Raises Unavailable, TimedOut, TooLarge, Forbidden (address), Invalid (URL).
        """
        with self.stream(method, url, headers=headers, body=body, deadline=deadline, max_bytes=max_bytes) as answer:
            return Response(answer.status, answer.headers, b"".join(answer.chunks()), answer.url)

    def json(self, method: str, url: str, value: object = None, *, deadline: float = DEFAULT_DEADLINE) -> Any:
        """Send `value` as JSON (when given) and return the decoded answer; statuses other than 2xx raise."""
        headers = {"Accept": "application/json"}
        body = None
        if value is not None:
            body = msgspec.json.encode(value)
            headers["Content-Type"] = "application/json"
        answer = self.request(method, url, headers=headers, body=body, deadline=deadline).raise_for_status()
        return answer.json() if answer.body else None

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterator[bytes] | None = None,
        deadline: float = DEFAULT_DEADLINE,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Iterator[Stream]:
        """The answer with its body still to be read; `deadline` seconds hold for all of it."""
        with _Watch(deadline) as watch:
            response, final_url = self._send(method, url, headers or {}, body, watch, deadline)
            try:
                yield Stream(response, final_url, max_bytes, watch)
            finally:
                # A body read to its end leaves the connection reusable; one given up on does not.
                if response.closed or getattr(response, "_fp", None) is None:
                    response.release_conn()
                else:
                    response.drain_conn() if _small(response) else response.close()

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterator[bytes] | None,
        watch: "_Watch",
        deadline: float,
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        origin = _split(url)
        for _ in range(MAX_REDIRECTS + 1):
            with _translated(url, watch, self._trusted):
                response = self._pool(url).urlopen(
                    method,
                    _target(url),
                    body=body,
                    headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity", **headers},
                    timeout=urllib3.Timeout(connect=min(deadline, 10.0), read=deadline),
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
            if response.status not in (301, 302, 303, 307, 308) or method not in ("GET", "HEAD"):
                return response, url
            response.close()
            target = _redirected(url, response.headers.get("location", ""))
            if origin.scheme == "https" and not target.startswith("https://"):
                raise Forbidden(f"{url} redirects from https to {shown(target)}", code="redirect_refused")
            if urlsplit(target).netloc != origin.netloc:
                headers = {
                    k: v for k, v in headers.items() if k.lower() not in ("authorization", "cookie", "x-auth-token")
                }
            url = target
        raise Forbidden(f"{url} redirects more than {MAX_REDIRECTS} times", code="redirect_refused")

    def _pool(self, url: str) -> urllib3.HTTPConnectionPool:
        parts = urlsplit(url)
        if self._unix_socket is not None:
            return self._remember(("unix", "", 0, 0), lambda: _unix_pool(self._unix_socket))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{shown(url)} is not an http or https URL", code="bad_url")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise Invalid(f"{shown(url)} has no valid port", code="bad_url") from error
        host = parts.hostname
        if parts.scheme == "http":
            return self._remember(("http", host, port, 0), lambda: _http_pool(host, port, self._policy))
        context = self._ssl_context() if callable(self._ssl_context) else self._ssl_context
        if context is None:
            context = ssl.create_default_context()
        found = context
        return self._remember(("https", host, port, id(found)), lambda: _https_pool(host, port, self._policy, found))

    def _remember(
        self, key: tuple[str, str, int, int], make: Callable[[], urllib3.HTTPConnectionPool]
    ) -> urllib3.HTTPConnectionPool:
        with self._lock:
            pool = self._pools.pop(key, None) or make()
            self._pools[key] = pool
            while len(self._pools) > MAX_POOLS:
                self._pools.pop(next(iter(self._pools))).close()
            return pool


class AdminClient:
    """A service's local administration API over its unix socket. `json("POST", "/vos", {...})`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client = Client(unix_socket=path)

    def json(self, method: str, path: str, value: object = None, *, deadline: float = DEFAULT_DEADLINE) -> Any:
        """The decoded answer. Raises Unavailable when the service does not run, otherwise as the service says."""
        if not self._path.exists():
            raise Unavailable(f"the service does not run: there is no {self._path}", code="service_down")
        return self._client.json(method, f"http://{self._path.stem}{path}", value, deadline=deadline)


def admin_client(node: Path, service: str) -> AdminClient:
    """The administration API of `service` on the node whose directory is `node`."""
    return AdminClient(node / "run" / f"{service}.sock")


# -- connections ------------------------------------------------------------------------------------------------


class _Watch:
    """Ends the current exchange at its deadline by shutting its socket down, however slowly the peer drips."""

    def __init__(self, deadline: float) -> None:
        self.fired = False
        self.deadline = deadline
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(deadline, self._fire)
        self._timer.daemon = True
        self._lock = threading.Lock()

    def __enter__(self) -> "_Watch":
        self._token = _current.set(self)
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
        self._timer.cancel()
        with self._lock:
            self._socket = None

    def guard(self, sock: socket.socket | None) -> None:
        with self._lock:
            self._socket = sock
        if self.fired:
            raise TimeoutError("deadline passed")

    def _fire(self) -> None:
        with self._lock:
            self.fired = True
            if self._socket is not None:
                try:
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    return  # the peer was quicker: the exchange has ended already


_current: ContextVar[_Watch] = ContextVar("current_exchange")


def _allowed_address(host: str, port: int, policy: AddressPolicy) -> str:
    """The first address of `host` that the policy permits: we connect to exactly what we checked."""
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if policy.permits(address):
            return address
    raise Forbidden(
        f"{host} is at {', '.join(dict.fromkeys(found))}, which this node may not connect to "
        "(setting outbound.allow lists the private networks it may)",
        code="address_refused",
    )


class _PlainConnection(HTTPConnection):
    policy: AddressPolicy = ANY_ADDRESS

    def _new_conn(self) -> socket.socket:
        return _dial(self, self.policy)

    def getresponse(self) -> Any:
        _current.get().guard(self.sock)
        return super().getresponse()


class _TlsConnection(HTTPSConnection):
    policy: AddressPolicy = ANY_ADDRESS

    def _new_conn(self) -> socket.socket:
        return _dial(self, self.policy)

    def getresponse(self) -> Any:
        _current.get().guard(self.sock)
        return super().getresponse()


def _dial(connection: HTTPConnection, policy: AddressPolicy) -> socket.socket:
    watch = _current.get()
    address = _allowed_address(connection.host, connection.port, policy)
    # An exchange has at most its deadline for each step; the watch ends it when the sum passes.
    sock = create_connection(
        (address, connection.port),
        timeout=min(watch.deadline, 10.0),
        socket_options=connection.socket_options,
    )
    watch.guard(sock)
    return sock


class _UnixConnection(HTTPConnection):
    path = Path()

    def _new_conn(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_current.get().deadline)
        with short(self.path) as name:
            sock.connect(name)
        return sock

    def getresponse(self) -> Any:
        _current.get().guard(self.sock)
        return super().getresponse()


def _http_pool(host: str, port: int, policy: AddressPolicy) -> urllib3.HTTPConnectionPool:
    pool = urllib3.HTTPConnectionPool(host, port, maxsize=4)
    pool.ConnectionCls = type("_Plain", (_PlainConnection,), {"policy": policy})
    return pool


def _https_pool(host: str, port: int, policy: AddressPolicy, context: ssl.SSLContext) -> urllib3.HTTPConnectionPool:
    pool = urllib3.HTTPSConnectionPool(host, port, maxsize=4, ssl_context=context)
    pool.ConnectionCls = type("_Tls", (_TlsConnection,), {"policy": policy})
    return pool


def _unix_pool(path: Path | None) -> urllib3.HTTPConnectionPool:
    pool = urllib3.HTTPConnectionPool("localhost", maxsize=4)
    pool.ConnectionCls = type("_Unix", (_UnixConnection,), {"path": path})
    return pool


# -- small print ------------------------------------------------------------------------------------------------


@contextmanager
def _translated(url: str, watch: _Watch, trusted: str = "") -> Iterator[None]:
    """Errors of sockets, TLS and urllib3 as the error family."""
    where = urlsplit(url).netloc or url
    late = f"{where} did not answer within {watch.deadline:g} s"
    try:
        yield
        if watch.fired:  # the socket's end looks like the end of the answer
            raise TimedOut(late)
    except SkyfedError:
        raise
    except (urllib3.exceptions.HTTPError, OSError) as error:
        if watch.fired or isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
            raise TimedOut(late) from error
        refused = _root(error)
        hint = _UNTRUSTED if url.startswith("https:") and _ended_by_peer(refused) else ""
        if trusted and _of_an_unknown_authority(refused):
            hint = f"; trusted are {trusted}"
        raise Unavailable(f"cannot talk to {where}: {one_line(str(refused))}{hint}", code="unreachable") from error
    except UnicodeError as error:  # a host name that IDNA cannot encode
        raise Invalid(f"{shown(url)} has no usable host name", code="bad_url") from error


# A server whose TLS does not trust the authority of a client's certificate cannot give an HTTP answer (and the alert that says
# so is often lost with the connection), so this is said here.
_UNTRUSTED = "; if it happens again, the server may not trust your certificate's authority: see 'skyfed proxy explain'"


# OpenSSL's X509_V_ERR_* for a name and an address that the certificate is not for: another authority would not help.
_WRONG_NAME = (62, 64)


def _of_an_unknown_authority(error: BaseException) -> bool:
    """Whether the server's certificate was refused for whom we trust, not for whose name is in it."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code not in _WRONG_NAME


def _ended_by_peer(error: BaseException) -> bool:
    """Whether the peer ended a TLS connection before it answered. In TLS 1.3 that is how a client learns of a refusal."""
    if isinstance(error, ssl.SSLError):
        return "ALERT" in (error.reason or "")
    return isinstance(error, http.client.RemoteDisconnected | ConnectionResetError)


def _root(error: BaseException) -> BaseException:
    """The innermost cause: urllib3 wraps the sentence that says what happened, also as its last argument."""
    while True:
        wrapped = (error.__cause__, getattr(error, "reason", None), *error.args[-1:])
        inner = next((one for one in wrapped if isinstance(one, BaseException)), None)
        if inner is None:
            return error
        error = inner


def _split(url: str) -> SplitResult:
    """The parts of a URL. Raises Invalid (`bad_url`): URLs come from lists and answers of others."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise Invalid(f"{shown(url)} is not a URL: {error}", code="bad_url") from error


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        urlsplit(target)
    except ValueError as error:
        raise Forbidden(f"{url} redirects to {shown(location)}, which is not a URL", code="redirect_refused") from error
    return target


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _headers(response: urllib3.BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _small(response: urllib3.BaseHTTPResponse) -> bool:
    length = response.headers.get("content-length", "")
    return length.isdigit() and int(length) <= CHUNK


def _reason(answer: Response) -> tuple[str, str]:
    """What the peer said was wrong, and its code: problem+json where it speaks that, else the first of the text."""
    if "json" in answer.headers.get("content-type", ""):
        try:
            problem = msgspec.json.decode(answer.body)
        except msgspec.DecodeError:
            problem = None
        if isinstance(problem, dict):
            said = problem.get("detail") or problem.get("error") or problem.get("message") or problem.get("title")
            return one_line(str(said or answer.text)), str(problem.get("code") or "")
    return one_line(answer.text) or "nothing more", ""


def _error_class(status: int) -> Callable[..., SkyfedError]:
    exact: dict[int, type[SkyfedError]] = {
        400: errors.Invalid,
        401: errors.Unauthenticated,
        403: errors.Forbidden,
        404: errors.NotFound,
        406: errors.NotAcceptable,
        409: errors.Conflict,
        413: errors.TooLarge,
        415: errors.UnsupportedType,
        501: errors.NotImplementedHere,
        504: errors.TimedOut,
    }
    return exact.get(status) or (errors.Invalid if 400 <= status < 500 and status != 429 else Unavailable)
