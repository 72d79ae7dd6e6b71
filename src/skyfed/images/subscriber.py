"""The subscriber: keeps a site's image pool what its subscribed lists say (images digest C).

Every step is durable before the next begins and may be done again: a list is accepted in one transaction, a file is
visible when it is whole and verified, the compute service takes an image whole or not at all. What is pooled under an
old version stays offered until the new one is.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from skyfed.compute.model import DiskFormat, ImageMeta
from skyfed.core.clock import Clock
from skyfed.core.errors import Invalid, NotFound, SkyfedError, TimedOut, TooLarge, Unavailable
from skyfed.core.http import Client
from skyfed.core.log import event as log_event
from skyfed.core.sql import Database
from skyfed.core.tasks import Supervisor
from skyfed.images import subscriptions
from skyfed.images.download import Downloads, fetch_list
from skyfed.images.evaluate import Accepted, Policy, evaluate
from skyfed.images.inspection import Inspection, InspectionLimits, inspect
from skyfed.images.model import ListState, Subscription
from skyfed.images.subscriptions import Backoff, Work
from skyfed.pki.trust import TrustStore

log = logging.getLogger(__name__)

TASK = "images"
# Refusals that another try cannot mend; all others are tried again later.
_FINAL = (Invalid, TooLarge)
# Passing troubles, tried again soon; but not what cost a whole download and would again.
_PASSING = (Unavailable, TimedOut)
_COSTLY = ("image_digest",)


class PooledImage(Protocol):
    """What the pool gives back."""

    @property
    def id(self) -> str: ...


class Pool(Protocol):
    """The part of the compute service that the subscriber stands on."""

    async def import_image(self, meta: ImageMeta, path: Path) -> PooledImage:
        """Offer an image; takes it whole or not at all."""

    async def retire_image(self, image_id: str) -> None:
        """Offer it no longer; machines made from it go on."""

    @property
    def absent_images(self) -> frozenset[str]:
        """SHA-512 of images that should be there and are lost."""


@dataclass(frozen=True, slots=True)
class SubscriptionTerms:
    """A subscription as configured. `vos` empty: the list's own `ad:vo`; `images` empty: all of the list."""

    url: str
    policy: Policy
    vos: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    refuse_reused_version: bool = False


@dataclass(frozen=True, slots=True)
class Missed:
    """A list that could not be fetched: how often in a row, and when it is due again."""

    failures: int
    due: datetime


class Subscriber:
    """Methods belong to one event loop; what blocks runs in threads."""

    def __init__(
        self,
        db: Database,
        downloads: Downloads,
        terms: Mapping[str, SubscriptionTerms],
        *,
        pool: Pool,
        trust: TrustStore,
        http: Client,
        limits: InspectionLimits,
        clock: Clock,
        tasks: Supervisor,
    ) -> None:
        self._db = db
        self._downloads = downloads
        self._terms = dict(terms)
        self._pool = pool
        self._trust = trust
        self._http = http
        self._limits = limits
        self._clock = clock
        self._tasks = tasks
        self._stopping = threading.Event()
        self._missed: dict[str, Missed] = {}

    def stop(self) -> None:
        """Break off a running download at its next chunk, so that the process need not wait for it; it goes on after
        the next start."""
        self._stopping.set()

    async def cycle(self) -> None:
        """Look at every list, then bring in, replace and retire images. One subscription's trouble is not another's."""
        for name in self._terms:
            self._say(f"looking at {name}")
            try:
                await self._refresh(name)
            except Exception as error:
                log.exception("image list %s could not be judged", name)
                await self._mark(name, ListState.STALE, "internal", f"{type(error).__name__}; the log has the trace")
        await self._db.awrite(self._drop_unsubscribed)
        await self._db.awrite(lambda conn: subscriptions.expire_images(conn, self._clock.now()))
        await self._retire()
        await self._fill()
        await self._retire()
        wanted = await self._db.aread(subscriptions.digests_in_work)
        await asyncio.to_thread(self._downloads.drop_others, wanted)

    async def overview(self) -> tuple[Subscription, ...]:
        """How every subscription and image stands."""
        return await self._db.aread(lambda conn: subscriptions.overview(conn, self._terms))

    async def seconds_until_due(self) -> float | None:
        """When the earliest list or image that could not be fetched is to be tried again; None where there is none."""
        image = await self._db.aread(subscriptions.next_try)
        times = [missed.due for missed in self._missed.values()] + ([image] if image is not None else [])
        return max(0.0, (min(times) - self._clock.now()).total_seconds()) if times else None

    # -- lists --------------------------------------------------------------------------------------------------

    async def _refresh(self, name: str) -> None:
        terms = self._terms[name]
        await self._db.awrite(lambda conn: subscriptions.ensure(conn, name, terms.url))
        row = await self._db.aread(lambda conn: subscriptions.row_of(conn, name))
        try:
            fetched = await asyncio.to_thread(fetch_list, self._http, terms.url, row.etag if row.message else "")
        except SkyfedError as error:
            self._miss(name, error)
            await self._fall_back(name, row, "download_failed", error.message)
            return
        self._missed.pop(name, None)
        message = fetched.message if fetched.message is not None else row.message
        try:
            accepted = await asyncio.to_thread(self._evaluate, name, message, row)
        except SkyfedError as error:
            if message == row.message:
                await self._refuse(name, error)
            else:
                await self._fall_back(name, row, error.code, error.message)
            return
        await self._accept(name, accepted, message, fetched.etag)

    def _miss(self, name: str, error: SkyfedError) -> None:
        failures = self._missed[name].failures if name in self._missed else 0
        self._missed[name] = Missed(failures + 1, self._clock.now() + _backoff(error).delay(failures))

    def _evaluate(self, name: str, message: bytes, row: Any) -> Accepted:
        """A new message, or the stored one again: certificates, CRLs and dates move on without it."""
        terms = self._terms[name]
        accepted = evaluate(message, terms.policy, self._trust, self._clock.now(), subscriptions.stored(row))
        if accepted.reused and terms.refuse_reused_version:
            raise Invalid(
                f"version '{accepted.imagelist.version}' was used before for other bytes", code="same_version"
            )
        if not terms.vos and not accepted.imagelist.vo:
            raise Invalid("the list names no ad:vo and the subscription no vos", code="missing_field")
        return accepted

    async def _accept(self, name: str, accepted: Accepted, message: bytes, etag: str) -> None:
        terms = self._terms[name]
        vos = terms.vos or frozenset({accepted.imagelist.vo or ""})
        now = self._clock.now()
        await self._db.awrite(
            lambda conn: subscriptions.accept(conn, name, accepted, message, etag, vos, terms.images, now)
        )

    async def _fall_back(self, name: str, row: Any, code: str, reason: str) -> None:
        """The newest message cannot be had or is refused: the stored one stays in force as long as it can stand by
        itself."""
        log_event(log, logging.WARNING, "image list not renewed", subscription=name, code=code, reason=reason)
        if row.message is None:
            await self._mark(name, ListState.REFUSED, code, reason)
            return
        try:
            await asyncio.to_thread(self._evaluate, name, row.message, row)
        except SkyfedError as error:
            await self._refuse(name, error)
            return
        await self._mark(name, ListState.STALE, code, reason)

    async def _refuse(self, name: str, error: SkyfedError) -> None:
        """What was in force is so no longer: its images go."""
        log_event(log, logging.WARNING, "image list refused", subscription=name, code=error.code, reason=error.message)
        now = self._clock.now()
        reason = f"the list is no longer accepted: {error.message}"
        await self._db.awrite(lambda conn: subscriptions.retire_images(conn, name, error.code, reason, now))
        await self._mark(name, ListState.REFUSED, error.code, error.message)

    async def _mark(self, name: str, state: ListState, code: str, reason: str) -> None:
        now = self._clock.now()
        await self._db.awrite(lambda conn: subscriptions.refuse(conn, name, state, code, reason, now))

    def _drop_unsubscribed(self, conn: Any) -> None:
        for name in subscriptions.unconfigured(conn, self._terms):
            reason = "the site no longer subscribes to its list"
            subscriptions.retire_images(conn, name, "unsubscribed", reason, self._clock.now())

    # -- images -------------------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        absent = self._pool.absent_images
        if absent:
            await self._db.awrite(lambda conn: subscriptions.lost(conn, absent, self._clock.now()))
        items = await self._db.aread(lambda conn: subscriptions.work(conn, self._clock.now()))
        for number, item in enumerate(items, 1):
            await self._bring_in(item, f"image {number} of {len(items)}: {item.image.title}")

    async def _bring_in(self, item: Work, what: str) -> None:
        now = self._clock.now()
        await self._db.awrite(lambda conn: subscriptions.downloading(conn, item, now))
        try:
            path = await asyncio.to_thread(self._downloads.fetch, item, self._progress(what, item.size))
            self._say(f"{what}: inspecting")
            found = await asyncio.to_thread(inspect, path, self._limits)
            self._say(f"{what}: importing")
            image = await self._pool.import_image(_meta(item, found), path)
        except SkyfedError as error:
            if not self._stopping.is_set():  # else it stays as it is, and goes on after the next start
                await self._note_failure(item, error)
            return
        except Exception as error:
            log.exception("image %s could not be brought in", item.image.identifier)
            await self._note_failure(item, SkyfedError(f"{type(error).__name__}; the log has the trace"))
            return
        pooled_id = image.id
        now = self._clock.now()
        await self._db.awrite(lambda conn: subscriptions.pooled(conn, item, pooled_id, now))
        log_event(log, logging.INFO, "image pooled", image=item.image.identifier, title=item.image.title)

    async def _note_failure(self, item: Work, error: SkyfedError) -> None:
        final = isinstance(error, _FINAL)
        code, reason, now = error.code, error.message, self._clock.now()
        if final:
            await self._db.awrite(lambda conn: subscriptions.rejected(conn, item, code, reason, now))
        else:
            backoff = _backoff(error)
            await self._db.awrite(lambda conn: subscriptions.failed(conn, item, code, reason, now, backoff))
        log_event(
            log,
            logging.WARNING,
            "image rejected" if final else "image not brought in",
            image=item.image.identifier,
            code=error.code,
            reason=error.message,
        )

    async def _retire(self) -> None:
        for subscription, identifier, pooled_id in await self._db.aread(subscriptions.to_retire):
            # A compute service that has never heard of it does not offer it either.
            with contextlib.suppress(NotFound):
                await self._pool.retire_image(pooled_id)
            await self._db.awrite(
                lambda conn, s=subscription, i=identifier: subscriptions.withdrawn(conn, s, i)  # type: ignore[misc]
            )

    # -- telling ------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self._tasks.progress(TASK, text)

    def _progress(self, what: str, size: int) -> Any:
        shown = -1

        def report(done: int) -> None:
            nonlocal shown
            if self._stopping.is_set():
                raise Unavailable("the service is stopping", code="stopping")
            percent = done * 100 // size
            if percent != shown:
                shown = percent
                self._say(f"{what}: {percent} %")

        return report


def _backoff(error: SkyfedError) -> Backoff:
    passing = isinstance(error, _PASSING) and error.code not in _COSTLY
    return subscriptions.SOON if passing else subscriptions.SELDOM


def _meta(item: Work, found: Inspection) -> ImageMeta:
    """What compute is told. The image's expiry stays with us: a list's renewal moves it, and we retire the image
    ourselves."""
    image = item.image
    return ImageMeta(
        title=image.title,
        disk_format=DiskFormat(found.format),
        size_bytes=found.size,
        virtual_size_bytes=found.virtual_size,
        sha512=image.sha512,
        vos=item.vos,
        mpuri=image.mpuri,
        dc_identifier=image.identifier,
        description=image.description,
        version=image.version,
        os_type=image.os,
        os_name=image.os_name,
        os_version=image.os_version,
        arch=image.arch,
        list_identifier=item.list_identifier,
        endorser=item.endorser,
    )
