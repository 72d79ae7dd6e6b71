"""The compute service as a node runs it: administration API and health."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from skyfed.compute.assembly import Settings, assemble
from skyfed.compute.engines.simulated import SimulatedEngine
from skyfed.compute.http import admin_routes
from skyfed.compute.service import ComputeService
from skyfed.core.errors import Invalid, Unavailable
from skyfed.core.settings import convert, explain
from skyfed.core.tasks import Supervisor
from skyfed.web.front import admin_app
from skyfed.web.runtime import Runtime
from support.asgi import acall
from support.compute_site import HandClock, Run, Site, within


def runtime(directory: Path, clock: HandClock, site: str = "ALPHA") -> Runtime:
    """What the compute service uses of a Runtime."""
    found = SimpleNamespace(site=site, data=directory / "data", clock=clock, tasks=Supervisor(clock))
    return cast(Runtime, found)


def test_it_starts_offers_its_service_and_tells_its_health(tmp_path: Path, clock: HandClock) -> None:
    async def story() -> None:
        around = runtime(tmp_path, clock)
        engine = SimulatedEngine(clock=clock)
        assembly = assemble(Settings(), around, engine)
        try:
            await assembly.start()
            service = assembly.offers
            assert isinstance(service, ComputeService)
            await within(service.synced())
            assert (await assembly.health()).detail == "0 machines, 0 images on simulated 1 (none)"
            engine.fail("list", Unavailable("the host is on fire", code="engine_down"), times=100)
            with pytest.raises(Unavailable):
                await service._reconciler.reconcile()
            health = await assembly.health()
            assert not health.ok
            assert "the host is on fire" in health.detail
        finally:
            await around.tasks.stop()
            await assembly.stop()

    asyncio.run(story())


def test_a_compute_service_needs_a_site_name(tmp_path: Path, clock: HandClock) -> None:
    with pytest.raises(Invalid, match=r"node\.site"):
        assemble(Settings(), runtime(tmp_path, clock, site=""), SimulatedEngine(clock=clock))


def test_an_administrator_sees_machines_images_engine_and_usage(run: Run) -> None:
    async def story(site: Site) -> None:
        image = await site.image()
        vm = await site.running(image)

        app = admin_app(admin_routes(site.service), service="compute", clock=site.clock)

        async def ask(path: str, method: str = "GET") -> Any:
            answer = await acall(app, method, path)
            assert answer.status in (200, 204), answer.text
            return msgspec.json.decode(answer.body) if answer.body else None

        assert [(one["id"], one["observed"]) for one in await ask("/vms")] == [(vm.id, "active")]
        assert (await ask(f"/vms/{vm.id}"))["owner"]["vo"] == "demo.skyfed"
        assert (await ask("/images"))[0]["os_tpl_term"] == image.os_tpl_term
        engine = await ask("/engine")
        assert (engine["ok"], engine["engine"], engine["unknown_guests"]) == (True, "simulated", [])
        assert engine["capabilities"]["network_counters"]
        assert (await ask("/capacity"))["used"]["vms"] == 1
        usage = await ask(f"/usage?since=0&limit=2&vm={vm.id}")
        assert [event["new"] for event in usage] == ["pending", "building"]
        assert (await acall(app, "GET", f"/vms/{vm.id}/console?tail=9")).body == b"ne boot 1\n"[-9:]
        await ask(f"/vms/{vm.id}", "DELETE")
        await site.gone(vm.id)
        await ask(f"/images/{image.id}", "DELETE")
        assert site.service.catalogue().images == ()
        assert (await acall(app, "GET", "/vms/none")).status == 404
        assert (await acall(app, "GET", "/usage?limit=-1")).status == 400

    run(story)


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(Invalid, match="cores"):
        convert({"flavours": {"x": {"cores": 0, "memory_mib": 128}}}, Settings, source="node.toml")
    with pytest.raises(Invalid, match="engine"):
        convert({"engine": "vmware"}, Settings, source="node.toml")
    chosen = convert({"flavours": {"x": {"cores": 2, "memory_mib": 256}}}, Settings, source="node.toml")
    assert chosen.flavours["x"].flavour("x").title == "2 × core, 256 MiB memory, 0 GiB disk"


def test_every_setting_is_explained() -> None:
    assert [line.key for line in explain(Settings()) if not line.description] == []


def test_the_migrations_make_what_the_tables_say(run: Run) -> None:
    async def story(site: Site) -> None:
        assert await asyncio.to_thread(site.db.drift) == []

    run(story)
