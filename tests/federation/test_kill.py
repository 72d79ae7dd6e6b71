"""kill -9 of any process at any moment of the tour: afterwards machine, records and lists are right.

Three random points in CI; `./test --kill N` for many. The seed is printed, so that a run can be repeated with SKYFED_SEED.
"""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyfed.core.http import admin_client
from skyfed.federation.guests import guest_pids
from skyfed.federation.keeper import keeper_pid
from skyfed.federation.places import SITES, Places
from support import federation as fed

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

KILLS = int(os.environ.get("SKYFED_KILLS", "3"))
SEED = int(os.environ.get("SKYFED_SEED") or random.SystemRandom().randrange(1 << 32))
# About as long as the tour of one site takes here; a kill after its end is one at rest.
TOUR_SECONDS = 15.0
SETTLE_SECONDS = 90.0


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


def wait_until(holds: Callable[[], bool], what: str, seconds: float = SETTLE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


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
    name, pid = choose.choice(sorted(victims(places).items()))
    story = f"seed {SEED}, kill {number}: {name} after {moment:.2f} s of the tour of {site}"
    print(story)
    os.kill(pid, signal.SIGKILL)
    if name == "keeper":
        wait_until(lambda: keeper_pid(places) is None, story)
        fed.skyfed("up", "--dir", str(places.directory), "--detach", "--no-tour")
    said, complaints = tour.communicate(timeout=400)
    steps = [json.loads(line) for line in said.splitlines()]
    failed = [step for step in steps if not step["ok"]]
    assert (failed, tour.returncode) == ([], 0), f"{story}: {complaints}"

    wait_until(lambda: all(s["health"] == "ok" for s in fed.status(places)), f"{story}: {fed.status(places)}")
    wait_until(lambda: guest_pids(places) == [], f"{story}: an orphan QEMU")
    for one in SITES:
        node = places.node(one)
        leftovers = [p.name for p in (node / "data" / "engine" / "machines").iterdir() if p.is_dir()]
        assert leftovers == [], f"{story}: {one} keeps machines {leftovers}"
        outbox = admin_client(node, "accounting").json("GET", "/status")
        assert (outbox["sender"]["waiting"], outbox["sender"]["dead"]) == (0, 0), f"{story}: {outbox}"
    _records_are_right(places, alice, steps, story)


def _records_are_right(places: Places, alice: dict[str, str], steps: list[dict[str, str]], story: str) -> None:
    """The tour's machine has one current record, completed; nothing is counted twice."""
    machine = next(s["detail"] for s in steps if "create a machine" in s["step"]).rpartition("/")[2]
    records = json.loads(fed.skyfed("accounting", "records", "--vm", machine, "--json", env=alice))
    current = [r for r in records if r["current"]]
    assert [r["record"]["Status"] for r in current] == ["completed"], f"{story}: {records}"
