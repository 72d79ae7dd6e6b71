"""The administration socket, and pages."""

import asyncio
import os
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from skyfed.core.clock import SystemClock
from skyfed.core.errors import Conflict, NotFound, SkyfedError, Unavailable
from skyfed.core.http import admin_client
from skyfed.core.tasks import Supervisor
from skyfed.web import front, sockets
from skyfed.web.runtime import Assembly, Health, Listener, Runtime
from skyfed.web.templates import Pages, Static
from support.asgi import call
from support.web import serving


def runtime(run: Path, **changes: Any) -> Runtime:
    fields: dict[str, Any] = dict.fromkeys(("trust", "judge", "host", "http", "listener"))
    fields |= {"node": "alpha", "role": "site", "site": "ALPHA", "service": "voms", "data": run, "run": run}
    fields |= {"vomsdir": run, "clock": SystemClock(), "tasks": Supervisor(SystemClock())}
    return Runtime(**(fields | changes))


async def create(request: Request) -> Response:
    return JSONResponse({"made": (await request.json())["name"]}, 201)


async def absent(_request: Request) -> Response:
    raise NotFound("there is no VO 'x'", code="no_vo")


ADMIN = [Route("/vos", create, methods=["POST"]), Route("/absent", absent)]


def with_admin(folder: Path, assembly: Assembly, ask: Any, **changes: Any) -> Any:
    """What `ask(client)` gives, run in a thread while the administration socket is served."""

    async def main() -> Any:
        server = await front.serve_admin(assembly, runtime(folder / "run", **changes))
        try:
            return await asyncio.to_thread(ask, admin_client(folder, "voms"))
        finally:
            await server.stop(grace=1)

    return asyncio.run(main())


def test_the_administration_socket_is_for_this_user_only(tmp_path: Path) -> None:
    def look(_client: object) -> tuple[int, int]:
        path = tmp_path / "run" / "voms.sock"
        return stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)

    assert with_admin(tmp_path, Assembly(admin=ADMIN), look) == (0o600, 0o700)
    assert not (tmp_path / "run" / "voms.sock").exists()


def test_administration_routes_answer_and_fail_in_the_family(tmp_path: Path) -> None:
    def ask(client: Any) -> Any:
        made = client.json("POST", "/vos", {"name": "demo"})
        with pytest.raises(NotFound) as error:
            client.json("GET", "/absent")
        return made, error.value.code

    assert with_admin(tmp_path, Assembly(admin=ADMIN), ask) == ({"made": "demo"}, "no_vo")


def test_health_and_tasks_stand_beside_them(tmp_path: Path) -> None:
    async def ill() -> Health:
        return Health(ok=False, detail="the directory is down")

    def ask(client: Any) -> Any:
        with pytest.raises(SkyfedError) as error:
            client.json("GET", "/health")
        return error.value, client.json("GET", "/tasks")

    error, tasks = with_admin(tmp_path, Assembly(health=ill), ask)
    assert error.status == 503
    assert tasks == []
    healthy = with_admin(tmp_path, Assembly(), lambda client: client.json("GET", "/health"))
    assert healthy == {"ok": True, "detail": ""}


def test_a_socket_path_longer_than_the_kernel_takes_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    assert len(os.fsencode(deep)) > 107
    assert with_admin(deep, Assembly(), lambda client: client.json("GET", "/tasks")) == []


def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "voms.sock"
    left = sockets.unix(path)
    with pytest.raises(Conflict) as served:
        sockets.unix(path)
    assert served.value.code == "socket_taken"
    left.close()
    sockets.unix(path).close()


def test_a_file_where_the_socket_should_be_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "voms.sock"
    path.write_text("precious")
    with pytest.raises(Conflict):
        sockets.unix(path)
    assert path.read_text() == "precious"


def test_a_service_without_an_application_or_a_listener_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        front.front_door(Assembly(), service="voms", judge=None, clock=SystemClock())  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        asyncio.run(front.serve_public(Assembly(), runtime(tmp_path), None))  # type: ignore[arg-type]


def test_a_whole_service_is_served_behind_its_door(node, tmp_path: Path) -> None:
    async def ok(_request: Request) -> Response:
        return Response(b"ok")

    async def main() -> int:
        assembly = Assembly(app=front.Application([Route("/", ok)]))
        listener = Listener("127.0.0.1", 0, "https://alpha.localhost")
        given = runtime(tmp_path, listener=listener, judge=node.judge, clock=node.clock)
        server, port = await front.serve_public(assembly, given, node.tls.context)
        context = node.client(node.proxy(node.pki.alice))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="alpha.localhost"
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        status = int((await reader.readline()).split()[1])
        writer.close()
        await server.stop(grace=5)
        return status

    assert asyncio.run(main()) == 200


@dataclass
class Compute:
    name: str = "c"


def test_the_compute_service_gets_its_type_where_it_is_used(tmp_path: Path) -> None:
    assert runtime(tmp_path, compute=Compute()).require_compute(Compute).name == "c"
    with pytest.raises(Unavailable) as error:
        runtime(tmp_path).require_compute(Compute)
    assert error.value.code == "no_compute"


def test_admin_over_a_unix_socket_has_no_peer_address(tmp_path: Path) -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        body = repr(scope["client"]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    with serving(app, unix=tmp_path / "x.sock") as running, running.connect() as sock:
        assert isinstance(sock, socket.socket)
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"None" in sock.makefile("rb").read()


# -- pages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "fakearea"
    (folder / "templates").mkdir(parents=True)
    (folder / "static" / "img").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "templates" / "page.html").write_text(
        '<link href="{{ static(\'style.css\') }}"><p title="{{ title }}">{{ title }}</p>'
    )
    (folder / "static" / "style.css").write_text("p { color: red }")
    (folder / "static" / "img" / "dot.svg").write_text("<svg/>")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("fakearea", None)
    return "fakearea"


def test_a_page_escapes_what_it_is_given_and_allows_nothing_inline(package: str) -> None:
    page = Pages(package, Static(package)).page("page.html", title='"><script>alert(1)</script>')
    text = bytes(page.body).decode()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_a_name_that_nobody_gave_is_an_error(package: str) -> None:
    import jinja2

    with pytest.raises(jinja2.UndefinedError):
        Pages(package, Static(package)).page("page.html")


def test_static_files_have_urls_that_change_with_their_content_and_are_kept_for_ever(package: str) -> None:
    static = Static(package)
    app = front.Application([static.route()])
    url = static.url("style.css")
    answer = call(app, "GET", url)
    assert answer.text == "p { color: red }"
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]
    assert call(app, "GET", static.url("img/dot.svg")).headers["content-type"].startswith("image/svg+xml")
    folder = Path(sys.modules[package].__file__ or "").parent
    (folder / "static" / "style.css").write_text("p { color: blue }")
    assert Static(package).url("style.css") != url


@pytest.mark.parametrize("path", ["/static/style.css", "/static/../__init__.py", "/static/%2e%2e/__init__.py"])
def test_no_other_path_leads_to_a_file(package: str, path: str) -> None:
    assert call(front.Application([Static(package).route()]), "GET", path).status == 404
