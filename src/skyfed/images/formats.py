"""The HEPiX image list: JSON ↔ `ImageList` (images digest A.1). Sans-IO; every key that we do not know is kept."""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from skyfed.core.clock import from_iso, iso
from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.images.model import Endorser, ImageList, ListedImage

MAX_LIST_BYTES = 4 << 20
MAX_IMAGES = 5000
MAX_TEXT_CHARACTERS = 64 * 1024
MAX_KEY_CHARACTERS = 2048
MAX_IMAGE_BYTES = 1 << 44

_SHA512 = re.compile(r"[0-9a-f]{128}")
_SIZE = re.compile(r"[0-9]{1,14}")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}")


def parse(payload: bytes) -> ImageList:
    """The list in `payload`. Raises Invalid: `not_json`, `not_a_list`, `missing_field`, `bad_field`."""
    if len(payload) > MAX_LIST_BYTES:
        raise Invalid(f"the list has more than {MAX_LIST_BYTES} bytes", code="not_a_list")
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid(f"the list is not JSON: {error}", code="not_json") from error
    if not isinstance(value, dict):
        raise Invalid("the list is not a JSON object", code="not_a_list")
    wrapped = "hv:imagelist" in value
    document = value["hv:imagelist"] if wrapped else value
    if not isinstance(document, dict) or "hv:images" not in document:
        raise Invalid("there is no hv:imagelist with hv:images in it", code="not_a_list")
    return _list(document, wrapped=wrapped)


def write(document: dict[str, Any]) -> bytes:
    """`document` (the value of hv:imagelist) as publishers write it: sorted keys, four spaces, UTF-8."""
    encoder = msgspec.json.Encoder(order="sorted")
    return msgspec.json.format(encoder.encode({"hv:imagelist": document}), indent=4) + b"\n"


def list_document(
    *,
    identifier: str,
    title: str,
    description: str,
    source: str,
    uri: str,
    version: str,
    vo: str,
    created: datetime,
    expires: datetime,
    endorser: Endorser,
    images: list[dict[str, Any]],
) -> dict[str, Any]:
    """The value of hv:imagelist with the keys that vmcatcher, atrope and cloudkeeper want. Images without an expiry of
    their own get the list's: cloudkeeper drops those without."""
    end = iso(expires)
    return {
        "ad:vo": vo,
        "dc:date:created": iso(created),
        "dc:date:expires": end,
        "dc:description": description,
        "dc:identifier": identifier,
        "dc:source": source,
        "dc:title": title,
        "hv:endorser": {
            "hv:x509": {
                "dc:creator": endorser.name,
                "hv:ca": endorser.ca,
                "hv:dn": endorser.dn,
                "hv:email": endorser.email,
            }
        },
        "hv:images": [{"hv:image": {"dc:date:expires": end, **image}} for image in images],
        "hv:uri": uri,
        "hv:version": version,
    }


def image_of(document: dict[str, Any], *, where: str = "hv:image") -> ListedImage:
    """One hv:image object as a value. Raises Invalid: `missing_field`, `bad_field`."""
    read = _Reader(document, where)
    return ListedImage(
        identifier=read.identifier("dc:identifier"),
        title=read.text("dc:title"),
        description=read.text("dc:description"),
        size=read.size("hv:size"),
        sha512=read.sha512("sl:checksum:sha512"),
        uri=read.key_text("hv:uri"),
        version=read.key_text("hv:version"),
        arch=read.key_text("sl:arch"),
        os=read.key_text("sl:os"),
        os_version=read.key_text("sl:osversion"),
        os_name=read.text("sl:osname", required=False),
        comments=read.text("sl:comments"),
        hypervisor=read.key_text("hv:hypervisor"),
        format=read.text("hv:format", required=False),
        mpuri=read.text("ad:mpuri", required=False) or None,
        expires=read.time("dc:date:expires") if document.get("dc:date:expires") else None,
        document=document,
    )


def _list(document: dict[str, Any], *, wrapped: bool) -> ImageList:
    read = _Reader(document, "hv:imagelist")
    return ImageList(
        identifier=read.identifier("dc:identifier"),
        title=read.text("dc:title"),
        description=read.text("dc:description"),
        source=read.text("dc:source"),
        version=read.key_text("hv:version"),
        uri=read.text("hv:uri"),
        created=read.time("dc:date:created"),
        expires=read.time("dc:date:expires"),
        endorser=_endorser(document),
        vo=read.text("ad:vo", required=False) or None,
        images=_images(document["hv:images"]),
        document=document,
        wrapped=wrapped,
    )


def _endorser(document: dict[str, Any]) -> Endorser:
    holder = document.get("hv:endorser")
    x509 = holder.get("hv:x509") if isinstance(holder, dict) else None
    if not isinstance(x509, dict):
        raise Invalid("the list has no hv:endorser with hv:x509 in it", code="missing_field")
    read = _Reader(x509, "hv:x509")
    return Endorser(
        dn=read.key_text("hv:dn"), ca=read.key_text("hv:ca"), email=read.text("hv:email"), name=read.text("dc:creator")
    )


def _images(entries: object) -> tuple[ListedImage, ...]:
    if not isinstance(entries, list):
        raise Invalid("hv:images is not an array", code="not_a_list")
    if len(entries) > MAX_IMAGES:
        raise Invalid(f"the list has more than {MAX_IMAGES} images", code="not_a_list")
    images = []
    for position, entry in enumerate(entries):
        image = entry.get("hv:image") if isinstance(entry, dict) else None
        if not isinstance(image, dict):
            raise Invalid(f"entry {position} of hv:images has no hv:image", code="not_a_list")
        images.append(image_of(image, where=f"hv:image {position}"))
    identifiers = [image.identifier for image in images]
    if twice := next((i for i in identifiers if identifiers.count(i) > 1), None):
        raise Invalid(f"the image {shown(twice)} is in the list twice", code="bad_field")
    return tuple(images)


class _Reader:
    """Reads the keys of one object, naming the object and the key in every complaint."""

    def __init__(self, document: dict[str, Any], where: str) -> None:
        self._document = document
        self._where = where

    def text(self, key: str, *, required: bool = True, limit: int = MAX_TEXT_CHARACTERS) -> str:
        """May be empty: the key is what is required."""
        if key not in self._document:
            if required:
                raise Invalid(f"{self._where} lacks {key}", code="missing_field")
            return ""
        value = self._document[key]
        if not isinstance(value, str):
            if not required and value is None:
                return ""
            raise self._bad(key, value, "a text")
        if len(value) > limit:
            raise self._bad(key, value, f"a text of at most {limit} characters")
        return value

    def key_text(self, key: str) -> str:
        """A text that cannot be empty."""
        value = self.text(key, limit=MAX_KEY_CHARACTERS).strip()
        if not value:
            raise Invalid(f"{self._where} has an empty {key}", code="missing_field")
        return value

    def identifier(self, key: str) -> str:
        value = self.key_text(key)
        if not _IDENTIFIER.fullmatch(value):
            raise self._bad(key, value, "a UUID, or at most 100 letters, digits and ._:@-")
        return value

    def sha512(self, key: str) -> str:
        value = self.key_text(key).lower()
        if not _SHA512.fullmatch(value):
            raise self._bad(key, value, "128 hexadecimal digits")
        return value

    def size(self, key: str) -> int:
        """Bytes: an integer, or (AppDB) the same as a text."""
        if key not in self._document:
            raise Invalid(f"{self._where} lacks {key}", code="missing_field")
        value = self._document[key]
        if isinstance(value, str) and _SIZE.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_IMAGE_BYTES:
            raise self._bad(key, value, f"a number of bytes between 1 and {MAX_IMAGE_BYTES}")
        return value

    def time(self, key: str) -> datetime:
        value = self.key_text(key)
        try:
            return from_iso(value)
        except ValueError:
            pass
        try:  # some publishers write an offset or fractions
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise self._bad(key, value, "a time such as 2026-11-23T04:40:00Z") from None
        if moment.tzinfo is None:
            raise self._bad(key, value, "a time such as 2026-11-23T04:40:00Z")
        return moment.astimezone(UTC)

    def _bad(self, key: str, value: object, wanted: str) -> Invalid:
        return Invalid(f"{self._where}: {key} is {shown(value)}; {wanted} is expected", code="bad_field")
