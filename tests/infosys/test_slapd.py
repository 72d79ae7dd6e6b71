"""Our trees on a real OpenLDAP server, asked with the queries of real clients."""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from infosys import sample
from infosys.conftest import free_port, ldapsearch, running, server, serving
from skyfed.core.clock import SystemClock
from skyfed.core.errors import Unavailable
from skyfed.infosys import aggregate, formats, glue2, profile
from skyfed.infosys.client import InfosysClient
from skyfed.infosys.directory import Directory
from skyfed.infosys.model import Entry
from skyfed.infosys.names import GLUE, GRID, Dn
from skyfed.infosys.slapd_config import SlapdConfig, render
from support.peers import need
from support.vectors import vectors

pytestmark = pytest.mark.peer

SITE = "GLUE2DomainID=ALPHA,o=glue"
TOP = "GLUE2DomainID=ALPHA,GLUE2GroupID=grid,o=glue"


def top_entries(*sites: str, images: int = 2) -> list[Entry]:
    entries = [Entry(GLUE, [("objectClass", ("organization",)), ("o", ("glue",))]), glue2.group(GLUE, "grid")]
    for site in sites:
        entries += aggregate.adopt(site, sample.entries(site, images=images), sample.NOW).entries
    return entries


def test_users_queries_give_what_they_expect(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, top_entries("ALPHA", "BETA")) as (slapd, directory):
            assert directory.refusals == ()

            async def ask(*argv: str) -> str:
                found = await ldapsearch(slapd, *argv)
                assert found.returncode == 0, found.stderr
                return found.stdout

            grid = "GLUE2GroupID=grid,o=glue"
            text = await ask("-b", grid, "GLUE2ServiceType=IaaS", "GLUE2ServiceAdminDomainForeignKey")
            assert text.count("GLUE2ServiceAdminDomainForeignKey: ") == 2
            occi = "(&(objectClass=GLUE2Endpoint)(GLUE2EndpointInterfaceName=OCCI))"
            assert "GLUE2EndpointURL: https://cloud.example.org:11443" in await ask(
                "-b", grid, occi, "GLUE2EndpointURL"
            )
            image = "(&(objectClass=GLUE2ApplicationEnvironment)(GLUE2ApplicationEnvironmentRepository=*/2:1/*))"
            assert (await ask("-b", grid, image, "1.1")).count("dn:") == 2
            vo = "(&(objectClass=GLUE2Policy)(GLUE2PolicyRule=VO:demo.skyfed))"
            assert (await ask("-b", TOP, vo, "1.1")).count("dn:") == 2
            assert "8192" in await ask("-b", TOP, "(GLUE2ExecutionEnvironmentMainMemorySize>=8000)")
            assert await ask("-b", grid, "(GLUE2EndpointInterfaceName=occi)", "1.1") == ""
            assert await ask("-b", grid, "(NoSuchAttr=1)", "1.1") == ""
            variant = await ask("-b", "glue2domainid=ALPHA, glue2groupid=grid, O=glue", "-s", "base", "1.1")
            assert variant == f"dn: {TOP}\n\n"
            alias = await ask("-b", "GLUE2GroupName=cloud,GLUE2DomainID=ALPHA,GLUE2GroupName=grid,o=glue", "-s", "base")
            assert "GLUE2GroupID: cloud" in alias
            paged = await ask("-E", "pr=2/noprompt", "-b", grid, "(objectClass=GLUE2ExecutionEnvironment)", "1.1")
            assert paged.count("dn:") == 4
            assert (await ldapsearch(slapd, "-z", "3", "-b", grid, "1.1")).returncode == 4
            missing = await ldapsearch(slapd, "-b", "GLUE2DomainID=NOPE,GLUE2GroupID=grid,o=glue")
            assert (missing.returncode, "Matched DN: GLUE2GroupID=grid,o=glue" in missing.stderr) == (32, True)

    asyncio.run(check())


def test_each_object_class_of_ginfo_is_found_with_its_parents_class(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, sample.entries()) as (slapd, _):
            for name in (
                "AccessPolicy",
                "AdminDomain",
                "ComputingManager",
                "ComputingShare",
                "Endpoint",
                "ExecutionEnvironment",
                "Location",
                "MappingPolicy",
                "Service",
                "Share",
                "Entity",
            ):
                found = await ldapsearch(slapd, "-b", "o=glue", f"(objectClass=GLUE2{name})", "1.1")
                assert found.stdout.count("dn:") > 0, name

    asyncio.run(check())


def test_the_server_answers_on_all_trees_and_lets_nobody_write(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, sample.entries()) as (slapd, directory):
            root = await ldapsearch(slapd, "-b", "", "-s", "base", "namingContexts", "supportedLDAPVersion")
            for part in ("o=glue", "o=grid", "o=infosys", "supportedLDAPVersion: 3"):
                assert part in root.stdout
            assert (await ldapsearch(slapd, "-P", "2", "-b", "o=grid", "1.1")).stdout.lower().count("dn:") == 2
            deleted = await asyncio.create_subprocess_exec(
                need("ldapdelete"), "-x", "-H", slapd.url, SITE, stderr=asyncio.subprocess.PIPE
            )
            _, said = await deleted.communicate()
            assert deleted.returncode == 8
            assert b"Strong" in said
            await directory.publish(sample.entries())
            stats = await ldapsearch(
                slapd,
                "-b",
                "o=infosys",
                "(|(objectClass=UpdateStats)(objectClass=InfoSystemStats))",
                "*",
                "modifyTimestamp",
            )
            assert f"TotalEntries: {len(sample.entries())}" in stats.stdout
            assert "modifyTimestamp: " in stats.stdout

    asyncio.run(check())


def test_an_update_writes_only_what_differs(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, top_entries("ALPHA")) as (slapd, directory):
            same = await directory.publish(top_entries("ALPHA"))
            assert (same.added, same.modified, same.deleted) == (0, 0, 0)
            more = await directory.publish(top_entries("ALPHA", "BETA", images=3))
            assert (more.modified, more.deleted, more.full_load) == (0, 0, False)
            less = await directory.publish(top_entries("BETA", images=1))
            alpha = aggregate.adopt("ALPHA", sample.entries("ALPHA", images=3), sample.NOW).entries
            assert (less.added, less.deleted) == (0, len(alpha) + 2)
            found = await ldapsearch(slapd, "-b", "o=glue", "(objectClass=GLUE2AdminDomain)", "1.1")
            assert found.stdout == "dn: GLUE2DomainID=BETA,GLUE2GroupID=grid,o=glue\n\n"
            assert less.failed_deletes == 0

    asyncio.run(check())


def test_many_new_entries_make_a_new_database_and_the_server_is_back_at_once(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, top_entries()) as (slapd, directory):
            before = slapd.pid
            stats = await directory.publish(top_entries("ALPHA", images=600))
            assert stats.full_load
            assert slapd.pid != before
            found = await ldapsearch(slapd, "-b", "o=glue", "(objectClass=GLUE2ApplicationEnvironment)", "1.1")
            assert found.stdout.count("dn:") == 600
            assert len(list(tmp_path.glob("db-*"))) == 1

    asyncio.run(check())


@pytest.mark.parametrize("full", [True, False])
def test_an_entry_that_the_server_refuses_costs_itself_and_what_hangs_below(tmp_path: Path, full: bool) -> None:
    async def check() -> None:
        bad = Dn.parse(f"GLUE2ServiceID=bad,{SITE}")
        wrong = [
            Entry(bad, [("objectClass", ("GLUE2Service",)), ("GLUE2ServiceID", ("bad",))]),
            Entry(Dn.of("GLUE2GroupID", "kid", bad), [("objectClass", ("GLUE2Group",)), ("GLUE2GroupID", ("kid",))]),
            Entry(Dn.parse(f"GLUE2ServiceID=odd,{SITE}"), [("objectClass", ("NoSuch",)), ("GLUE2ServiceID", ("odd",))]),
        ]
        good = sample.entries()
        first = [*good[:3], *wrong, *good[3:]] if full else good
        async with serving(tmp_path, first) as (slapd, directory):
            if not full:
                stats = await directory.publish([*good, *wrong])
                assert stats.failed_adds >= 2
            names = {name for name, _ in directory.refusals}
            assert {str(bad), f"GLUE2ServiceID=odd,{SITE}"} <= names
            assert any("GLUE2ServiceType" in reason for _, reason in directory.refusals)
            again = await directory.publish([*good, *wrong])
            assert (again.added, again.failed_adds, again.total) == (0, 0, len(good))
            found = await ldapsearch(slapd, "-b", "o=glue", "1.1")
            assert found.stdout.count("dn:") == len(good)

    asyncio.run(check())


def test_hostile_text_reaches_the_reader_as_text(tmp_path: Path) -> None:
    title = "x\ndn: GLUE2DomainID=VICTIM,o=glue\nobjectClass: GLUE2Domain\n"
    cloud = msgspec.structs.replace(
        sample.cloud(0), images=(sample.image(1, title=title, mixin='http://a/os#a,b+"c" \\d;<e>=f', description="é"),)
    )

    async def check() -> None:
        entries = profile.site_entries(sample.site(), cloud, sample.STAMP)
        async with serving(tmp_path, sample.entries()) as (slapd, directory):
            stats = await directory.publish(entries)
            assert (stats.failed_adds, directory.refusals) == (0, ())
            found = await ldapsearch(slapd, "-b", "o=glue", "(objectClass=GLUE2ApplicationEnvironment)")
            (image,) = formats.parse(found.stdout.encode()).entries
            assert image.first("GLUE2ApplicationEnvironmentDescription") == "é"
            assert (await directory.publish(sample.entries(images=0))).failed_deletes == 0
            assert (await ldapsearch(slapd, "-b", "GLUE2DomainID=VICTIM,o=glue")).returncode == 32

    asyncio.run(check())


def test_a_killed_server_comes_back_with_its_data_and_a_changed_one_is_made_right(tmp_path: Path) -> None:
    async def check() -> None:
        slapd = server(tmp_path)
        directory = Directory(slapd, SystemClock(), hostname="bdii.example.org")
        await directory.start(top_entries("ALPHA"))
        async with running(slapd):
            pid = slapd.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(Unavailable, match="slapd ended"):
                await _ended(slapd)
        async with running(slapd):
            found = await ldapsearch(slapd, "-b", TOP, "-s", "base", "1.1")
            assert found.stdout == f"dn: {TOP}\n\n"
            # Somebody removed an entry behind our back; the next change of it finds out.
            await slapd.apply(formats.write_delete(Dn.parse(f"GLUE2LocationID=location.ALPHA,{TOP}")))
            stats = await directory.publish(top_entries())
            assert stats.full_load
            assert (await ldapsearch(slapd, "-b", "o=glue", "1.1")).stdout.count("dn:") == 2

    asyncio.run(check())


async def _ended(slapd: object) -> None:
    """The failure of the task that runs the server."""
    for task in asyncio.all_tasks():
        if "Slapd.run" in repr(task.get_coro()):
            await asyncio.wait({task}, timeout=10)
            task.result()


def test_a_full_database_is_the_servers_fault_and_not_the_entries(tmp_path: Path) -> None:
    async def check() -> None:
        slapd = server(tmp_path, max_bytes=1 << 20)
        directory = Directory(slapd, SystemClock(), hostname="bdii.example.org")
        await directory.start(top_entries("ALPHA"))
        async with running(slapd):
            for images in (900, 150):  # a new database, and changes of the present one
                with pytest.raises(Unavailable, match="database_bytes"):
                    await directory.publish(top_entries("ALPHA", "BETA", images=images))
                assert directory.refusals == ()
            stats = await directory.publish(top_entries("ALPHA", "BETA"))
            assert (stats.full_load, stats.failed_adds) == (True, 0)
            assert len(list(tmp_path.glob("db-*"))) == 1

    asyncio.run(check())


def test_a_server_that_dies_within_a_batch_is_made_right_by_the_next(tmp_path: Path) -> None:
    async def check() -> None:
        slapd = server(tmp_path)
        directory = Directory(slapd, SystemClock(), hostname="bdii.example.org")
        await directory.start(top_entries("ALPHA", images=300))
        alpha = aggregate.adopt("ALPHA", sample.entries("ALPHA", images=300), sample.NOW).entries
        wanted = [*top_entries("BETA", images=300), *alpha]
        async with running(slapd):
            assert slapd.pid is not None
            publishing = asyncio.create_task(directory.publish(wanted))
            while not (tmp_path / "failed.ldif").exists():
                await asyncio.sleep(0.001)  # ldapmodify opens it when it begins, and tells nobody
            os.kill(slapd.pid, signal.SIGKILL)
            with pytest.raises(Unavailable):
                await publishing
        async with running(slapd):
            assert (await directory.publish(wanted)).full_load
            found = await ldapsearch(slapd, "-b", "o=glue", "(objectClass=GLUE2ApplicationEnvironment)", "1.1")
            assert found.stdout.count("dn:") == 600
            assert directory.refusals == ()

    asyncio.run(check())


def test_a_taken_port_is_said_to_be_taken(tmp_path: Path) -> None:
    async def check() -> None:
        port = free_port()
        listener = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", port)
        slapd = server(tmp_path, port)
        await slapd.load(sample.entries())
        with pytest.raises(Unavailable, match="slapd does not start"):
            async with running(slapd):
                pass
        listener.close()

    asyncio.run(check())


def test_a_researcher_finds_who_offers_an_image_to_the_vo(tmp_path: Path) -> None:
    async def check() -> None:
        entries = top_entries("ALPHA")
        beta = aggregate.adopt("BETA", sample.entries("BETA", vos=("ops",)), sample.NOW).entries
        async with serving(tmp_path, [*entries, *beta]) as (slapd, _):
            port = int(slapd.url.rpartition(":")[2])
            client = InfosysClient((("127.0.0.1", free_port()), ("127.0.0.1", port)))
            offers = await asyncio.to_thread(client.find, "demo.skyfed", image="image/2:1")
            assert [(o.site, o.image.id, o.policy_published) for o in offers] == [
                ("ALPHA", f"{sample.OS_TPL}image-2", True)
            ]
            assert [(f.cores, f.memory_mb, f.disk_gb) for f in offers[0].flavours] == [(1, 512, 1.0), (4, 8192, 20.5)]
            assert offers[0].endpoint_url == "https://cloud.example.org:11443"
            assert len(await asyncio.to_thread(client.find, "ops")) == 4
            assert await asyncio.to_thread(client.find, "demo") == ()
            assert await asyncio.to_thread(client.find, "ops", image="*)(objectClass=*") == ()
            sites = await asyncio.to_thread(client.sites)
            assert [(s.name, s.vos, s.images, s.total_cores) for s in sites] == [
                ("ALPHA", ("demo.skyfed", "ops"), 2, 64),
                ("BETA", ("ops",), 2, 64),
            ]

    asyncio.run(check())


def test_what_clients_search_by_is_indexed_and_the_database_may_grow(tmp_path: Path) -> None:
    """lmdb's own size is 10 MiB, and without an index every question reads the whole tree."""
    need("slapd")
    config = SlapdConfig(directory=tmp_path, socket=tmp_path / "s", host="127.0.0.1", port=2170)
    lines = render(config, tmp_path / "db").splitlines()
    indexed = {line.split()[1] for line in lines if line.startswith("index ")}
    assert indexed >= {
        "objectClass",
        "GLUE2EndpointInterfaceName",
        "GLUE2ApplicationEnvironmentAppName",
        "GLUE2ApplicationEnvironmentRepository",
        "GLUE2EntityName",
        "GLUE2PolicyRule",
        "GLUE2ServiceType",
        "GLUE2EndpointURL",
    }
    assert f"maxsize {1 << 30}" in lines


def test_the_recorded_top_level_tree_is_taken_and_found(tmp_path: Path) -> None:
    async def check() -> None:
        recorded = formats.parse((vectors("infosys") / "recorded" / "synthetic-top-1site.ldif").read_bytes()).entries
        async with serving(tmp_path, recorded) as (slapd, directory):
            assert directory.refusals == ()
            client = InfosysClient((("127.0.0.1", int(slapd.url.rpartition(":")[2])),))
            offers = await asyncio.to_thread(client.find, "vo01.example.org", image="Ubuntu")
            assert {o.site for o in offers} == {"SITE-0000"}
            assert len(offers) == 3

    asyncio.run(check())


def test_the_grid_suffix_is_where_sites_hang() -> None:
    assert str(GRID) == "GLUE2GroupID=grid,o=glue"
