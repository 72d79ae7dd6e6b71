"""The pages: whole, escaped, honest about age, quick; and as a browser sees them."""

import asyncio
import html.parser
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from portal import sample
from skyfed.core.clock import FixedClock, SystemClock
from skyfed.core.errors import Invalid, Unavailable
from skyfed.core.tasks import Supervisor
from skyfed.identity.judge import Judge
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki.tls import ServerTls
from skyfed.portal.assembly import Settings, assemble
from skyfed.portal.http import Face
from skyfed.portal.model import Image, OfferedSite, RegisteredSite, Service, Snapshot
from skyfed.portal.service import Portal
from skyfed.web.application import Application
from skyfed.web.front import front_door
from skyfed.web.runtime import Assembly
from support.asgi import call
from support.peers import need
from support.pki import Pki
from support.web import serving

replace = msgspec.structs.replace


class Fixed(Portal):
    """A portal that shows one snapshot."""

    def __init__(self, snapshot: Snapshot, clock: FixedClock | None = None) -> None:
        super().__init__({}, clock or FixedClock(sample.NOW), refresh=sample.REFRESH)
        self._snapshot = snapshot


def app(snapshot: Snapshot) -> Application:
    clock = FixedClock(sample.NOW)
    return Application(Face(Fixed(snapshot, clock), clock, title="Skyfed demo federation").routes())


class Text(html.parser.HTMLParser):
    """Tags with attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def text(self) -> str:
        return " ".join(self.words.split())


def page(snapshot: Snapshot) -> Text:
    answer = call(app(snapshot), "GET", "/")
    assert answer.status == 200
    return Text(answer.text)


def test_the_page_shows_sites_services_what_runs_and_todays_usage() -> None:
    text = page(sample.snapshot()).text
    for expected in (
        "Skyfed demo federation", "ALPHA", "Alpha Computing Centre · Netherlands", "Certified", "Test bed",
        "Virtual machines (OCCI)", "https://beta.localhost:8443/", "Skyfed demo guest", "Debian 12 20261101",
        "demo.skyfed", "virtual machines on 24 cores", "8.3 h", "25 min", "since 00:00:00 UTC", "11 s ago",
    ):  # fmt: skip
        assert expected in text


def test_hostile_names_are_text_and_nothing_else() -> None:
    evil = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}"
    snapshot = sample.snapshot()
    site = RegisteredSite(
        name=evil, title=evil, country=evil, infrastructure=evil, certification=evil,
        services=(Service(type=evil, hostname=evil, url="https://x.localhost/?" + evil),),
    )  # fmt: skip
    offer = OfferedSite(name=evil, health=evil, vos=(evil,), images=(Image(title=evil, version=evil, vos=(evil,)),))
    usage = msgspec.structs.replace(sample.usage(), site=evil, vo=evil)
    report = msgspec.structs.replace(snapshot.accounting.value, usage=(usage,))
    found = page(
        replace(
            snapshot,
            registry=snapshot.registry.succeeded((site,), sample.NOW).failed(evil, sample.NOW),
            infosys=snapshot.infosys.succeeded((offer,), sample.NOW),
            accounting=snapshot.accounting.succeeded(report, sample.NOW),
        )
    )
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert [list(attributes) for attributes in scripts] == [["src", "defer"]]
    assert all(attributes["src"].startswith("/static/") for tag, attributes in found.tags if tag == "img")
    assert not any(name.startswith("on") or name == "style" for _, attributes in found.tags for name in attributes)
    assert "{{ 7*7 }}" in found.text


def test_the_page_needs_nothing_inline_and_nothing_from_elsewhere() -> None:
    answer = call(app(sample.snapshot()), "GET", "/")
    assert "'unsafe" not in answer.headers["content-security-policy"]
    found = Text(answer.text)
    assert not [tag for tag, attributes in found.tags if tag == "style" or "style" in attributes]
    for tag, attributes in found.tags:
        if tag in {"script", "img", "link"}:
            source = attributes.get("src") or attributes.get("href") or ""
            assert re.fullmatch(r"/static/[a-z]+\.[0-9a-f]{12}\.(svg|css|js)", source), source
            assert call(app(sample.snapshot()), "GET", source).status == 200


def test_stale_and_failed_sources_are_marked_and_the_rest_still_shown() -> None:
    fresh = sample.snapshot()
    text = page(
        replace(
            fresh,
            infosys=fresh.infosys.failed("no information server answers: 127.0.0.1:2170", sample.NOW),
            accounting=type(fresh.accounting)().failed("connection refused", sample.NOW),
        )
    ).text
    assert "Information system: shown as of 11 s ago no information server answers" in text
    assert "Accounting: no answer yet connection refused" in text
    assert "No usage is known." in text
    assert "Skyfed demo guest" in text


def test_a_federation_without_anything_yet_says_so() -> None:
    text = page(Snapshot(registry=type(sample.snapshot().registry)(), version=1)).text
    assert "No site is known yet" in text
    assert "Registry being asked" in text


def test_the_json_twin_says_the_same() -> None:
    answer = call(app(sample.snapshot()), "GET", "/api/overview")
    assert answer.headers["content-type"] == "application/json"
    said = json.loads(answer.body)
    assert [site["name"] for site in said["sites"]] == ["ALPHA", "BETA"]
    assert said["totals"]["running"] == 4
    assert {source["name"]: source["state"] for source in said["sources"]}["accounting"] == "ok"
    assert said["usage"][0]["wall_hours"] == pytest.approx(8.333, abs=0.001)
    assert said["generated"] == "2026-11-23T14:05:09Z"


def test_a_page_of_a_large_federation_is_served_in_milliseconds() -> None:
    fresh = sample.snapshot()
    sites = tuple(replace(sample.ALPHA, name=f"SITE-{n:03}") for n in range(100))
    offers = tuple(replace(sample.ALPHA_OFFERS, name=f"SITE-{n:03}") for n in range(100))
    snapshot = replace(
        fresh,
        registry=fresh.registry.succeeded(sites, sample.NOW),
        infosys=fresh.infosys.succeeded(offers, sample.NOW),
    )
    served = app(snapshot)

    async def ask() -> float:
        from support.asgi import acall

        assert (await acall(served, "GET", "/")).text.count("<article") == 100
        started = time.perf_counter()
        for _ in range(50):
            await acall(served, "GET", "/")
        return (time.perf_counter() - started) / 50

    assert asyncio.run(ask()) < 0.005


# -- keeping fresh ------------------------------------------------------------------------------------------------


def failing(error: Exception) -> Callable[[], Any]:
    def read() -> Any:
        raise error

    return read


def test_each_source_fails_for_itself() -> None:
    async def main() -> Snapshot:
        clock = FixedClock(sample.NOW)
        readers = {
            "registry": lambda: (sample.ALPHA,),
            "infosys": failing(Unavailable("the directory is down")),
            "accounting": failing(ZeroDivisionError("at /home/secret")),
        }
        portal = Portal(readers, clock, refresh=sample.REFRESH)
        tasks = Supervisor(clock)
        portal.start(tasks)
        while portal.snapshot.version < 3:
            await asyncio.sleep(0.01)
        await tasks.stop()
        return portal.snapshot

    snapshot = asyncio.run(asyncio.wait_for(main(), 10))
    assert snapshot.registry.value == (sample.ALPHA,)
    assert snapshot.infosys.error == "the directory is down"
    assert "secret" not in snapshot.accounting.error
    assert snapshot.accounting.error


def runtime(**changes: Any) -> Any:
    from skyfed.web.runtime import Runtime

    names = ("data", "run", "listener", "trust", "vomsdir", "judge", "host", "http")
    fields: dict[str, Any] = dict.fromkeys(names)
    fields |= {"node": "federation", "role": "federation", "site": "", "service": "portal"}
    fields |= {"clock": SystemClock(), "tasks": Supervisor(SystemClock())}
    return Runtime(**(fields | changes))


def test_the_assembly_asks_only_the_sources_it_is_given() -> None:
    assembly = assemble(Settings(), runtime())
    assert assembly.app is not None
    said = json.loads(call(assembly.app, "GET", "/api/overview").body)
    assert said["sources"] == []
    assert assembly.public({"method": "GET", "path": "/"})
    assert not assembly.public({"method": "POST", "path": "/"})
    assert asyncio.run(assembly.health()).ok
    with pytest.raises(Invalid):
        assemble(Settings(infosys_url="ldap://nowhere:port"), runtime())


# -- in a browser -------------------------------------------------------------------------------------------------

CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--ignore-certificate-errors",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


def browse(chromium: Path, folder: Path, url: str, *options: str) -> str:
    profile = folder / "profile"
    command = [str(chromium), *CHROMIUM, f"--user-data-dir={profile}", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.peer
def test_chromium_shows_the_page_over_tls_without_a_certificate(pki: Pki, tmp_path: Path) -> None:
    chromium = need("chromium")
    clock = SystemClock()
    trust = pki.trust()
    judge = Judge(trust, Vomsdir(tmp_path / "vomsdir", clock), (), clock)
    assembly = Assembly(app=app(sample.snapshot()), public=lambda _scope: True)
    door = front_door(assembly, service="portal", judge=judge, clock=clock)
    tls = ServerTls(trust, pki.hostcert, pki.hostkey, clock)
    with serving(door, tls=tls.context) as running:
        url = f"https://localhost:{running.port}/"
        dom = Text(browse(chromium, tmp_path, url, "--dump-dom"))
        shot = tmp_path / "portal.png"
        browse(chromium, tmp_path, url, f"--screenshot={shot}", "--window-size=1280,1400")
    assert "ALPHA" in dom.text
    assert "Virtual machines (OCCI)" in dom.text
    assert shot.read_bytes().startswith(b"\x89PNG")
    width, height = (int.from_bytes(shot.read_bytes()[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1280, 1400)
