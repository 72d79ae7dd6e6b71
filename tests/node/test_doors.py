"""Every door of every node as the nodes assemble them: what is public is listed here, all else needs the verdict."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from starlette.types import Receive, Scope, Send

from skyfed.core.clock import FixedClock, SystemClock
from skyfed.federation.layout import lay_out
from skyfed.federation.places import NODES
from skyfed.identity.verdict import Verdict
from skyfed.pki.findings import Finding
from skyfed.web.front import front_door
from support.asgi import Answer, call
from support.doors import CLAIMS, Door, doors

# Whoever makes another route public must say so here.
PUBLIC = {
    *(("registry", method, f"/gocdbpi/public{end}") for method in ("GET", "HEAD") for end in ("", "/", "/index.php")),
    *(
        ("images", method, path)
        for method in ("GET", "HEAD")
        for path in ("/lists", "/lists/{name}", "/files/{name}", "/store/vo/image/{page}", "/store/vo/image/{page}/")
    ),
    *(("accounting", method, path) for method in ("GET", "HEAD") for path in ("/v1/summaries", "/v1/usage/today")),
    *(("portal", method, path) for method in ("GET", "HEAD") for path in ("/", "/api/overview", "/static/{path:path}")),
}
STRANGE = ("/", "//", "/..", "/absent", "/./", "/%2e%2e/", "*", "/metrics", "/health", "/tasks", "/status", "/vms")


@pytest.fixture(scope="module")
def all_doors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Door, ...]:
    places = lay_out(tmp_path_factory.mktemp("fed"), SystemClock())
    return tuple(door for node in NODES for door in doors(places.node(node)))


class Refusing:
    """A judge before whom nobody is good enough."""

    def judge(self, _chain: tuple[bytes, ...], /) -> Verdict:
        return Verdict(principal=None, findings=(Finding("expired", "it ended yesterday"),))


def ask(door: Door, method: str, path: str, *, chain: tuple[bytes, ...] = (), **options: object) -> Answer:
    """One request through the door as its listener serves it, with a chain that no judge accepts or without any."""
    clock = FixedClock(SystemClock().now())
    app = front_door(door.assembly, service=door.service, judge=Refusing(), clock=clock)

    async def listener(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {"tls": {"client_cert_chain_der": chain}}
        await app(scope, receive, send)

    return call(listener, method, path.replace("{", "").replace("}", ""), **options)  # type: ignore[arg-type]


def reaches(door: Door, method: str, path: str) -> bool:
    """Whether a request without an accepted credential gets to the service's own code."""
    reached = []

    async def application(scope: Scope, _receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    inside = replace(door, assembly=replace(door.assembly, app=application))
    answers = [ask(inside, method, path), ask(inside, method, path, chain=(b"chain",))]
    assert len(reached) in {0, len(answers)}, "a bad credential opens what none does not"
    assert {answer.status for answer in answers} == ({204} if reached else {401})
    return bool(reached)


def everything(all_doors: tuple[Door, ...]) -> Iterator[tuple[Door, str, str]]:
    for door in all_doors:
        yield from ((door, method, path) for method, path in door.targets)


def test_every_https_service_of_the_federation_is_walked(all_doors: tuple[Door, ...]) -> None:
    assert {(door.node, door.service) for door in all_doors} == {
        ("federation", "registry"),
        ("federation", "images"),
        ("federation", "accounting"),
        ("federation", "portal"),
        ("alpha", "occi"),
        ("beta", "occi"),
    }
    assert all(door.targets for door in all_doors)


def test_no_route_but_the_public_ones_is_reached_without_an_accepted_credential(all_doors: tuple[Door, ...]) -> None:
    reached = {
        (door.service, method, path) for door, method, path in everything(all_doors) if reaches(door, method, path)
    }
    assert reached == PUBLIC


def test_a_refusal_is_the_same_answer_whatever_identity_the_headers_claim(all_doors: tuple[Door, ...]) -> None:
    for door, method, path in everything(all_doors):
        if (door.service, method, path) in PUBLIC:
            continue
        for chain, why in (((), "certificate"), ((b"chain",), "it ended yesterday")):
            plain = ask(door, method, path, chain=chain)
            claiming = ask(door, method, path, chain=chain, headers=CLAIMS)
            assert (plain.status, claiming.status) == (401, 401), (door.service, method, path)
            assert why in plain.text, (door.service, method, path)
            assert why in claiming.text, (door.service, method, path)


def test_no_spelling_of_a_path_leads_around_the_verdict(all_doors: tuple[Door, ...]) -> None:
    """What a public predicate lets through by its prefix ends at the router: 404 or 405, never another route's answer."""
    for door in all_doors:
        protected = {path for method, path in door.targets if (door.service, method, path) not in PUBLIC}
        public = {path.partition("{")[0].rstrip("/") for service, _, path in PUBLIC if service == door.service}
        detours = {
            f"{start}{step}{path}" for start in public for step in ("/..", "/%2e%2e", "/.", "//") for path in protected
        }
        for path in (*STRANGE, *sorted(detours)):
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"):
                if (door.service, method, path) in PUBLIC:
                    continue
                assert ask(door, method, path).status in {401, 404, 405}, (door.service, method, path)
