"""The subscriber's memory: what each subscription's list said last, and how far each of its images has come."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from skyfed.core.clock import epoch, from_epoch
from skyfed.images import evaluate, events, formats, tables
from skyfed.images.evaluate import Accepted, Stored
from skyfed.images.model import (
    ImageState,
    ListedImage,
    ListState,
    SubscribedImage,
    Subscription,
    number_of,
)
from skyfed.pki import names, smime

EXPIRED = "the image's own dc:date:expires has passed"

_S, _I = tables.subscription.c, tables.image.c


class Backoff(msgspec.Struct, frozen=True):
    """How soon something that failed is tried again: after `first`, then twice as long each time, at most `last`."""

    first: timedelta
    last: timedelta

    def delay(self, failures: int) -> timedelta:
        """How long to wait after so many earlier failures in a row."""
        return min(self.last, self.first * (1 << min(failures, 20)))


# A host that is down or restarting: asking costs nothing, and both a reboot and a night's outage end unannounced.
SOON = Backoff(timedelta(seconds=5), timedelta(minutes=5))
# What another try may mend only when somebody has done something, or what costs a whole download each time.
SELDOM = Backoff(timedelta(seconds=30), timedelta(hours=6))


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is to be downloaded and pooled."""

    subscription: str
    image: ListedImage
    list_identifier: str
    endorser: str
    vos: frozenset[str]
    pooled_id: str | None

    @property
    def uri(self) -> str:
        """Where its bytes are."""
        return self.image.uri

    @property
    def size(self) -> int:
        """How many they are."""
        return self.image.size

    @property
    def sha512(self) -> str:
        """What they hash to."""
        return self.image.sha512


# -- lists ------------------------------------------------------------------------------------------------------


def ensure(conn: Connection, name: str, url: str) -> None:
    """A row for a configured subscription; another URL makes it a new one."""
    row = conn.execute(sa.select(tables.subscription).where(_S.name == name)).one_or_none()
    if row is not None and row.url == url:
        return
    conn.execute(tables.subscription.delete().where(_S.name == name))
    blank = {"code": "", "reason": "", "etag": "", "version": "", "digest": "", "reused": False}
    conn.execute(tables.subscription.insert().values(name=name, url=url, state=ListState.NEW, **blank))


def unconfigured(conn: Connection, configured: Iterable[str]) -> tuple[str, ...]:
    """Subscriptions that still have images and are not configured any more."""
    query = sa.select(_I.subscription).where(_I.subscription.not_in(list(configured))).distinct()
    return tuple(row.subscription for row in conn.execute(query))


def row_of(conn: Connection, name: str) -> Row[Any]:
    """The row of a subscription that `ensure` made."""
    return conn.execute(sa.select(tables.subscription).where(_S.name == name)).one()


def stored(row: Row[Any]) -> Stored | None:
    """What a newer message is held against."""
    return Stored(row.version, row.digest) if row.message is not None else None


def accept(
    conn: Connection,
    name: str,
    accepted: Accepted,
    message: bytes,
    etag: str,
    vos: frozenset[str],
    wanted: frozenset[str],
    now: datetime,
) -> None:
    """A list is in force. Its images are noted; `wanted` restricts them to some identifiers (empty: all)."""
    row = row_of(conn, name)
    fresh = row.digest != accepted.digest
    values = {
        "state": ListState.OK,
        "code": "",
        "reason": "",
        "etag": etag,
        "version": accepted.imagelist.version,
        "digest": accepted.digest,
        "reused": accepted.reused if fresh else row.reused,
        "message": message,
        "checked": epoch(now),
        "accepted": epoch(now) if fresh else row.accepted,
    }
    conn.execute(tables.subscription.update().where(_S.name == name).values(values))
    if fresh:
        events.note(conn, now, "list-accepted", name, f"version {accepted.imagelist.version}")
    listed = [image for image in accepted.imagelist.images if not wanted or image.identifier in wanted]
    _note_images(conn, name, accepted, listed, vos, now)


def refuse(conn: Connection, name: str, state: ListState, code: str, reason: str, now: datetime) -> None:
    """The newest look at a list failed, or nothing is in force any more (REFUSED)."""
    row = row_of(conn, name)
    if (row.state, row.code) != (state, code):
        events.note(
            conn, now, "list-refused" if state is ListState.REFUSED else "list-stale", name, f"{code}: {reason}"
        )
    values = {"state": state, "code": code, "reason": reason, "checked": epoch(now)}
    conn.execute(tables.subscription.update().where(_S.name == name).values(values))


def _note_images(
    conn: Connection, name: str, accepted: Accepted, listed: list[ListedImage], vos: frozenset[str], now: datetime
) -> None:
    known = {row.identifier: row for row in conn.execute(sa.select(tables.image).where(_I.subscription == name))}
    taken = _owned_elsewhere(conn, name, [image.identifier for image in listed])
    common = {
        "list_identifier": accepted.imagelist.identifier,
        "endorser": names.oneline(accepted.signer.subject),
        "vos": msgspec.json.encode(sorted(vos)).decode(),
    }
    for image in listed:
        values: dict[str, Any] = common | {
            "document": msgspec.json.encode(image.document).decode(),
            "sha512": image.sha512,
        }
        row = known.get(image.identifier)
        state = _next_state(row, image, vos, now, taken=image.identifier in taken)
        if state is not None:
            values |= {"state": state[0], "code": state[1], "reason": state[2], "changed": epoch(now)}
            values |= {"attempts": 0, "next_try": None}
        if row is None:
            conn.execute(tables.image.insert().values(subscription=name, identifier=image.identifier, **values))
        else:
            conn.execute(tables.image.update().where(_key(name, image.identifier)).values(values))
    for identifier in known.keys() - {image.identifier for image in listed}:
        if known[identifier].state != ImageState.RETIRED or known[identifier].code != "not_listed":
            _settle(conn, name, identifier, ImageState.RETIRED, "not_listed", "the list has it no longer", now)


def _next_state(
    row: Row[Any] | None, image: ListedImage, vos: frozenset[str], now: datetime, *, taken: bool
) -> tuple[ImageState, str, str] | None:
    """The state that a list puts an image into; None where it stays as it is."""
    standing = None
    if taken:
        standing = (
            ImageState.REJECTED,
            "image_refused",
            "another subscription already has an image of this identifier",
        )
    elif image.expires is not None and image.expires <= now:
        standing = (ImageState.RETIRED, "image_expired", EXPIRED)
    if standing is not None:
        return None if row is not None and (row.state, row.code) == standing[:2] else standing
    if row is None or row.state == ImageState.RETIRED or row.sha512 != image.sha512:
        return ImageState.KNOWN, "", ""
    changed_uri = msgspec.json.decode(row.document).get("hv:uri") != image.uri
    changed_vos = msgspec.json.decode(row.vos) != sorted(vos)
    if changed_vos or (row.state in (ImageState.REJECTED, ImageState.FAILED) and changed_uri):
        return ImageState.KNOWN, "", ""
    return None


def _owned_elsewhere(conn: Connection, name: str, identifiers: list[str]) -> frozenset[str]:
    query = sa.select(_I.identifier).where(
        _I.subscription != name,
        _I.identifier.in_(identifiers),
        _I.state.not_in((ImageState.RETIRED, ImageState.REJECTED)),
    )
    return frozenset(row.identifier for row in conn.execute(query))


# -- images -----------------------------------------------------------------------------------------------------


def expire_images(conn: Connection, now: datetime) -> None:
    """Retire images whose own date has passed since their list was accepted."""
    for row in conn.execute(sa.select(tables.image).where(_I.state != ImageState.RETIRED)).all():
        image = formats.image_of(msgspec.json.decode(row.document))
        if image.expires is not None and image.expires <= now:
            _settle(conn, row.subscription, row.identifier, ImageState.RETIRED, "image_expired", EXPIRED, now)


def retire_images(conn: Connection, subscription: str, code: str, reason: str, now: datetime) -> None:
    """Everything of a subscription that is no longer in force is retired."""
    query = sa.select(_I.identifier).where(_I.subscription == subscription, _I.state != ImageState.RETIRED)
    for row in conn.execute(query).all():
        _settle(conn, subscription, row.identifier, ImageState.RETIRED, code, reason, now)


def lost(conn: Connection, sha512: frozenset[str], now: datetime) -> None:
    """The engine has lost these: download them again."""
    query = sa.select(_I.subscription, _I.identifier).where(
        _I.state == ImageState.POOLED, _I.pooled_sha512.in_(sorted(sha512))
    )
    for row in conn.execute(query).all():
        _settle(conn, row.subscription, row.identifier, ImageState.KNOWN, "", "", now)


def work(conn: Connection, now: datetime) -> tuple[Work, ...]:
    """Images that wait to be downloaded and whose time has come, in the order noted."""
    states = (ImageState.KNOWN, ImageState.DOWNLOADING, ImageState.FAILED)
    due = sa.or_(_I.next_try.is_(None), _I.next_try <= epoch(now))
    rows = conn.execute(
        sa.select(tables.image).where(_I.state.in_(states), due).order_by(_I.subscription, _I.identifier)
    )
    return tuple(
        Work(
            subscription=row.subscription,
            image=formats.image_of(msgspec.json.decode(row.document)),
            list_identifier=row.list_identifier,
            endorser=row.endorser,
            vos=frozenset(msgspec.json.decode(row.vos)),
            pooled_id=row.pooled_id,
        )
        for row in rows
    )


def next_try(conn: Connection) -> datetime | None:
    """When the earliest failed image is due again."""
    image = conn.execute(sa.select(sa.func.min(_I.next_try)).where(_I.state == ImageState.FAILED)).scalar()
    return from_epoch(image) if image is not None else None


def to_retire(conn: Connection) -> tuple[tuple[str, str, str], ...]:
    """(subscription, identifier, pooled id) of images that the site still offers and should not."""
    query = sa.select(_I.subscription, _I.identifier, _I.pooled_id).where(
        _I.state.in_((ImageState.RETIRED, ImageState.REJECTED)), _I.pooled_id.is_not(None)
    )
    return tuple((row.subscription, row.identifier, str(row.pooled_id)) for row in conn.execute(query))


def digests_in_work(conn: Connection) -> frozenset[str]:
    """SHA-512 of files that are wanted for the pool and not in it yet."""
    states = (ImageState.KNOWN, ImageState.DOWNLOADING, ImageState.FAILED)
    return frozenset(row.sha512 for row in conn.execute(sa.select(_I.sha512).where(_I.state.in_(states))))


def downloading(conn: Connection, item: Work, now: datetime) -> None:
    """The download begins."""
    _settle(conn, item.subscription, item.image.identifier, ImageState.DOWNLOADING, "", "", now, quiet=True)


def pooled(conn: Connection, item: Work, pooled_id: str, now: datetime) -> bool:
    """The image is offered. False when the list has moved on in the meantime: what is wanted now is another file, or
    none."""
    row = conn.execute(sa.select(tables.image).where(_key(item.subscription, item.image.identifier))).one_or_none()
    if row is None:
        return False
    mine = {"pooled_id": pooled_id, "pooled_sha512": item.sha512}
    conn.execute(tables.image.update().where(_key(item.subscription, item.image.identifier)).values(mine))
    if row.sha512 != item.sha512 or row.state == ImageState.RETIRED:
        return False
    _settle(conn, item.subscription, item.image.identifier, ImageState.POOLED, "", "", now)
    return True


def withdrawn(conn: Connection, subscription: str, identifier: str) -> None:
    """The site offers it no longer."""
    conn.execute(tables.image.update().where(_key(subscription, identifier)).values(pooled_id=None, pooled_sha512=None))


def failed(conn: Connection, item: Work, code: str, reason: str, now: datetime, backoff: Backoff) -> None:
    """Try again later, more and more seldom. Of failures in a row that are tried again soon only the first is an event."""
    where = _key(item.subscription, item.image.identifier)
    row = conn.execute(sa.select(tables.image).where(where)).one_or_none()
    if row is None or row.sha512 != item.sha512:
        return
    quiet = backoff is SOON and row.attempts > 0
    _settle(conn, item.subscription, item.image.identifier, ImageState.FAILED, code, reason, now, quiet=quiet)
    again = {"attempts": row.attempts + 1, "next_try": epoch(now + backoff.delay(row.attempts))}
    conn.execute(tables.image.update().where(where).values(again))


def rejected(conn: Connection, item: Work, code: str, reason: str, now: datetime) -> None:
    """Never again, unless the list names another file."""
    _settle(conn, item.subscription, item.image.identifier, ImageState.REJECTED, code, reason, now)


def _settle(
    conn: Connection,
    subscription: str,
    identifier: str,
    state: ImageState,
    code: str,
    reason: str,
    now: datetime,
    *,
    quiet: bool = False,
) -> None:
    values = {"state": state, "code": code, "reason": reason, "changed": epoch(now)}
    conn.execute(tables.image.update().where(_key(subscription, identifier)).values(values))
    if not quiet:
        events.note(conn, now, f"image-{state}", f"{subscription} {identifier}", f"{code} {reason}".strip())


def _key(subscription: str, identifier: str) -> sa.ColumnElement[bool]:
    return sa.and_(_I.subscription == subscription, _I.identifier == identifier)


# -- what administrators see ------------------------------------------------------------------------------------


def overview(conn: Connection, configured: Iterable[str]) -> tuple[Subscription, ...]:
    """Every configured subscription with its images."""
    wanted = sorted(configured)
    rows = {row.name: row for row in conn.execute(sa.select(tables.subscription).where(_S.name.in_(wanted)))}
    return tuple(_subscription(conn, rows[name]) for name in wanted if name in rows)


def _subscription(conn: Connection, row: Row[Any]) -> Subscription:
    images = conn.execute(sa.select(tables.image).where(_I.subscription == row.name).order_by(_I.identifier)).all()
    shown = Subscription(
        name=row.name,
        url=row.url,
        state=ListState(row.state),
        code=row.code,
        number=number_of(row.code),
        reason=row.reason,
        version=row.version,
        version_reused=row.reused,
        checked=from_epoch(row.checked) if row.checked is not None else None,
        accepted=from_epoch(row.accepted) if row.accepted is not None else None,
        vos=tuple(msgspec.json.decode(images[0].vos)) if images else (),
        images=tuple(_image(image) for image in images),
    )
    if row.message is None:
        return shown
    # The stored message was verified when it was accepted; here it is only read again.
    imagelist = formats.parse(smime.inner_text(_content(row.message)))
    return msgspec.structs.replace(
        shown,
        identifier=imagelist.identifier,
        title=imagelist.title,
        endorser=imagelist.endorser.dn,
        created=imagelist.created,
        expires=imagelist.expires,
    )


def _content(message: bytes) -> bytes:
    return smime.verify(message, allow_sha1=True, max_bytes=evaluate.MAX_MESSAGE_BYTES).content


def _image(row: Row[Any]) -> SubscribedImage:
    image = formats.image_of(msgspec.json.decode(row.document))
    return SubscribedImage(
        subscription=row.subscription,
        identifier=row.identifier,
        title=image.title,
        version=image.version,
        sha512=row.sha512,
        size=image.size,
        uri=image.uri,
        state=ImageState(row.state),
        code=row.code,
        number=number_of(row.code),
        reason=row.reason,
        attempts=row.attempts,
        next_try=from_epoch(row.next_try) if row.next_try is not None else None,
        pooled_id=row.pooled_id,
        pooled_sha512=row.pooled_sha512,
        changed=from_epoch(row.changed),
    )
