"""The top level: sites come, change, fall silent and go, and the tree says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from infosys import sample
from infosys.conftest import free_port, ldapsearch, running, server, serving
from skyfed.core.clock import FixedClock
from skyfed.core.errors import Forbidden, NotFound, TimedOut, TooLarge, Unavailable
from skyfed.infosys import aggregate
from skyfed.infosys.directory import Directory
from skyfed.infosys.names import Dn
from skyfed.infosys.slapd import Slapd
from skyfed.infosys.sources import FetchLimits, fetch
from skyfed.infosys.top import ListedSite, TopLevel

pytestmark = pytest.mark.peer


class Registry:
    """A registry that says what it is told to, or nothing."""

    def __init__(self, **urls: str) -> None:
        self.urls = urls
        self.down = False

    def __call__(self) -> list[ListedSite]:
        if self.down:
            raise Unavailable("the registry is down")
        return [ListedSite(name, url) for name, url in self.urls.items()]


def top_level(folder: Path, registry: Registry, clock: FixedClock, **options: Any) -> tuple[Slapd, Directory, TopLevel]:
    slapd = server(folder / "slapd")
    directory = Directory(slapd, clock, hostname="top.example.org")
    values: dict[str, Any] = {
        "cache": folder / "sites",
        "clock": clock,
        "permits": lambda _: True,
        "keep": timedelta(hours=12),
        "limits": FetchLimits(seconds=10),
    }
    return slapd, directory, TopLevel(directory, registry, **(values | options))


@contextlib.asynccontextmanager
async def site(folder: Path, name: str, **changes: Any) -> AsyncIterator[tuple[str, Directory]]:
    """A site's own server; its address as an old registry writes it."""
    async with serving(folder / name, sample.entries(name, **changes)) as (slapd, directory):
        yield f"{slapd.url}/mds-vo-name={name},o=grid", directory


async def state(slapd: Slapd, name: str) -> str:
    found = await ldapsearch(
        slapd,
        "-b",
        f"GLUE2DomainID={name},GLUE2GroupID=grid,o=glue",
        "(objectClass=GLUE2ComputingEndpoint)",
        "GLUE2EndpointHealthState",
    )
    return found.stdout.rpartition("GLUE2EndpointHealthState: ")[2].strip()


def test_sites_of_the_registry_are_one_tree(tmp_path: Path) -> None:
    async def check() -> None:
        clock = FixedClock(sample.NOW)
        async with site(tmp_path, "ALPHA") as (alpha, _), site(tmp_path, "BETA", images=5) as (beta, beta_directory):
            registry = Registry(ALPHA=alpha, BETA=beta, GAMMA="not an address", LIAR=alpha)
            slapd, directory, top = top_level(tmp_path, registry, clock)
            await top.start()
            async with running(slapd):
                first = await top.refresh()
                assert first.added == len(directory.tree) - 3
                assert (await state(slapd, "ALPHA"), await state(slapd, "BETA")) == ("ok", "ok")
                status = {s.site: s for s in top.status()}
                assert "no address of a site's information server" in status["GAMMA"].error
                # A site that is listed with somebody else's server gets none of its entries.
                assert (status["LIAR"].entries, status["ALPHA"].error) == (0, "")

                assert (await top.refresh()).added == 0
                before = directory.tree[Dn.parse("GLUE2DomainID=BETA,GLUE2GroupID=grid,o=glue")]
                await beta_directory.publish(sample.entries("BETA", images=6))
                second = await top.refresh()
                assert (second.added, second.modified, second.deleted) == (1, 0, 0)
                assert directory.tree[before.dn] is before

                del registry.urls["BETA"]
                assert (await top.refresh()).deleted == status["BETA"].entries + 1
                assert not list((tmp_path / "sites" / "copies").glob("BETA*"))

    asyncio.run(check())


def test_a_dead_site_stays_for_a_time_with_states_unknown_and_comes_back(tmp_path: Path) -> None:
    async def check() -> None:
        clock = FixedClock(sample.NOW)
        registry = Registry()
        slapd, directory, top = top_level(tmp_path, registry, clock)
        await top.start()
        async with running(slapd):
            async with site(tmp_path, "ALPHA") as (alpha, _):
                registry.urls["ALPHA"] = alpha
                await top.refresh()
                entries = len(directory.tree)
            clock.advance(3600)
            silent = await top.refresh()
            assert (silent.total, silent.deleted) == (entries, 0)
            assert await state(slapd, "ALPHA") == "unknown"
            assert top.status()[0].stale
            clock.advance(60)
            assert (await top.refresh()).modified == 0
            clock.advance(12 * 3600)
            assert (await top.refresh()).total == 3
            async with site(tmp_path / "again", "ALPHA") as (alpha, _):
                registry.urls["ALPHA"] = alpha
                await top.refresh()
                assert await state(slapd, "ALPHA") == "ok"

    asyncio.run(check())


def test_a_restart_serves_the_last_entries_at_once_and_a_dead_registry_changes_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        clock = FixedClock(sample.NOW)
        async with site(tmp_path, "ALPHA") as (alpha, _):
            registry = Registry(ALPHA=alpha)
            slapd, _, top = top_level(tmp_path, registry, clock)
            await top.start()
            async with running(slapd):
                await top.refresh()
            registry.down = True
            slapd, directory, top = top_level(tmp_path, registry, clock)
            await top.start()
            async with running(slapd):
                assert await state(slapd, "ALPHA") == "unknown"
                await top.refresh()
                assert top.registry_error == "the registry is down"
                assert await state(slapd, "ALPHA") == "ok"
        (tmp_path / "sites" / "copies" / "ALPHA.ldif").write_text("torn")
        slapd, directory, top = top_level(tmp_path, registry, clock)
        await top.start()
        assert len(directory.tree) == 3

    asyncio.run(check())


def test_a_source_is_bounded_in_every_way(tmp_path: Path) -> None:
    async def check() -> None:
        async with site(tmp_path, "ALPHA") as (alpha, _):
            source = aggregate.source(alpha)
            assert b"GLUE2DomainID=ALPHA" in await fetch(source, FetchLimits(), lambda _: True)
            # localhost may be ::1 first, where nobody listens.
            by_name = aggregate.Source("localhost", source.port, source.base)
            assert b"GLUE2DomainID=ALPHA" in await fetch(by_name, FetchLimits(), lambda _: True)
            with pytest.raises(TooLarge, match="more than 1000 bytes"):
                await fetch(source, FetchLimits(bytes=1000), lambda _: True)
            with pytest.raises(TooLarge, match="more than 5 entries"):
                await fetch(source, FetchLimits(entries=5), lambda _: True)
            with pytest.raises(Forbidden, match="may not connect"):
                await fetch(source, FetchLimits(), lambda _: False)
            nowhere = aggregate.Source(source.host, source.port, Dn.parse("GLUE2DomainID=-b,o=glue"))
            with pytest.raises(NotFound, match="nothing below"):
                await fetch(nowhere, FetchLimits(), lambda _: True)
        with pytest.raises(Unavailable):
            await fetch(aggregate.Source("127.0.0.1", free_port(), source.base), FetchLimits(), lambda _: True)
        with pytest.raises(Unavailable, match="has no address"):
            await fetch(aggregate.Source("no.such.host.invalid", 2170, source.base), FetchLimits(), lambda _: True)

    asyncio.run(check())


def test_a_source_that_never_answers_costs_its_time_and_no_more() -> None:
    async def check() -> None:
        silent = await asyncio.start_server(lambda _r, _w: asyncio.Event().wait(), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        source = aggregate.Source("127.0.0.1", port, Dn.parse("o=glue"))
        with pytest.raises((TimedOut, Unavailable)):
            await fetch(source, FetchLimits(seconds=1.0), lambda _: True)
        silent.close()

    asyncio.run(check())
