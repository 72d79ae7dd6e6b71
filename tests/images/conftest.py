"""A publisher on a real listener, and a site that subscribes to it with the compute service on the simulated engine."""

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from skyfed.core.clock import FixedClock
from skyfed.core.http import Client
from skyfed.core.sql import Database
from skyfed.core.tasks import Supervisor
from skyfed.images import http
from skyfed.images.download import Downloads
from skyfed.images.evaluate import Policy
from skyfed.images.files import FileStore
from skyfed.images.inspection import InspectionLimits
from skyfed.images.model import Description, Endorser, PublishedImage, SubscribedImage, Subscription
from skyfed.images.publisher import ListDefinition, Publisher
from skyfed.images.subscriber import Subscriber, SubscriptionTerms
from skyfed.images.tables import metadata
from skyfed.pki import names
from skyfed.pki.files import Credential
from support.compute_site import Site
from support.pki import NOW, Pki, copy_pki
from support.web import serving

LIMITS = InspectionLimits(max_virtual_bytes=1 << 33)
UPLOADER = "/DC=skyfed/DC=demo/OU=people/CN=alice"


def database(path: Path) -> Database:
    return Database(f"sqlite:///{path}", name="images", metadata=metadata, migrations="skyfed.images.migrations")


def qcow2(size: int = 1 << 26, **changes: int) -> bytes:
    """A qcow2 version 3 header (QEMU's docs/interop/qcow2.txt) of an empty disk of `size` bytes, padded to a cluster."""
    values = {
        "version": 3, "backing_offset": 0, "backing_size": 0, "cluster_bits": 16, "crypt": 0, "l1": 1, "l1_offset": 0x30000,
        "refcount_offset": 0x10000, "refcount_clusters": 1, "snapshots": 0, "snapshots_offset": 0, "incompatible": 0,
    } | changes  # fmt: skip
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", values["version"], values["backing_offset"], values["backing_size"], values["cluster_bits"], size,
        values["crypt"], values["l1"], values["l1_offset"], values["refcount_offset"], values["refcount_clusters"],
        values["snapshots"], values["snapshots_offset"], values["incompatible"], 0, 0, 4, 104,
    )  # fmt: skip
    return head + bytes(65536 - len(head))


@dataclass
class Faults:
    """What goes wrong on the wire: bodies cut after so many bytes, replaced, or answered with a status; and what was asked."""

    cut_after: int | None = None
    stall: threading.Event | None = None  # what was cut off stays open until this is set
    replace: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    redirect: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class Wire:
    """An ASGI application in front of the real one."""

    def __init__(self, faults: Faults) -> None:
        self.app: Any = None
        self._faults = faults

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self._faults.asked.append((path, {k.decode(): v.decode() for k, v in scope["headers"]}))
        status = next((s for p, s in self._faults.status.items() if path.startswith(p)), None)
        body = next((b for p, b in self._faults.replace.items() if path.startswith(p)), None)
        if self._faults.redirect and path.startswith("/files"):
            status, body = 302, b""
        if status is not None or body is not None:
            headers = [(b"location", self._faults.redirect.encode())] if self._faults.redirect else []
            await send({"type": "http.response.start", "status": status or 200, "headers": headers})
            await send({"type": "http.response.body", "body": body or b""})
            return
        await self.app(scope, receive, self._cutting(send) if path.startswith("/files") else send)

    def _cutting(self, send: Any) -> Any:
        left = self._faults.cut_after
        if left is None:
            return send

        async def cut(message: Any) -> None:
            nonlocal left
            if message["type"] == "http.response.body":
                assert left is not None
                if left <= 0:
                    if self._faults.stall is not None:
                        await asyncio.to_thread(self._faults.stall.wait)
                    raise ConnectionError("cut off by the test")
                message = {**message, "body": message["body"][:left], "more_body": True}
                left -= len(message["body"])
            await send(message)

        return cut


@dataclass
class Shop:
    """A publisher of the lists `demo.skyfed` and `ops`."""

    pki: Pki
    publisher: Publisher
    files: FileStore
    db: Database
    app: Any
    url: str
    clock: FixedClock
    faults: Faults
    folder: Path

    def publish(
        self, content: bytes, title: str = "Tiny Linux", to: str = "demo.skyfed", **changes: Any
    ) -> PublishedImage:
        path = self.folder / "upload.img"
        path.write_bytes(content)
        return self.publisher.publish(to, Description(title=title, **changes), self.files.add(path), UPLOADER)

    def list_url(self, name: str = "demo.skyfed") -> str:
        return f"{self.url}/lists/{name}"


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def own(pki: Pki, tmp_path: Path) -> Pki:
    """A CA that the test may change."""
    return copy_pki(pki, tmp_path / "pki")


@pytest.fixture
def shop(tmp_path: Path, own: Pki, clock: FixedClock) -> Iterator[Shop]:
    faults = Faults()
    wire = Wire(faults)
    db = database(tmp_path / "shop.db")
    db.open()
    files = FileStore(tmp_path / "files", LIMITS, max_bytes=1 << 24)
    with serving(wire) as running:
        url = f"http://127.0.0.1:{running.port}"
        publisher = Publisher(
            db,
            files,
            {
                "demo.skyfed": ListDefinition("demo.skyfed", "Demo images", "Images for everybody", ""),
                "ops": ListDefinition("ops", "Operators' images", "Images for monitoring", ""),
            },
            credential=lambda: own.robot,
            email="images@example.org",
            lifetime=timedelta(days=28),
            public_url=url,
            clock=clock,
        )
        publisher.open()
        publisher.renew()
        wire.app = Starlette(routes=http.publisher_routes(publisher, files, (UPLOADER,)))
        yield Shop(own, publisher, files, db, wire.app, url, clock, faults, tmp_path)
    db.close()


def endorser(credential: Credential) -> Endorser:
    certificate = credential.certificate
    return Endorser(dn=names.oneline(certificate.subject), ca=names.oneline(certificate.issuer))


class Subscribing:
    """A site's subscriber. `cycle` runs one look at all lists; `restart` makes a new one over the same data, as after a crash."""

    def __init__(self, shop: Shop, folder: Path, site: Site, **terms: Any) -> None:
        self.shop = shop
        self.site = site
        self.folder = folder
        self.db = database(folder / "subscriber.db")
        policy = Policy(endorsers=(endorser(shop.pki.robot),), **terms.pop("policy", {}))
        self.terms = {"demo": SubscriptionTerms(url=shop.list_url(), policy=policy, **terms)}
        self.trust = shop.pki.trust(shop.clock)
        self.limits = LIMITS
        self.restart()

    def restart(self) -> None:
        client = Client()
        self.downloads = Downloads(self.folder / "downloads", client, deadline=30.0)
        self.downloads.open()
        self.subscriber = Subscriber(
            self.db,
            self.downloads,
            self.terms,
            pool=self.site.service,
            trust=self.trust,
            http=client,
            limits=self.limits,
            clock=self.shop.clock,
            tasks=Supervisor(self.shop.clock),
        )

    async def cycle(self) -> Subscription:
        self.trust.refresh()
        await self.subscriber.cycle()
        return (await self.subscriber.overview())[0]

    async def image(self) -> SubscribedImage:
        """The only image there is, after a cycle."""
        (found,) = (await self.cycle()).images
        return found

    def offered(self, vo: str = "demo.skyfed") -> list[str]:
        """Titles that members of `vo` may start."""
        return [image.title for image in self.site.service.catalogue(vo).images]


Story = Callable[[Subscribing], Coroutine[Any, Any, None]]


@pytest.fixture
def play(shop: Shop, tmp_path: Path) -> Callable[..., None]:
    """Run a story with a subscriber, in an event loop of its own."""

    def run(story: Story, **terms: Any) -> None:
        async def whole() -> None:
            folder = tmp_path / "site"
            folder.mkdir()
            site = await Site(folder, clock=shop.clock).start()
            subscribing = Subscribing(shop, folder, site, **terms)
            subscribing.db.open()
            try:
                await story(subscribing)
            finally:
                subscribing.db.close()
                await site.stop()

        asyncio.run(whole())

    return run
