"""A site as its administrator declares it: a TOML file becomes checked, normalised values (registry digest 2.2, 3.1).

```toml
[site]
name = "ALPHA"
description = "A cloud for everybody"
ngi = "NGI_NL"
country = "NL"
email = "support@cloud.example.org"
giis_url = "ldap://bdii.cloud.example.org:2170/GLUE2DomainID=ALPHA,o=glue"
scopes = ["EGI", "FedCloud"]

[[service]]
hostname = "cloud.example.org"
type = "eu.egi.cloud.vm-management.occi"
url = "https://cloud.example.org:11443/"
production = true
monitored = true
```
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from skyfed.core.errors import Invalid, TooLarge
from skyfed.core.settings import convert
from skyfed.core.text import shown
from skyfed.registry import lookups, rules
from skyfed.registry.model import CertificationStatus, Infrastructure

MAX_SERVICES = 1000
MAX_ENDPOINTS = 100
MAX_PROPERTIES = 20
"""Extension properties an entity may have (digest 2.2)."""


class DeclaredEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[service.endpoint]]`."""

    name: str
    url: str = ""
    interface_name: str | None = None
    """Default: the name of the service's type."""
    description: str = ""
    email: str = ""
    monitored: bool | None = None
    """Default: the service's."""
    extensions: dict[str, str] = {}


class DeclaredService(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[service]]`. Within a site a service is known by its type and host name."""

    hostname: str
    type: str
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
    scopes: list[str] | None = None
    """Default: the site's."""
    extensions: dict[str, str] = {}
    endpoint: list[DeclaredEndpoint] = []


class DeclaredSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[site]`. Absent text fields are unset by applying."""

    name: str
    description: str
    ngi: str
    country: str
    email: str
    official_name: str = ""
    home_url: str = ""
    telephone: str = ""
    alarm_email: str = ""
    giis_url: str = ""
    csirt_email: str = ""
    csirt_telephone: str = ""
    helpdesk_email: str = ""
    emergency_email: str = ""
    emergency_telephone: str = ""
    timezone: str = "UTC"
    latitude: float | None = None
    longitude: float | None = None
    notify: bool = False
    domain: str = ""
    ip_range: str = ""
    ipv6_range: str = ""
    infrastructure: Infrastructure | None = None
    """Absent: left as it is; a new site is `Production`."""
    certification_status: CertificationStatus | None = None
    """Of a new site (absent: `Candidate`). Later changes need a reason: `skyfed site set-certification`."""
    scopes: list[str] = []
    """Absent: the registry's default scope."""
    extensions: dict[str, str] = {}


class Declaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole file."""

    site: DeclaredSite
    service: list[DeclaredService] = []


class Lookups(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry knows, to check names against."""

    scopes: frozenset[str]
    default_scope: str
    service_types: dict[str, bool]
    """Name → whether it may be in production unmonitored."""


def read(tables: object, known: Lookups, *, source: str) -> Declaration:
    """The checked declaration in parsed TOML or JSON. Raises Invalid that names every problem, TooLarge."""
    declaration = convert(tables, Declaration, source=source)
    if len(declaration.service) > MAX_SERVICES or any(len(s.endpoint) > MAX_ENDPOINTS for s in declaration.service):
        raise TooLarge(f"{source} declares more than {MAX_SERVICES} services or {MAX_ENDPOINTS} endpoints of one")
    problems = rules.Problems()
    declaration = _completed(declaration, known)
    _check_site(declaration.site, known, problems)
    for service in declaration.service:
        _check_service(service, known, problems)
    _check_unique(((s.type, s.hostname) for s in declaration.service), "service", problems)
    if problems.found:
        raise Invalid(f"{source}: " + "; ".join(problems.found), code="declaration")
    return declaration


def _completed(declaration: Declaration, known: Lookups) -> Declaration:
    """With the defaults that depend on something else filled in, and the country as its name."""
    site = declaration.site
    country = lookups.country(site.country)
    scopes = _unique(site.scopes or [known.default_scope])
    site = msgspec.structs.replace(site, scopes=scopes, country=country[1] if country else site.country)
    services = [
        msgspec.structs.replace(
            s,
            scopes=_unique(scopes if s.scopes is None else s.scopes),
            endpoint=[
                msgspec.structs.replace(
                    e,
                    interface_name=e.interface_name or s.type,
                    monitored=s.monitored if e.monitored is None else e.monitored,
                )
                for e in s.endpoint
            ],
        )
        for s in declaration.service
    ]
    return msgspec.structs.replace(declaration, site=site, service=services)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


_SITE_RULES: dict[str, rules.Rule] = {
    "name": rules.name,
    "ngi": rules.name,
    "description": rules.description,
    "email": rules.emails,
    "official_name": rules.official_name,
    "home_url": rules.home_url,
    "telephone": rules.telephones,
    "alarm_email": rules.email,
    "giis_url": rules.giis_url,
    "csirt_email": rules.email,
    "csirt_telephone": rules.telephones,
    "helpdesk_email": rules.emails,
    "emergency_email": rules.email,
    "emergency_telephone": rules.telephones,
    "timezone": rules.timezone,
    "domain": rules.domain,
    "ip_range": rules.ip_ranges,
    "ipv6_range": rules.ipv6,
}
_SITE_REQUIRED = frozenset({"name", "ngi", "description", "email"})

_SERVICE_RULES: dict[str, rules.Rule] = {
    "hostname": rules.hostname,
    "description": rules.short_description,
    "url": rules.url,
    "host_dn": rules.dn,
    "host_ip": rules.ipv4,
    "host_ipv6": rules.ipv6,
    "host_os": rules.label,
    "host_arch": rules.label,
    "email": rules.emails,
}
_ENDPOINT_RULES: dict[str, rules.Rule] = {
    "name": rules.endpoint_name,
    "url": rules.url,
    "interface_name": rules.label,
    "description": rules.short_description,
    "email": rules.emails,
}


def _check_site(site: DeclaredSite, known: Lookups, problems: rules.Problems) -> None:
    for field, rule in _SITE_RULES.items():
        problems.check(f"site.{field}", getattr(site, field), rule, required=field in _SITE_REQUIRED)
    if lookups.country(site.country) is None:
        problems.add(f"site.country is {shown(site.country)}; it must be a country's two-letter code or English name")
    for field, degrees in (("latitude", rules.latitude), ("longitude", rules.longitude)):
        value = getattr(site, field)
        if value is not None and (right := degrees(value)):
            problems.add(f"site.{field} is {value}; it must be {right}")
    _check_scopes("site", site.scopes, known, problems)
    _check_extensions("site", site.extensions, rules.property_value, problems)


def _check_service(service: DeclaredService, known: Lookups, problems: rules.Problems) -> None:
    where = f"service {shown(service.hostname, 60)} of type {shown(service.type, 60)}:"
    for field, rule in _SERVICE_RULES.items():
        problems.check(f"{where} {field}", getattr(service, field), rule, required=field == "hostname")
    if service.type not in known.service_types:
        problems.add(f"{where} unknown type; `skyfed service types` lists those that exist")
    elif service.production and not service.monitored and not known.service_types[service.type]:
        problems.add(f"{where} a service in production must be monitored (registry rule 3.1); set monitored = true")
    _check_scopes(where, service.scopes or [], known, problems)
    _check_extensions(where, service.extensions, rules.service_property_value, problems)
    for endpoint in service.endpoint:
        inside = f"{where} endpoint {shown(endpoint.name, 60)}"
        for field, rule in _ENDPOINT_RULES.items():
            problems.check(f"{inside} {field}", getattr(endpoint, field), rule, required=field == "name")
        _check_extensions(inside, endpoint.extensions, rules.property_value, problems)
    _check_unique((e.name for e in service.endpoint), f"{where} endpoint", problems)


def _check_scopes(where: str, scopes: list[str], known: Lookups, problems: rules.Problems) -> None:
    if not scopes:
        problems.add(f"{where} has no scope; give at least one of {', '.join(sorted(known.scopes))}")
    for scope in scopes:
        if scope not in known.scopes:
            problems.add(f"{where} scope {shown(scope)} is unknown; there are {', '.join(sorted(known.scopes))}")


def _check_extensions(where: str, extensions: dict[str, str], value_rule: rules.Rule, problems: rules.Problems) -> None:
    if len(extensions) > MAX_PROPERTIES:
        problems.add(f"{where} has {len(extensions)} extension properties; at most {MAX_PROPERTIES} are kept")
    for key, value in extensions.items():
        problems.check(f"{where} extension key", key, rules.property_key, required=True)
        problems.check(f"{where} extension {shown(key, 60)}", value, value_rule, required=True)


def _check_unique(names: Iterable[Any], what: str, problems: rules.Problems) -> None:
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            problems.add(f"{what} {shown(name)} is declared twice")
        seen.add(name)
