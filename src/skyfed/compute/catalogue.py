"""The images that a site offers: their names, their versions, and what changes when a list brings a new
one."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from skyfed.compute.model import Flavour, IdentifierKind, Image, ImageMeta, ImageState
from skyfed.compute.store import identifier
from skyfed.core.errors import Invalid
from skyfed.core.ids import derived_uuid
from skyfed.core.text import shown

_SHA512 = re.compile(r"[0-9a-f]{128}")
_NOT_IN_TERMS = re.compile(r"[^a-z0-9]+")
TERM_WORDS = 48


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """What the members of a virtual organisation may start, and in which sizes. `version` grows with each
    change."""

    version: int
    images: tuple[Image, ...]
    flavours: tuple[Flavour, ...]

    def image(self, term: str) -> Image | None:
        """The image with this os_tpl term."""
        return next((image for image in self.images if image.os_tpl_term == term), None)

    def flavour(self, term: str) -> Flavour | None:
        """The flavour with this resource_tpl term."""
        return next((flavour for flavour in self.flavours if flavour.term == term), None)


def check(meta: ImageMeta) -> None:
    """Raises Invalid for what cannot be an image."""
    if not _SHA512.fullmatch(meta.sha512):
        raise Invalid(
            f"sha512 of an image is 128 lower-case hexadecimal digits, not {shown(meta.sha512)}", code="bad_digest"
        )
    if meta.size_bytes <= 0 or meta.virtual_size_bytes <= 0:
        raise Invalid(f"image {shown(meta.title)} has no size", code="bad_size")


def as_image(meta: ImageMeta, others: Iterable[Image], *, order: Sequence[IdentifierKind], now: datetime) -> Image:
    """The catalogue entry for `meta`. Importing the same again gives the same `id`; a new version of a
    known image keeps the os_tpl term, since users' scripts name it."""
    source = _source(meta.list_identifier, meta.dc_identifier, meta.sha512)
    known = [image for image in others if _same_source(image, meta)]
    term = known[-1].os_tpl_term if known else _term(meta.title, source)
    fields = {name: getattr(meta, name) for name in ImageMeta.__struct_fields__}
    return Image(
        id=derived_uuid("skyfed:compute:image", f"{source}\n{meta.sha512}"),
        os_tpl_term=term,
        identifier=identifier(meta.mpuri, meta.dc_identifier, term, order),
        state=ImageState.AVAILABLE,
        imported=now,
        **fields,
    )


def replaced(image: Image, others: Iterable[Image]) -> tuple[Image, ...]:
    """The available images that `image` is the new version of."""
    return tuple(
        other
        for other in others
        if other.id != image.id and other.state is ImageState.AVAILABLE and other.os_tpl_term == image.os_tpl_term
    )


def _same_source(image: Image, meta: ImageMeta) -> bool:
    return _source(image.list_identifier, image.dc_identifier, image.sha512) == _source(
        meta.list_identifier, meta.dc_identifier, meta.sha512
    )


def _source(list_identifier: str | None, dc_identifier: str | None, sha512: str) -> str:
    """What stays the same over an image's versions; one without `dc:identifier` is its content."""
    return f"{list_identifier or ''}\n{dc_identifier or sha512}"


def _term(title: str, source: str) -> str:
    """An os_tpl term: readable, unique, and a legal term of GFD.185 (letters, digits, hyphens)."""
    words = _NOT_IN_TERMS.sub("-", title.lower()).strip("-")[:TERM_WORDS].strip("-")
    return f"{words or 'image'}-{derived_uuid('skyfed:compute:term', source)[:8]}"
