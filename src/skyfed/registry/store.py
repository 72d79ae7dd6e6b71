"""How the registry's rows are read and written. Every function works on one connection inside a job of the database."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from skyfed.core.clock import epoch
from skyfed.registry import tables as t
from skyfed.registry.lookups import Kind
from skyfed.registry.model import Endpoint, Property, Service, ServiceType, Site, Topology

SITE_COLUMNS = tuple(c.name for c in t.site.columns if c.name not in {"id", "ngi_id"})
SERVICE_COLUMNS = tuple(c.name for c in t.service.columns if c.name not in {"id", "site_id", "type_id"})
ENDPOINT_COLUMNS = tuple(c.name for c in t.endpoint.columns if c.name not in {"id", "service_id"})


# -- reading ----------------------------------------------------------------------------------------------------


def topology(conn: Connection) -> Topology:
    """Everything that the read interface shows."""
    scopes = _scopes(conn)
    properties = _properties(conn)
    ngis = {row.id: row.name for row in conn.execute(sa.select(t.ngi.c.id, t.ngi.c.name))}
    kinds = service_types(conn)
    site_rows = conn.execute(sa.select(t.site).order_by(t.site.c.id)).mappings().all()
    sites = {
        row["id"]: Site(
            id=row["id"],
            ngi=ngis[row["ngi_id"]],
            scopes=scopes["site", row["id"]],
            extensions=properties["site", row["id"]],
            **{name: row[name] for name in SITE_COLUMNS},
        )
        for row in site_rows
    }
    return Topology(
        version=change_count(conn),
        sites=tuple(sites.values()),
        services=_services(conn, sites, {kind.id: kind.name for kind in kinds}, scopes, properties),
        service_types=kinds,
    )


def _services(
    conn: Connection,
    sites: Mapping[int, Site],
    kinds: Mapping[int, str],
    scopes: Mapping[tuple[str, int], tuple[str, ...]],
    properties: Mapping[tuple[str, int], tuple[Property, ...]],
) -> tuple[Service, ...]:
    endpoints: dict[int, list[Endpoint]] = defaultdict(list)
    for row in conn.execute(sa.select(t.endpoint).order_by(t.endpoint.c.id)).mappings():
        values = {name: row[name] for name in ENDPOINT_COLUMNS}
        found = Endpoint(id=row["id"], extensions=properties["endpoint", row["id"]], **values)
        endpoints[row["service_id"]].append(found)
    return tuple(
        Service(
            id=row["id"],
            type=kinds[row["type_id"]],
            site=sites[row["site_id"]].name,
            country=sites[row["site_id"]].country,
            country_code=sites[row["site_id"]].country_code,
            ngi=sites[row["site_id"]].ngi,
            scopes=scopes["service", row["id"]],
            extensions=properties["service", row["id"]],
            endpoints=tuple(endpoints[row["id"]]),
            **{name: row[name] for name in SERVICE_COLUMNS},
        )
        for row in conn.execute(sa.select(t.service).order_by(t.service.c.id)).mappings()
    )


def _scopes(conn: Connection) -> Mapping[tuple[str, int], tuple[str, ...]]:
    found: dict[tuple[str, int], tuple[str, ...]] = defaultdict(tuple)
    query = sa.select(t.scoped.c.kind, t.scoped.c.parent_id, t.scope.c.name).join(t.scope).order_by(t.scope.c.id)
    for row in conn.execute(query):
        found[row.kind, row.parent_id] += (row.name,)
    return found


def _properties(conn: Connection) -> Mapping[tuple[str, int], tuple[Property, ...]]:
    found: dict[tuple[str, int], tuple[Property, ...]] = defaultdict(tuple)
    for row in conn.execute(sa.select(t.property_).order_by(t.property_.c.id)):
        found[row.kind, row.parent_id] += (Property(row.id, row.key, row.value),)
    return found


def service_types(conn: Connection) -> tuple[ServiceType, ...]:
    """All kinds, by id."""
    query = sa.select(t.service_type).order_by(t.service_type.c.id)
    return tuple(ServiceType(row.id, row.name, row.description) for row in conn.execute(query))


def monitoring_exceptions(conn: Connection) -> dict[str, bool]:
    """Name of each kind → whether it may be in production unmonitored."""
    query = sa.select(t.service_type.c.name, t.service_type.c.monitoring_exception)
    return {row.name: bool(row.monitoring_exception) for row in conn.execute(query)}


def scope_names(conn: Connection) -> frozenset[str]:
    """All scopes."""
    return frozenset(conn.execute(sa.select(t.scope.c.name)).scalars())


def change_count(conn: Connection) -> int:
    """How often the topology has changed."""
    query = sa.select(t.sequence.c.value).where(t.sequence.c.name == "change")
    return int(conn.execute(query).scalar_one_or_none() or 0)


def as_of(conn: Connection, moment: datetime) -> tuple[tuple[Site, ...], tuple[Service, ...]]:
    """The sites and services as they stood at `moment`, by id."""
    at = epoch(moment)
    query = (
        sa.select(t.history.c.kind, t.history.c.document)
        .where(t.history.c.valid_from <= at, sa.or_(t.history.c.valid_to.is_(None), t.history.c.valid_to > at))
        .order_by(t.history.c.id)
    )
    rows = conn.execute(query).all()
    return (
        tuple(msgspec.json.decode(row.document, type=Site) for row in rows if row.kind == "site"),
        tuple(msgspec.json.decode(row.document, type=Service) for row in rows if row.kind == "service"),
    )


class CertificationChange(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a site's certification log."""

    old_status: str
    new_status: str
    changed_by: str
    reason: str
    changed_at: int


def certification_log(conn: Connection, site_id: int) -> tuple[CertificationChange, ...]:
    """A site's changes of status, oldest first."""
    log = t.certification_log
    rows = conn.execute(sa.select(log).where(log.c.site_id == site_id).order_by(log.c.id)).mappings()
    return tuple(
        CertificationChange(**{name: row[name] for name in CertificationChange.__struct_fields__}) for row in rows
    )


# -- writing ----------------------------------------------------------------------------------------------------


def next_id(conn: Connection, name: str) -> int:
    """A fresh id of the sequence `name`, from 1."""
    ours = t.sequence.c.name == name
    if conn.execute(sa.update(t.sequence).where(ours).values(value=t.sequence.c.value + 1)).rowcount == 0:
        conn.execute(sa.insert(t.sequence).values(name=name, value=1))
    return int(conn.execute(sa.select(t.sequence.c.value).where(ours)).scalar_one())


def seed(conn: Connection, scopes: Mapping[str, str], kinds: Iterable[Kind]) -> None:
    """Add the lookup values that are missing; those that exist are left as they are."""
    have = scope_names(conn)
    for name, description in scopes.items():
        if name not in have:
            values = {"id": next_id(conn, "scope"), "name": name, "description": description}
            conn.execute(sa.insert(t.scope).values(values))
    present = monitoring_exceptions(conn)
    rows = [
        {
            "id": next_id(conn, "service_type"),
            "name": kind.name,
            "description": kind.description,
            "monitoring_exception": kind.monitoring_exception,
        }
        for kind in kinds
        if kind.name not in present
    ]
    if rows:
        conn.execute(sa.insert(t.service_type), rows)
        next_id(conn, "change")


def ngi_id(conn: Connection, name: str) -> int | None:
    """The id of an NGI, or None."""
    return conn.execute(sa.select(t.ngi.c.id).where(t.ngi.c.name == name)).scalar_one_or_none()


def add_ngi(conn: Connection, name: str) -> int:
    """A new NGI."""
    id = next_id(conn, "owned")
    conn.execute(sa.insert(t.ngi).values(id=id, name=name))
    return id


def add_site(conn: Connection, ngi: int, values: Mapping[str, Any]) -> int:
    """A new site with the columns in `values`; its primary key is given out here."""
    id = next_id(conn, "owned")
    key = f"{next_id(conn, 'grid')}G0"
    conn.execute(sa.insert(t.site).values(id=id, primary_key=key, ngi_id=ngi, **values))
    return id


def update_site(conn: Connection, id: int, values: Mapping[str, Any]) -> None:
    """Set columns of a site."""
    conn.execute(sa.update(t.site).where(t.site.c.id == id).values(dict(values)))


def add_service(conn: Connection, site_id: int, kind: str, values: Mapping[str, Any]) -> int:
    """A new service of an existing kind."""
    id = next_id(conn, "service")
    type_id = conn.execute(sa.select(t.service_type.c.id).where(t.service_type.c.name == kind)).scalar_one()
    conn.execute(sa.insert(t.service).values(id=id, site_id=site_id, type_id=type_id, **values))
    return id


def update_service(conn: Connection, id: int, values: Mapping[str, Any]) -> None:
    """Set columns of a service."""
    conn.execute(sa.update(t.service).where(t.service.c.id == id).values(dict(values)))


def delete_service(conn: Connection, service: Service) -> None:
    """Remove a service with all that hangs on it."""
    for endpoint in service.endpoints:
        set_properties(conn, "endpoint", endpoint.id, {})
    conn.execute(sa.delete(t.endpoint).where(t.endpoint.c.service_id == service.id))
    set_properties(conn, "service", service.id, {})
    set_scopes(conn, "service", service.id, ())
    conn.execute(sa.delete(t.service).where(t.service.c.id == service.id))


def set_endpoints(conn: Connection, service: Service, wanted: Sequence[tuple[dict[str, Any], dict[str, str]]]) -> None:
    """Make the endpoints of a service those in `wanted` (columns, properties); by name, ids are kept."""
    present = {e.name: e.id for e in service.endpoints}
    for values, properties in wanted:
        id = present.pop(values["name"], None)
        if id is None:
            id = next_id(conn, "endpoint")
            conn.execute(sa.insert(t.endpoint).values(id=id, service_id=service.id, **values))
        else:
            conn.execute(sa.update(t.endpoint).where(t.endpoint.c.id == id).values(values))
        set_properties(conn, "endpoint", id, properties)
    for id in present.values():
        set_properties(conn, "endpoint", id, {})
        conn.execute(sa.delete(t.endpoint).where(t.endpoint.c.id == id))


def set_properties(conn: Connection, kind: str, parent: int, wanted: Mapping[str, str]) -> None:
    """Make the extension properties of an entity those in `wanted`; unchanged keys keep their ids."""
    p = t.property_.c
    ours = sa.and_(p.kind == kind, p.parent_id == parent)
    present = {row.key: row for row in conn.execute(sa.select(t.property_).where(ours))}
    for key, row in present.items():
        if key not in wanted:
            conn.execute(sa.delete(t.property_).where(p.kind == kind, p.id == row.id))
    for key, value in wanted.items():
        if key not in present:
            id = next_id(conn, f"{kind}_property")
            conn.execute(sa.insert(t.property_).values(kind=kind, id=id, parent_id=parent, key=key, value=value))
        elif present[key].value != value:
            conn.execute(sa.update(t.property_).where(p.kind == kind, p.id == present[key].id).values(value=value))


def set_scopes(conn: Connection, kind: str, parent: int, names: Iterable[str]) -> None:
    """Make the scopes of an entity those named; they exist."""
    conn.execute(sa.delete(t.scoped).where(t.scoped.c.kind == kind, t.scoped.c.parent_id == parent))
    wanted = list(names)
    ids = conn.execute(sa.select(t.scope.c.id).where(t.scope.c.name.in_(wanted))).scalars().all() if wanted else []
    if ids:
        rows = [{"kind": kind, "parent_id": parent, "scope_id": id} for id in ids]
        conn.execute(sa.insert(t.scoped), rows)


def log_certification(conn: Connection, site_id: int, change: CertificationChange) -> None:
    """Append to a site's certification log."""
    id = next_id(conn, "certification")
    conn.execute(sa.insert(t.certification_log).values(id=id, site_id=site_id, **msgspec.structs.asdict(change)))


def record(conn: Connection, before: Topology, now: datetime, changed_by: str) -> Topology:
    """After changes: count them, and move the validity intervals of what differs from `before`. Gives the new topology."""
    next_id(conn, "change")
    after = topology(conn)
    at = epoch(now)
    old = {**{("site", s.id): s for s in before.sites}, **{("service", s.id): s for s in before.services}}
    new = {**{("site", s.id): s for s in after.sites}, **{("service", s.id): s for s in after.services}}
    h = t.history.c
    for key in old.keys() | new.keys():
        if old.get(key) == new.get(key):
            continue
        kind, id = key
        conn.execute(sa.update(t.history).where(h.kind == kind, h.id == id, h.valid_to.is_(None)).values(valid_to=at))
        if key in new:
            values = {
                "kind": kind,
                "id": id,
                "version": after.version,
                "valid_from": at,
                "changed_by": changed_by,
                "document": msgspec.json.encode(new[key]),
            }
            conn.execute(sa.insert(t.history).values(values))
    return after
