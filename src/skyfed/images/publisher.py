"""The publisher: lists of ours, kept signed and in date, and the images in them (images digest B).

A list's row holds the signed message that is served, so that version and message change in one transaction: there is
no version that was not published, and none published that is not remembered.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from skyfed.core.clock import Clock, epoch, from_epoch
from skyfed.core.errors import Conflict, Invalid, NotFound
from skyfed.core.ids import derived_uuid
from skyfed.core.sql import Database
from skyfed.core.text import shown
from skyfed.images import events, formats, tables, versions
from skyfed.images.files import FileStore
from skyfed.images.model import Description, Endorser, PublishedFile, PublishedImage, PublishedList
from skyfed.pki import names, smime
from skyfed.pki.files import Credential

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
# Subscribers that are in the middle of a download of an older version may finish it.
KEEP_FILES = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class ListDefinition:
    """What a list is, as configured."""

    vo: str
    title: str
    description: str
    source: str


@dataclass(frozen=True, slots=True)
class Served:
    """What a GET of a list gives. `etag` changes with every byte."""

    message: bytes
    etag: str
    created: float


class Publisher:
    """Blocking calls, for threads. `open` first.

    `credential` gives the endorser's credential of the moment (it may be renewed on disk); `public_url` is where
    clients find the service.
    """

    def __init__(
        self,
        db: Database,
        files: FileStore,
        definitions: Mapping[str, ListDefinition],
        *,
        credential: Callable[[], Credential],
        email: str,
        lifetime: timedelta,
        public_url: str,
        clock: Clock,
    ) -> None:
        self._db = db
        self._files = files
        self._definitions = dict(definitions)
        self._credential = credential
        self._email = email
        self._lifetime = lifetime
        self._url = public_url.rstrip("/")
        self._clock = clock
        self._served: dict[str, Served] = {}
        for name in self._definitions:
            _check_name(name)

    def open(self) -> None:
        """Load the lists that stand."""
        self._files.open()
        for row in self._db.read(lambda conn: conn.execute(sa.select(tables.published_list)).all()):
            self._serve(row.name, row.message, row.created)

    # -- what clients ask for -----------------------------------------------------------------------------------

    def served(self, name: str) -> Served:
        """The signed list. Raises NotFound."""
        if name not in self._served or name not in self._definitions:
            known = ", ".join(sorted(self._served)) or "none"
            raise NotFound(f"there is no image list {shown(name)}; there are: {known}", code="no_list")
        return self._served[name]

    def lists(self) -> tuple[PublishedList, ...]:
        """All lists with their images."""
        return self._db.read(self._lists)

    def document(self, identifier: str) -> dict[str, Any]:
        """The hv:image object of an image of ours. Raises NotFound."""
        for published in self.lists():
            for image in published.images:
                if image.identifier == identifier:
                    return self._db.read(lambda conn, i=image: _document(conn, i.list, i.name))  # type: ignore[misc]
        raise NotFound(f"there is no image {shown(identifier)}", code="no_image")

    # -- what endorsers do --------------------------------------------------------------------------------------

    def publish(self, name: str, description: Description, file: PublishedFile, publisher: str) -> PublishedImage:
        """Put an image into the list `name`, or a new version of it; the same file and words again change nothing.

        Raises NotFound (no such list), Invalid, Conflict (`lower_version`).
        """
        self._defined(name)
        slug = description.name or _NOT_IN_NAMES.sub("-", description.title.lower()).strip("-")[:100].strip("-")
        _check_name(slug)
        if not description.title.strip():
            raise Invalid("an image needs a title", code="missing_field")

        def job(conn: Connection) -> PublishedImage:
            row = self._row(conn, name) or self._sign(conn, name)
            known = _entry(conn, name, slug)
            document = self._image_document(row.identifier, slug, description, file, known, publisher)
            self._remember_file(conn, file)
            if known is None or not _same_image(msgspec.json.decode(known.document), document):
                _put_entry(conn, name, slug, known, file.sha512, document)
                self._sign(conn, name)
                events.note(conn, self._clock.now(), "image-published", f"{name} {slug}", f"by {publisher}")
            return next(image for image in self._images(conn, name) if image.name == slug)

        image = self._db.write(job)
        self._load(name)
        return image

    def withdraw(self, name: str, slug: str, publisher: str) -> PublishedList:
        """Take an image out of a list: subscribers retire it. Raises NotFound."""
        self._defined(name)

        def job(conn: Connection) -> None:
            t = tables.published_image
            gone = conn.execute(t.delete().where(t.c.list == name, t.c.name == slug)).rowcount
            if not gone:
                raise NotFound(f"there is no image {shown(slug)} in list {shown(name)}", code="no_image")
            self._sign(conn, name)
            events.note(conn, self._clock.now(), "image-withdrawn", f"{name} {slug}", f"by {publisher}")

        self._db.write(job)
        self._load(name)
        return next(each for each in self.lists() if each.name == name)

    def renew(self, *, force: bool = False) -> None:
        """Sign what needs it: lists new or changed in the settings, past half of their life, or by another credential
        than the present one. Drop files that no list has referred to for a while. Raises Invalid (the credential
        cannot be used)."""
        for name in self._definitions:
            if self._db.write(lambda conn, name=name: self._renew_one(conn, name, force=force)):  # type: ignore[misc]
                self._load(name)
        for sha512 in self._db.write(self._unused_files):
            self._files.remove(sha512)

    # -- inside -------------------------------------------------------------------------------------------------

    def _defined(self, name: str) -> ListDefinition:
        if name not in self._definitions:
            known = ", ".join(sorted(self._definitions)) or "none"
            raise NotFound(f"there is no image list {shown(name)}; configured are: {known}", code="no_list")
        return self._definitions[name]

    def _renew_one(self, conn: Connection, name: str, *, force: bool) -> bool:
        row = self._row(conn, name)
        now = self._clock.now()
        due = (
            force
            or row is None
            or now + self._lifetime / 2 > from_epoch(row.expires)
            or row.settings != self._fingerprint(name)
            or row.endorser != names.oneline(self._credential().certificate.subject)
        )
        if due:
            self._sign(conn, name)
        return due

    def _sign(self, conn: Connection, name: str) -> Row[Any]:
        """Write the next version of a list and sign it. Inside the transaction, for what is signed is this
        transaction's state; it takes some milliseconds."""
        definition = self._definitions[name]
        credential = self._credential()
        row = self._row(conn, name)
        url = f"{self._url}/lists/{name}"
        now = self._clock.now().replace(microsecond=0)
        identifier = row.identifier if row else derived_uuid("skyfed:images:list", url)
        endorser = _endorser(credential, self._email)
        document = formats.list_document(
            identifier=identifier,
            title=definition.title,
            description=definition.description,
            source=definition.source or self._url,
            uri=url,
            version=versions.bump(row.version if row else ""),
            vo=definition.vo,
            created=now,
            expires=now + self._lifetime,
            endorser=endorser,
            images=_documents(conn, name),
        )
        message = smime.sign(formats.write(document), credential, signed_at=now)
        values = {
            "identifier": identifier,
            "version": document["hv:version"],
            "created": epoch(now),
            "expires": epoch(now + self._lifetime),
            "endorser": endorser.dn,
            "settings": self._fingerprint(name),
            "message": message,
        }
        t = tables.published_list
        conn.execute(
            t.update().where(t.c.name == name).values(values) if row else t.insert().values(name=name, **values)
        )
        events.note(conn, now, "list-published", name, f"version {values['version']}")
        signed = self._row(conn, name)
        assert signed is not None  # noqa: S101 - written just now
        return signed

    def _image_document(
        self,
        list_identifier: str,
        slug: str,
        description: Description,
        file: PublishedFile,
        known: Row[Any] | None,
        publisher: str,
    ) -> dict[str, Any]:
        identifier = derived_uuid("skyfed:images:image", f"{list_identifier}\n{slug}")
        number = (known.number if known else 0) + 1
        page = f"{self._url}/store/vo/image/{identifier}"
        document: dict[str, Any] = {
            "ad:appid": slug,
            "ad:base_mpuri": f"{page}/",
            "ad:group": description.group,
            "ad:mpuri": f"{page}:{number}/",
            "ad:user:fullname": publisher.rpartition("/CN=")[2] or publisher,
            "ad:user:guid": derived_uuid("skyfed:images:user", publisher),
            "ad:user:uri": f"{self._url}/store/person/{derived_uuid('skyfed:images:user', publisher)}",
            "dc:description": description.description or description.title,
            "dc:identifier": identifier,
            "dc:title": description.title,
            "hv:format": file.format.upper() if file.format != "raw" else "raw",
            "hv:hypervisor": description.hypervisor,
            "hv:size": file.size,
            "hv:uri": f"{self._url}/files/{file.sha512}.{file.format}",
            "hv:version": _next_version(description.version, known),
            "sl:arch": description.arch,
            "sl:checksum:sha512": file.sha512,
            "sl:comments": description.comments,
            "sl:os": description.os,
            "sl:osname": description.os_name or description.os,
            "sl:osversion": description.os_version or "unknown",
        }
        if description.ram_minimum_mib is not None:
            document["hv:ram_minimum"] = str(description.ram_minimum_mib)
        if description.core_minimum is not None:
            document["hv:core_minimum"] = str(description.core_minimum)
        formats.image_of(document)
        return document

    def _fingerprint(self, name: str) -> str:
        value = repr((self._definitions[name], self._url, self._email, self._lifetime))
        return hashlib.sha256(value.encode()).hexdigest()

    def _row(self, conn: Connection, name: str) -> Row[Any] | None:
        t = tables.published_list
        return conn.execute(sa.select(t).where(t.c.name == name)).one_or_none()

    def _remember_file(self, conn: Connection, file: PublishedFile) -> None:
        t = tables.file
        conn.execute(t.delete().where(t.c.sha512 == file.sha512, ~t.c.sha512.in_(_referred())))
        if conn.execute(sa.select(t.c.sha512).where(t.c.sha512 == file.sha512)).first() is None:
            values = {
                "sha512": file.sha512,
                "size": file.size,
                "format": file.format,
                "virtual_size": file.virtual_size,
            }
            conn.execute(t.insert().values(values | {"used": epoch(self._clock.now())}))

    def _unused_files(self, conn: Connection) -> list[str]:
        t = tables.file
        now = self._clock.now()
        conn.execute(t.update().where(t.c.sha512.in_(_referred())).values(used=epoch(now)))
        old = t.c.used < epoch(now - KEEP_FILES)
        gone = [row.sha512 for row in conn.execute(sa.select(t.c.sha512).where(old))]
        conn.execute(t.delete().where(t.c.sha512.in_(gone)))
        return gone

    def _lists(self, conn: Connection) -> tuple[PublishedList, ...]:
        rows = conn.execute(sa.select(tables.published_list).order_by(tables.published_list.c.name)).all()
        return tuple(
            PublishedList(
                name=row.name,
                vo=self._definitions[row.name].vo,
                identifier=row.identifier,
                version=row.version,
                url=f"{self._url}/lists/{row.name}",
                created=from_epoch(row.created),
                expires=from_epoch(row.expires),
                endorser=row.endorser,
                images=self._images(conn, row.name),
            )
            for row in rows
            if row.name in self._definitions
        )

    def _images(self, conn: Connection, name: str) -> tuple[PublishedImage, ...]:
        t = tables.published_image
        rows = conn.execute(sa.select(t).where(t.c.list == name).order_by(t.c.position)).all()
        return tuple(_published(row) for row in rows)

    def _load(self, name: str) -> None:
        row = self._db.read(lambda conn: self._row(conn, name))
        if row is not None:
            self._serve(name, row.message, row.created)

    def _serve(self, name: str, message: bytes, created: float) -> None:
        self._served[name] = Served(message, f'"{hashlib.sha256(message).hexdigest()}"', created)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{shown(name)} is no name: lower-case letters, digits, '.', '_', '-', at most 100", code="bad_name"
        )


def _endorser(credential: Credential, email: str) -> Endorser:
    certificate = credential.certificate
    return Endorser(
        dn=names.oneline(certificate.subject),
        ca=names.oneline(certificate.issuer),
        email=email,
        name=names.common_name(certificate.subject),
    )


def _next_version(wanted: str, known: Row[Any] | None) -> str:
    before = msgspec.json.decode(known.document)["hv:version"] if known else ""
    if not wanted:
        return versions.bump(before)
    if before and versions.compare(wanted, before) < 0:
        raise Conflict(f"version {shown(wanted)} is below {shown(before)}, which is published", code="lower_version")
    return wanted


# What a new number alone changes; not a reason to publish.
_NUMBERED = ("hv:version", "ad:mpuri")


def _same_image(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(k) == other.get(k) for k in one.keys() | other.keys() if k not in _NUMBERED)


def _entry(conn: Connection, name: str, slug: str) -> Row[Any] | None:
    t = tables.published_image
    return conn.execute(sa.select(t).where(t.c.list == name, t.c.name == slug)).one_or_none()


def _put_entry(
    conn: Connection, name: str, slug: str, known: Row[Any] | None, sha512: str, document: dict[str, Any]
) -> None:
    t = tables.published_image
    values = {"sha512": sha512, "document": msgspec.json.encode(document).decode()}
    if known is not None:
        same = (t.c.list == name) & (t.c.name == slug)
        conn.execute(t.update().where(same).values(number=known.number + 1, **values))
        return
    last = conn.execute(sa.select(sa.func.max(t.c.position)).where(t.c.list == name)).scalar()
    conn.execute(t.insert().values(list=name, name=slug, number=1, position=(last or 0) + 1, **values))


def _documents(conn: Connection, name: str) -> list[dict[str, Any]]:
    t = tables.published_image
    rows = conn.execute(sa.select(t.c.document).where(t.c.list == name).order_by(t.c.position))
    return [msgspec.json.decode(row.document) for row in rows]


def _document(conn: Connection, name: str, slug: str) -> dict[str, Any]:
    row = _entry(conn, name, slug)
    if row is None:
        raise NotFound(f"there is no image {shown(slug)} in list {shown(name)}", code="no_image")
    document: dict[str, Any] = msgspec.json.decode(row.document)
    return document


def _referred() -> sa.Select[tuple[str]]:
    return sa.select(tables.published_image.c.sha512)


def _published(row: Row[Any]) -> PublishedImage:
    image = formats.image_of(msgspec.json.decode(row.document))
    return PublishedImage(
        list=row.list,
        name=row.name,
        identifier=image.identifier,
        title=image.title,
        version=image.version,
        uri=image.uri,
        mpuri=image.mpuri or "",
        size=image.size,
        sha512=image.sha512,
        format=image.format,
    )
