"""Nobody gets past without a verdict: each kind of bad credential gets an HTTP answer that says why."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from skyfed.core.errors import Forbidden, Unauthenticated
from skyfed.identity.verdict import Verdict
from skyfed.pki.findings import Finding
from skyfed.web import access
from skyfed.web.front import front_door
from skyfed.web.runtime import Assembly
from support.asgi import accepted, call
from support.web import Answer, Serving, read_answer, serving


async def who(request: Request) -> Response:
    principal = access.principal(request.scope)
    return JSONResponse({"subject": principal.subject, "vos": principal.vo_names, "fqans": principal.fqans})


async def start(request: Request) -> Response:
    return JSONResponse({"subject": access.full_principal(request.scope).subject})


async def info(request: Request) -> Response:
    return JSONResponse({"known": access.verdict(request.scope).ok})


ROUTES = [
    Route("/who", who),
    Route("/start", start, methods=["POST"]),
    Route("/info", info),
    Mount("/deep", routes=[Route("/er/{name}", who, methods=["GET", "PUT", "DELETE"])]),
]
ASSEMBLY = Assembly(app=Starlette(routes=ROUTES), public=lambda scope: scope["path"] == "/info")


@pytest.fixture
def server(node) -> Iterator[Serving]:
    app = front_door(ASSEMBLY, service="test", judge=node.judge, clock=node.clock)
    with serving(app, tls=node.tls.context) as running:
        yield running


def ask(server: Serving, context, path: str = "/who", method: str = "GET", accept: str = "") -> Answer:
    with server.connect(context) as sock:
        return ask_on(sock, path, method, accept)


def ask_on(sock, path: str = "/who", method: str = "GET", accept: str = "") -> Answer:
    fields = f"Accept: {accept}\r\n" if accept else ""
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{fields}\r\n".encode())
    return read_answer(sock)


def test_a_good_proxy_is_let_in_with_its_vo(server: Serving, node) -> None:
    answer = ask(server, node.client(node.proxy(node.pki.alice)))
    assert answer.status == 200
    said = json.loads(answer.body)
    assert said["subject"].endswith("CN=alice")
    assert said["vos"] == ["demo.skyfed"]
    assert said["fqans"] == ["/demo.skyfed/Role=NULL/Capability=NULL"]


def test_a_plain_certificate_is_let_in(server: Serving, node) -> None:
    assert ask(server, node.client(node.pki.alice)).status == 200


def refused(answer: Answer) -> tuple[int, str]:
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    return answer.status, problem["code"]


def test_nobody_gets_in_without_a_credential(server: Serving, node) -> None:
    answer = ask(server, node.client())
    assert refused(answer) == (401, "no_certificate")
    assert "www-authenticate" in answer.headers


def test_an_expired_certificate_gets_an_answer_with_its_reason(server: Serving, node) -> None:
    assert refused(ask(server, node.client(node.pki.expired))) == (401, "expired")


def test_an_expired_proxy_gets_an_answer_with_its_reason(server: Serving, node) -> None:
    proxy = node.plain_proxy(node.pki.alice, timedelta(hours=1))
    node.clock.advance(7200)
    status, code = refused(ask(server, node.client(proxy)))
    assert status == 401
    assert "expired" in code


def test_a_revoked_certificate_gets_an_answer_with_its_reason(server: Serving, node) -> None:
    assert refused(ask(server, node.client(node.pki.revoked))) == (401, "revoked")
    assert refused(ask(server, node.client(node.plain_proxy(node.pki.revoked)))) == (401, "revoked")


def test_a_limited_proxy_may_look_but_not_start_anything(server: Serving, node) -> None:
    limited = node.client(node.proxy(node.pki.alice, limited=True))
    assert ask(server, limited).status == 200
    assert refused(ask(server, limited, "/start", "POST")) == (403, "limited_proxy")
    assert ask(server, node.client(node.proxy(node.pki.alice)), "/start", "POST").status == 200


def test_a_banned_person_gets_an_answer_with_the_reason(server: Serving, node) -> None:
    node.ban('dn "*CN=alice"')
    assert refused(ask(server, node.client(node.proxy(node.pki.alice)))) == (403, "banned")
    assert ask(server, node.client(node.proxy(node.pki.bob))).status == 200


def test_a_ban_counts_at_once_on_an_open_connection_and_so_does_its_end(server: Serving, node) -> None:
    with server.connect(node.client(node.proxy(node.pki.alice))) as sock:
        assert ask_on(sock).status == 200
        node.ban('dn "*CN=alice"')
        assert refused(ask_on(sock)) == (403, "banned")
        node.ban()
        assert ask_on(sock).status == 200


def test_a_revocation_counts_at_once_on_an_open_connection(server: Serving, node) -> None:
    with server.connect(node.client(node.proxy(node.pki.bob))) as sock:
        assert ask_on(sock).status == 200
        node.pki.ca.revoke(node.pki.bob.certificate)
        node.pki.ca.publish(node.pki.certificates)
        node.clock.advance(5)
        assert refused(ask_on(sock)) == (401, "revoked")


def test_a_credential_that_ends_ends_on_an_open_connection(server: Serving, node) -> None:
    with server.connect(node.client(node.plain_proxy(node.pki.bob, timedelta(hours=1)))) as sock:
        assert ask_on(sock).status == 200
        node.clock.advance(3601)
        assert ask_on(sock).status == 401


def test_a_public_path_is_open_to_all_and_still_knows_who_comes(server: Serving, node) -> None:
    assert json.loads(ask(server, node.client(), "/info").body) == {"known": False}
    assert json.loads(ask(server, node.client(node.pki.revoked), "/info").body) == {"known": False}
    assert json.loads(ask(server, node.client(node.pki.alice), "/info").body) == {"known": True}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/problem+json"),
        ("*/*", "application/problem+json"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("image/png", "text/plain; charset=utf-8"),
    ],
)
def test_a_refusal_comes_in_the_form_asked_for(server: Serving, node, accept: str, kind: str) -> None:
    answer = ask(server, node.client(), accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (401, kind)
    assert b"skyfed proxy init" in answer.body


# -- no way around ------------------------------------------------------------------------------------------------


def every_path(routes: list) -> Iterator[tuple[str, str]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from ((f"{route.path}{path}", method) for path, method in every_path(list(route.routes)))
        else:
            for method in sorted(route.methods):
                yield route.path.replace("{name}", "x"), method


class NobodyPasses:
    """Refuses everybody."""

    def judge(self, chain: tuple[bytes, ...], /) -> Verdict:
        return Verdict(principal=None, findings=(Finding("expired", "it ended yesterday"),))


def test_no_route_answers_without_a_verdict(node) -> None:
    app = front_door(ASSEMBLY, service="test", judge=NobodyPasses(), clock=node.clock)
    walked = [
        *every_path(ROUTES),
        ("/", "GET"),
        ("/absent", "POST"),
        ("//info", "GET"),
        ("/info/", "GET"),
        ("*", "OPTIONS"),
    ]
    assert len(walked) > 8
    answered = {path for path, method in walked if call(app, method, path).status != 401}
    assert answered == {"/info"}


def test_a_verdict_in_the_scope_before_the_door_counts_for_nothing(node) -> None:
    app = front_door(ASSEMBLY, service="test", judge=NobodyPasses(), clock=node.clock)
    assert call(app, "GET", "/who", verdict=accepted()).status == 401


def test_principal_says_why_there_is_none() -> None:
    banned = Verdict(principal=None, findings=(Finding("banned", "'/CN=m' is banned here (dn)"),))
    with pytest.raises(Forbidden) as kept_out:
        access.principal({"skyfed.verdict": banned})
    assert kept_out.value.code == "banned"
    with pytest.raises(Unauthenticated) as nobody:
        access.principal({})
    assert nobody.value.code == "no_certificate"
    assert access.principal({"skyfed.verdict": accepted("/CN=alice")}).subject == "/CN=alice"
