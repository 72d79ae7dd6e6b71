"""The image service of a node: publisher where lists are configured, subscriber where subscriptions are."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from skyfed.compute.service import ComputeService
from skyfed.core.errors import Invalid
from skyfed.core.settings import setting
from skyfed.core.sql import Database
from skyfed.images import http
from skyfed.images.download import Downloads
from skyfed.images.evaluate import Policy
from skyfed.images.files import FileStore
from skyfed.images.inspection import GIB, InspectionLimits
from skyfed.images.model import Endorser, ListState
from skyfed.images.publisher import ListDefinition, Publisher
from skyfed.images.subscriber import TASK, Subscriber, SubscriptionTerms
from skyfed.images.tables import metadata
from skyfed.pki.files import Credential, read_credential
from skyfed.web.guard import Limits
from skyfed.web.runtime import Assembly, Health, Runtime

log = logging.getLogger(__name__)

RENEW_TASK = "sign-lists"
RENEW_SECONDS = 600.0


class ListSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image list that this node publishes; its URL ends in `/lists/NAME`."""

    vo: Annotated[str, setting("The virtual organisation whose members may use the images (ad:vo).")]
    title: Annotated[str, setting("A title for people (dc:title).")]
    description: Annotated[str, setting("What the list is for (dc:description).")] = ""
    source: Annotated[str, setting("Who publishes it (dc:source); empty: the service's URL.")] = ""


class EndorserSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody whose signature is accepted: the pair of names is the identity."""

    dn: Annotated[str, setting("Subject of the endorser's certificate, /DC=org/…/CN=name.")]
    ca: Annotated[str, setting("Subject of the authority that issued it.")]


class SubscriptionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image list that this site follows."""

    url: Annotated[str, setting("Where the signed list is: https://…")]
    endorsers: Annotated[tuple[EndorserSettings, ...], setting("Who may sign it; nobody else is accepted.")]
    vos: Annotated[
        tuple[str, ...],
        setting("VOs whose members are offered the images; empty: the one that the list names (ad:vo)."),
    ] = ()
    identifier: Annotated[str, setting("dc:identifier that the list must have; empty: any.")] = ""
    images: Annotated[tuple[str, ...], setting("dc:identifier of the images wanted; empty: all of the list.")] = ()
    allow_sha1: Annotated[bool, setting("Accept a signature with SHA-1, for lists of old publishers. Not advised.")] = (
        False
    )
    reused_version: Annotated[
        Literal["accept", "refuse"],
        setting("What becomes of a list whose version was used before for other bytes; the reference accepts it."),
    ] = "accept"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the image service. Relative paths are relative to the node's directory."""

    database: Annotated[str, setting("Database URL; empty: SQLite in the service's data directory.")] = ""
    # publisher
    lists: Annotated[dict[str, ListSettings], setting("Image lists that this node publishes, by name.")] = {}
    endorser_cert: Annotated[
        Path | None, setting("Certificate (PEM) that signs the lists; absent: the node's host certificate.")
    ] = None
    endorser_key: Annotated[Path | None, setting("Its key; absent: in the same file.")] = None
    endorser_email: Annotated[str, setting("How to reach the endorser (hv:email).")] = "root@localhost"
    uploaders: Annotated[
        tuple[str, ...], setting("Subjects, /DC=org/…/CN=name, that may publish images over HTTPS.")
    ] = ()
    list_lifetime_days: Annotated[
        int, setting("How long a signed list is valid; it is signed anew at half of that."), msgspec.Meta(ge=1, le=400)
    ] = 28
    # subscriber
    subscriptions: Annotated[
        dict[str, SubscriptionSettings], setting("Image lists that this site follows, by name.")
    ] = {}
    poll_seconds: Annotated[
        float, setting("How often the lists are looked at, seconds."), msgspec.Meta(ge=1, le=86400)
    ] = 4 * 3600.0
    download_seconds: Annotated[
        float, setting("How long one attempt to download an image may take, seconds; the next goes on where it ended.")
    ] = 3600.0
    # both
    formats: Annotated[
        tuple[Literal["raw", "qcow2", "vmdk", "vdi", "vhd", "iso"], ...], setting("Disk formats that are accepted.")
    ] = ("raw", "qcow2", "vmdk", "vdi", "iso")
    max_image_bytes: Annotated[int, setting("Largest image file, bytes."), msgspec.Meta(ge=1)] = 50 * GIB
    max_virtual_bytes: Annotated[int, setting("Largest disk that an image may declare, bytes."), msgspec.Meta(ge=1)] = (
        200 * GIB
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What one role adds to the service."""

    public: tuple[BaseRoute, ...]
    admin: tuple[BaseRoute, ...]
    start: Callable[[], Awaitable[None]]
    health: Callable[[], Awaitable[Health]]
    stop: Callable[[], None] = lambda: None


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """Wire publisher and subscriber, as configured, into a node. Raises Invalid, Unavailable (no compute service)."""
    url = settings.database or f"sqlite:///{runtime.data / 'images.db'}"
    db = Database(url, name="images", metadata=metadata, migrations="skyfed.images.migrations")
    parts = []
    if settings.lists:
        parts.append(_publisher(settings, runtime, db))
    if settings.subscriptions:
        parts.append(_subscriber(settings, runtime, db))

    async def start() -> None:
        await asyncio.to_thread(db.open)
        for part in parts:
            await part.start()

    async def stop() -> None:
        for part in parts:
            part.stop()
        await asyncio.to_thread(db.close)

    async def health() -> Health:
        found = [await part.health() for part in parts]
        return Health(ok=all(each.ok for each in found), detail="; ".join(each.detail for each in found))

    public = [route for part in parts for route in part.public]
    return Assembly(
        app=Starlette(routes=public) if public else None,
        public=http.is_public,
        limits=Limits(body_bytes=settings.max_image_bytes),
        admin=[*(route for part in parts for route in part.admin), *http.event_routes(db)],
        start=start,
        stop=stop,
        health=health,
    )


def _publisher(settings: Settings, runtime: Runtime, db: Database) -> _Part:
    if runtime.listener is None:
        raise Invalid("publishing image lists needs [services.images.listen]", code="settings_value")
    files = FileStore(runtime.data / "files", _limits(settings), max_bytes=settings.max_image_bytes)
    publisher = Publisher(
        db,
        files,
        {
            n: ListDefinition(vo=s.vo, title=s.title, description=s.description or s.title, source=s.source)
            for n, s in settings.lists.items()
        },
        credential=lambda: _endorser(settings, runtime),
        email=settings.endorser_email,
        lifetime=timedelta(days=settings.list_lifetime_days),
        public_url=runtime.listener.public_url,
        clock=runtime.clock,
    )

    async def renew() -> None:
        await asyncio.to_thread(publisher.renew)

    async def start() -> None:
        await asyncio.to_thread(publisher.open)
        try:
            # The lists stand before the first request.
            await renew()
        except Invalid as error:
            log.warning("image lists cannot be signed yet; the task %s tries again: %s", RENEW_TASK, error.message)
        runtime.tasks.every(RENEW_TASK, RENEW_SECONDS, renew)

    async def health() -> Health:
        lists = await asyncio.to_thread(publisher.lists)
        now = runtime.clock.now()
        expired = [each.name for each in lists if each.expires <= now]
        unsigned = sorted(settings.lists.keys() - {each.name for each in lists})
        images = sum(len(each.images) for each in lists)
        trouble = [f"expired: {', '.join(expired)}"] if expired else []
        trouble += [f"not signed yet: {', '.join(unsigned)}"] if unsigned else []
        return Health(ok=not trouble, detail="; ".join([f"{images} images in {len(lists)} lists", *trouble]))

    return _Part(
        public=tuple(http.publisher_routes(publisher, files, settings.uploaders)),
        admin=tuple(http.publisher_admin(publisher, files)),
        start=start,
        health=health,
    )


def _subscriber(settings: Settings, runtime: Runtime, db: Database) -> _Part:
    downloads = Downloads(runtime.data / "downloads", runtime.http, deadline=settings.download_seconds)
    subscriber = Subscriber(
        db,
        downloads,
        {name: _terms(each) for name, each in settings.subscriptions.items()},
        pool=runtime.require_compute(ComputeService),
        trust=runtime.trust,
        http=runtime.http,
        limits=_limits(settings),
        clock=runtime.clock,
        tasks=runtime.tasks,
    )

    sooner: list[asyncio.TimerHandle] = []

    async def cycle() -> None:
        while sooner:
            sooner.pop().cancel()
        await subscriber.cycle()
        due = await subscriber.seconds_until_due()
        if due is not None and due < settings.poll_seconds:
            sooner.append(asyncio.get_running_loop().call_later(max(due, 1.0), runtime.tasks.wake, TASK))

    async def start() -> None:
        await asyncio.to_thread(downloads.open)
        runtime.tasks.every(TASK, settings.poll_seconds, cycle)

    async def health() -> Health:
        found = await subscriber.overview()
        bad = [f"{each.name}: {each.code}" for each in found if each.state in (ListState.STALE, ListState.REFUSED)]
        pooled = sum(image.pooled_id is not None for each in found for image in each.images)
        listed = sum(len(each.images) for each in found)
        detail = f"{pooled} of {listed} images from {len(found)} lists"
        due = await subscriber.seconds_until_due()
        again = [f"next try in {min(due, settings.poll_seconds):.0f} s"] if due is not None else []
        return Health(ok=not bad, detail="; ".join([detail, *bad, *again]))

    return _Part(
        public=(),
        admin=tuple(http.subscriber_admin(subscriber, runtime.tasks)),
        start=start,
        health=health,
        stop=subscriber.stop,
    )


def _terms(settings: SubscriptionSettings) -> SubscriptionTerms:
    policy = Policy(
        endorsers=tuple(Endorser(dn=each.dn, ca=each.ca) for each in settings.endorsers),
        identifier=settings.identifier,
        allow_sha1=settings.allow_sha1,
    )
    return SubscriptionTerms(
        url=settings.url,
        policy=policy,
        vos=frozenset(settings.vos),
        images=frozenset(settings.images),
        refuse_reused_version=settings.reused_version == "refuse",
    )


def _limits(settings: Settings) -> InspectionLimits:
    return InspectionLimits(formats=tuple(settings.formats), max_virtual_bytes=settings.max_virtual_bytes)


def _endorser(settings: Settings, runtime: Runtime) -> Credential:
    """The credential of the moment, read anew each time: it may have been renewed. The node's directory holds `run`."""
    if settings.endorser_cert is None:
        return read_credential(runtime.host.cert, runtime.host.key)
    node = runtime.run.parent
    key = node / settings.endorser_key if settings.endorser_key is not None else None
    return read_credential(node / settings.endorser_cert, key)
