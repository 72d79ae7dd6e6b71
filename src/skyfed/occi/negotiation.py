"""Media types of OCCI: what a request is in, what its answer shall be in (OCCI digest 8). Sans-IO."""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final

import msgspec

from skyfed.core.errors import Invalid, NotAcceptable, NotImplementedHere, UnsupportedType
from skyfed.core.text import one_line, shown
from skyfed.occi.entities import OCCI_1_1, OCCI_1_2, Version
from skyfed.occi.wire.json import Dialect
from skyfed.web.negotiation import best, media_type

PLAIN: Final = "text/plain"
OCCI: Final = "text/occi"
URI_LIST: Final = "text/uri-list"
JSON: Final = "application/occi+json"
JSON_ALIAS: Final = "application/json"
ACCEPTED: Final = f"{PLAIN}, {OCCI}, {JSON}, {JSON_ALIAS}"
"""What we read; rOCCI-api picks its media type from an `Accept` header in our answers."""

_VERSION = re.compile(r"\bOCCI/([0-9]{1,3})\.([0-9]{1,3})", re.ASCII)


class Rendering(Enum):
    PLAIN = "text/plain"
    OCCI = "text/occi"
    URI_LIST = "text/uri-list"
    JSON = "application/occi+json"


class Form(msgspec.Struct, frozen=True):
    """How an answer is rendered: the media type that its Content-Type will name, and for JSON the dialect."""

    rendering: Rendering
    media: str
    dialect: Dialect = Dialect.OCCI_1_2


_OFFERS: Mapping[str, Rendering] = {
    PLAIN: Rendering.PLAIN,
    OCCI: Rendering.OCCI,
    JSON: Rendering.JSON,
    JSON_ALIAS: Rendering.JSON,
    f"{JSON};version=1.1": Rendering.JSON,
    f"{JSON};version=1.2": Rendering.JSON,
    "text/occi+plain": Rendering.PLAIN,
    "text/x-occi": Rendering.PLAIN,
    URI_LIST: Rendering.URI_LIST,
}
_WITHOUT_LISTS = tuple(offer for offer, rendering in _OFFERS.items() if rendering is not Rendering.URI_LIST)
_READ: Mapping[str, Rendering] = {media.partition(";")[0]: rendering for media, rendering in _OFFERS.items()}


def version(user_agent: str) -> Version | None:
    """The OCCI version that a User-Agent names. Raises NotImplementedHere for one newer than 1.2."""
    match = _VERSION.search(user_agent[:1024])
    if match is None:
        return None
    found = Version(int(match.group(1)), int(match.group(2)))
    if found > OCCI_1_2:
        raise NotImplementedHere(
            f"OCCI/{found.major}.{found.minor} is not spoken here; OCCI/1.1 and OCCI/1.2 are", code="occi_version"
        )
    return found


def form(accept: str | None, speaks: Version | None, *, uri_list: bool) -> Form:
    """What to answer in. Raises NotAcceptable. `uri_list`: whether the answer can be a list of locations."""
    offers = tuple(_OFFERS) if uri_list else _WITHOUT_LISTS
    chosen = best(accept, offers)
    if chosen is None:
        raise NotAcceptable(
            f"{shown(accept)} cannot be given here; {', '.join(dict.fromkeys(o.partition(';')[0] for o in offers))} can",
            code="not_acceptable",
        )
    dialect = Dialect.OCCI_1_1 if speaks == OCCI_1_1 else Dialect.OCCI_1_2
    if chosen.endswith("version=1.1"):
        dialect = Dialect.OCCI_1_1
    elif chosen.endswith("version=1.2"):
        dialect = Dialect.OCCI_1_2
    return Form(_OFFERS[chosen], chosen, dialect)


def content(content_type: str | None, *, has_fields: bool) -> Rendering:
    """What a request's content is in. `has_fields`: OCCI header fields are there. Raises UnsupportedType."""
    if not content_type or not content_type.strip():
        return Rendering.OCCI if has_fields else Rendering.PLAIN
    if len(content_type) > 1024:
        raise Invalid("the Content-Type is longer than 1024 characters", code="content_type")
    # The stock rOCCI-cli sends the list "text/plain,text/occi" as its Content-Type: the first known type counts.
    for part in content_type.split(","):
        media = media_type(part.strip())
        if media is not None and media.essence in _READ:
            return _READ[media.essence]
    raise UnsupportedType(
        f"a body in {one_line(content_type, 100)} is not read here; {ACCEPTED} are", code="unsupported_media_type"
    )
