"""kill -9 of any process at any moment of the tour: afterwards machine, records and lists are right.

Three random points in CI; `./test --kill N` for many. The seed is printed, so that a run can be repeated with SKYFED_SEED.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skyfed.compute.model import UsageEvent
from skyfed.compute.usage import fold
from skyfed.core.http import admin_client
from skyfed.federation.guests import guest_pids
from skyfed.federation.keeper import keeper_pid
from skyfed.federation.nodes import REGISTRY_SITE
from skyfed.federation.places import NODES, SITES, Places
from support import federation as fed

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

KILLS = int(os.environ.get("SKYFED_KILLS", "3"))
SEED = int(os.environ.get("SKYFED_SEED") or random.SystemRandom().randrange(1 << 32))
# About as long as the tour of one site takes here; a kill after its end is one at rest.
TOUR_SECONDS = 15.0
# How often a second kill follows within the first seconds of what starts again, and kills that if it can.
SECOND = 0.5
START_SECONDS = 3.0
SETTLE_SECONDS = 30.0
# What a file is called while it is written. An upload that broke off stays in `incoming` until it is given up.
PARTIAL = {".part", ".new", ".tmp"}


def victims(places: Places) -> dict[str, int]:
    """What may be killed: every process of ours and every slapd, by what it is. Not the guests: they are the users'."""
    guests = set(guest_pids(places))
    found = {}
    for pid in fed.processes(places):
        if pid in guests:
            continue
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "skyfed.federation.keeper" in words:
            found["keeper"] = pid
        elif "skyfed.node.process" in words:
            node, process = words[words.index("skyfed.node.process") + 1 :][:2]
            found[f"{Path(node).name}/{process} ({pid})"] = pid
        elif words[0].endswith("slapd"):
            found[f"slapd ({pid})"] = pid
    return found


def none_left(look: Callable[[], list[Any]], what: str, seconds: float = SETTLE_SECONDS) -> None:
    """Wait until `look` finds nothing; fails with what it found last."""
    deadline = time.monotonic() + seconds
    while found := look():
        assert time.monotonic() < deadline, f"{what}: {found}"
        time.sleep(0.3)


def strike(places: Places, candidates: dict[str, int], choose: random.Random) -> str:
    """kill -9 of one of them; gives which. Nobody but us starts the keeper again."""
    name, pid = choose.choice(sorted(candidates.items()))
    with suppress(ProcessLookupError):  # the parent of what was killed a moment ago, say
        os.kill(pid, signal.SIGKILL)
    if name == "keeper":
        none_left(lambda: [pid for pid in [keeper_pid(places)] if pid is not None], "the keeper's lock is held")
        fed.skyfed("up", "--dir", str(places.directory), "--detach", "--no-tour")
    return name


@pytest.fixture(scope="module")
def choose() -> random.Random:
    print(f"SKYFED_SEED={SEED}")
    return random.Random(SEED)


@pytest.mark.parametrize("number", range(KILLS))
def test_after_a_kill_everything_is_right(
    places: Places, alice: dict[str, str], choose: random.Random, number: int
) -> None:
    site = SITES[number % len(SITES)]
    moment = choose.uniform(0.0, TOUR_SECONDS)
    tour = subprocess.Popen(
        [*fed.SKYFED, "tour", "--dir", str(places.directory), "--site", site, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Not a wait for something: the random moment is the test.
    threading.Event().wait(moment)
    known = victims(places)
    story = f"seed {SEED}, kill {number}, tour of {site}: {strike(places, known, choose)} after {moment:.2f} s"
    if choose.random() < SECOND:
        later = choose.uniform(0.0, START_SECONDS)
        threading.Event().wait(later)
        fresh = dict(victims(places).items() - known.items())
        story += f", {strike(places, fresh or victims(places), choose)} {later:.2f} s later"
    print(story)
    said, complaints = tour.communicate(timeout=400)
    steps = [json.loads(line) for line in said.splitlines()]
    failed = [step for step in steps if not step["ok"]]
    assert (failed, tour.returncode) == ([], 0), f"{story}: {complaints}"

    none_left(lambda: [s for s in fed.status(places) if s["health"] != "ok"], f"{story}: not well")
    none_left(lambda: guest_pids(places), f"{story}: an orphan QEMU")
    for one in SITES:
        _site_is_at_rest(places.node(one), f"{story}: {one}")
    for node in NODES:
        _data_is_whole(places.node(node) / "data", f"{story}: {node}")
    _record_is_right(places, alice, site, steps, story)
    _lists_are_right(places, alice, story)


def _site_is_at_rest(node: Path, story: str) -> None:
    """No machine is left in the engine or the service; every record has left."""
    machines = node / "data" / "engine" / "machines"
    # A deletion is answered when it is recorded; the engine follows, and waits until the hypervisor is buried.
    none_left(lambda: [path.name for path in machines.iterdir()], f"{story} keeps machines")

    def rows() -> list[tuple[str, str, str]]:
        # As an administrator reads them with sqlite3: the service shows no machine that is deleted.
        with closing(sqlite3.connect(f"file:{node}/data/compute/compute.db?mode=ro", uri=True)) as database:
            found = database.execute("SELECT id, desired, observed FROM compute_vm").fetchall()
        return [row for row in found if row[1:] != ("deleted", "deleted")]

    none_left(rows, f"{story} has rows of deleted machines")
    outbox = admin_client(node, "accounting").json("GET", "/status")
    assert (outbox["sender"]["waiting"], outbox["sender"]["dead"]) == (0, 0), f"{story}: {outbox}"


def _data_is_whole(data: Path, story: str) -> None:
    """What died while it wrote a file leaves none behind for good, nor a second directory of the LDAP server."""

    def partial() -> list[Path]:
        found = [path for path in data.rglob("*") if path.name.startswith(".") or path.suffix in PARTIAL]
        return [path for path in found if "incoming" not in path.parts]

    none_left(partial, f"{story} keeps")
    assert len(list(data.glob("infosys/slapd/db-*"))) == 1, f"{story}: a directory that nobody serves"


def _record_is_right(places: Places, alice: dict[str, str], site: str, steps: list[dict[str, str]], story: str) -> None:
    """The tour's machine has one current record, completed, that says what the site's usage events say."""
    machine = next(s["detail"] for s in steps if "create a machine" in s["step"]).rpartition("/")[2]
    records = json.loads(fed.skyfed("accounting", "records", "--vm", machine, "--json", env=alice))
    current = [r["record"] for r in records if r["current"]]
    assert [record["Status"] for record in current] == ["completed"], f"{story}: {records}"
    answer = admin_client(places.node(site), "compute").json("GET", f"/usage?vm={machine}")
    usage = fold(msgspec.convert(answer, tuple[UsageEvent, ...]))
    counted = (int(usage.wall_seconds), int(usage.suspend_seconds), int(usage.counters.cpu_seconds or 0))
    shown = tuple(current[0][name] for name in ("WallDuration", "SuspendDuration", "CpuDuration"))
    assert shown == counted, f"{story}: {current} of {answer}"


def _lists_are_right(places: Places, alice: dict[str, str], story: str) -> None:
    """Every published image list verifies, and the top level shows both sites."""
    for published in admin_client(places.node("federation"), "images").json("GET", "/lists"):
        verdict = json.loads(fed.skyfed("image", "verify", published["url"], "--json", env=alice))
        assert verdict["ok"], f"{story}: {verdict}"
    shown = {found["name"] for found in json.loads(fed.skyfed("find", "sites", "--json", env=alice))}
    assert shown == {REGISTRY_SITE[site] for site in SITES}, story
