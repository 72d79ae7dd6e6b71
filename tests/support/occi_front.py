"""A site's OCCI front door over the compute service on the simulated engine, called in the process."""

import asyncio
import re
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from skyfed.compute.model import Image
from skyfed.identity.mapping import Target
from skyfed.identity.principal import Membership
from skyfed.identity.verdict import Verdict
from skyfed.occi import answers
from skyfed.occi.assembly import Settings, build
from skyfed.web.access import Judge
from skyfed.web.errors import Boundary
from skyfed.web.front import front_door
from skyfed.web.server import Server
from support.asgi import Answer, acall, accepted
from support.compute_site import HandClock, Site

URL = "https://alpha.example.org:8443"
ROCCI = "rOCCI-core/4.3.6 rOCCI-api/4.3.14 OCCI/1.1 ruby-x86_64-linux-gnu/3.1.7p261"
INFRA = "http://schemas.ogf.org/occi/infrastructure"
KIND = f'Category: compute; scheme="{INFRA}#"; class="kind"\n'
Story = Callable[["Front"], Awaitable[None]]


def member(name: str = "Alice", vo: str = "demo.skyfed", *roles: str) -> Verdict:
    """The verdict on a proxy with an attribute certificate of `vo`."""
    fqans = (f"/{vo}", *(f"/{vo}/Role={role}" for role in roles))
    return accepted(f"/DC=org/DC=example/CN={name}", vos=(Membership(vo, fqans),))


class Front:
    """The application behind the error boundary, and the site under it."""

    def __init__(self, site: Site, settings: Settings, url: str) -> None:
        self.site = site
        self.settings = settings
        self.url = url
        assembly = self.assembly = build(settings, site.service, site="ALPHA", url=url)
        self.app = Boundary(assembly.app, service="occi", clock=site.clock, render=answers.error)
        self.image: Image
        self.os_tpl = ""
        self.resource_tpl = ""

    def again(self, **changes: Any) -> "Front":
        """Another front door over the same site, with other settings."""
        other = Front(self.site, msgspec.structs.replace(self.settings, **changes), self.url)
        other.image, other.os_tpl, other.resource_tpl = self.image, self.os_tpl, self.resource_tpl
        return other

    async def call(
        self,
        method: str,
        target: str,
        body: str | bytes = b"",
        *,
        who: Verdict | None = None,
        accept: str = "",
        content_type: str = "",
        agent: str = "",
        **headers: str,
    ) -> Answer:
        """One request, as Alice of demo.skyfed unless `who` says otherwise."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"accept": accept, "content-type": content_type, "user-agent": agent}
        sent |= {name: value for name, value in named.items() if value}
        data = body.encode() if isinstance(body, str) else body
        return await acall(self.app, method, target, body=data, headers=sent, verdict=who or member())

    def request(self, *lines: str) -> str:
        """A create request in text/plain: kind and both templates, then `lines`."""
        templates = "".join(category(one) for one in (self.os_tpl, self.resource_tpl))
        return KIND + templates + "".join(line + "\n" for line in lines)

    async def create(self, *lines: str, **options: Any) -> str:
        """The path of a new machine."""
        answer = await self.call("POST", "/compute/", self.request(*lines), **options)
        assert answer.status == 201, answer.text
        self.site.clock.advance(1)  # collections are in order of creation
        return answer.headers["location"].removeprefix(URL)

    async def active(self, *lines: str, **options: Any) -> str:
        """The path of a new machine that runs."""
        path = await self.create(*lines, **options)
        await self.state(path, "active")
        return path

    async def state(self, path: str, state: str) -> None:
        """Return when OCCI 1.2 shows the machine in `state`."""
        vm_id = path.rpartition("/")[2]
        states = {"active": "active", "inactive": "stopped", "error": "error"}
        await self.site.when(lambda: self.site.service.get(vm_id, None).observed == states[state], f"{path} {state}")


def category(type_id: str, cls: str = "mixin") -> str:
    """A Category line."""
    scheme, _, term = type_id.rpartition("#")
    return f'Category: {term}; scheme="{scheme}#"; class="{cls}"\n'


def attributes(answer: Answer) -> dict[str, str]:
    """The X-OCCI-Attribute lines of a text/plain answer, values as they stand there."""
    return dict(re.findall(r"(?m)^X-OCCI-Attribute: ([^=]+)=(.*)$", answer.text))


async def opened(site: Site, settings: Settings | None, url: str, image: str) -> Front:
    """The front door of a started site, with an image to start."""
    front = Front(site, settings or Settings(vos={"demo.skyfed": Target(project="demo")}), url)
    front.image = await site.image(image)
    names = front.assembly.app._service.names
    front.os_tpl = names.os_tpl_scheme + front.image.os_tpl_term
    front.resource_tpl = names.resource_tpl_scheme + "tiny"
    return front


def play(
    directory: Path, story: Story, *, settings: Settings | None = None, url: str = URL, image: str = "debian-12"
) -> None:
    """Run `story` over a started site with one image and its OCCI front door."""

    async def whole() -> None:
        site = Site(directory, clock=HandClock())
        try:
            await site.start()
            front = await opened(site, settings, url, image)
            await story(front)
        finally:
            await site.stop()

    asyncio.run(asyncio.wait_for(whole(), 60))


class Live:
    """A front door on a real listener, in a thread of its own: for clients that block. With `tls` and `judge` it is the
    whole thing; without them every request comes as `who`."""

    def __init__(self, directory: Path, *, tls: ssl.SSLContext | None = None, judge: Judge | None = None) -> None:
        self.who = member()
        self._tls = tls
        self._judge = judge
        self.url = ""
        self.front: Front
        self._directory = directory
        self._loop: asyncio.AbstractEventLoop
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="occi")

    def __enter__(self) -> "Live":
        self._thread.start()
        self._ready.result(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(20)

    def do(self, story: Story) -> None:
        """Run `story` on the site's own loop, and wait for it."""
        asyncio.run_coroutine_threadsafe(story(self.front), self._loop).result(20)  # type: ignore[arg-type]

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        site = Site(self._directory, clock=HandClock())
        server = Server(self._serve, service="occi", tls=self._tls)
        try:
            await site.start()
            port = await server.listen("127.0.0.1", 0)
            self.url = f"https://localhost:{port}" if self._tls else f"http://127.0.0.1:{port}"
            self.front = await opened(site, None, self.url, "debian-12")
            self._door = self._whole_door()
            self._ready.set_result(None)
            await self._done.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise
        finally:
            await server.stop(grace=1.0)
            await site.stop()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self._door(scope, receive, send)

    def _whole_door(self) -> Any:
        if self._judge is not None:
            return front_door(self.front.assembly, service="occi", judge=self._judge, clock=self.front.site.clock)

        async def known(scope: Any, receive: Any, send: Any) -> None:
            scope["skyfed.verdict"] = self.who
            await self.front.app(scope, receive, send)

        return known
