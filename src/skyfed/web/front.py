"""The one way to serve an area: boundary, verdict, application, on a guarded TLS listener; and its administration socket."""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from skyfed.core import metrics
from skyfed.core.clock import Clock, iso
from skyfed.core.errors import Unavailable
from skyfed.core.tasks import Supervisor, TaskStatus
from skyfed.web.access import Access, Judge
from skyfed.web.application import Application, without_error_pages
from skyfed.web.errors import Boundary
from skyfed.web.runtime import Assembly, Health, Runtime
from skyfed.web.server import Server


def front_door(
    assembly: Assembly, *, service: str, judge: Judge, clock: Clock, fronts: frozenset[str] = frozenset()
) -> ASGIApp:
    """The area's application behind the verdict and the error boundary: what a listener serves. There is no other way in."""
    if assembly.app is None:
        raise Unavailable(f"service '{service}' has no application to serve", code="no_application")
    guarded = Access(
        without_error_pages(assembly.app),
        service=service,
        judge=judge,
        public=assembly.public,
        render=assembly.render,
        fronts=fronts,
    )
    return Boundary(guarded, service=service, clock=clock, render=assembly.render)


async def serve_public(assembly: Assembly, runtime: Runtime, tls: ssl.SSLContext) -> tuple[Server, int]:
    """Serve the area's application on the runtime's listener; the running server and the port it got.

    `tls` comes from `pki.tls`, so that the trust it checks is the runtime's and follows it.
    """
    if runtime.listener is None:
        raise Unavailable(f"service '{runtime.service}' has no listener; give it one in node.toml", code="no_listener")
    app = front_door(assembly, service=runtime.service, judge=runtime.judge, clock=runtime.clock, fronts=runtime.fronts)
    server = Server(app, service=runtime.service, tls=tls, limits=assembly.limits, clock=runtime.clock)
    return server, await server.listen(runtime.listener.host, runtime.listener.port)


async def serve_admin(assembly: Assembly, runtime: Runtime) -> Server:
    """Serve the area's administration routes on `run/<service>.sock`, with `/health`, `/tasks` and `/metrics` beside them.

    Whoever may open the socket is the node's own user: the file's mode is the access check.
    """
    own = [
        Route("/health", _health(assembly.health)),
        Route("/tasks", _tasks(runtime.tasks)),
        Route("/metrics", _metrics),
    ]
    app = admin_app([*own, *assembly.admin], service=runtime.service, clock=runtime.clock)
    server = Server(app, service=f"{runtime.service}-admin", clock=runtime.clock)
    await server.listen_unix(socket_path(runtime.run, runtime.service))
    return server


def socket_path(run: Path, service: str) -> Path:
    """Where the administration socket of `service` is."""
    return run / f"{service}.sock"


def admin_app(routes: Sequence[BaseRoute], *, service: str, clock: Clock) -> ASGIApp:
    """Administration routes behind the error boundary, without a verdict."""
    return Boundary(Application(routes), service=f"{service}-admin", clock=clock)


def _health(health: Callable[[], Awaitable[Health]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_request: Request) -> Response:
        found = await health()
        return JSONResponse({"ok": found.ok, "detail": found.detail}, 200 if found.ok else 503)

    return answer


def _tasks(tasks: Supervisor) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_request: Request) -> Response:
        return JSONResponse([_task(status) for status in tasks.status()])

    return answer


def _task(status: TaskStatus) -> dict[str, object]:
    return {
        "name": status.name,
        "state": status.state,
        "since": iso(status.since),
        "last_success": iso(status.last_success) if status.last_success else None,
        "last_error": status.last_error,
        "last_error_at": iso(status.last_error_at) if status.last_error_at else None,
        "failures": status.failures,
        "progress": status.progress,
    }


async def _metrics(_request: Request) -> Response:
    return Response(metrics.render(), headers={"content-type": metrics.CONTENT_TYPE})
