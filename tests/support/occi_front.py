"""A site's OCCI front door over the compute service on the simulated engine, called in the process."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from skyfed.compute.model import Image
from skyfed.identity.mapping import Target
from skyfed.identity.principal import Membership
from skyfed.identity.verdict import Verdict
from skyfed.occi import answers
from skyfed.occi.assembly import Settings, build
from skyfed.web.errors import Boundary
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


def play(
    directory: Path, story: Story, *, settings: Settings | None = None, url: str = URL, image: str = "debian-12"
) -> None:
    """Run `story` over a started site with one image and its OCCI front door."""

    async def whole() -> None:
        site = Site(directory, clock=HandClock())
        try:
            await site.start()
            front = Front(site, settings or Settings(vos={"demo.skyfed": Target(project="demo")}), url)
            front.image = await site.image(image)
            names = front.assembly.app._service.names
            front.os_tpl = names.os_tpl_scheme + front.image.os_tpl_term
            front.resource_tpl = names.resource_tpl_scheme + "tiny"
            await story(front)
        finally:
            await site.stop()

    asyncio.run(asyncio.wait_for(whole(), 60))
