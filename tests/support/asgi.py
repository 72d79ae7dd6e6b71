"""Calling an ASGI application in the process, as the server would after TLS and the verdict."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from skyfed.identity.principal import Principal
from skyfed.identity.verdict import Verdict


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def accepted(subject: str = "/DC=org/DC=example/CN=Alice", *, vos: tuple[Any, ...] = ()) -> Verdict:
    """The verdict on a good credential."""
    principal = Principal(
        subject=subject,
        issuer="/DC=org/DC=example/CN=Test CA",
        vos=vos,
        limited=False,
        not_after=datetime.now(UTC) + timedelta(hours=12),
        fingerprint="00" * 32,
        kind="proxy",
    )
    return Verdict(principal=principal, findings=(), subject=subject)


def call(
    app: Any,
    method: str,
    target: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    verdict: Verdict | None = None,
) -> Answer:
    """One request to `app`."""
    return asyncio.run(acall(app, method, target, body=body, headers=headers, verdict=verdict))


async def acall(
    app: Any,
    method: str,
    target: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    verdict: Verdict | None = None,
) -> Answer:
    """One request to `app`, in a running event loop."""
    path, _, query = target.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8443),
        "extensions": {},
    }
    if verdict is not None:
        scope["skyfed.verdict"] = verdict
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = next(m for m in sent if m["type"] == "http.response.start")
    content = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    return Answer(start["status"], {k.decode().lower(): v.decode() for k, v in start["headers"]}, content)
