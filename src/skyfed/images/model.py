"""Values of the image service: lists, images, subscriptions and what became of them. No I/O.

Field names of the wire (HEPiX image list, images digest A.1) are in `formats`; here they have the names of their
meaning.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

NUMBERS: dict[str, int] = {
    "download_failed": 10,
    "validation": 11,
    "endorser_mismatch": 12,
    "endorser_unknown": 13,
    "same_version": 16,
    "lower_version": 17,
    "list_identifier": 31,
    "image_refused": 32,
    "created_in_future": 33,
    "list_expired": 34,
    "image_expired": 34,
    "missing_field": 34,
    "not_json": 37,
    "not_a_list": 38,
    "bad_field": 39,
}
"""vmcatcher's exit codes (images digest A.5) by our stable codes; a trust or signature code is 11."""
VALIDATION = NUMBERS["validation"]


def number_of(code: str) -> int:
    """The number that vmcatcher would have ended with; 0 for no fault."""
    return NUMBERS.get(code, VALIDATION) if code else 0


class Endorser(msgspec.Struct, frozen=True):
    """Who vouches for a list: subject and issuer, slash form. The pair is the identity."""

    dn: str
    ca: str
    email: str = ""
    name: str = ""


class ListedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image as a list describes it. `document` is the `hv:image` object with every key it came with."""

    identifier: str
    title: str
    description: str
    size: int
    sha512: str
    uri: str
    version: str
    arch: str
    os: str
    os_version: str
    os_name: str = ""
    comments: str = ""
    hypervisor: str
    format: str = ""
    mpuri: str | None = None
    expires: datetime | None = None
    document: dict[str, Any] = {}


class ImageList(msgspec.Struct, frozen=True, kw_only=True):
    """A list. `document` is the value of `hv:imagelist` with every key it came with; `wrapped` is False for the old
    form without it."""

    identifier: str
    title: str
    description: str
    source: str
    version: str
    uri: str
    created: datetime
    expires: datetime
    endorser: Endorser
    vo: str | None
    images: tuple[ListedImage, ...]
    document: dict[str, Any] = {}
    wrapped: bool = True

    def image(self, identifier: str) -> ListedImage | None:
        """The image of that identifier."""
        return next((image for image in self.images if image.identifier == identifier), None)


class PublishedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file in the publisher's store: what it is by its content. `format` as the inspection found it."""

    sha512: str
    size: int
    format: str
    virtual_size: int


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a publisher says about an image. `name` is its lasting short name within the list: the same name again is
    a new version."""

    title: str
    name: str = ""
    description: str = ""
    os: str = "Linux"
    os_name: str = ""
    os_version: str = ""
    arch: str = "x86_64"
    hypervisor: str = "KVM,QEMU"
    comments: str = ""
    group: str = "General group"
    version: str = ""
    ram_minimum_mib: int | None = None
    core_minimum: int | None = None


class PublishedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in a list of ours."""

    list: str
    name: str
    identifier: str
    title: str
    version: str
    uri: str
    mpuri: str
    size: int
    sha512: str
    format: str


class PublishedList(msgspec.Struct, frozen=True, kw_only=True):
    """A list of ours as it stands at its URL."""

    name: str
    vo: str
    identifier: str
    version: str
    url: str
    created: datetime
    expires: datetime
    endorser: str
    images: tuple[PublishedImage, ...]


class ImageState(StrEnum):
    """The life of one image at a site (images digest 0)."""

    KNOWN = "known"
    DOWNLOADING = "downloading"
    POOLED = "pooled"
    FAILED = "failed"
    REJECTED = "rejected"
    RETIRED = "retired"


class ListState(StrEnum):
    """How a subscription stands: never seen, in force, in force although the last fetch failed, or not in force."""

    NEW = "new"
    OK = "ok"
    STALE = "stale"
    REFUSED = "refused"


class SubscribedImage(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one image of a subscribed list. `code` and `reason` say why it is not pooled; `number` is
    vmcatcher's."""

    subscription: str
    identifier: str
    title: str
    version: str
    sha512: str
    size: int
    uri: str
    state: ImageState
    code: str = ""
    number: int = 0
    reason: str = ""
    attempts: int = 0
    next_try: datetime | None = None
    pooled_id: str | None = None
    pooled_sha512: str | None = None
    changed: datetime | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscription stands."""

    name: str
    url: str
    state: ListState
    vos: tuple[str, ...] = ()
    code: str = ""
    number: int = 0
    reason: str = ""
    identifier: str = ""
    title: str = ""
    version: str = ""
    version_reused: bool = False
    endorser: str = ""
    created: datetime | None = None
    expires: datetime | None = None
    checked: datetime | None = None
    accepted: datetime | None = None
    images: tuple[SubscribedImage, ...] = ()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. `kind`: list-published, list-accepted, list-refused, image-pooled, image-failed,
    image-retired, …"""

    at: datetime
    kind: str
    subject: str
    detail: str
