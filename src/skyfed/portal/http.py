"""The pages. All public to read: they show what registry, directory and usage totals show to everybody anyway."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from skyfed.core.clock import Clock
from skyfed.portal import text
from skyfed.portal.service import Portal
from skyfed.web.templates import Pages, Static

PACKAGE = "skyfed.portal"
# Visitors within a second get the same bytes: a page costs next to nothing however many look.
PAGE_SECONDS = 1.0


class Face:
    """Renders the overview, at most once a second and once a change."""

    def __init__(self, portal: Portal, clock: Clock, *, title: str) -> None:
        self._portal = portal
        self._clock = clock
        self._title = title
        self._static = Static(PACKAGE)
        self._pages = Pages(PACKAGE, self._static)
        self._pages.environment.filters |= text.FILTERS
        self._page: tuple[int, float, Response] | None = None

    def routes(self) -> list[BaseRoute]:
        """`/`, `/api/overview` and the static files."""
        return [
            Route("/", self.index, methods=["GET"]),
            Route("/api/overview", self.api, methods=["GET"]),
            self._static.route(),
        ]

    async def index(self, _request: Request) -> Response:
        """The overview."""
        version, now = self._portal.snapshot.version, self._clock.monotonic()
        if self._page is None or self._page[0] != version or now - self._page[1] >= PAGE_SECONDS:
            self._page = (version, now, self._render())
        return self._page[2]

    def _render(self) -> Response:
        overview = self._portal.overview()
        longest = max((max(row.wall_hours, row.cpu_hours) for row in overview.usage), default=0.0)
        headers = {"cache-control": "no-cache"}
        return self._pages.page("overview.html", headers=headers, title=self._title, overview=overview, longest=longest)

    async def api(self, _request: Request) -> Response:
        """The same as JSON."""
        body = msgspec.json.encode(self._portal.overview())
        headers = {"cache-control": "no-cache", "access-control-allow-origin": "*"}
        return Response(body, headers=headers, media_type="application/json")


def is_public(scope: Scope) -> bool:
    """Everything that can be read here is; what would change something is not, by default."""
    return scope["method"] in ("GET", "HEAD")
