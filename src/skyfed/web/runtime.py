"""What a node hands to an area (`Runtime`) and what the area hands back (`Assembly`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from skyfed.core.errors import Unavailable
from skyfed.web.errors import Render, render
from skyfed.web.guard import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Scope

    from skyfed.core.clock import Clock
    from skyfed.core.http import Client
    from skyfed.core.tasks import Supervisor
    from skyfed.identity.judge import Judge
    from skyfed.pki.trust import TrustStore

Role = Literal["federation", "site"]
Public = Callable[["Scope"], bool]
Service = TypeVar("Service")


@dataclass(frozen=True, slots=True)
class Listener:
    """An address to bind, and the URL under which clients find it. Port 0 lets the kernel choose."""

    host: str
    port: int
    public_url: str


@dataclass(frozen=True, slots=True)
class HostCredential:
    """The node's certificate (with the intermediates that peers need) and its key, PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a service may count on. One value a service.

    `site` is the site's registry name, "" on a federation node. `data` is the service's own directory, `tasks` its own
    supervisor, `run` holds the node's unix sockets. `compute` is the site's compute service in the process that runs
    it, else None; take it with `require_compute`, which gives it its type. `fronts` are
    the subjects of TLS-terminating proxies that may speak for their clients.
    """

    node: str
    role: Role
    site: str
    service: str
    data: Path
    run: Path
    listener: Listener | None
    clock: Clock
    tasks: Supervisor
    trust: TrustStore
    vomsdir: Path
    judge: Judge
    host: HostCredential
    http: Client
    compute: object | None = None
    fronts: frozenset[str] = frozenset()

    def require_compute(self, kind: type[Service]) -> Service:
        """The compute service, as `kind`. Raises Unavailable (`no_compute`) where this process does not run it.

        It is an `object` here because `compute` stands above `web`; the areas above both name the type.
        """
        if not isinstance(self.compute, kind):
            raise Unavailable(
                f"service '{self.service}' stands on compute; put both in one process of node '{self.node}'",
                code="no_compute",
            )
        return self.compute


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the service does its work now, and one line for people: what is wrong, or what it is doing."""

    ok: bool
    detail: str = ""


def nothing_public(_scope: Scope) -> bool:
    """The default of `Assembly.public`: every path needs an accepted credential."""
    return False


async def nothing_to_do() -> None:
    """The default of `Assembly.start` and `Assembly.stop`."""


async def healthy() -> Health:
    """The default of `Assembly.health`: it runs, so it is well."""
    return Health(ok=True)


@dataclass(frozen=True, slots=True)
class Assembly:
    """A wired service. The node serves `app` on the runtime's listener behind the guard and the verdict, and `admin`
    on `run/<service>.sock`.

    `app` is None where the service has a stream listener of its own, opened by `start` (the attribute authority), or
    none at all. `public` says which requests may pass without an accepted credential. `limits` bounds what a request
    may cost. `render` gives errors and refusals the protocol's form, where it has one. `start` runs before the first
    request; `stop` after the last one, once, also after a failed `start`. `offers` is what later services of the same
    process may stand on (`Runtime.compute`).
    """

    app: ASGIApp | None = None
    public: Public = nothing_public
    limits: Limits = field(default_factory=Limits)
    render: Render = render
    admin: Sequence[BaseRoute] = field(default=())
    start: Callable[[], Awaitable[None]] = nothing_to_do
    stop: Callable[[], Awaitable[None]] = nothing_to_do
    health: Callable[[], Awaitable[Health]] = healthy
    offers: object | None = None
