"""The services as a node wires them: registry, repository and a site's sender over real TLS, on a simulated engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from accounting.support_repository import dn
from registry.conftest import declaration
from skyfed.accounting import assembly as accounting
from skyfed.accounting.assembly import Settings
from skyfed.accounting.client import AccountingClient
from skyfed.accounting.model import CloudSummary
from skyfed.core.clock import Clock, SystemClock, epoch
from skyfed.core.errors import Invalid, Unavailable
from skyfed.core.http import AdminClient, Client
from skyfed.core.settings import convert
from skyfed.core.tasks import Supervisor
from skyfed.identity.judge import Judge
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki.files import Credential, write_credential
from skyfed.pki.testca import ThrowawayCA
from skyfed.pki.tls import ClientTls, ServerTls
from skyfed.pki.trust import TrustStore
from skyfed.registry import assembly as registry
from skyfed.web.front import serve_admin, serve_public
from skyfed.web.runtime import HostCredential, Listener, Runtime
from support.compute_site import PATIENCE, Site, owner, settings
from support.pki import Pki


class Nodes:
    """Hosts of a federation: each gets a certificate, its directories and a runtime."""

    def __init__(self, pki: Pki, ca: ThrowawayCA, directory: Path) -> None:
        self.pki = pki
        self.ca = ca
        self.directory = directory
        self.clock: Clock = SystemClock()
        self.trust = TrustStore(pki.certificates, self.clock)

    def host(self, name: str) -> tuple[Credential, HostCredential]:
        credential = self.ca.host(f"{name}.localhost")
        folder = self.directory / name
        folder.mkdir(exist_ok=True)
        files = HostCredential(folder / "hostcert.pem", folder / "hostkey.pem")
        write_credential(credential, files.cert, files.key)
        return credential, files

    def http(self, host: HostCredential) -> Client:
        return Client(ssl_context=ClientTls(self.trust, self.clock, cert=host.cert, key=host.key).current)

    def runtime(self, node: str, service: str, host: HostCredential, **changes: Any) -> Runtime:
        folder = self.directory / node
        (folder / service).mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "node": node, "role": "federation", "site": "", "service": service, "data": folder / service, "run": folder,
            "listener": Listener("127.0.0.1", 0, "https://localhost"), "clock": self.clock,
            "tasks": Supervisor(self.clock), "trust": self.trust, "vomsdir": folder,
            "judge": Judge(self.trust, Vomsdir(folder, self.clock), [], self.clock), "host": host, "http": self.http(host),
        }  # fmt: skip
        return Runtime(**{**values, **changes})

    def sender(self, node: str, host: HostCredential, site: Site) -> Runtime:
        """What a site's node gives to the sender."""
        changes = {"role": "site", "site": "ALPHA", "listener": None, "compute": site.service}
        return self.runtime(node, "accounting", host, **changes)

    @asynccontextmanager
    async def serving(self, module: Any, given: Mapping[str, object], runtime: Runtime) -> AsyncIterator[str]:
        """Run a service as a node does; gives its address ("" where it has none)."""
        assembly = module.assemble(convert(given, module.Settings, source="test"), runtime)
        await assembly.start()
        servers = [await serve_admin(assembly, runtime)]
        url = ""
        try:
            if assembly.app is not None:
                tls = ServerTls(self.trust, runtime.host.cert, runtime.host.key, self.clock)
                server, port = await serve_public(assembly, runtime, tls.context)
                servers.append(server)
                url = f"https://localhost:{port}"
            assert (await assembly.health()).detail
            yield url
        finally:
            for server in servers:
                await server.stop(1.0)
            await runtime.tasks.stop()
            await assembly.stop()


@pytest.fixture
def nodes(pki: Pki, tmp_path: Path) -> Nodes:
    return Nodes(pki, pki.ca, tmp_path)


async def until(found: Any, holds: Any) -> Any:
    """The first answer of `found` (blocking, asked in a thread) that `holds`."""
    async with asyncio.timeout(PATIENCE):
        while not holds(value := await asyncio.to_thread(found)):
            await asyncio.sleep(0.05)
    return value


def test_a_machines_life_at_a_site_becomes_usage_in_the_repository(nodes: Nodes, tmp_path: Path) -> None:
    async def scenario() -> None:
        _, central = nodes.host("federation")
        credential, alpha = nodes.host("alpha")
        site = await Site(tmp_path, chosen=settings(), clock=SystemClock()).start()
        async with nodes.serving(registry, {}, nodes.runtime("federation", "registry", central)) as registry_url:
            description = declaration()
            description["service"][1]["host_dn"] = dn(credential)
            registry_admin = AdminClient(tmp_path / "federation" / "registry.sock")
            await asyncio.to_thread(registry_admin.json, "POST", "/sites", {"declaration": description})

            wanted = {"registry": registry_url}
            async with nodes.serving(accounting, wanted, nodes.runtime("federation", "accounting", central)) as url:
                runtime = nodes.sender("alpha", alpha, site)
                async with nodes.serving(accounting, {"repository": url}, runtime):
                    await live_and_die(site, AccountingClient(nodes.http(alpha), url))
                    sender = AdminClient(tmp_path / "alpha" / "accounting.sock")
                    state = await until(lambda: sender.json("GET", "/status"), lambda s: s["sender"]["waiting"] == 0)
                    assert (state["role"], state["sender"]["dead"]) == ("sender", 0)
                    month = nodes.clock.now().strftime("%Y-%m")
                    again = await asyncio.to_thread(sender.json, "POST", "/republish", {"month": month})
                    assert again == {"records": 1}
                    assert await asyncio.to_thread(sender.json, "GET", "/dead") == []
                repository_admin = AdminClient(tmp_path / "federation" / "accounting.sock")
                counts = await asyncio.to_thread(repository_admin.json, "GET", "/status")
                assert counts["repository"]["records"] == 1
                assert await asyncio.to_thread(repository_admin.json, "POST", "/recompute") == {"summaries": 1}
        await site.stop()

    async def live_and_die(site: Site, client: AccountingClient) -> None:
        began = nodes.clock.now()
        vm = await site.running(await site.image())
        await site.service.delete(vm.id, owner())
        await site.gone(vm.id)
        ended = nodes.clock.now()

        def final() -> list[CloudSummary]:
            return [s for s in client.summaries(site="ALPHA", users=True) if s.status == "completed"]

        (summary,) = await until(final, bool)
        assert summary.global_user_name == owner().subject
        assert summary.image_id == vm.image_identifier
        assert summary.number_of_vms == 1
        (item,) = await asyncio.to_thread(lambda: list(client.records(vm=vm.id)))
        assert epoch(began) <= (item.record.start_time or 0) <= (item.record.end_time or 0) <= epoch(ended)
        assert abs((item.record.wall_duration or 0) - (summary.wall_duration or 0)) == 0
        assert item.record.cloud_compute_service == "alpha.localhost"
        assert item.record.site_name == "ALPHA"

    asyncio.run(scenario())


def test_an_unregistered_sender_gets_dead_letters_and_can_retry_after_registration(
    nodes: Nodes, tmp_path: Path
) -> None:
    _, central = nodes.host("federation")
    credential, alpha = nodes.host("alpha")
    admin = AdminClient(tmp_path / "alpha" / "accounting.sock")

    async def serve(
        site: Site, signers: Mapping[str, list[str]], then: Callable[[AccountingClient], Awaitable[None]]
    ) -> None:
        repository = nodes.runtime("federation", "accounting", central)
        async with nodes.serving(accounting, {"extra_signers": signers}, repository) as url:
            runtime = nodes.sender("alpha", alpha, site)
            async with nodes.serving(accounting, {"repository": url}, runtime):
                await then(AccountingClient(nodes.http(alpha), url))

    async def refused(_client: AccountingClient) -> None:
        await until(lambda: admin.json("GET", "/status"), lambda status: status["sender"]["dead"] > 0)
        (first, *_) = await asyncio.to_thread(admin.json, "GET", "/dead")
        assert "ALPHA" in first["error"]
        assert dn(credential) in first["error"]

    async def accepted(client: AccountingClient) -> None:
        for letter in await asyncio.to_thread(admin.json, "GET", "/dead"):
            await asyncio.to_thread(admin.json, "POST", f"/dead/{letter['id']}/retry")
        (summary,) = await until(lambda: list(client.summaries()), bool)
        assert summary.status == "started"

    async def scenario() -> None:
        site = await Site(tmp_path, chosen=settings(), clock=SystemClock()).start()
        await site.running(await site.image())
        await serve(site, {}, refused)
        await serve(site, {dn(credential): ["ALPHA"]}, accepted)
        await site.stop()

    asyncio.run(scenario())


def test_the_role_follows_the_node_and_what_it_lacks_is_named(nodes: Nodes) -> None:
    _, host = nodes.host("alpha")
    with pytest.raises(Invalid, match="repository"):
        accounting.assemble(Settings(), nodes.runtime("alpha", "accounting", host, role="site", site="ALPHA"))
    runtime = nodes.runtime("alpha", "accounting", host, role="site", site="ALPHA")
    with pytest.raises(Unavailable, match="compute"):
        accounting.assemble(Settings(repository="https://localhost:1"), runtime)
    with pytest.raises(Invalid, match="listen"):
        accounting.assemble(Settings(), nodes.runtime("alpha", "accounting", host, listener=None))


def test_the_migrations_make_the_tables_that_the_code_declares(db) -> None:
    assert db.drift() == []
