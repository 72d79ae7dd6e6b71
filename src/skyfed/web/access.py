"""Nobody reaches an application without a verdict: the chain is judged on every request, also on kept-alive connections.

TLS has only proven that the peer holds the key of a chain that ends at an anchor. Whether the credential is good *now* is the
judge's decision; it is cached under the generation of trust, CRLs and bans, so a ban or a revocation counts at once.
"""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from skyfed.core.errors import Forbidden, Invalid, SkyfedError, Unauthenticated
from skyfed.identity.principal import Principal
from skyfed.identity.verdict import Verdict
from skyfed.pki.findings import Finding
from skyfed.web.errors import VERDICT, Render, render
from skyfed.web.measures import VERDICTS
from skyfed.web.runtime import Public
from skyfed.web.trusted_front import FORWARDED, forwarded_chain

log = logging.getLogger(__name__)

NO_CREDENTIAL = Verdict(
    principal=None,
    findings=(
        Finding(
            "no_certificate",
            "this needs a client certificate or proxy; make one with `skyfed proxy init`, and give it to your client",
            where="chain",
        ),
    ),
)

# A known person who is kept out. Everything else that can be wrong with a credential leaves its holder unknown: 401.
_KEPT_OUT = ("ban", "limited", "not_allowed", "forbidden")


class Judge(Protocol):
    """What the middleware needs of `skyfed.identity`'s judge."""

    def judge(self, chain: tuple[bytes, ...], /) -> Verdict:
        """The verdict on a chain, DER, leaf first. Cached; never raises for a bad credential."""


class Access:
    """ASGI middleware between the boundary and the application. Refuses by default; `public` names what is open to all."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: str,
        judge: Judge,
        public: Public,
        render: Render = render,
        fronts: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._fronts = fronts
        self._service = service
        self._judge = judge
        self._public = public
        self._render = render
        self._accepted = VERDICTS.labels(service, "accepted")
        self._open = VERDICTS.labels(service, "public")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            verdict = self._verdict(scope)
        except Invalid as error:
            await self._render(error, scope)(scope, receive, send)
            return
        scope[VERDICT] = verdict
        if not verdict.ok and not self._public(scope):
            refusal = refusal_of(verdict)
            VERDICTS.labels(self._service, refusal.code).inc()
            await self._render(refusal, scope)(scope, receive, send)
            return
        (self._accepted if verdict.ok else self._open).inc()
        await self._app(scope, receive, send)

    def _verdict(self, scope: Scope) -> Verdict:
        """On the peer, or on whom a trusted front speaks for. Raises Invalid for what a front passed on wrongly."""
        verdict = self._judge_chain(peer_chain(scope))
        front = verdict.principal if self._fronts and verdict.ok else None
        if front is None or front.kind != "certificate" or front.subject not in self._fronts:
            return verdict
        return self._judge_chain(forwarded_chain(_tls(scope).get(FORWARDED, ())))

    def _judge_chain(self, chain: tuple[bytes, ...]) -> Verdict:
        return self._judge.judge(chain) if chain else NO_CREDENTIAL


def peer_chain(scope: Scope) -> tuple[bytes, ...]:
    """The client's chain, DER, leaf first; () where there is none."""
    chain: tuple[bytes, ...] = _tls(scope).get("client_cert_chain_der", ())
    return chain


def _tls(scope: Scope) -> Mapping[str, Any]:
    found: Mapping[str, Any] = scope.get("extensions", {}).get("tls", {})
    return found


def verdict(scope: Scope) -> Verdict:
    """The verdict on this request's credential."""
    found: Verdict = scope.get(VERDICT, NO_CREDENTIAL)
    return found


def principal(scope: Scope) -> Principal:
    """Who is calling. Raises Unauthenticated or Forbidden with the verdict's reason: on a public path nobody may be."""
    found = verdict(scope)
    if found.principal is None:
        raise refusal_of(found)
    return found.principal


def full_principal(scope: Scope) -> Principal:
    """Who is calling, with full rights. Raises Forbidden (`limited_proxy`) for a limited proxy, which may move data but not
    start anything (specs/aai 1.1)."""
    found = principal(scope)
    if found.limited:
        raise Forbidden(
            "a limited proxy may not do this; make a full one with `skyfed proxy init`", code="limited_proxy"
        )
    return found


def refusal_of(verdict: Verdict) -> SkyfedError:
    """The error that says why `verdict` refuses: 403 for somebody known who is kept out, else 401."""
    reason = verdict.reason or Finding("refused", "the credential is refused")
    kept_out = reason.code.startswith(_KEPT_OUT)
    return (Forbidden if kept_out else Unauthenticated)(reason.message, code=reason.code)
