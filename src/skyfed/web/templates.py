"""Server-rendered pages: templates that escape, static files that browsers keep for ever, headers that keep pages safe."""

import hashlib
import mimetypes
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import jinja2
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from skyfed.core.errors import NotFound
from skyfed.web.errors import render

# Nothing inline, nothing from elsewhere, no framing: a page that got hostile text past the escaping could still not act on it.
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}

_FOREVER = "public, max-age=31536000, immutable"
_HASH_CHARACTERS = 12


class Static:
    """The files in `package`'s folder `static`, read once, at URLs that change with their content."""

    def __init__(self, package: str, prefix: str = "/static") -> None:
        self._prefix = prefix
        self._urls: dict[str, str] = {}
        self._answers: dict[str, Response] = {}
        for name, content in _files(resources.files(package) / "static"):
            self._add(name, content)

    def url(self, name: str) -> str:
        """The URL of the file `name`. Raises NotFound for one that does not exist: a template names it wrongly."""
        if name not in self._urls:
            raise NotFound(f"there is no static file '{name}' (there are: {', '.join(sorted(self._urls))})")
        return self._urls[name]

    def route(self) -> Route:
        """The route that serves them."""
        return Route(f"{self._prefix}/{{path:path}}", _Files(self._answers), methods=["GET"])

    def _add(self, name: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()[:_HASH_CHARACTERS]
        stem, dot, suffix = name.rpartition(".")
        url = f"{self._prefix}/{stem}.{digest}{dot}{suffix}"
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._urls[name] = url
        headers = {"cache-control": _FOREVER, "etag": f'"{digest}"', "x-content-type-options": "nosniff"}
        self._answers[url] = Response(content, headers=headers, media_type=kind)


class _Files:
    """An ASGI application that answers with what was prepared, by exact URL: no file system, so no way out of it."""

    def __init__(self, answers: dict[str, Response]) -> None:
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answers.get(scope["path"]) or render(NotFound("there is no such file"), scope)
        await answer(scope, receive, send)


class Pages:
    """The templates in `package`'s folder `templates`. A name that a template uses and nobody gave is an error."""

    def __init__(self, package: str, static: Static) -> None:
        self.environment = jinja2.Environment(
            loader=jinja2.PackageLoader(package),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.environment.globals["static"] = static.url

    def page(self, name: str, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> Response:
        """The template `name` rendered with `values`, with the headers that keep a page safe."""
        text = self.environment.get_template(name).render(values)
        return Response(text, status, {**PAGE_HEADERS, **(headers or {})}, media_type="text/html")


def _files(folder: Traversable, under: str = "") -> list[tuple[str, bytes]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _files(entry, f"{under}{entry.name}/")
        else:
            found.append((f"{under}{entry.name}", entry.read_bytes()))
    return found
