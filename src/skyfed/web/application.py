"""Routes as an application whose errors reach the boundary, instead of Starlette's own error pages."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send


class Application:
    """An ASGI application of `routes`. What is raised in an endpoint, and an unknown path or method, goes up to the boundary,
    which answers in the area's form; Starlette's class of that name would answer before."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._router = Router(routes=routes, redirect_slashes=False)

    @property
    def routes(self) -> list[BaseRoute]:
        """What it serves."""
        return self._router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # a router raises for what it does not know only where it is told that somebody catches it
        await self._router(scope, receive, send)


def without_error_pages(app: ASGIApp) -> ASGIApp:
    """`app`, or its routes as an `Application` where it is a plain Starlette. Raises ValueError for one with middleware."""
    if not isinstance(app, Starlette):
        return app
    if app.user_middleware or app.exception_handlers:
        raise ValueError("a Starlette with middleware or handlers of its own answers errors itself; use Application")
    return Application(app.routes)
