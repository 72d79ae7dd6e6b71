"""The registry's decisions: applying declarations, changing a site's standing, answering the read interface."""

import logging
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection

from skyfed.core.clock import Clock, epoch
from skyfed.core.errors import Conflict, Invalid, NotFound
from skyfed.core.sql import Database
from skyfed.core.text import shown
from skyfed.registry import lookups, pi, rules, store
from skyfed.registry.declaration import Declaration, DeclaredService, DeclaredSite, Lookups, read
from skyfed.registry.model import (
    CertificationStatus,
    Infrastructure,
    Service,
    Site,
    Topology,
    allowed_transitions,
)

log = logging.getLogger(__name__)

Value = str | float | bool | None


class FieldChange(msgspec.Struct, frozen=True):
    """One field that applying sets from `old` to `new`."""

    field: str
    old: Any
    new: Any


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What applying does to one site, service or NGI. `undeclared` services are only removed with prune."""

    action: Literal["create", "update", "delete", "undeclared"]
    kind: Literal["ngi", "site", "service"]
    name: str
    fields: tuple[FieldChange, ...] = ()


class SiteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A site with its services and the log of its certification."""

    site: Site
    services: tuple[Service, ...]
    certification_log: tuple[store.CertificationChange, ...]


class Registry:
    """The service behind the read interface and the administration API. `open` before use."""

    def __init__(self, db: Database, clock: Clock, *, scopes: dict[str, str], options: pi.Options) -> None:
        self._db = db
        self._clock = clock
        self._scopes = {options.default_scope: "The federation's default scope", **scopes}
        self._options = options
        self._topology = Topology(version=-1, sites=(), services=(), service_types=())

    def open(self) -> None:
        """Add missing lookup values and load the topology. Blocks: call before serving."""
        self._db.write(lambda conn: store.seed(conn, self._scopes, lookups.SERVICE_TYPES))
        self._topology = self._db.read(store.topology)

    def topology(self) -> Topology:
        """All that can be read now."""
        return self._topology

    def answer(self, params: pi.Parameters, base: str) -> str:
        """The PI document for a request whose caller may see it. Raises pi.Refused."""
        return pi.answer(self._topology, params, base, self._options)

    # -- reading ------------------------------------------------------------------------------------------------

    def site(self, name: str) -> SiteRecord:
        """One site with everything. Raises NotFound."""
        site = _find(self._topology, name)
        services = tuple(s for s in self._topology.services if s.site == site.name)
        certification = self._db.read(lambda conn: store.certification_log(conn, site.id))
        return SiteRecord(site=site, services=services, certification_log=certification)

    def as_of(self, moment: datetime) -> tuple[tuple[Site, ...], tuple[Service, ...]]:
        """Sites and services as they stood at `moment`."""
        return self._db.read(lambda conn: store.as_of(conn, moment))

    # -- changing -----------------------------------------------------------------------------------------------

    def apply(
        self, tables: object, *, changed_by: str, source: str, dry_run: bool = False, prune: bool = False
    ) -> tuple[Change, ...]:
        """Make a site what `tables` (parsed TOML) declares, and say what that changed: nothing the second time.

        Services of the site that are not declared stay, and are listed as `undeclared`, unless `prune` removes them.
        Raises Invalid naming every problem."""

        def job(conn: Connection) -> tuple[tuple[Change, ...], Topology]:
            declaration = read(tables, self._lookups(conn), source=source)
            before = store.topology(conn)
            changes = _plan(before, declaration, new_ngi=store.ngi_id(conn, declaration.site.ngi) is None, prune=prune)
            if dry_run or all(change.action == "undeclared" for change in changes):
                return changes, before
            _execute(conn, before, declaration, changes)
            return changes, store.record(conn, before, self._clock.now(), changed_by)

        changes, after = self._db.write(job)
        if not dry_run:
            self._adopt(after)
            for change in changes:
                log.info("registry: %s %s %s by %s", change.action, change.kind, change.name, changed_by)
        return changes

    def set_certification(
        self, name: str, status: CertificationStatus, *, reason: str, changed_by: str, force: bool = False
    ) -> Site:
        """Change a site's certification status; logged. Raises NotFound, Invalid (reason), Conflict (not allowed from
        the present status, unless `force`: administrators may do any, digest 3.2)."""
        if wrong := (rules.reason(reason) if reason else "1 to 300 characters"):
            raise Invalid(f"the reason is {shown(reason)}; it must be {wrong}", code="reason")

        def job(conn: Connection) -> Topology:
            before = store.topology(conn)
            site = _find(before, name)
            old = CertificationStatus(site.certification_status)
            if old is status:
                return before
            if not force and status not in allowed_transitions(old):
                allowed = ", ".join(sorted(allowed_transitions(old))) or "nothing"
                raise Conflict(
                    f"site '{site.name}' is {old}; from there it may become {allowed}, not {status}",
                    code="certification_transition",
                )
            store.update_site(conn, site.id, {"certification_status": status})
            self._log_certification(conn, site.id, old, status, changed_by, reason)
            return store.record(conn, before, self._clock.now(), changed_by)

        self._adopt(self._db.write(job))
        return _find(self._topology, name)

    def set_infrastructure(self, name: str, infrastructure: Infrastructure, *, changed_by: str) -> Site:
        """Move a site between production and the test bed. Raises NotFound."""

        def job(conn: Connection) -> Topology:
            before = store.topology(conn)
            site = _find(before, name)
            if site.infrastructure == infrastructure:
                return before
            store.update_site(conn, site.id, {"infrastructure": infrastructure})
            return store.record(conn, before, self._clock.now(), changed_by)

        self._adopt(self._db.write(job))
        return _find(self._topology, name)

    # -- inside -------------------------------------------------------------------------------------------------

    def _adopt(self, topology: Topology) -> None:
        """Two administrators' jobs end in order, their callers in any: the newest topology wins."""
        if topology.version > self._topology.version:
            self._topology = topology

    def _lookups(self, conn: Connection) -> Lookups:
        return Lookups(
            scopes=store.scope_names(conn),
            default_scope=self._options.default_scope,
            service_types=store.monitoring_exceptions(conn),
        )

    def _log_certification(
        self, conn: Connection, site_id: int, old: str, new: str, changed_by: str, reason: str
    ) -> None:
        entry = store.CertificationChange(
            old_status=old, new_status=new, changed_by=changed_by, reason=reason, changed_at=epoch(self._clock.now())
        )
        store.log_certification(conn, site_id, entry)


def _find(topology: Topology, name: str) -> Site:
    for site in topology.sites:
        if site.name == name:
            return site
    known = ", ".join(s.name for s in topology.sites[:20]) or "none yet"
    raise NotFound(f"there is no site {shown(name)} in the registry (there are: {known})", code="site_not_found")


# -- planning ---------------------------------------------------------------------------------------------------

_SITE_FIELDS = tuple(
    field
    for field in DeclaredSite.__struct_fields__
    if field not in {"extensions", "scopes", "infrastructure", "certification_status", "ngi"}
)


def _site_values(declared: DeclaredSite) -> dict[str, Any]:
    code, country = lookups.country(declared.country) or ("", declared.country)
    return {field: getattr(declared, field) for field in _SITE_FIELDS} | {"country": country, "country_code": code}


def _service_values(declared: DeclaredService) -> dict[str, Any]:
    return {field: getattr(declared, field) for field in store.SERVICE_COLUMNS}


def _endpoint_values(declared: DeclaredService) -> list[tuple[dict[str, Any], dict[str, str]]]:
    return [
        ({field: getattr(e, field) for field in store.ENDPOINT_COLUMNS}, dict(e.extensions)) for e in declared.endpoint
    ]


def _plan(before: Topology, declaration: Declaration, *, new_ngi: bool, prune: bool) -> tuple[Change, ...]:
    declared = declaration.site
    changes = [Change(action="create", kind="ngi", name=declared.ngi)] if new_ngi else []
    site = next((s for s in before.sites if s.name == declared.name), None)
    if site is None:
        changes.append(Change(action="create", kind="site", name=declared.name))
    elif fields := _site_differences(site, declared):
        changes.append(Change(action="update", kind="site", name=declared.name, fields=fields))
    present = {(s.type, s.hostname): s for s in before.services if s.site == declared.name}
    for service in declaration.service:
        name = f"{service.type} {service.hostname}"
        current = present.pop((service.type, service.hostname), None)
        if current is None:
            changes.append(Change(action="create", kind="service", name=name))
        elif fields := _service_differences(current, service):
            changes.append(Change(action="update", kind="service", name=name, fields=fields))
    for kind, hostname in present:
        changes.append(Change(action="delete" if prune else "undeclared", kind="service", name=f"{kind} {hostname}"))
    return tuple(changes)


def _site_differences(site: Site, declared: DeclaredSite) -> tuple[FieldChange, ...]:
    new = _site_values(declared) | {"ngi": declared.ngi, "scopes": sorted(declared.scopes)}
    old = {field: getattr(site, field) for field in new} | {"scopes": sorted(site.scopes)}
    if declared.infrastructure is not None:
        new["infrastructure"], old["infrastructure"] = declared.infrastructure.value, site.infrastructure
    new["extensions"], old["extensions"] = dict(declared.extensions), {p.key: p.value for p in site.extensions}
    return _differences(old, new)


def _service_differences(service: Service, declared: DeclaredService) -> tuple[FieldChange, ...]:
    new = _service_values(declared) | {"scopes": sorted(declared.scopes or [])}
    old = {field: getattr(service, field) for field in new} | {"scopes": sorted(service.scopes)}
    new["extensions"], old["extensions"] = dict(declared.extensions), {p.key: p.value for p in service.extensions}
    new["endpoints"] = {values["name"]: values | {"extensions": more} for values, more in _endpoint_values(declared)}
    old["endpoints"] = {
        e.name: {field: getattr(e, field) for field in store.ENDPOINT_COLUMNS}
        | {"extensions": {p.key: p.value for p in e.extensions}}
        for e in service.endpoints
    }
    return _differences(old, new)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[FieldChange, ...]:
    return tuple(FieldChange(field, old[field], new[field]) for field in new if old[field] != new[field])


# -- executing --------------------------------------------------------------------------------------------------


def _execute(conn: Connection, before: Topology, declaration: Declaration, changes: tuple[Change, ...]) -> None:
    todo = {(change.kind, change.name): change.action for change in changes}
    declared = declaration.site
    ngi = store.ngi_id(conn, declared.ngi)
    if ngi is None:
        ngi = store.add_ngi(conn, declared.ngi)
    site_id = _write_site(conn, before, declared, ngi, todo.get(("site", declared.name)))
    present = {f"{s.type} {s.hostname}": s for s in before.services if s.site == declared.name}
    for service in declaration.service:
        name = f"{service.type} {service.hostname}"
        if ("service", name) in todo:
            _write_service(conn, site_id, present.get(name), service)
    for (kind, name), action in todo.items():
        if kind == "service" and action == "delete":
            store.delete_service(conn, present[name])


def _write_site(conn: Connection, before: Topology, declared: DeclaredSite, ngi: int, action: str | None) -> int:
    values = _site_values(declared)
    if declared.infrastructure is not None:
        values["infrastructure"] = declared.infrastructure.value
    if action == "create":
        values.setdefault("infrastructure", Infrastructure.PRODUCTION.value)
        values["certification_status"] = (declared.certification_status or CertificationStatus.CANDIDATE).value
        site_id = store.add_site(conn, ngi, values)
    else:
        site_id = _find(before, declared.name).id
        if action is None:
            return site_id
        store.update_site(conn, site_id, values | {"ngi_id": ngi})
    store.set_scopes(conn, "site", site_id, declared.scopes)
    store.set_properties(conn, "site", site_id, declared.extensions)
    return site_id


def _write_service(conn: Connection, site_id: int, present: Service | None, declared: DeclaredService) -> None:
    values = _service_values(declared)
    if present is None:
        id = store.add_service(conn, site_id, declared.type, values)
        present = Service(id=id, hostname=declared.hostname, type=declared.type, site="")
    else:
        store.update_service(conn, present.id, values)
    store.set_scopes(conn, "service", present.id, declared.scopes or [])
    store.set_properties(conn, "service", present.id, declared.extensions)
    store.set_endpoints(conn, present, _endpoint_values(declared))
