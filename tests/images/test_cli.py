"""The commands against whole services: a publisher's node and a site's, wired by their assemblies, over TLS and unix sockets."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from images.conftest import endorser, qcow2
from skyfed.core.clock import SystemClock
from skyfed.core.errors import Forbidden, SkyfedError, Unavailable
from skyfed.core.http import Client
from skyfed.core.settings import convert
from skyfed.core.tasks import Supervisor
from skyfed.images.assembly import Settings, assemble
from skyfed.images.cli import image
from skyfed.images.subscriber import TASK
from skyfed.pki.tls import ClientTls, ServerTls
from skyfed.pki.trust import TrustStore
from skyfed.web.front import serve_admin, serve_public
from skyfed.web.runtime import HostCredential, Listener, Runtime
from support.aai import make_judge
from support.compute_site import Site
from support.pki import Pki

PATIENCE = 20.0


class Node:
    """One image service, as `node.process` runs it."""

    def __init__(self, folder: Path, pki: Pki, settings: dict[str, Any], *, compute: Any = None, port: int = 0) -> None:
        self.folder = folder
        self.clock = SystemClock()
        self.trust = TrustStore(pki.certificates, self.clock)
        self.tls = ServerTls(self.trust, pki.hostcert, pki.hostkey, self.clock)
        self.tasks = Supervisor(self.clock)
        outbound = ClientTls(self.trust, self.clock, cert=pki.hostcert, key=pki.hostkey)
        (folder / "run").mkdir(parents=True)
        (folder / "data").mkdir()
        self.runtime = Runtime(
            node=folder.name,
            role="site" if compute else "federation",
            site="ALPHA" if compute else "",
            service="images",
            data=folder / "data",
            run=folder / "run",
            listener=None if compute else Listener("127.0.0.1", port, f"https://localhost:{port}"),
            clock=self.clock,
            tasks=self.tasks,
            trust=self.trust,
            vomsdir=folder / "vomsdir",
            judge=make_judge(pki.certificates, folder / "vomsdir"),
            host=HostCredential(pki.hostcert, pki.hostkey),
            http=Client(ssl_context=outbound.current),
            compute=compute,
        )
        self.assembly = assemble(convert(settings, Settings, source="test"), self.runtime)

    async def start(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self.assembly.stop)
        stack.push_async_callback(self.tasks.stop)
        await self.assembly.start()
        if self.runtime.listener is not None:
            public, _ = await serve_public(self.assembly, self.runtime, self.tls.context)
            stack.push_async_callback(public.stop, 1.0)
        admin = await serve_admin(self.assembly, self.runtime)
        stack.push_async_callback(admin.stop, 1.0)


@dataclass
class World:
    """The two nodes, running in a thread of their own."""

    pki: Pki
    folder: Path
    url: str
    loop: asyncio.AbstractEventLoop
    publisher: Node
    site: Node
    compute: Site

    def run(self, *arguments: str, user: str | None = None) -> Result:
        environment = {"X509_CERT_DIR": str(self.pki.certificates), "X509_USER_PROXY": "", "SKYFED_NODE": ""}
        if user:
            environment |= {
                "X509_USER_CERT": str(self.pki.usercert(user)),
                "X509_USER_KEY": str(self.pki.userkey(user)),
            }
        return CliRunner().invoke(image, list(arguments), env=environment)

    def json(self, *arguments: str, user: str | None = None) -> Any:
        result = self.run(*arguments, "--json", user=user)
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.stdout)

    def upload_file(self, size: int = 1 << 26) -> str:
        path = self.folder / "tiny.qcow2"
        path.write_bytes(qcow2(size))
        return str(path)

    def until_offered(self, title: str) -> None:
        """Return when the site offers the image; the catalogue tells."""

        async def wait() -> None:
            changes = self.compute.service.catalogue_changes
            while True:
                version = changes.version
                if title in [i.title for i in self.compute.service.catalogue("demo.skyfed").images]:
                    return
                await changes.wait(version)

        asyncio.run_coroutine_threadsafe(asyncio.wait_for(wait(), PATIENCE), self.loop).result(PATIENCE + 1)

    def idle(self) -> None:
        """Return when the site's task has finished a look."""

        async def wait() -> None:
            while next(t for t in self.site.tasks.status() if t.name == TASK).state != "waiting":
                await asyncio.sleep(0.02)

        asyncio.run_coroutine_threadsafe(asyncio.wait_for(wait(), PATIENCE), self.loop).result(PATIENCE + 1)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def world(pki: Pki, tmp_path: Path) -> Iterator[World]:
    port = free_port()
    url = f"https://localhost:{port}"
    robot = endorser(pki.robot)
    lists = {n: {"vo": n, "title": f"Images of {n}"} for n in ("demo.skyfed", "ops")}
    publishing = {
        "lists": lists,
        "endorser_cert": str(pki.usercert("robot")),
        "endorser_key": str(pki.userkey("robot")),
        "uploaders": ["/DC=skyfed/DC=demo/OU=people/CN=alice"],
    }
    following = {
        "subscriptions": {"demo": {"url": f"{url}/lists/demo.skyfed", "endorsers": [{"dn": robot.dn, "ca": robot.ca}]}},
        "poll_seconds": 3600.0,
    }
    ready: Future[World] = Future()
    done = threading.Event()

    async def main() -> None:
        folder = tmp_path / "compute"
        folder.mkdir()
        try:
            async with AsyncExitStack() as stack:
                compute = await Site(folder, clock=SystemClock()).start()
                stack.push_async_callback(compute.stop)
                publisher = Node(tmp_path / "federation", pki, publishing, port=port)
                await publisher.start(stack)
                site = Node(tmp_path / "alpha", pki, following, compute=compute.service)
                await site.start(stack)
                loop = asyncio.get_running_loop()
                ready.set_result(World(pki, tmp_path, url, loop, publisher, site, compute))
                await asyncio.to_thread(done.wait)
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        yield ready.result(PATIENCE)
    finally:
        done.set()
        thread.join()


def test_an_administrator_publishes_and_a_site_offers(world: World) -> None:
    node = ("--node", str(world.publisher.folder))
    publish = (
        "publish",
        world.upload_file(),
        "--title",
        "Tiny Linux",
        "--os-name",
        "Tiny",
        "--vo",
        "demo.skyfed",
        *node,
    )
    published = world.json(*publish)
    assert (published["list"], published["version"]) == ("demo.skyfed", "0.0.1")
    assert world.json("lists", *node)[0]["images"][0]["identifier"] == published["identifier"]

    world.idle()
    world.json("refresh", "--node", str(world.site.folder))
    world.until_offered("Tiny Linux")
    world.idle()
    (subscription,) = world.json("subscriptions", "--node", str(world.site.folder))
    assert (subscription["state"], subscription["images"][0]["state"]) == ("ok", "pooled")
    events = world.json("events", "--node", str(world.site.folder))
    assert events[0]["kind"] == "image-pooled"
    text = world.run("status", "--node", str(world.site.folder)).output
    assert "pooled" in text
    assert "Tiny Linux 0.0.1" in text


def test_anybody_reads_and_verifies_the_list(world: World) -> None:
    world.json(
        "publish", world.upload_file(), "--title", "Tiny", "--list", "ops", "--node", str(world.publisher.folder)
    )
    url = f"{world.url}/lists/ops"
    assert "Tiny" in world.run("list", "--list-url", url).output
    identifier = world.json("list", "--list-url", url)["hv:images"][0]["hv:image"]["dc:identifier"]
    assert world.json("show", identifier, "--list-url", url)["dc:title"] == "Tiny"
    assert world.json("show", "Tiny", "--list-url", url)["dc:identifier"] == identifier
    verdict = world.json("verify", url)
    assert (verdict["ok"], verdict["images"]) == (True, 1)


def test_verify_says_why_not_and_ends_with_1(world: World) -> None:
    path = world.folder / "list"
    anonymous = Client(ssl_context=ClientTls(world.site.trust, SystemClock()).current)
    path.write_bytes(anonymous.request("GET", f"{world.url}/lists/ops").body.replace(b"0.0.1", b"0.0.9"))
    result = world.run("verify", str(path), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["code"] == "digest_mismatch"
    assert json.loads(result.stdout)["number"] == 11


def test_an_endorser_publishes_over_the_network_and_another_may_not(world: World) -> None:
    command = ("publish", world.upload_file(), "--title", "Tiny", "--vo", "ops", "--to", world.url)
    published = world.json(*command, user="alice")
    assert published["list"] == "ops"
    refused = world.run(*command, user="bob")
    assert isinstance(refused.exception, Forbidden)
    assert refused.exception.code == "not_endorser"
    banned = world.run(*command, user="revoked")
    assert isinstance(banned.exception, SkyfedError | Unavailable)
    assert "revoked" in str(banned.exception)


def test_a_withdrawn_image_leaves_the_site(world: World) -> None:
    node = ("--node", str(world.publisher.folder))
    world.json("publish", world.upload_file(), "--title", "Tiny", "--vo", "demo.skyfed", *node)
    world.idle()
    world.json("refresh", "--node", str(world.site.folder))
    world.until_offered("Tiny")
    assert "0 images" in world.run("withdraw", "tiny", "--list", "demo.skyfed", *node).output
    world.idle()
    world.json("refresh", "--node", str(world.site.folder))

    async def gone() -> None:
        changes = world.compute.service.catalogue_changes
        while world.compute.service.catalogue("demo.skyfed").images:
            await changes.wait(changes.version)

    asyncio.run_coroutine_threadsafe(asyncio.wait_for(gone(), PATIENCE), world.loop).result(PATIENCE + 1)


def test_the_list_to_publish_into_must_be_clear(world: World) -> None:
    result = world.run("publish", world.upload_file(), "--title", "Tiny", "--node", str(world.publisher.folder))
    assert isinstance(result.exception, SkyfedError)
    assert "demo.skyfed (VO demo.skyfed), ops (VO ops)" in str(result.exception)


def test_both_services_say_how_they_are(world: World) -> None:
    def health(node: Node) -> Any:
        return asyncio.run_coroutine_threadsafe(node.assembly.health(), world.loop).result(PATIENCE)

    assert health(world.publisher).ok
    assert health(world.publisher).detail == "0 images in 2 lists"
    world.idle()
    assert health(world.site).ok


def test_a_site_whose_list_host_is_down_asks_again_in_seconds_and_says_so(pki: Pki, tmp_path: Path) -> None:
    robot = endorser(pki.robot)
    subscription = {"url": f"https://localhost:{free_port()}/lists/x", "endorsers": [{"dn": robot.dn, "ca": robot.ca}]}

    async def story() -> None:
        (tmp_path / "compute").mkdir()
        async with AsyncExitStack() as stack:
            compute = await Site(tmp_path / "compute", clock=SystemClock()).start()
            stack.push_async_callback(compute.stop)
            settings = {"subscriptions": {"demo": subscription}, "poll_seconds": 3600.0}
            node = Node(tmp_path / "site", pki, settings, compute=compute.service)
            await node.start(stack)

            async def looked_after(moment: datetime | None) -> datetime:
                while (last := node.tasks.status()[0].last_success) == moment or last is None:
                    await asyncio.sleep(0.02)
                return last

            async with asyncio.timeout(PATIENCE):
                first = await looked_after(None)
                health = await node.assembly.health()
                assert not health.ok
                assert re.fullmatch(
                    r"0 of 0 images from 1 lists; demo: download_failed; next try in [0-5] s", health.detail
                )
                assert 4 < (await looked_after(first) - first).total_seconds() < 15

    asyncio.run(story())
