"""`./bench infosys`: a refresh of the top level with 30 simulated sites, against bare `slapadd -q` of the same LDIF.

A site has about 120 entries (100 images). One slapd plays all sites: each is read by its own search, as if it were elsewhere.
The first figure is the whole refresh of an empty top level (ask the registry, read 30 sites, check, rewrite, load, serve); the
peer loads the finished LDIF into an empty database with the same configuration. The others are refreshes with little to do.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from figures import emit, interleaved, progress

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from infosys import sample
from infosys.conftest import free_port
from skyfed.core.clock import SystemClock
from skyfed.infosys import formats
from skyfed.infosys.directory import Directory
from skyfed.infosys.model import Entry
from skyfed.infosys.names import GLUE, Dn
from skyfed.infosys.slapd import Slapd, program
from skyfed.infosys.slapd_config import SlapdConfig, render
from skyfed.infosys.top import ListedSite, TopLevel
from skyfed.infosys.tree import tree_of

SITES = 30
IMAGES = 100
ROUNDS = 5
CLOCK = SystemClock()


def sites(images_of_first: int = IMAGES) -> list[Entry]:
    """What the 30 sites publish, in one tree."""
    entries = [Entry(GLUE, [("objectClass", ("organization",)), ("o", ("glue",))])]
    for number in range(SITES):
        images = images_of_first if number == 0 else IMAGES
        entries += sample.entries(f"SITE-{number:02}", images=images)
    return sorted(tree_of(entries).values(), key=lambda entry: len(entry.dn))


@contextlib.asynccontextmanager
async def serving(slapd: Slapd) -> AsyncIterator[None]:
    task = asyncio.create_task(slapd.run())
    try:
        await slapd.ready()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def slapd_in(folder: Path) -> Slapd:
    folder.mkdir(parents=True)
    return Slapd(SlapdConfig(directory=folder, socket=folder / "s.ldapi", host="127.0.0.1", port=free_port()))


class Bench:
    """Our top level, again and again, over the same sites."""

    def __init__(self, folder: Path, loop: asyncio.Runner, source: Slapd) -> None:
        self.folder = folder
        self.loop = loop
        self.listed = [
            ListedSite(f"SITE-{n:02}", f"{source.url}/GLUE2DomainID=SITE-{n:02},o=glue") for n in range(SITES)
        ]
        self.ldif = folder / "same.ldif"
        self.rounds = 0

    def top(self) -> tuple[Slapd, Directory, TopLevel]:
        self.rounds += 1
        folder = self.folder / f"top-{self.rounds}"
        slapd = slapd_in(folder / "slapd")
        directory = Directory(slapd, CLOCK, hostname="top.example.org")
        top = TopLevel(
            directory,
            lambda: self.listed,
            cache=folder / "sites",
            clock=CLOCK,
            permits=lambda _: True,
            keep=timedelta(hours=1),
        )
        return slapd, directory, top

    def ours(self) -> float:
        """Milliseconds of the first refresh; leaves the LDIF for the peer."""

        async def measure() -> float:
            slapd, directory, top = self.top()
            await top.start()
            async with serving(slapd):
                began = time.perf_counter()
                stats = await top.refresh()
                seconds = time.perf_counter() - began
            if stats.total < SITES * IMAGES or stats.failed_adds:
                raise RuntimeError(f"the top level did not take all: {stats}")
            if not self.ldif.exists():
                progress(
                    f"{stats.total} entries; reading {stats.sources_seconds:.2f} s, writing {stats.write_seconds:.2f} s"
                )
                self.ldif.write_text(formats.write(sorted(directory.tree.values(), key=lambda e: len(e.dn))))
            return seconds * 1000

        return self.loop.run(measure())

    def peer(self) -> float:
        """Milliseconds of slapadd -q of the same LDIF into an empty database."""
        database = self.folder / "bare"
        shutil.rmtree(database, ignore_errors=True)
        for name in ("", "grid", "infosys"):
            (database / name).mkdir(parents=True, exist_ok=True)
        config = SlapdConfig(directory=database, socket=database / "s.ldapi", host="127.0.0.1", port=1)
        conf = database / "slapd.conf"
        conf.write_text(render(config, database))
        began = time.perf_counter()
        subprocess.run(
            [program("slapadd"), "-q", "-f", str(conf), "-b", "o=glue", "-l", str(self.ldif)],
            check=True,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
        )
        return (time.perf_counter() - began) * 1000


def little(bench: Bench, source: Directory) -> tuple[float, float]:
    """Milliseconds of a refresh when nothing changed, and when one site has one image more; medians."""

    async def measure() -> tuple[list[float], list[float]]:
        slapd, directory, top = bench.top()
        await top.start()
        same, changed = [], []
        async with serving(slapd):
            await top.refresh()
            for number in range(ROUNDS):
                began = time.perf_counter()
                stats = await top.refresh()
                same.append((time.perf_counter() - began) * 1000)
                assert (stats.added, stats.modified, stats.deleted) == (0, 0, 0)
                await source.publish(sites(IMAGES + 1 + number))
                began = time.perf_counter()
                stats = await top.refresh()
                changed.append((time.perf_counter() - began) * 1000)
                assert (stats.added, stats.deleted) == (1, 0), stats
        assert directory.tree[Dn.parse("GLUE2DomainID=SITE-00,GLUE2GroupID=grid,o=glue")]
        return same, changed

    same, changed = bench.loop.run(measure())
    return sorted(same)[ROUNDS // 2], sorted(changed)[ROUNDS // 2]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="skyfed-bench-") as name, asyncio.Runner() as loop:
        folder = Path(name)
        slapd = slapd_in(folder / "source")
        source = Directory(slapd, CLOCK, hostname="sites.example.org")
        stack = contextlib.AsyncExitStack()

        async def begin() -> None:
            await source.start(sites())
            await stack.enter_async_context(serving(slapd))

        loop.run(begin())
        try:
            bench = Bench(folder, loop, slapd)
            bench.ours()  # warms the caches of programs and files, and writes the peer's LDIF
            ours, peer = interleaved(ROUNDS, bench.ours, bench.peer)
            emit("infosys_top_first_refresh_30_sites", ours, "ms", "slapadd -q of the same LDIF", peer)
            same, changed = little(bench, source)
            emit("infosys_top_refresh_nothing_changed", same, "ms")
            emit("infosys_top_refresh_one_image_more", changed, "ms")
        finally:
            loop.run(stack.aclose())


if __name__ == "__main__":
    main()
