"""The compute service: what everything above it (occi, infosys, images, accounting) calls.

Reads are plain methods and answer from memory; writes return when they are durable, never waiting for the
engine: the reconciler drives that. All methods belong to one event loop.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy import Connection

from skyfed.compute import catalogue as entries
from skyfed.compute import requests, store
from skyfed.compute.catalogue import Catalogue
from skyfed.compute.contract import Capabilities, Engine, EngineHealth
from skyfed.compute.ledger import Ledger
from skyfed.compute.lifecycle import Change, Record, asked, deleted
from skyfed.compute.model import (
    Action,
    Capacity,
    Context,
    DesiredState,
    Flavour,
    Image,
    ImageMeta,
    ImageState,
    Limits,
    Owner,
    Quota,
    RestartMethod,
    Sizes,
    StopMethod,
    UsageEvent,
    Vm,
    VmRequest,
    VmState,
)
from skyfed.compute.notify import Changes
from skyfed.compute.projection import Projection, sizes
from skyfed.compute.reconciler import Reconciler
from skyfed.compute.settings import ComputeSettings
from skyfed.compute.usage import RUNNING, Meter
from skyfed.core.clock import Clock
from skyfed.core.errors import Conflict, Forbidden, Invalid, NotFound, NotImplementedHere, Unavailable
from skyfed.core.ids import new_uuid
from skyfed.core.log import event as log_event
from skyfed.core.sql import Database
from skyfed.core.tasks import Supervisor
from skyfed.core.text import shown

log = logging.getLogger(__name__)

MAX_EVENTS = 10_000
SETTLED = frozenset(
    {VmState.ACTIVE, VmState.STOPPED, VmState.SUSPENDED, VmState.HIBERNATED, VmState.ERROR, VmState.DELETED}
)
"""States that stay until somebody does something."""


class ComputeService:
    """Virtual machines and images of one site on one engine. `start` first, `stop` last; `db` is opened by
    the caller."""

    def __init__(
        self,
        engine: Engine,
        db: Database,
        *,
        settings: ComputeSettings,
        clock: Clock,
        tasks: Supervisor,
        site: str,
    ) -> None:
        self._engine = engine
        self._db = db
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._projection = Projection()
        self._ledger = Ledger(db, self._projection, clock=clock, site=site)
        self._reconciler = Reconciler(
            engine,
            db,
            self._ledger,
            self._projection,
            settings=settings,
            clock=clock,
            wake=lambda: tasks.wake("reconcile"),
        )
        self._flavours = tuple(flavour.flavour(term) for term, flavour in settings.flavours.items())

    async def start(self) -> None:
        """Load what is known and begin to follow the engine. Returns at once, also when the engine is
        down."""
        await self._ledger.load()
        for image in await self._db.aread(lambda conn: store.images(conn, self._settings.identifier_order)):
            self._projection.put_image(image)
        self._tasks.every("reconcile", self._settings.reconcile_seconds, self._reconciler.reconcile)
        self._tasks.task("engine-events", self._reconciler.follow)
        self._tasks.every("sample", self._settings.sample_seconds, self._reconciler.sample)

    async def stop(self) -> None:
        """Let go of the engine; guests keep running. The supervisor's tasks are stopped by their owner."""
        await self._reconciler.close()

    # -- the catalogue ---------------------------------------------------------------------------------------

    @property
    def catalogue_changes(self) -> Changes:
        """Tells when what `catalogue` returns may have changed: `version`, `wait(after)`,
        `subscribe(callback)`."""
        return self._projection.catalogue

    def catalogue(self, vo: str | None = None) -> Catalogue:
        """What members of `vo` may start now (None: what anybody may)."""
        images = self._projection.offered(self._clock.now())
        mine = (image for image in images if vo is None or vo in image.vos)
        return Catalogue(
            version=self._projection.catalogue.version,
            images=tuple(sorted(mine, key=lambda image: (image.title, image.os_tpl_term))),
            flavours=self._flavours,
        )

    def images(self) -> tuple[Image, ...]:
        """Every image that was ever imported, retired ones too."""
        return self._projection.images()

    @property
    def absent_images(self) -> frozenset[str]:
        """SHA-512 of images that should be there and that the engine has lost: import them again."""
        return self._projection.absent

    async def import_image(self, meta: ImageMeta, path: Path) -> Image:
        """Give an image to the engine, then to the users. `path` holds the bytes of `meta.sha512`, verified
        and inspected by the caller. The same again changes nothing; a new version replaces the one before.

        Raises Invalid (the image is refused), Unavailable or TimedOut (the engine cannot take it now)."""
        entries.check(meta)
        with self._reconciler.importing(meta.sha512):
            await self._engine.import_image(meta.sha512, str(path), meta.disk_format)
            return await self._list_image(meta)

    async def _list_image(self, meta: ImageMeta) -> Image:
        order = self._settings.identifier_order
        now = self._clock.now()

        def job(conn: Connection) -> tuple[Image, tuple[Image, ...]]:
            others = store.images(conn, order)
            image = entries.as_image(meta, others, order=order, now=now)
            known = next((other for other in others if other.id == image.id), None)
            if known is not None:
                image = msgspec.structs.replace(image, imported=known.imported)
            gone = entries.replaced(image, others)
            for old in gone:
                store.retire(conn, old.id)
            store.put_image(conn, image)
            return image, gone

        image, gone = await self._db.awrite(job)
        for old in gone:
            self._projection.put_image(msgspec.structs.replace(old, state=ImageState.RETIRED))
        self._projection.arrived(image)
        log_event(log, logging.INFO, "image available", image=image.id, title=image.title, replaced=len(gone))
        self._look_again()
        return image

    async def retire_image(self, image_id: str) -> None:
        """Offer an image no longer. Machines made from it go on; the engine drops it when none needs it.

        Raises NotFound."""
        image = self._projection.image(image_id)
        if image is None:
            raise NotFound(f"there is no image {shown(image_id)}", code="no_such_image")
        await self._db.awrite(lambda conn: store.retire(conn, image_id))
        self._projection.put_image(msgspec.structs.replace(image, state=ImageState.RETIRED))
        self._look_again()

    # -- machines --------------------------------------------------------------------------------------------

    @property
    def vm_changes(self) -> Changes:
        """Tells when a machine has come, gone or changed."""
        return self._projection.vms

    def get(self, vm_id: str, viewer: Owner | None) -> Vm:
        """One machine that `viewer` (a member of its virtual organisation; None: the administrator) may see.

        Raises NotFound: unknown, deleted, or somebody else's."""
        return self._projection.vm(vm_id, viewer)

    def list(self, viewer: Owner | None) -> tuple[Vm, ...]:
        """All that `viewer` may see, oldest first."""
        return self._projection.of(viewer)

    async def create(self, request: VmRequest, owner: Owner) -> Vm:
        """A new machine, `pending`: durable now, running soon. With the token of an earlier create of the
        same owner: that machine.

        Raises Invalid, TooLarge (the request), NotFound (no such image or flavour for this VO), Forbidden
        (`quota`, with the numbers), Unavailable (`no_capacity`: the site is full), Conflict (the token's
        machine is deleted).
        """
        request = requests.check(request)
        if request.token is not None:
            earlier = await self._db.aread(lambda conn: store.by_token(conn, owner, str(request.token)))
            if earlier is not None:
                return _alive(earlier)
        offer = self.catalogue(owner.vo)
        image, flavour = offer.image(request.os_tpl), offer.flavour(request.flavour)
        if image is None:
            raise NotFound(
                f"there is no image {shown(request.os_tpl)} for members of {shown(owner.vo)}", code="no_such_image"
            )
        if flavour is None:
            terms = ", ".join(one.term for one in self._flavours)
            raise NotFound(f"there is no flavour {shown(request.flavour)}; there are: {terms}", code="no_such_flavour")
        record, context = self._new(request, owner, image, flavour)
        stored = await self._db.awrite(lambda conn: self._insert(conn, record, context))
        if stored is not record:
            return _alive(stored)
        self._ledger.created(stored)
        log_event(log, logging.INFO, "machine created", vm=stored.vm.id, vo=owner.vo, flavour=flavour.term)
        return stored.vm

    async def act(self, vm_id: str, action: Action, owner: Owner | None, *, method: str = "") -> Vm:
        """Start, stop or restart. Returns the machine in its transitional state; what is so already stays
        as it is.

        Raises NotFound, Forbidden (`not_owner`), Invalid (unknown method), Conflict (`illegal_transition`),
        NotImplementedHere (the engine cannot)."""
        vm = self._own(vm_id, owner)
        chosen = _method(action, method)
        if self.capabilities is not None and action not in self.capabilities.actions:
            raise NotImplementedHere(f"this site's engine cannot {action} a machine", code="not_implemented")
        record = await self._change(vm, lambda row: asked(row, action, chosen))
        log_event(log, logging.INFO, "action asked for", vm=vm_id, action=action, method=chosen)
        return record.vm

    async def delete(self, vm_id: str, owner: Owner | None) -> None:
        """Delete: gone for its owner at once, for the engine soon. Raises NotFound, Forbidden
        (`not_owner`)."""
        vm = self._own(vm_id, owner)
        await self._change(vm, lambda row: deleted(row.vm))
        log_event(log, logging.INFO, "machine deleted", vm=vm_id)

    async def settled(self, vm_id: str, viewer: Owner | None, *, seconds: float) -> Vm:
        """The machine as soon as it is in no transition, or as it is after `seconds`: for front ends that
        may wait a little (compute digest 1, rule 1). Raises NotFound."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    version = self.vm_changes.version
                    if self.get(vm_id, viewer).observed in SETTLED:
                        break
                    await self.vm_changes.wait(version)
        except TimeoutError:
            pass
        return self.get(vm_id, viewer)

    async def console_log(self, vm_id: str, owner: Owner | None, *, tail_bytes: int = 65536) -> bytes:
        """The end of the serial console, as the guest wrote it: hostile. Asks the engine."""
        return await self._engine.console_log(self._own(vm_id, owner).id, max(0, min(tail_bytes, 1 << 20)))

    def _own(self, vm_id: str, owner: Owner | None) -> Vm:
        """A machine that `owner` may change. Others of the VO see it, but it is not theirs."""
        vm = self.get(vm_id, owner)
        if owner is not None and owner.subject != vm.owner.subject:
            raise Forbidden(f"virtual machine {shown(vm_id)} belongs to {shown(vm.owner.subject)}", code="not_owner")
        return vm

    async def _change(self, vm: Vm, decide: Callable[[Record], Change | None]) -> Record:
        def once(row: Record) -> tuple[Change, ...]:
            change = decide(row)
            return () if change is None else (change,)

        record = await self._ledger.apply(vm.id, once)
        if record is None:
            raise NotFound(f"there is no virtual machine {shown(vm.id)}", code="no_such_vm")
        return record

    def _new(self, request: VmRequest, owner: Owner, image: Image, flavour: Flavour) -> tuple[Record, Context]:
        vm_id = new_uuid()
        now = self._clock.now()
        name = requests.hostname(request, vm_id)
        context = msgspec.structs.replace(request.context, hostname=name)
        vm = Vm(
            id=vm_id,
            token=request.token,
            title=request.title or name,
            hostname=name,
            image_id=image.id,
            image_term=image.os_tpl_term,
            image_identifier=image.identifier,
            flavour=flavour,
            owner=owner,
            desired=DesiredState.ACTIVE,
            observed=VmState.PENDING,
            created=now,
            changed=now,
            context_digest=hashlib.sha256(msgspec.msgpack.encode(context)).hexdigest(),
            version=1,
        )
        return Record(vm=vm, image_sha512=image.sha512, method="", stamp=now, meter=Meter()), context

    def _insert(self, conn: Connection, record: Record, context: Context) -> Record:
        """On the writer: quota and token are checked where nobody else can be creating."""
        vm = record.vm
        if vm.token is not None:
            earlier = store.by_token(conn, vm.owner, vm.token)
            if earlier is not None:
                return earlier
        more = sizes(vm)
        quota = self._limits(vm.owner.vo)
        if over := _over(quota, store.used(conn, vm.owner.vo), more):
            raise Forbidden(f"quota of {shown(vm.owner.vo)} exceeded: {over}", code="quota")
        if over := _over(self._total(), store.used(conn), more):
            raise Unavailable(f"this site is full: {over}", code="no_capacity", retry_after=60.0)
        store.insert(conn, record, context)
        self._ledger.opened(conn, vm)
        return record

    # -- usage -----------------------------------------------------------------------------------------------

    @property
    def usage_changes(self) -> Changes:
        """Tells when there are new usage events."""
        return self._projection.usage

    async def usage_events(
        self, since_seq: int = 0, limit: int = 1000, *, vm_id: str | None = None
    ) -> tuple[UsageEvent, ...]:
        """Usage events after `since_seq`, in order, at most `limit` (≤ 10000); of one machine, or of all."""
        if not 1 <= limit <= MAX_EVENTS:
            raise Invalid(f"limit {limit} must be between 1 and {MAX_EVENTS}", code="bad_limit")
        return await self._db.aread(lambda conn: store.events(conn, since_seq=since_seq, limit=limit, vm_id=vm_id))

    # -- room ------------------------------------------------------------------------------------------------

    def quota(self, vo: str) -> Quota:
        """What a virtual organisation may use and uses."""
        return Quota(vo=vo, limits=self._limits(vo), used=self._projection.used().get(vo, Sizes()))

    def capacity(self) -> Capacity:
        """The site's room, for GLUE2."""
        used = self._projection.used()
        vos = sorted({*self._settings.quotas, *(vo for vo in used if vo)})
        return Capacity(
            total=self._total(),
            used=used[""],
            largest=Sizes(
                vms=1,
                cores=max((one.cores for one in self._flavours), default=0),
                memory_mib=max((one.memory_mib for one in self._flavours), default=0),
                disk_gib=max((one.disk_gib for one in self._flavours), default=0.0),
            ),
            quotas=tuple(self.quota(vo) for vo in vos),
            running=self._count(RUNNING),
            suspended=self._count(frozenset({VmState.SUSPENDED, VmState.HIBERNATED})),
            halted=self._count(frozenset({VmState.STOPPED, VmState.ERROR})),
        )

    def _count(self, states: frozenset[VmState]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for vm in self._projection.of(None):
            if vm.observed in states:
                counts[vm.owner.vo] = counts.get(vm.owner.vo, 0) + 1
        return counts

    def _limits(self, vo: str) -> Limits:
        return self._settings.quotas.get(vo, self._settings.default_quota).limits()

    def _total(self) -> Limits:
        """What is configured, else what the engine says of its host's disk and of nothing else: cores and
        memory are meant to be shared out more than once unless the administrator sets a bound."""
        return self._settings.capacity.limits()

    # -- the engine ------------------------------------------------------------------------------------------

    @property
    def engine_health(self) -> EngineHealth:
        """As of the last look-up."""
        return self._reconciler.health

    @property
    def capabilities(self) -> Capabilities | None:
        """What the engine can do; None until it has answered for the first time."""
        return self._reconciler.capabilities

    @property
    def unknown_guests(self) -> tuple[str, ...]:
        """Guests in the engine that this service has no record of; they are deleted after
        `orphan_seconds`."""
        return self._reconciler.unknown

    async def synced(self) -> None:
        """Return when the engine's machines have been looked up for the first time since the start."""
        await self._reconciler.synced.wait()

    def _look_again(self) -> None:
        self._tasks.wake("reconcile")


def _alive(record: Record) -> Vm:
    if record.vm.desired is DesiredState.DELETED:
        raise Conflict(
            f"the virtual machine created with this token, {record.vm.id}, has been deleted; use a new token",
            code="token_used",
        )
    return record.vm


def _method(action: Action, method: str) -> str:
    """The method asked for, or the default of deployed servers (OCCI digest 3.1). Raises Invalid."""
    kinds: dict[Action, tuple[type[StopMethod] | type[RestartMethod], str]] = {
        Action.STOP: (StopMethod, StopMethod.POWEROFF),
        Action.RESTART: (RestartMethod, RestartMethod.COLD),
    }
    if action not in kinds:
        return ""
    kind, default = kinds[action]
    try:
        return kind(method or default)
    except ValueError:
        known = ", ".join(kind)
        raise Invalid(f"{action} has no method {shown(method)}; it has: {known}", code="bad_method") from None


def _over(limits: Limits, used: Sizes, more: Sizes) -> str:
    """What would be over the limits, with the numbers; empty: nothing."""
    want = used.plus(more)
    rows = (
        ("machines", limits.vms, used.vms, want.vms),
        ("cores", limits.cores, used.cores, want.cores),
        ("MiB of memory", limits.memory_mib, used.memory_mib, want.memory_mib),
        ("GiB of disk", limits.disk_gib, used.disk_gib, want.disk_gib),
    )
    return "; ".join(
        f"{have:g} of {limit:g} {noun} in use, {wanted:g} wanted"
        for noun, limit, have, wanted in rows
        if limit is not None and wanted > limit
    )


__all__ = ["SETTLED", "Catalogue", "ComputeService"]
