"""`skyfed up` and `skyfed down`: the order of things, and what is said about each."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from skyfed.compute.guest.build import build
from skyfed.core.clock import Clock
from skyfed.core.errors import SkyfedError, TimedOut
from skyfed.core.http import admin_client
from skyfed.core.terminal import Progress
from skyfed.federation.guests import end_guests, guest_pids
from skyfed.federation.keeper import keeper_pid, start_keeper, stop_keeper
from skyfed.federation.layout import lay_out
from skyfed.federation.nodes import DEMO_VO, REGISTRY_SITE
from skyfed.federation.places import SITES, Places
from skyfed.federation.seed import GUEST_TITLE, seed
from skyfed.infosys.client import InfosysClient, addresses

# The demo guest has a handler for the power button; anything slower is switched off.
GUEST_GRACE_SECONDS = 10.0
# Until the sites have the image and the top level shows them.
CONVERGE_SECONDS = 180.0
LOOK_SECONDS = 0.3


def guest_image(places: Places) -> Path:
    """Where the demo guest's image is."""
    return places.directory / "guest" / "guest.qcow2"


def bring_up(directory: Path, clock: Clock, *, detach: bool) -> Places:
    """Lay out, start, fill; returns when every process is ready and the sites offer the demo guest.

    A federation that runs already is left running. Raises what the failing step raises; the step has been named on stderr.
    """
    with Progress("laying out the federation") as step:
        step.step(f"in {directory}")
        places = lay_out(directory, clock)
    with Progress("building the demo guest from Debian packages") as step:
        guest_image(places).parent.mkdir(exist_ok=True)
        build(guest_image(places), places.directory / "guest" / "work", step.step)
    if keeper_pid(places) is None:
        with Progress("starting nodes federation, alpha, beta") as step:
            start_keeper(places, detach=detach, progress=step.step)
    with _undone_on_failure(places, detach):
        with Progress("filling the federation:") as step:
            seed(places, guest_image(places), step.step)
        with Progress("waiting until both sites offer the image") as step:
            _converge(places, step)
    return places


def take_down(places: Places) -> tuple[bool, int]:
    """End guests, then every process. (whether it ran, how many guests there were)."""
    guests = 0
    if keeper_pid(places) is not None and guest_pids(places):
        with Progress("shutting down machines") as step:
            step.step(f"({len(guest_pids(places))})")
            guests = end_guests(places, grace=GUEST_GRACE_SECONDS)
            _let_sites_notice(places)
    ran = stop_keeper(places)
    guests += end_guests(places, grace=GUEST_GRACE_SECONDS)
    return ran, guests


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM ends the command like Ctrl-C, so that both run the same clean-up; also where a shell's `&` had SIGINT ignored."""
    previous = {sig: signal.signal(sig, signal.default_int_handler) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)


@contextlib.contextmanager
def _undone_on_failure(places: Places, detach: bool) -> Iterator[None]:
    """A detached federation that could not be filled stays up, to be looked at; one in the foreground ends with us."""
    try:
        yield
    except BaseException:
        if not detach:
            stop_keeper(places)
        raise


def _converge(places: Places, step: Progress) -> None:
    """Until the top level of the information system offers the demo guest at both sites: then a researcher can begin."""
    top = admin_client(places.node("federation"), "infosys")
    client = InfosysClient(addresses(places.ldap("federation")))
    wanted = {REGISTRY_SITE[site] for site in SITES}
    deadline = time.monotonic() + CONVERGE_SECONDS
    while True:
        missing = wanted
        with contextlib.suppress(SkyfedError):  # a server that restarts is asked again
            top.json("POST", "/refresh", {}, deadline=CONVERGE_SECONDS)
            missing = wanted - {offer.site for offer in client.find(DEMO_VO, image=GUEST_TITLE)}
        if not missing:
            return
        step.step(f"({', '.join(sorted(missing))})")
        if time.monotonic() > deadline:
            site = sorted(missing)[0].lower()
            raise TimedOut(
                f"{' and '.join(sorted(missing))} offer no image after {CONVERGE_SECONDS:.0f} s;"
                f" look at: skyfed status --dir {places.directory}; {places.node(site)}/log/site.log"
            )
        time.sleep(LOOK_SECONDS)


def _let_sites_notice(places: Places) -> None:
    """Until no site believes in a running machine, so that usage ends when the machines did."""
    deadline = time.monotonic() + GUEST_GRACE_SECONDS
    while time.monotonic() < deadline:
        try:
            machines = [vm for site in SITES for vm in admin_client(places.node(site), "compute").json("GET", "/vms")]
        except SkyfedError:
            return
        if not any(vm.get("observed") == "active" for vm in machines):
            return
        time.sleep(LOOK_SECONDS)
