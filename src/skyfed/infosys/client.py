"""Asking an information server: which sites offer what to a VO. Plain LDAP v3, any level, any site's profile of 2014.

Joins are by place in the tree, not by identifier: in the wild, identifiers are unique within a site only (infosys digest 5).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ldap3
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars

from skyfed.core.errors import Invalid, TooLarge, Unavailable
from skyfed.core.text import one_line, shown
from skyfed.infosys import policy
from skyfed.infosys.glue2 import OCCI_INTERFACES, VO_OF_IMAGE
from skyfed.infosys.model import Entry, FlavourOffer, ImageOffer, Offer, SiteSummary
from skyfed.infosys.names import Dn

DEFAULT_PORT = 2170
DEADLINE_SECONDS = 30
MAX_ENTRIES = 100_000
_SIZE_LIMIT_EXCEEDED = 4
_NO_SUCH_OBJECT = 32

_IMAGE_ATTRIBUTES = (
    "GLUE2EntityName GLUE2EntityOtherInfo GLUE2ApplicationEnvironmentAppName GLUE2ApplicationEnvironmentAppVersion "
    "GLUE2ApplicationEnvironmentRepository GLUE2ApplicationEnvironmentDescription"
)
_ENDPOINT_ATTRIBUTES = (
    "GLUE2EndpointID GLUE2EndpointURL GLUE2EndpointInterfaceName GLUE2EndpointInterfaceVersion GLUE2EndpointHealthState "
    "GLUE2EndpointServingState GLUE2EndpointQualityLevel"
)
_FLAVOUR_ATTRIBUTES = (
    "GLUE2EntityName GLUE2EntityOtherInfo GLUE2ExecutionEnvironmentLogicalCPUs GLUE2ExecutionEnvironmentMainMemorySize"
)


def addresses(text: str) -> tuple[tuple[str, int], ...]:
    """(host, port) of each server in LCG_GFAL_INFOSYS form: `host[:port]`, several by comma. Raises Invalid."""
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        host, colon, port = part.removeprefix("ldap://").rstrip("/").rpartition(":")
        if not colon:
            host, port = port, str(DEFAULT_PORT)
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise Invalid(f"{shown(part)} is no information server; right is host:port, like bdii.example.org:2170")
        found.append((host.strip("[]"), int(port)))
    if not found:
        raise Invalid("no information server is named; set LCG_GFAL_INFOSYS to host:port")
    return tuple(found)


class InfosysClient:
    """Asks the first of `servers` that answers. One connection a call; nothing is kept.

    Every call raises Unavailable (none answers) and TooLarge.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], *, deadline: int = DEADLINE_SECONDS) -> None:
        self._servers = tuple(servers)
        self._deadline = deadline

    def find(self, vo: str, *, image: str = "") -> tuple[Offer, ...]:
        """Every endpoint at which members of `vo` can start an image whose identifier, template or title holds `image`.

        An endpoint without any published policy is offered too, and marked: sites of the time published none.
        """
        with _Search(self._servers, self._deadline) as search:
            names = "".join(f"(GLUE2EndpointInterfaceName={name})" for name in OCCI_INTERFACES)
            endpoints = search.entries(f"(&(objectClass=GLUE2ComputingEndpoint)(|{names}))", _ENDPOINT_ATTRIBUTES)
            policies = search.entries("(objectClass=GLUE2AccessPolicy)", "GLUE2PolicyRule")
            images = search.entries(_image_filter(image), _IMAGE_ATTRIBUTES)
            flavours = search.entries("(objectClass=GLUE2ExecutionEnvironment)", _FLAVOUR_ATTRIBUTES)
        rules = _rules_by_endpoint(policies)
        flavours_of = _by_service(flavours)
        images_of = _by_service(i for i in images if _for_vo(i, vo))
        offers = [
            _offer(endpoint, found, flavours_of[_service(endpoint.dn)], rules.get(endpoint.dn))
            for endpoint in endpoints
            if endpoint.dn not in rules or policy.admits(rules[endpoint.dn], vo)
            for found in images_of[_service(endpoint.dn)]
        ]
        return tuple(sorted(offers, key=lambda o: (o.site, o.endpoint_url, o.image.title, o.image.id)))

    def sites(self) -> tuple[SiteSummary, ...]:
        """Every site with what it has, by name."""
        with _Search(self._servers, self._deadline) as search:
            domains = search.entries("(objectClass=GLUE2AdminDomain)", "GLUE2DomainID")
            locations = search.entries("(objectClass=GLUE2Location)", "GLUE2LocationCountry")
            endpoints = search.entries("(objectClass=GLUE2ComputingEndpoint)", _ENDPOINT_ATTRIBUTES)
            policies = search.entries("(objectClass=GLUE2AccessPolicy)", "GLUE2PolicyRule")
            images = search.entries("(objectClass=GLUE2ApplicationEnvironment)", "GLUE2EntityName")
            flavours = search.entries("(objectClass=GLUE2ExecutionEnvironment)", "GLUE2EntityName")
            managers = search.entries("(objectClass=GLUE2ComputingManager)", "GLUE2ComputingManagerTotalLogicalCPUs")
            shares = search.entries("(objectClass=GLUE2ComputingShare)", "GLUE2ComputingShareRunningJobs")
        rules = _rules_by_endpoint(policies)
        grouped = {
            kind: _by_site(entries)
            for kind, entries in {
                "location": locations,
                "endpoint": endpoints,
                "image": images,
                "flavour": flavours,
                "manager": managers,
                "share": shares,
            }.items()
        }
        return tuple(
            sorted(
                (_summary(domain.first("GLUE2DomainID"), grouped, rules) for domain in domains), key=lambda s: s.name
            )
        )


Grouped = Mapping[str, Mapping[str, list[Entry]]]


def _summary(name: str, grouped: Grouped, rules: Mapping[Dn, tuple[str, ...]]) -> SiteSummary:
    endpoints = grouped["endpoint"][name]
    vos = {vo for e in endpoints for rule in rules.get(e.dn, ()) if (vo := policy.vo_of(rule))}
    cores = [_integer(m.first("GLUE2ComputingManagerTotalLogicalCPUs")) for m in grouped["manager"][name]]
    known = [count for count in cores if count is not None]
    running = [_integer(s.first("GLUE2ComputingShareRunningJobs")) for s in grouped["share"][name]]
    published = [count for count in running if count is not None]
    states = {e.first("GLUE2EndpointHealthState").lower() for e in endpoints}
    return SiteSummary(
        name=name,
        country=next((e.first("GLUE2LocationCountry") for e in grouped["location"][name]), ""),
        endpoints=tuple(sorted({e.first("GLUE2EndpointURL") for e in endpoints})),
        vos=tuple(sorted(vos)),
        images=len(grouped["image"][name]),
        flavours=len(grouped["flavour"][name]),
        total_cores=sum(known) if known else None,
        health=", ".join(sorted(states)),
        running=sum(published) if published else None,
    )


def _offer(endpoint: Entry, image: Entry, flavours: list[Entry], rules: tuple[str, ...] | None) -> Offer:
    return Offer(
        site=endpoint.dn.value_of("GLUE2DomainID") or "",
        endpoint_url=endpoint.first("GLUE2EndpointURL"),
        interface=endpoint.first("GLUE2EndpointInterfaceName"),
        interface_version=endpoint.first("GLUE2EndpointInterfaceVersion"),
        image=ImageOffer(
            id=image.first("GLUE2EntityName"),
            title=image.first("GLUE2ApplicationEnvironmentAppName"),
            version=image.first("GLUE2ApplicationEnvironmentAppVersion"),
            identifier=image.first("GLUE2ApplicationEnvironmentRepository"),
            description=image.first("GLUE2ApplicationEnvironmentDescription"),
        ),
        flavours=tuple(sorted((_flavour(f) for f in flavours), key=lambda f: (f.cores, f.memory_mb, f.id))),
        health=endpoint.first("GLUE2EndpointHealthState"),
        serving_state=endpoint.first("GLUE2EndpointServingState"),
        quality=endpoint.first("GLUE2EndpointQualityLevel"),
        policy_published=rules is not None,
    )


def _flavour(entry: Entry) -> FlavourOffer:
    disks = (info.removeprefix("disk=") for info in entry.all("GLUE2EntityOtherInfo") if info.startswith("disk="))
    return FlavourOffer(
        id=entry.first("GLUE2EntityName"),
        cores=_integer(entry.first("GLUE2ExecutionEnvironmentLogicalCPUs")) or 0,
        memory_mb=_integer(entry.first("GLUE2ExecutionEnvironmentMainMemorySize")) or 0,
        disk_gb=next((size for disk in disks if (size := _number(disk)) is not None), None),
    )


def _integer(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _image_filter(image: str) -> str:
    if not image:
        return "(objectClass=GLUE2ApplicationEnvironment)"
    text = escape_filter_chars(image)
    names = ("GLUE2ApplicationEnvironmentRepository", "GLUE2EntityName", "GLUE2ApplicationEnvironmentAppName")
    return f"(&(objectClass=GLUE2ApplicationEnvironment)(|{''.join(f'({name}=*{text}*)' for name in names)}))"


def _for_vo(image: Entry, vo: str) -> bool:
    """Images that name their VOs are for those; others for whoever may use the endpoint."""
    named = [i.removeprefix(VO_OF_IMAGE) for i in image.all("GLUE2EntityOtherInfo") if i.startswith(VO_OF_IMAGE)]
    return not named or vo in named


def _rules_by_endpoint(policies: Iterable[Entry]) -> dict[Dn, tuple[str, ...]]:
    rules: dict[Dn, tuple[str, ...]] = {}
    for entry in policies:
        rules[entry.dn.parent] = rules.get(entry.dn.parent, ()) + entry.all("GLUE2PolicyRule")
    return rules


def _service(dn: Dn) -> Dn:
    """The service that an entry hangs below."""
    while dn.rdns and dn.rdn[0].lower() != "glue2serviceid":
        dn = dn.parent
    return dn


def _by_service(entries: Iterable[Entry]) -> Mapping[Dn, list[Entry]]:
    found: dict[Dn, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[_service(entry.dn)].append(entry)
    return found


def _by_site(entries: Iterable[Entry]) -> Mapping[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.dn.value_of("GLUE2DomainID") or ""].append(entry)
    return found


class _Search:
    """One anonymous connection. The base is `o=glue`: so a site's own server answers as a top level does."""

    def __init__(self, servers: tuple[tuple[str, int], ...], deadline: int) -> None:
        self._servers = servers
        self._deadline = deadline
        self._connection: Any = None

    def __enter__(self) -> "_Search":
        problems = []
        for host, port in self._servers:
            server = ldap3.Server(host, port, get_info=ldap3.NONE, connect_timeout=min(10, self._deadline))
            connection = ldap3.Connection(
                server, receive_timeout=self._deadline, check_names=False, auto_referrals=False, read_only=True
            )
            try:
                connection.bind()
            except (LDAPException, OSError) as error:
                problems.append(f"{host}:{port}: {one_line(str(error), 150)}")
                continue
            self._connection = connection
            return self
        raise Unavailable(f"no information server answers: {'; '.join(problems)}", code="infosys_unreachable")

    def __exit__(self, *_: object) -> None:
        self._connection.unbind()

    def entries(self, query: str, attributes: str) -> list[Entry]:
        """What matches, with those attributes."""
        try:
            self._connection.search(
                "o=glue", query, attributes=attributes.split(), size_limit=MAX_ENTRIES, time_limit=self._deadline
            )
        except (LDAPException, OSError) as error:
            raise Unavailable(f"the information server does not answer: {one_line(str(error), 200)}") from error
        code = self._connection.result["result"]
        if code == _SIZE_LIMIT_EXCEEDED:
            raise TooLarge(f"the information server has more than {MAX_ENTRIES} entries that match {shown(query)}")
        if code not in (0, _NO_SUCH_OBJECT):
            raise Unavailable(
                f"the information server refuses: {one_line(self._connection.result['description'], 200)}"
            )
        return [_entry(item) for item in self._connection.response if item.get("type") == "searchResEntry"]


def _entry(item: Mapping[str, Any]) -> Entry:
    raw: Mapping[str, Sequence[bytes]] = item["raw_attributes"]
    return Entry(
        Dn.parse(item["dn"]),
        [(name, tuple(v.decode("utf-8", "replace") for v in vs)) for name, vs in raw.items() if vs],
    )
