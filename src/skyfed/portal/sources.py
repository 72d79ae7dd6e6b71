"""Reading the sources with the areas' own clients, made safe to show: one line of text each, links a browser may follow."""

from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import urlsplit

from skyfed.accounting.client import AccountingClient
from skyfed.core.clock import from_epoch
from skyfed.core.errors import Forbidden, Unauthenticated
from skyfed.core.text import one_line
from skyfed.infosys.client import InfosysClient
from skyfed.infosys.model import Offer, SiteSummary
from skyfed.portal.model import DayReport, Flavour, Image, OfferedSite, RegisteredSite, Service
from skyfed.registry.client import RegistryClient
from skyfed.registry.model import CertificationStatus, Infrastructure

NAME_LENGTH = 120
# More than these make a page that nobody reads; the command line has them all.
MAX_VOS = 20
MAX_IMAGES = 200


def registered_sites(client: RegistryClient) -> tuple[RegisteredSite, ...]:
    """Sites with their services, closed ones left out. Raises as the client does."""
    services: dict[str, list[Service]] = defaultdict(list)
    for service in client.services(scope=""):
        shown = Service(
            type=_text(service.type),
            hostname=_text(service.hostname),
            url=_link(service.url),
            production=service.production,
        )
        services[service.site].append(shown)
    return tuple(
        RegisteredSite(**fields, services=tuple(sorted(services[key], key=lambda s: (s.type, s.hostname))))
        for key, fields in _sites(client)
    )


def _sites(client: RegistryClient) -> list[tuple[str, dict[str, str]]]:
    """(name, what is shown of it) of each site, by name."""
    try:
        found = [
            (
                site.name,
                {
                    "name": _text(site.name),
                    "title": _text(site.official_name),
                    "country": _text(site.country),
                    "infrastructure": _text(site.infrastructure),
                    "certification": _text(site.certification_status),
                },
            )
            for site in client.sites(scope="")
            if site.certification_status != CertificationStatus.CLOSED
        ]
    except (Forbidden, Unauthenticated):
        # A registry that shows contacts to few only (get_site has them) still lists its sites to all.
        found = [
            (
                site.name,
                {"name": _text(site.name), "country": _text(site.country), "infrastructure": str(infrastructure)},
            )
            for infrastructure in Infrastructure
            for site in client.site_list(infrastructure=infrastructure, scope="")
        ]
    return sorted(found, key=lambda item: item[0])


def offered_sites(client: InfosysClient) -> tuple[OfferedSite, ...]:
    """Sites with what they offer to which VO. Raises as the client does."""
    summaries = client.sites()
    vos = sorted({vo for summary in summaries for vo in summary.vos})[:MAX_VOS]
    offers: dict[str, list[tuple[str, Offer]]] = defaultdict(list)
    for vo in vos:
        for offer in client.find(vo):
            offers[offer.site].append((vo, offer))
    return tuple(_offered(summary, offers[summary.name]) for summary in summaries)


def _offered(summary: SiteSummary, offers: list[tuple[str, Offer]]) -> OfferedSite:
    flavours = {
        Flavour(cores=f.cores, memory_mb=f.memory_mb, disk_gb=f.disk_gb, name=_term(f.id))
        for _, offer in offers
        for f in offer.flavours
    }
    return OfferedSite(
        name=_text(summary.name),
        country=_text(summary.country),
        health=_text(summary.health),
        vos=tuple(_text(vo) for vo in summary.vos),
        endpoints=tuple(_text(url) for url in summary.endpoints),
        running=summary.running,
        total_cores=summary.total_cores,
        images=tuple(_images(offers))[:MAX_IMAGES],
        flavours=tuple(sorted(flavours, key=lambda f: (f.cores, f.memory_mb, f.disk_gb or 0.0, f.name))),
    )


def _images(offers: Iterable[tuple[str, Offer]]) -> list[Image]:
    vos: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for vo, offer in offers:
        image = offer.image
        title = _text(image.title) or _term(image.id)
        vos[title, _text(image.version), _text(image.identifier) or _text(image.id)].add(_text(vo))
    return [
        Image(title=title, version=version, identifier=identifier, vos=tuple(sorted(members)))
        for (title, version, identifier), members in sorted(vos.items())
    ]


def today(client: AccountingClient) -> DayReport:
    """Today's usage by site and VO. Raises as the client does."""
    found = client.today()
    usage = (row for row in found.usage)
    return DayReport(since=from_epoch(found.since), usage=tuple(sorted(usage, key=lambda row: (row.site, row.vo))))


def _text(text: str) -> str:
    return one_line(text, NAME_LENGTH)


def _term(identifier: str) -> str:
    """`small` of `http://…/template/resource#small`."""
    return _text(identifier.rpartition("#")[2] or identifier)


def _link(url: str) -> str:
    """`url`, if it is one that a browser may follow; else "" (`javascript:`, `ldap:`, nonsense)."""
    try:
        parts = urlsplit(url)
        well_formed = (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and url.isprintable() and " " not in url
        )
    except ValueError:
        return ""
    return url if well_formed and len(url) <= 500 else ""
