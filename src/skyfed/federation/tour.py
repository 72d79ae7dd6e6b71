"""The tour: what a researcher does, against a running federation, over the wire, each step measured and checked.

It is also the end-to-end test: a step that cannot show what it claims fails. What a restarting node refuses is tried again.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import msgspec

from skyfed.accounting.client import AccountingClient
from skyfed.accounting.model import CloudRecord, CloudSummary
from skyfed.core.clock import Clock, from_iso
from skyfed.core.errors import Forbidden, NotFound, SkyfedError, TimedOut, Unavailable
from skyfed.core.http import Client
from skyfed.core.ids import new_uuid
from skyfed.core.text import one_line
from skyfed.federation.nodes import DEMO_VO, FLAVOURS, OPS_VO, REGISTRY_SITE
from skyfed.federation.places import SITES, Places
from skyfed.federation.ssh import run_over_ssh
from skyfed.identity import ac, proxy
from skyfed.infosys.client import InfosysClient, addresses
from skyfed.infosys.model import Offer
from skyfed.node.config import Node
from skyfed.node.supervisor import read_states
from skyfed.occi.client import Machine, OcciClient, Order, ssh_address
from skyfed.pki.files import read_credential
from skyfed.pki.tls import ClientTls
from skyfed.pki.trust import TrustStore
from skyfed.voms.client import AaClient, contacts_for, load_contacts
from skyfed.voms.model import AcRequest, Command

T = TypeVar("T")

RESEARCHER = "alice"
STRANGER = "oscar"
# A node that was killed is back within its supervisor's back-off; a machine that starts meanwhile waits for it.
PATIENCE_SECONDS = 90.0
BOOT_SECONDS = 240.0
STOP_SECONDS = 120.0
# The last record leaves the site within seconds of the end; the outbox may have backed off from a dead repository.
RECORD_SECONDS = 90.0
LOOK_SECONDS = 0.2
# How long after its start a site has certainly compared what it knows with its engine, which opens in up to ten seconds.
SETTLED_SECONDS = 15.0
# Records carry whole seconds.
TOLERANCE_SECONDS = 1.0


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One step: what was done, whether it holds, how long it took, and the command to do it by hand."""

    step: str
    ok: bool
    seconds: float
    detail: str
    by_hand: str


class NotShown(Exception):
    """A step did not show what it claims; the message says what was seen instead."""


class Span(msgspec.Struct, frozen=True):
    """An instant that lies between two looks, epoch seconds: not before `after`, not after `before`."""

    after: float
    before: float


class Watch(msgspec.Struct):
    """When a machine came into being, was seen to run, to stand still, and was deleted."""

    created: Span = Span(0, 0)
    active: Span = Span(0, 0)
    stopped: Span = Span(0, 0)
    deleted: Span = Span(0, 0)


class Traveller:
    """A demo user with a credential, and the clients that act for it."""

    def __init__(self, places: Places, name: str, vo: str, clock: Clock) -> None:
        self.places = places
        self.name = name
        self.vo = vo
        self._clock = clock
        self._trust = TrustStore(places.certificates, clock)
        self.proxy = places.user(name) / "proxy.pem"
        self.http = Client()

    def make_proxy(self) -> str:
        """A proxy with the VO's attribute certificate, as `skyfed proxy init` makes it."""
        home = self.places.user(self.name)
        credential = read_credential(home / "usercert.pem", home / "userkey.pem")
        paths = [self.places.vomses]
        contacts = contacts_for(load_contacts(paths), self.vo, paths)
        answer = AaClient(self._trust, credential).attribute_certificate(
            contacts,
            AcRequest(commands=(Command("group", f"/{self.vo}"),), lifetime=int(timedelta(hours=12).total_seconds())),
        )
        made = proxy.create(credential, proxy.Proxy(acs=(answer.ac,)), self._clock.now())
        proxy.write(made, self.proxy)
        self.http = Client(
            ssl_context=ClientTls(self._trust, self._clock, cert=self.proxy).current, user_agent="skyfed-tour"
        )
        fqans = ", ".join(fqan.short for fqan in ac.decode(answer.ac).fqans)
        return f"{self.name} is {fqans}"


class Tour:
    """`run` yields a result a step and ends after the first that does not hold."""

    def __init__(self, places: Places, clock: Clock, *, image: str, sites: tuple[str, ...] = SITES) -> None:
        self.places = places
        self.image = image
        self.sites = sites
        self.alice = Traveller(places, RESEARCHER, DEMO_VO, clock)
        self.oscar = Traveller(places, STRANGER, OPS_VO, clock)
        self.offers: tuple[Offer, ...] = ()

    def run(self) -> Iterator[StepResult]:
        """All steps in order. A machine that a failed step leaves behind is deleted."""
        env = f'eval "$(skyfed env --as {RESEARCHER})"'
        yield (
            last := self._step(
                "proxy with the VO's attributes", f"{env}; skyfed proxy init --voms {DEMO_VO}", self.alice.make_proxy
            )
        )
        if last.ok:
            find = f"skyfed find image {shlex.quote(self.image)} --vo {DEMO_VO}"
            yield (last := self._step("which sites offer the image to my VO", find, self._find))
        for site in self.sites if last.ok else ():
            visit = Visit(self, site)
            try:
                for name, by_hand, do in visit.steps():
                    yield (last := self._step(f"{site}: {name}", by_hand, do))
                    if not last.ok:
                        return
            finally:
                visit.leave()
        if last.ok:
            yield self._step(
                "a member of another VO is refused",
                f'eval "$(skyfed env --as {STRANGER})"; skyfed proxy init --voms {OPS_VO}; '
                f"skyfed vm list --site {REGISTRY_SITE['alpha']}",
                self._refused,
            )

    def _step(self, name: str, by_hand: str, do: Callable[[], str]) -> StepResult:
        began = time.monotonic()
        try:
            detail, ok = patiently(do), True
        except (SkyfedError, NotShown) as error:
            detail, ok = one_line(str(error)), False
        return StepResult(step=name, ok=ok, seconds=round(time.monotonic() - began, 2), detail=detail, by_hand=by_hand)

    def _find(self) -> str:
        """Over LDAP, at the top level: waits until every site of this tour offers the image."""
        client = InfosysClient(addresses(self.places.ldap("federation")))
        wanted = {REGISTRY_SITE[site] for site in self.sites}

        def look() -> tuple[Offer, ...] | None:
            found = client.find(vo=DEMO_VO, image=self.image)
            return found if wanted <= {offer.site for offer in found} else None

        self.offers = until(
            look, PATIENCE_SECONDS, f"the top level does not show image {self.image} at {', '.join(sorted(wanted))}"
        )
        return "; ".join(f"{offer.site} at {offer.endpoint_url}" for offer in self.offers)

    def offer(self, site: str) -> Offer:
        """What `site` offers."""
        return next(offer for offer in self.offers if offer.site == REGISTRY_SITE[site])

    def _refused(self) -> str:
        made = self.oscar.make_proxy()
        try:
            OcciClient(self.places.url("alpha", "occi"), self.oscar.http).list()
        except Forbidden as error:
            if OPS_VO not in error.message:
                raise NotShown(f"refused, but without naming the VO {OPS_VO}: {error.message}") from error
            return f"{made}: {error.message}"
        raise NotShown(f"{STRANGER} of {OPS_VO} may list the machines of {DEMO_VO} at alpha")


class Visit:
    """A machine at one site, from its creation to its usage record."""

    def __init__(self, tour: Tour, site: str) -> None:
        self.tour = tour
        self.site = site
        self.token = new_uuid()
        self.title = f"tour-{self.token[:8]}"
        self.location = ""
        self.id = ""
        self.watch = Watch()
        self.before: dict[tuple[str, ...], int] = {}
        self.record: CloudRecord | None = None

    @property
    def occi(self) -> OcciClient:
        """The site's endpoint, as the information system gave it."""
        return OcciClient(self.tour.offer(self.site).endpoint_url, self.tour.alice.http)

    @property
    def accounting(self) -> AccountingClient:
        """The repository, asked as the researcher."""
        return AccountingClient(self.tour.alice.http, self.tour.places.url("federation", "accounting"))

    def steps(self) -> Iterator[tuple[str, str, Callable[[], str]]]:
        """(name, command by hand, action) in order."""
        key = self.tour.places.user(RESEARCHER) / "ssh_key"
        at = f"--site {REGISTRY_SITE[self.site]}"
        flavour = next(iter(FLAVOURS[self.site]))
        create = (
            f"skyfed vm create {at} --image {shlex.quote(self.tour.image)} --flavour {flavour}"
            f" --ssh-key $SKYFED_SSH_KEY.pub --title {self.title}"
        )
        yield "choose", f"skyfed occi model {at}", self._choose
        yield "create a machine with my SSH key", create, lambda: self._create(key.with_suffix(".pub"))
        yield "wait until it is active", f"skyfed vm show {at} {self.title}", self._await_active
        yield (
            "log in and run a command",
            f"skyfed vm ssh {at} {self.title} --identity $SKYFED_SSH_KEY -- uname -a",
            lambda: self._ssh(key),
        )
        yield "stop it", f"skyfed vm stop {at} {self.title}", self._stop
        yield "delete it", f"skyfed vm delete {at} {self.title}", self._delete
        yield "its usage is accounted", "skyfed accounting summary", self._accounted

    def leave(self) -> None:
        """Delete what a failed step left."""
        if not self.location or self.watch.deleted.before:
            return
        try:
            self.occi.delete(self.location)
        except NotFound:
            return

    def _choose(self) -> str:
        offer = self.tour.offer(self.site)
        names = ", ".join(f"{f.id.rpartition('#')[2]} ({f.cores} core, {f.memory_mb} MB)" for f in offer.flavours)
        if not offer.flavours:
            raise NotShown(f"{offer.site} publishes no flavour")
        self.before = self._summed()
        return f"{offer.site}: image {offer.image.identifier}; flavours {names}"

    def _create(self, public_key: Path) -> str:
        order = Order(
            image=self.tour.offer(self.site).image.id,
            flavour=next(iter(FLAVOURS[self.site])),
            title=self.title,
            ssh_key=public_key.read_text().strip(),
            token=self.token,
        )
        after = self.watch.created.after or time.time()
        self.watch.created = Span(after, 0)  # an earlier try may have got through: the machine is as old as the first
        self.location = self.occi.create(order)
        self.watch.created = Span(after, time.time())
        self.id = self.location.rpartition("/")[2]
        return self.location

    def _await_active(self) -> str:
        machine, self.watch.active = self._until_state("active", BOOT_SECONDS, self.watch.created.after)
        host, port = ssh_address(machine)
        return f"active, SSH at {host}:{port}"

    def _ssh(self, key: Path) -> str:
        host, port = ssh_address(self.occi.get(self.location))
        known = self.tour.places.user(RESEARCHER) / "known_hosts"
        said = run_over_ssh(host, port, key=key, known_hosts=known, command="uname -n; uname -sr", seconds=BOOT_SECONDS)
        hostname, _, system = said.partition("\n")
        if hostname != self.title:
            raise NotShown(f"the guest calls itself {hostname!r}, not {self.title!r}: it did not get its context")
        return f"{hostname}: {system}"

    def _stop(self) -> str:
        asked = self.watch.stopped.after or time.time()
        self.watch.stopped = Span(asked, 0)  # an earlier try may have got through: it ran until the first at least
        self.occi.act(self.location, "stop", "graceful")
        machine, self.watch.stopped = self._until_state("inactive", STOP_SECONDS, asked)
        return f"{machine.state}, {'the guest shut down' if not machine.message else machine.message}"

    def _delete(self) -> str:
        tried_before = self.watch.deleted.after
        after = tried_before or time.time()
        self.watch.deleted = Span(after, 0)
        try:
            self.occi.delete(self.location)
        except NotFound:
            if not tried_before:  # otherwise the earlier try got through, only its answer was lost
                raise
        self.watch.deleted = Span(after, time.time())
        try:
            self.occi.get(self.location)
        except NotFound:
            return "gone"
        raise NotShown(f"{self.location} is still there after its deletion")

    def _until_state(self, state: str, seconds: float, asked: float) -> tuple[Machine, Span]:
        """The machine in `state`, and between which two looks it got there; `asked`: when it was told to go there."""
        last_other = time.time()
        deadline = time.monotonic() + seconds
        while True:
            looked = time.time()
            machine = patiently(lambda: self.occi.get(self.location))
            if machine.state == state:
                # A site that has just come back shows what it last knew, until its engine has told it what became of
                # the guest meanwhile: such looks prove nothing, and it got there some time since it was told to.
                return machine, Span(last_other if self._settled(asked) else asked, time.time())
            if machine.state == "error":
                raise NotShown(f"it went into error: {machine.message}")
            if time.monotonic() > deadline:
                raise TimedOut(f"it is {machine.state} after {seconds:.0f} s, not {state}: {machine.message}")
            last_other = looked
            time.sleep(LOOK_SECONDS)

    def _settled(self, since: float) -> bool:
        """Whether all of the site's processes ran at `since`, had for a while, and have not been restarted."""
        states = read_states(Node.load(self.tour.places.node(self.site)))
        latest = since - SETTLED_SECONDS
        return all(s.state == "running" and from_iso(s.since).timestamp() < latest for s in states)

    # -- usage ------------------------------------------------------------------------------------------------------

    def _accounted(self) -> str:
        """The record of this machine is what was measured, and it is in the month's summary."""
        record = until(self._final_record, RECORD_SECONDS, f"no final usage record of {self.id} reached the repository")
        active = self.watch.active
        stopped = self.watch.stopped
        _between("WallDuration", record.wall_duration, stopped.after - active.before, stopped.before - active.after)
        _between("StartTime", record.start_time, self.watch.created.after, self.watch.created.before)
        _between("EndTime", record.end_time, self.watch.deleted.after, self.watch.deleted.before)
        if (record.network_inbound, record.network_outbound) != (None, None):
            raise NotShown("the record speaks of network bytes, which user-mode networking cannot count")
        key = (record.site_name, record.image_id or "None")
        wall = record.wall_duration or 0

        def grown() -> bool | None:
            return True if self._summed().get(key, 0) - self.before.get(key, 0) >= wall else None

        until(grown, RECORD_SECONDS, f"the summary of {record.site_name} did not grow by {wall} s")
        return f"{record.status}, {wall} s wall, {record.cpu_duration} s CPU, image {record.image_id}; in the month's summary"

    def _final_record(self) -> CloudRecord | None:
        for found in self.accounting.records(vm=self.id):
            if found.record.status == "completed":
                return found.record
        return None

    def _summed(self) -> dict[tuple[str, ...], int]:
        """Wall seconds of this user's completed machines by site and image."""
        sums: dict[tuple[str, ...], int] = {}
        summary: CloudSummary
        for summary in self.accounting.summaries(user="me"):
            if summary.status == "completed":
                key = (summary.site_name, summary.image_id)
                sums[key] = sums.get(key, 0) + (summary.wall_duration or 0)
        return sums


def patiently(do: Callable[[], T]) -> T:
    """The result of `do`; what a restarting node refuses is tried again for PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return do()
        except (Unavailable, TimedOut) as error:
            if time.monotonic() > deadline or error.code == "wait":
                raise
            time.sleep(LOOK_SECONDS * 2)


def until(look: Callable[[], T | None], seconds: float, otherwise: str) -> T:
    """What `look` finds, looked for again and again. Raises NotShown with `otherwise`."""
    deadline = time.monotonic() + seconds
    while (found := patiently(look)) is None:
        if time.monotonic() > deadline:
            raise NotShown(f"{otherwise} within {seconds:.0f} s")
        time.sleep(LOOK_SECONDS)
    return found


def _between(name: str, value: int | None, low: float, high: float) -> None:
    if value is None or not low - TOLERANCE_SECONDS <= value <= high + TOLERANCE_SECONDS:
        raise NotShown(f"{name} is {value}, measured was {low:.1f} to {high:.1f}")
