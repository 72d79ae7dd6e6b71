"""The values of the service registry: sites, their services, endpoints and lookup values (registry digest 2). No I/O.

`Site` and `Service` are as the read interface shows them: joined with country, NGI and site names. Empty text
means "not set". Ids are integers; the PI prints some of them with the suffix `G0`.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec


class CertificationStatus(StrEnum):
    """Where a site stands in its life (digest 2.3)."""

    CANDIDATE = "Candidate"
    UNCERTIFIED = "Uncertified"
    CERTIFIED = "Certified"
    SUSPENDED = "Suspended"
    CLOSED = "Closed"


class Infrastructure(StrEnum):
    """Which infrastructure a site serves: `Test` sites are the test bed (digest 2.3)."""

    PRODUCTION = "Production"
    TEST = "Test"


_TRANSITIONS: dict[CertificationStatus, frozenset[CertificationStatus]] = {
    CertificationStatus.CANDIDATE: frozenset({CertificationStatus.UNCERTIFIED, CertificationStatus.CLOSED}),
    CertificationStatus.UNCERTIFIED: frozenset(CertificationStatus),
    CertificationStatus.CERTIFIED: frozenset(CertificationStatus),
    CertificationStatus.SUSPENDED: frozenset(CertificationStatus) - {CertificationStatus.CERTIFIED},
    CertificationStatus.CLOSED: frozenset(),
}


def allowed_transitions(status: CertificationStatus) -> frozenset[CertificationStatus]:
    """The states a site in `status` may go to without an administrator's force (digest 3.2)."""
    return _TRANSITIONS[status] - {status}


OCCI = "eu.egi.cloud.vm-management.occi"
CLOUD_BDII = "eu.egi.cloud.information.bdii"
CLOUD_ACCOUNTING = "eu.egi.cloud.accounting"

HOST_DN_PROPERTY = "HostDN"
"""Service property that lists DNs, each within `<` and `>`, where one host has several (digest 2.3)."""


class Property(msgspec.Struct, frozen=True):
    """An extension property of a site, service or endpoint; `id` is the PI's LOCAL_ID."""

    id: int
    key: str
    value: str


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An EndpointLocation of a service."""

    id: int
    name: str
    url: str = ""
    interface_name: str = ""
    description: str = ""
    email: str = ""
    monitored: bool = False
    extensions: tuple[Property, ...] = ()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service of a site, with its site's name, country and NGI."""

    id: int
    hostname: str
    type: str
    site: str
    country: str = ""
    country_code: str = ""
    ngi: str = ""
    description: str = ""
    url: str = ""
    host_dn: str = ""
    host_ip: str = ""
    host_ipv6: str = ""
    host_os: str = ""
    host_arch: str = ""
    email: str = ""
    production: bool = False
    beta: bool = False
    monitored: bool = False
    notify: bool = False
    scopes: tuple[str, ...] = ()
    extensions: tuple[Property, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def host_dns(self) -> tuple[str, ...]:
        """Every DN that this service's host may present: the `HostDN` property's, then the field's."""
        listed = [dn for p in self.extensions if p.key == HOST_DN_PROPERTY for dn in _in_brackets(p.value)]
        own = [self.host_dn] if self.host_dn.startswith("/") else []
        return tuple(dict.fromkeys([*listed, *own]))


def _in_brackets(text: str) -> Iterator[str]:
    for part in text.split("<")[1:]:
        dn, closed, _ = part.partition(">")
        if closed and dn.strip():
            yield dn.strip()


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A resource centre. `primary_key` is stable over export and import, and is not the id (digest 2)."""

    id: int
    primary_key: str
    name: str
    official_name: str = ""
    description: str = ""
    home_url: str = ""
    email: str = ""
    telephone: str = ""
    alarm_email: str = ""
    giis_url: str = ""
    tier: str = ""
    subgrid: str = ""
    country: str = ""
    country_code: str = ""
    ngi: str = ""
    infrastructure: str = Infrastructure.PRODUCTION
    certification_status: str = CertificationStatus.CANDIDATE
    timezone: str = "UTC"
    latitude: float | None = None
    longitude: float | None = None
    csirt_email: str = ""
    csirt_telephone: str = ""
    helpdesk_email: str = ""
    emergency_email: str = ""
    emergency_telephone: str = ""
    notify: bool = False
    domain: str = ""
    ip_range: str = ""
    ipv6_range: str = ""
    scopes: tuple[str, ...] = ()
    extensions: tuple[Property, ...] = ()


class ServiceType(msgspec.Struct, frozen=True):
    """A kind of service."""

    id: int
    name: str
    description: str


class SiteListEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What `get_site_list` says of a site."""

    id: int
    primary_key: str
    name: str
    country: str = ""
    country_code: str = ""
    ngi: str = ""
    subgrid: str = ""
    giis_url: str = ""


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """All that the read interface can show, at one moment. `version` grows with every change."""

    version: int
    sites: tuple[Site, ...]
    services: tuple[Service, ...]
    service_types: tuple[ServiceType, ...]


def same_dn(one: str, other: str) -> bool:
    """Whether two slash-form DNs are the same name: the registry writes `Email=` for `emailAddress=` (digest 3.5)."""
    return _email_neutral(one) == _email_neutral(other)


def _email_neutral(dn: str) -> str:
    return dn.strip().replace("/emailAddress=", "/Email=").replace("/E=", "/Email=")
