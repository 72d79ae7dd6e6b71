"""The compute service on PostgreSQL: the same life, quota and crash as on SQLite."""

import asyncio

import pytest

from skyfed.compute.model import Action, UsageStatus, VmState
from skyfed.compute.settings import LimitSettings
from skyfed.compute.usage import fold
from skyfed.core.errors import Forbidden
from support.compute_site import HandClock, Run, Site, owner, settings
from support.postgres import Postgres, postgres

pytestmark = pytest.mark.peer
__all__ = ["postgres"]


@pytest.fixture
def site(site: Site, postgres: Postgres) -> Site:
    site.url = postgres.database()
    return site


def test_a_machine_lives_is_adopted_and_dies(run: Run, clock: HandClock) -> None:
    async def story(site: Site) -> None:
        vm = await site.running(await site.image(), token="t")
        clock.advance(60)
        await site.crash()
        await site.start()
        assert (await site.create(await site.image(), token="t")).id == vm.id
        await site.service.act(vm.id, Action.STOP, owner())
        await site.until(vm.id, VmState.STOPPED)
        await site.service.delete(vm.id, owner())
        await site.gone(vm.id)
        summary = fold(await site.service.usage_events())
        assert (summary.wall_seconds, summary.status) == (60, UsageStatus.COMPLETED)
        assert await asyncio.to_thread(site.db.drift) == []

    run(story)


def test_the_quota_holds_against_parallel_creates(site: Site, run: Run) -> None:
    site.settings = settings(default_quota=LimitSettings(vms=5))

    async def story(site: Site) -> None:
        image = await site.image()
        results = await asyncio.gather(*(site.create(image) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(result, Forbidden) for result in results) == 15

    run(story)
