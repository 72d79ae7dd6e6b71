"""Taking a site's entries into the federation's tree (infosys digest 2, 5, 8, 11). No I/O.

A site speaks for itself only: what lies outside its own domain is dropped and counted. The quirks of the wild are repaired
here, so that all below sees clean entries.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import unquote, urlsplit

import msgspec

from skyfed.core.clock import iso
from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.infosys import glue2
from skyfed.infosys.model import Entry
from skyfed.infosys.names import GLUE, GRID, Dn

DEFAULT_PORT = 389
UNKNOWN = "unknown"


class Source(msgspec.Struct, frozen=True):
    """Where a site's entries are read: LDAP host, port and the base of the search."""

    host: str
    port: int
    base: Dn


class Adopted(msgspec.Struct, frozen=True):
    """A site's entries at their place in the federation's tree; `dropped`: (name, reason) of those left out."""

    entries: tuple[Entry, ...]
    dropped: tuple[tuple[str, str], ...]


_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")


def source(url: str) -> Source:
    """The source that a registry's GIIS_URL names. GLUE 1.3 names, which registries hold to this day, are translated:
    `mds-vo-name=resource` to the group `resource`, any other to the domain of that name. Raises Invalid (`giis_url`)."""
    wrong = f"{shown(url)} is no address of a site's information server (ldap://host:port/base)"
    try:
        parts = urlsplit(url.strip())
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise Invalid(wrong, code="giis_url") from error
    netloc_host = parts.netloc.rpartition("@")[2]
    host = parts.hostname or ""
    if parts.scheme.lower() != "ldap" or not _HOST.fullmatch(f"[{host}]" if ":" in host else host) or port == 0:
        raise Invalid(wrong, code="giis_url")
    if netloc_host != parts.netloc:
        raise Invalid(f"{wrong}; it must not hold a user name", code="giis_url")
    base = Dn.parse(unquote(parts.path.lstrip("/")))
    return Source(host, port, _glue2_base(base, wrong))


def _glue2_base(base: Dn, wrong: str) -> Dn:
    if base.is_below(GLUE):
        return base
    name = base.value_of("mds-vo-name")
    if name is None:
        raise Invalid(wrong, code="giis_url")
    if name.lower() == "resource":
        return Dn.of("GLUE2GroupID", "resource", GLUE)
    return Dn.of("GLUE2DomainID", name, GLUE)


def adopt(site: str, entries: Iterable[Entry], seen: datetime) -> Adopted:
    """The entries of `site` below `GLUE2DomainID=site,GLUE2GroupID=grid,o=glue`. `seen` is when this content was first
    fetched: what has no creation time of its own gets that one (digest 5, quirk 7)."""
    domain = Dn.of("GLUE2DomainID", site, GLUE)
    kept: list[Entry] = []
    dropped: list[tuple[str, str]] = []
    for entry in entries:
        if reason := _refusal(site, domain, entry):
            dropped.append((str(entry.dn)[:300], reason))
        else:
            kept.append(_repaired(entry.at(entry.dn.moved(GLUE, GRID)), seen))
    return Adopted(tuple(kept), tuple(dropped))


def _refusal(site: str, domain: Dn, entry: Entry) -> str:
    if not entry.dn.is_below(domain):
        return f"outside the site's domain {site}"
    inside = entry.dn.rdns[: len(entry.dn.rdns) - len(domain.rdns)]
    if any(type.lower() == "glue2domainid" for rdn in inside for type, _ in rdn):
        return "recursive: a domain inside the domain"
    owners = entry.all("GLUE2ServiceAdminDomainForeignKey") + entry.all("GLUE2DomainID")
    if any(owner != site for owner in owners):
        return f"speaks for the domain {shown(next(o for o in owners if o != site), 60)}"
    return ""


_LIST_LITERAL = re.compile(r"[\[(]\s*u?(['\"]).*\1\s*,?\s*[\])]", re.DOTALL)
_LIST_ITEM = re.compile(r"u?'([^']*)'|u?\"([^\"]*)\"")
_HAS_TIME = frozenset(("GLUE2Domain", "GLUE2Service", "GLUE2Endpoint", "GLUE2Share", "GLUE2Manager"))


def _repaired(entry: Entry, seen: datetime) -> Entry:
    changes: dict[str, tuple[str, ...]] = {}
    classes = glue2.completed_classes(entry.all("objectClass"))
    if classes != entry.all("objectClass"):
        changes["objectClass"] = classes
    for type, value in (pair for rdn in entry.dn.rdns[:1] for pair in rdn):
        # Released providers left the naming attribute out of images and flavours (digest 5, quirk 2).
        if value not in entry.all(type) and not (type.lower().startswith("glue2group") and entry.all("GLUE2GroupID")):
            changes[type] = (*entry.all(type), value)
    for name, values in entry:
        if name.lower().endswith("capability") and any(_LIST_LITERAL.fullmatch(value) for value in values):
            changes[name] = _split_literals(values)
    if not _HAS_TIME.isdisjoint(classes) and not entry.all("GLUE2EntityCreationTime"):
        changes["GLUE2EntityCreationTime"] = (iso(seen),)
    return entry.replaced(changes) if changes else entry


def _split_literals(values: tuple[str, ...]) -> tuple[str, ...]:
    """`['a', 'b']` written as one value, as a template engine prints a list, is two values (digest 5, quirk 1)."""
    found: dict[str, None] = {}
    for value in values:
        if _LIST_LITERAL.fullmatch(value):
            found.update(dict.fromkeys(one or two for one, two in _LIST_ITEM.findall(value) if one or two))
        else:
            found[value] = None
    return tuple(found)


def with_unknown_states(entries: Iterable[Entry], why: str) -> tuple[Entry, ...]:
    """The entries of a site that cannot be reached: what may have changed since is `unknown`."""
    return tuple(_unknown(entry, why) for entry in entries)


def _unknown(entry: Entry, why: str) -> Entry:
    changes: dict[str, tuple[str, ...]] = {name: (UNKNOWN,) for name in glue2.STATES if entry.all(name)}
    if not changes:
        return entry
    if entry.has_class("GLUE2Endpoint"):
        changes[glue2.HEALTH_INFO] = (why,)
    return entry.replaced(changes)
