"""What the page and its JSON twin show, worked out of a snapshot: sites joined over their sources, totals, ages."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from skyfed.accounting.model import DayUsage
from skyfed.core.clock import from_epoch
from skyfed.core.text import one_line
from skyfed.portal.model import Flavour, Image, OfferedSite, Reading, RegisteredSite, Service, Snapshot

SECONDS_PER_HOUR = 3600
# A source that has missed this many turns is shown as stale even if it has not said why.
STALE_TURNS = 3

State = Literal["ok", "stale", "failed", "waiting"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """How fresh what a source said is. `stale`: an old answer is shown; `failed`: there is none; `waiting`: not yet asked."""

    name: str
    title: str
    state: State
    fetched: datetime | None
    age_seconds: int | None
    problem: str = ""


class SiteView(msgspec.Struct, frozen=True, kw_only=True):
    """One site, as registry and information system together have it."""

    name: str
    title: str
    country: str
    infrastructure: str
    certification: str
    health: str
    registered: bool
    published: bool
    running: int | None
    total_cores: int | None
    vos: tuple[str, ...]
    services: tuple[Service, ...]
    images: tuple[Image, ...]
    flavours: tuple[Flavour, ...]


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Today's usage of one VO at one site."""

    site: str
    vo: str
    vms: int
    running: int
    wall_hours: float
    cpu_hours: float
    latest: datetime


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The federation in numbers; None = no source has told."""

    sites: int | None
    test_sites: int
    running: int | None
    total_cores: int | None
    images: int | None
    vms_today: int | None
    wall_hours: float | None
    cpu_hours: float | None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole page. `day` is the UTC midnight that today's usage counts from."""

    generated: datetime
    sources: tuple[Source, ...]
    totals: Totals
    sites: tuple[SiteView, ...]
    day: datetime | None
    usage: tuple[UsageRow, ...]


def overview(snapshot: Snapshot, now: datetime, refresh: timedelta) -> Overview:
    """The view at `now` of sources that are asked every `refresh`."""
    sites = _join(snapshot.registry.value or (), snapshot.infosys.value or ())
    report = snapshot.accounting.value
    usage = tuple(_usage(row) for row in report.usage) if report else ()
    return Overview(
        generated=now,
        sources=_sources(snapshot, now, refresh),
        totals=_totals(snapshot, sites, usage),
        sites=sites,
        day=report.since if report else None,
        usage=usage,
    )


def _sources(snapshot: Snapshot, now: datetime, refresh: timedelta) -> tuple[Source, ...]:
    readings: tuple[tuple[str, str, Reading[Any]], ...] = (
        ("registry", "Registry", snapshot.registry),
        ("infosys", "Information system", snapshot.infosys),
        ("accounting", "Accounting", snapshot.accounting),
    )
    return tuple(_source(*each, now, refresh) for each in readings if each[2].configured)


def _source(name: str, title: str, reading: Reading[Any], now: datetime, refresh: timedelta) -> Source:
    age = None if reading.at is None else max(0, int((now - reading.at).total_seconds()))
    late = age is not None and age > STALE_TURNS * refresh.total_seconds()
    state: State = "ok"
    if reading.at is None:
        state = "failed" if reading.error else "waiting"
    elif reading.error or late:
        state = "stale"
    problem = reading.error or ("not heard of since" if late else "")
    return Source(name=name, title=title, state=state, fetched=reading.at, age_seconds=age, problem=problem)


def _join(registered: Iterable[RegisteredSite], offered: Iterable[OfferedSite]) -> tuple[SiteView, ...]:
    """By name, in any case; production first. A site of one source only is shown too, and says so."""
    by_name = {site.name.casefold(): site for site in offered}
    views = [_site(site, by_name.pop(site.name.casefold(), None)) for site in registered]
    views += [_site(None, site) for site in by_name.values()]
    return tuple(sorted(views, key=lambda view: (view.infrastructure == "Test", view.name.casefold())))


def _site(entry: RegisteredSite | None, offer: OfferedSite | None) -> SiteView:
    return SiteView(
        name=entry.name if entry else offer.name if offer else "",
        title=entry.title if entry else "",
        country=(entry.country if entry else "") or (offer.country if offer else ""),
        infrastructure=entry.infrastructure if entry else "",
        certification=entry.certification if entry else "",
        health=offer.health if offer else "",
        registered=entry is not None,
        published=offer is not None,
        running=offer.running if offer else None,
        total_cores=offer.total_cores if offer else None,
        vos=offer.vos if offer else (),
        services=entry.services if entry else (),
        images=offer.images if offer else (),
        flavours=offer.flavours if offer else (),
    )


def _usage(row: DayUsage) -> UsageRow:
    return UsageRow(
        site=one_line(row.site, 120),
        vo=one_line(row.vo, 120),
        vms=row.vms,
        running=row.running,
        wall_hours=row.wall_seconds / SECONDS_PER_HOUR,
        cpu_hours=row.cpu_seconds / SECONDS_PER_HOUR,
        latest=from_epoch(row.latest),
    )


def _totals(snapshot: Snapshot, sites: tuple[SiteView, ...], usage: tuple[UsageRow, ...]) -> Totals:
    known = snapshot.registry.value is not None or snapshot.infosys.value is not None
    images = {image.identifier for site in sites for image in site.images}
    counted = snapshot.accounting.value is not None
    running = _sum(site.running for site in sites)
    if running is None and counted:
        running = sum(row.running for row in usage)
    test = sum(site.infrastructure == "Test" for site in sites)
    return Totals(
        sites=len(sites) - test if known else None,
        test_sites=test,
        running=running,
        total_cores=_sum(site.total_cores for site in sites),
        images=len(images) if snapshot.infosys.value is not None else None,
        vms_today=sum(row.vms for row in usage) if counted else None,
        wall_hours=sum((row.wall_hours for row in usage), 0.0) if counted else None,
        cpu_hours=sum((row.cpu_hours for row in usage), 0.0) if counted else None,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
