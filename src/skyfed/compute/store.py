"""Persistence of the compute service: rows ↔ values, inside the caller's transaction. No decisions, no time
of its own.

Functions take a `Connection` and are called from jobs of `skyfed.core.sql.Database`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, func, select

from skyfed.compute import tables as t
from skyfed.compute.lifecycle import Record
from skyfed.compute.model import (
    Benchmark,
    Context,
    Counters,
    DesiredState,
    Disk,
    DiskFormat,
    Endpoint,
    Flavour,
    IdentifierKind,
    Image,
    ImageState,
    Nic,
    Owner,
    Sizes,
    UsageEvent,
    Vm,
    VmState,
)
from skyfed.compute.usage import Meter
from skyfed.core.ids import new_uuid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where a machine can be reached and what it is made of, as the engine told it last."""

    endpoints: tuple[Endpoint, ...] = ()
    nics: tuple[Nic, ...] = ()
    disks: tuple[Disk, ...] = ()


# -- machines ------------------------------------------------------------------------------------------------


def live(conn: Connection) -> list[Record]:
    """Every machine that is not deleted, oldest first."""
    query = _records().where(t.vm.c.observed != VmState.DELETED).order_by(t.vm.c.created_us, t.vm.c.id)
    return [_record(row) for row in conn.execute(query).mappings()]


def record(conn: Connection, vm_id: str) -> Record | None:
    """One machine, deleted or not."""
    row = conn.execute(_records().where(t.vm.c.id == vm_id)).mappings().first()
    return _record(row) if row is not None else None


def by_token(conn: Connection, owner: Owner, token: str) -> Record | None:
    """The machine that this owner created with this token."""
    query = _records().where(
        t.vm.c.token == token,
        t.vm.c.vo == owner.vo,
        t.person.c.subject == owner.subject,
        t.person.c.issuer == owner.issuer,
    )
    row = conn.execute(query).mappings().first()
    return _record(row) if row is not None else None


def known(conn: Connection, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that have a row, deleted ones too."""
    found: set[str] = set()
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        found.update(conn.execute(select(t.vm.c.id).where(t.vm.c.id.in_(part))).scalars())
    return found


def context(conn: Connection, vm_id: str) -> Context:
    """What the guest is told at boot. Empty once the machine is deleted."""
    body = conn.execute(select(t.vm.c.context).where(t.vm.c.id == vm_id)).scalar()
    return msgspec.msgpack.decode(body, type=Context) if body else Context()


def used(conn: Connection, vo: str | None = None) -> Sizes:
    """What all machines (of one virtual organisation) hold: stopped ones too, and those the engine still
    deletes."""
    c = t.vm.c
    query = select(func.count(), func.sum(c.cores), func.sum(c.memory_mib), func.sum(c.disk_gib))
    query = query.where(c.observed != VmState.DELETED)
    if vo is not None:
        query = query.where(c.vo == vo)
    vms, cores, memory, disk = conn.execute(query).one()
    return Sizes(vms=vms, cores=int(cores or 0), memory_mib=int(memory or 0), disk_gib=float(disk or 0.0))


def insert(conn: Connection, new: Record, context: Context) -> None:
    """A new machine's row. Raises IntegrityError when its token is taken."""
    vm = new.vm
    row = {
        "id": vm.id,
        "token": vm.token,
        "person": _person(conn, vm.owner),
        "vo": vm.owner.vo,
        "fqans": _json(vm.owner.fqans),
        "project": vm.owner.project,
        "title": vm.title,
        "hostname": vm.hostname,
        "image_id": vm.image_id,
        "image_term": vm.image_term,
        "image_identifier": vm.image_identifier,
        "image_sha512": new.image_sha512,
        "flavour": _json(vm.flavour),
        "cores": vm.flavour.cores,
        "memory_mib": vm.flavour.memory_mib,
        "disk_gib": vm.flavour.disk_gib,
        "created_us": micros(vm.created),
        "context": msgspec.msgpack.encode(context),
        "context_digest": vm.context_digest,
        **_mutable(new),
    }
    conn.execute(t.vm.insert().values(row))


def update(conn: Connection, changed: Record) -> None:
    """Everything of a row that may change. A deleted machine's context is forgotten."""
    values = _mutable(changed)
    if changed.vm.observed is VmState.DELETED:
        values["context"] = None
    conn.execute(t.vm.update().where(t.vm.c.id == changed.vm.id).values(values))


def _mutable(record: Record) -> dict[str, Any]:
    vm = record.vm
    return {
        "desired": vm.desired,
        "observed": vm.observed,
        "method": record.method,
        "fault": vm.fault,
        "launched_us": _micros(vm.launched),
        "terminated_us": _micros(vm.terminated),
        "changed_us": micros(vm.changed),
        "stamp_us": micros(record.stamp),
        "ahead": record.ahead,
        "places": _json(Places(endpoints=vm.endpoints, nics=vm.nics, disks=vm.disks)),
        "meter": _json(record.meter),
        "version": vm.version,
    }


def _records() -> Any:
    return select(t.vm, t.person.c.subject, t.person.c.issuer).join(t.person, t.person.c.id == t.vm.c.person)


def _record(row: RowMapping) -> Record:
    places = msgspec.json.decode(row["places"], type=Places)
    vm = Vm(
        id=row["id"],
        token=row["token"],
        title=row["title"],
        hostname=row["hostname"],
        image_id=row["image_id"],
        image_term=row["image_term"],
        image_identifier=row["image_identifier"],
        flavour=msgspec.json.decode(row["flavour"], type=Flavour),
        owner=_owner(row),
        desired=DesiredState(row["desired"]),
        observed=VmState(row["observed"]),
        fault=row["fault"],
        created=instant(row["created_us"]),
        launched=_instant(row["launched_us"]),
        terminated=_instant(row["terminated_us"]),
        changed=instant(row["changed_us"]),
        endpoints=places.endpoints,
        nics=places.nics,
        disks=places.disks,
        context_digest=row["context_digest"],
        version=row["version"],
    )
    return Record(
        vm=vm,
        image_sha512=row["image_sha512"],
        method=row["method"],
        stamp=instant(row["stamp_us"]),
        ahead=row["ahead"],
        meter=msgspec.json.decode(row["meter"], type=Meter),
    )


def _owner(row: RowMapping) -> Owner:
    return Owner(
        subject=row["subject"],
        issuer=row["issuer"],
        vo=row["vo"],
        fqans=msgspec.json.decode(row["fqans"], type=tuple[str, ...]),
        project=row["project"],
    )


def _person(conn: Connection, owner: Owner) -> str:
    """The pseudonym of the owner, made at first sight."""
    p = t.person.c
    query = select(p.id).where(p.subject == owner.subject, p.issuer == owner.issuer)
    found = conn.execute(query).scalar()
    if found is not None:
        return str(found)
    pseudonym = new_uuid()
    conn.execute(t.person.insert().values(id=pseudonym, subject=owner.subject, issuer=owner.issuer))
    return pseudonym


# -- usage ---------------------------------------------------------------------------------------------------


def append(conn: Connection, event: UsageEvent) -> None:
    """Write a usage event; its `seq` is given by the database and that of the value ignored."""
    row = {
        "vm_id": event.vm_id,
        "when_us": micros(event.when),
        "elapsed": event.elapsed,
        "old": event.old,
        "new": event.new,
        "site": event.site,
        "title": event.title,
        "person": _person(conn, event.owner),
        "vo": event.owner.vo,
        "fqans": _json(event.owner.fqans),
        "project": event.owner.project,
        "image_id": event.image_id,
        "image_identifier": event.image_identifier,
        "flavour": event.flavour,
        "cores": event.cores,
        "memory_mib": event.memory_mib,
        "disk_gib": event.disk_gib,
        "benchmark_type": event.benchmark.type if event.benchmark else None,
        "benchmark_value": event.benchmark.value if event.benchmark else None,
        "cpu_seconds": event.counters.cpu_seconds,
        "net_in_bytes": event.counters.net_in_bytes,
        "net_out_bytes": event.counters.net_out_bytes,
        "public_ips": event.public_ips,
    }
    conn.execute(t.usage.insert().values(row))


def events(
    conn: Connection, *, since_seq: int = 0, limit: int = 1000, vm_id: str | None = None
) -> tuple[UsageEvent, ...]:
    """Usage events after `since_seq`, in order."""
    query = select(t.usage, t.person.c.subject, t.person.c.issuer).join(t.person, t.person.c.id == t.usage.c.person)
    query = query.where(t.usage.c.seq > since_seq).order_by(t.usage.c.seq).limit(limit)
    if vm_id is not None:
        query = query.where(t.usage.c.vm_id == vm_id)
    return tuple(_event(row) for row in conn.execute(query).mappings())


def _event(row: RowMapping) -> UsageEvent:
    benchmark = None
    if row["benchmark_type"] is not None:
        benchmark = Benchmark(type=row["benchmark_type"], value=row["benchmark_value"])
    return UsageEvent(
        seq=row["seq"],
        vm_id=row["vm_id"],
        when=instant(row["when_us"]),
        elapsed=row["elapsed"],
        old=VmState(row["old"]) if row["old"] is not None else None,
        new=VmState(row["new"]),
        site=row["site"],
        title=row["title"],
        owner=_owner(row),
        image_id=row["image_id"],
        image_identifier=row["image_identifier"],
        flavour=row["flavour"],
        cores=row["cores"],
        memory_mib=row["memory_mib"],
        disk_gib=row["disk_gib"],
        benchmark=benchmark,
        counters=Counters(
            cpu_seconds=row["cpu_seconds"],
            net_in_bytes=row["net_in_bytes"],
            net_out_bytes=row["net_out_bytes"],
        ),
        public_ips=row["public_ips"],
    )


# -- images --------------------------------------------------------------------------------------------------


def images(conn: Connection, order: Sequence[IdentifierKind]) -> list[Image]:
    """Every image, retired ones too; `order` chooses each one's identifier."""
    rows = conn.execute(select(t.image).order_by(t.image.c.imported_us, t.image.c.id)).mappings()
    return [_image(row, order) for row in rows]


def put_image(conn: Connection, image: Image) -> None:
    """Insert or replace the row of `image.id`."""
    row = {
        "id": image.id,
        "os_tpl_term": image.os_tpl_term,
        "mpuri": image.mpuri,
        "dc_identifier": image.dc_identifier,
        "list_identifier": image.list_identifier,
        "endorser": image.endorser,
        "title": image.title,
        "description": image.description,
        "version": image.version,
        "os_type": image.os_type,
        "os_name": image.os_name,
        "os_version": image.os_version,
        "arch": image.arch,
        "disk_format": image.disk_format,
        "size_bytes": image.size_bytes,
        "virtual_size_bytes": image.virtual_size_bytes,
        "sha512": image.sha512,
        "vos": _json(sorted(image.vos)),
        "state": image.state,
        "expires_us": _micros(image.expires),
        "imported_us": _micros(image.imported),
    }
    conn.execute(t.image.delete().where(t.image.c.id == image.id))
    conn.execute(t.image.insert().values(row))


def retire(conn: Connection, image_id: str) -> None:
    """Mark an image as no longer offered."""
    conn.execute(t.image.update().where(t.image.c.id == image_id).values(state=ImageState.RETIRED))


def _image(row: RowMapping, order: Sequence[IdentifierKind]) -> Image:
    return Image(
        id=row["id"],
        os_tpl_term=row["os_tpl_term"],
        mpuri=row["mpuri"],
        dc_identifier=row["dc_identifier"],
        identifier=identifier(row["mpuri"], row["dc_identifier"], row["os_tpl_term"], order),
        title=row["title"],
        description=row["description"],
        version=row["version"],
        os_type=row["os_type"],
        os_name=row["os_name"],
        os_version=row["os_version"],
        arch=row["arch"],
        disk_format=DiskFormat(row["disk_format"]),
        size_bytes=row["size_bytes"],
        virtual_size_bytes=row["virtual_size_bytes"],
        sha512=row["sha512"],
        vos=msgspec.json.decode(row["vos"], type=frozenset[str]),
        list_identifier=row["list_identifier"],
        endorser=row["endorser"],
        state=ImageState(row["state"]),
        expires=_instant(row["expires_us"]),
        imported=_instant(row["imported_us"]),
    )


def identifier(mpuri: str | None, dc: str | None, term: str, order: Sequence[IdentifierKind]) -> str:
    """The one identifier of an image: the first it has in `order`, else its os_tpl term (decision 11)."""
    names = {IdentifierKind.MPURI: mpuri, IdentifierKind.DC: dc, IdentifierKind.OS_TPL: term}
    return next((name for kind in order if (name := names[kind])), term)


# -- small change --------------------------------------------------------------------------------------------


def micros(moment: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def instant(microseconds: int) -> datetime:
    """The aware UTC instant of `micros`."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else micros(moment)


def _instant(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else instant(microseconds)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
