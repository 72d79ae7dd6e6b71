"""From a site's compute service over its own server and the registry to what a researcher finds: all parts for real."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from click.testing import CliRunner
from starlette.applications import Starlette

from infosys.conftest import free_port
from registry.conftest import declaration
from skyfed.core.clock import SystemClock
from skyfed.core.errors import Invalid, Unavailable
from skyfed.core.http import ANY_ADDRESS, AddressPolicy, Response
from skyfed.core.settings import explain
from skyfed.core.sql import Database
from skyfed.core.tasks import Supervisor
from skyfed.infosys.assembly import Settings, SiteSettings, TopSettings, assemble
from skyfed.infosys.cli import find
from skyfed.infosys.client import InfosysClient, addresses
from skyfed.registry import http as registry_http
from skyfed.registry import pi
from skyfed.registry.service import Registry
from skyfed.registry.tables import metadata
from skyfed.web.runtime import Assembly, Runtime
from support.asgi import acall
from support.compute_site import Site, within
from support.peers import need

pytestmark = pytest.mark.peer

PATIENCE = 10.0


class RegistryDoor:
    """Stands for core.http.Client: a real registry's application, asked in this process from another thread."""

    policy: AddressPolicy = ANY_ADDRESS

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def request(self, method: str, url: str, **_: Any) -> Response:
        answer = asyncio.run(acall(self._app, method, url.removeprefix("https://registry.example.org")))
        return Response(answer.status, answer.headers, answer.body, url)


@dataclass
class Service:
    """A running infosys service."""

    assembly: Assembly
    tasks: Supervisor
    port: int

    async def admin(self, method: str, path: str) -> Any:
        answer = await acall(Starlette(routes=list(self.assembly.admin)), method, path)
        assert answer.status == 200, answer.text
        return msgspec.json.decode(answer.body)

    @property
    def client(self) -> InfosysClient:
        return InfosysClient((("127.0.0.1", self.port),))


@contextlib.asynccontextmanager
async def service(folder: Path, settings: Settings, **changes: Any) -> AsyncIterator[Service]:
    need("slapd")
    need("ldapmodify")
    clock = SystemClock()
    tasks = Supervisor(clock)
    (folder / "run").mkdir(parents=True)
    values = {
        "node": "n",
        "site": "ALPHA",
        "service": "infosys",
        "data": folder / "data",
        "run": folder / "run",
        "clock": clock,
        "tasks": tasks,
        "http": None,
    }
    runtime = cast(Runtime, SimpleNamespace(**(values | changes)))
    assembly = assemble(settings, runtime)
    await assembly.start()
    try:
        yield Service(assembly, tasks, settings.port)
    finally:
        await assembly.stop()
        await tasks.stop()


def with_compute(site: Site) -> dict[str, Any]:
    return {"compute": site.service, "require_compute": lambda _kind: site.service}


def site_settings(**changes: Any) -> Settings:
    site = SiteSettings(
        occi_url="https://alpha.example.org:11443",
        vos=("demo.skyfed",),
        country="NL",
        latitude=52.25,
        longitude=4.9,
        contacts={"general": "support@example.org"},
    )
    return Settings(level="site", port=free_port(), site=site, **changes)


async def _ldapsearch(port: int, *argv: str) -> str:
    command = [str(need("ldapsearch")), "-x", "-LLL", "-H", f"ldap://127.0.0.1:{port}", "-b", "o=glue", *argv]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0].decode()


async def until(check: Any) -> None:
    """Wait for something that the service does on an event."""
    async with asyncio.timeout(PATIENCE):
        while not await check():
            await asyncio.sleep(0.02)


def test_a_sites_catalogue_is_what_its_server_says_as_soon_as_it_changes(tmp_path: Path) -> None:
    async def check() -> None:
        site = Site(tmp_path, clock=SystemClock())
        await site.start()
        try:
            async with service(tmp_path / "infosys", site_settings(), **with_compute(site)) as found:
                await until(lambda: asyncio.sleep(0, found.tasks.status()[1].last_success))
                assert await asyncio.to_thread(found.client.find, "demo.skyfed") == ()
                image = await site.image("demo", title="Démo; image, <1>")

                async def offered() -> bool:
                    return bool(await asyncio.to_thread(found.client.find, "demo.skyfed"))

                await until(offered)
                (offer,) = await asyncio.to_thread(found.client.find, "demo.skyfed", image="Démo; image, <1>")
                assert offer.image.id == f"http://alpha/occi/infrastructure/os_tpl#{image.os_tpl_term}"
                assert offer.image.identifier == image.identifier
                assert [f.id.rpartition("#")[2] for f in offer.flavours] == ["tiny", "large"]
                assert await asyncio.to_thread(found.client.find, "ops") == ()
                status = await found.admin("GET", "/status")
                assert (status["level"], status["refused"]) == ("site", [])
                assert (await found.assembly.health()).ok

                await site.running(image)
                await found.admin("POST", "/refresh")
                filter_ = "(objectClass=GLUE2ComputingShare)"
                share = await _ldapsearch(found.port, filter_, "GLUE2ComputingShareRunningJobs")
                assert "GLUE2ComputingShareRunningJobs: 1" in share
                (summary,) = await asyncio.to_thread(found.client.sites)
                assert (summary.name, summary.country, summary.vos) == ("ALPHA", "NL", ("demo.skyfed",))
                pid = status["pid"]
            assert not Path(f"/proc/{pid}/cmdline").exists()
        finally:
            await site.stop()

    asyncio.run(check())


def test_the_top_level_takes_production_sites_and_the_test_bed_if_told_to(tmp_path: Path) -> None:
    async def check() -> None:
        clock = SystemClock()
        database = Database(
            f"sqlite:///{tmp_path / 'registry.db'}",
            name="registry",
            metadata=metadata,
            migrations="skyfed.registry.migrations",
        )
        await asyncio.to_thread(database.open)
        registry = Registry(database, clock, scopes={"FedCloud": ""}, options=pi.Options(portal="p"))
        await asyncio.to_thread(registry.open)
        door = RegistryDoor(Starlette(routes=registry_http.pi_routes(registry, "https://r", registry_http.Readers())))
        site = Site(tmp_path, clock=clock)
        await site.start()
        await site.image("demo")
        own = site_settings()
        url = f"ldap://127.0.0.1:{own.port}/GLUE2DomainID=ALPHA,o=glue"
        await asyncio.to_thread(
            registry.apply, declaration(giis_url=url, infrastructure="Test"), changed_by="a", source="alpha.toml"
        )
        try:
            async with service(tmp_path / "site", own, **with_compute(site)):
                for test_bed, names in ((False, []), (True, ["ALPHA"])):
                    top = TopSettings(registry="https://registry.example.org", test_bed=test_bed)
                    settings = Settings(level="top", port=free_port(), top=top)
                    async with service(tmp_path / f"top-{test_bed}", settings, site="", http=door) as found:
                        await found.admin("POST", "/refresh")
                        assert [s.name for s in await asyncio.to_thread(found.client.sites)] == names
                        status = await found.admin("GET", "/status")
                        assert [(s["site"], s["error"]) for s in status["sources"]] == [(n, "") for n in names]
                        assert len(await asyncio.to_thread(found.client.find, "demo.skyfed")) == len(names)
                        server = ["--server", f"127.0.0.1:{settings.port}"]
                        done = await asyncio.to_thread(
                            CliRunner().invoke, find, ["image", "demo", "--vo", "demo.skyfed", *server]
                        )
                        assert (done.exit_code, "alpha.example.org:11443" in done.output) == (
                            0 if names else 1,
                            bool(names),
                        )
        finally:
            await within(site.stop())
            await asyncio.to_thread(database.close)

    asyncio.run(check())


def test_settings_that_cannot_be_right_are_said_to_be_wrong(tmp_path: Path) -> None:
    runtime = cast(Runtime, SimpleNamespace(data=tmp_path, run=tmp_path, site="", clock=SystemClock(), http=None))
    with pytest.raises(Invalid, match="occi_url"):
        assemble(Settings(level="site", port=2170), runtime)
    with pytest.raises(Invalid, match="registry"):
        assemble(Settings(level="top", port=2170), runtime)


def test_every_setting_is_explained() -> None:
    assert [line.key for line in explain(Settings(level="top")) if not line.description] == []


def test_server_lists_are_read_as_other_tools_read_them() -> None:
    assert addresses("a.org") == (("a.org", 2170),)
    assert addresses("a.org:2171, ldap://b.org:389/") == (("a.org", 2171), ("b.org", 389))
    for bad in ("", "a.org:x", ":2170", "a.org:0"):
        with pytest.raises(Invalid):
            addresses(bad)


def test_a_server_that_is_not_there_is_named() -> None:
    port = free_port()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        InfosysClient((("127.0.0.1", port),)).sites()
