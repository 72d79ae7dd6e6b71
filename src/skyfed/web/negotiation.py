"""Which representation to send: Accept with q-values (RFC 9110 12.5.1), and media types of bodies (8.3.1)."""

import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

# Browsers send some 150 bytes. What is longer than this is read up to here.
MAX_ACCEPT = 1024
MAX_RANGES = 64

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TYPE = re.compile(rf"\s*({_WORD})/({_WORD})\s*")
_PARAMETER = re.compile(rf'\s*({_WORD})\s*=\s*("(?:[^"\\]|\\.)*"|{_WORD})\s*')
# `.2` is not in the grammar; Java's HttpURLConnection sends it, and a lone `*` for `*/*`.
_Q = re.compile(r"(?:0?\.\d{1,3}|0\.?|1(?:\.0{0,3})?)", re.ASCII)
# One element of a comma list; quoted commas stay inside.
_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*")+')


class MediaType(msgspec.Struct, frozen=True):
    """`type/subtype` in lower case, and its parameters with lower-case names. Either part may be `*` in an Accept range."""

    type: str
    subtype: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def essence(self) -> str:
        """The type without parameters."""
        return f"{self.type}/{self.subtype}"

    def parameter(self, name: str) -> str | None:
        """The value of a parameter."""
        return next((value for key, value in self.parameters if key == name), None)


class MediaRange(msgspec.Struct, frozen=True):
    """One element of an Accept field: what is asked for, and how much (0 = not at all … 1)."""

    media: MediaType
    q: float = 1.0

    def specificity(self, offer: MediaType) -> int | None:
        """How exactly this range means `offer` (higher is more exact); None when it does not."""
        if self.media.type == "*":
            return 0 if self.media.subtype == "*" else None
        if self.media.type != offer.type:
            return None
        if self.media.subtype == "*":
            return 1
        if self.media.subtype != offer.subtype:
            return None
        if not set(self.media.parameters) <= set(offer.parameters):
            return None
        return 2 + len(self.media.parameters)


@lru_cache(maxsize=512)
def media_type(text: str) -> MediaType | None:
    """The media type of a Content-Type field; None when it is not one."""
    return _media_type(text[:MAX_ACCEPT])


@lru_cache(maxsize=512)
def parse_accept(text: str) -> tuple[MediaRange, ...]:
    """The ranges of an Accept field, in its order. Elements that are not ranges are left out."""
    ranges = (_range(element) for element in _ELEMENT.findall(text[:MAX_ACCEPT])[:MAX_RANGES])
    return tuple(found for found in ranges if found is not None)


def best(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer that the client likes best; between equals the one offered first. None when it accepts none.

    Without an Accept field, or with nothing readable in it, the first offer.
    """
    ranges = parse_accept(accept) if accept else ()
    if not ranges:
        return offers[0] if offers else None
    chosen, chosen_q = None, 0.0
    for offer in offers:
        q = quality(ranges, offer)
        if q > chosen_q:
            chosen, chosen_q = offer, q
    return chosen


def quality(ranges: Sequence[MediaRange], offer: str) -> float:
    """The q-value that the most specific matching range gives `offer`; 0 when none matches."""
    media = media_type(offer)
    if media is None:
        raise ValueError(f"'{offer}' is not a media type")
    found, q = -1, 0.0
    for candidate in ranges:
        specificity = candidate.specificity(media)
        if specificity is not None and specificity > found:
            found, q = specificity, candidate.q
    return q


def _media_type(text: str) -> MediaType | None:
    match = _TYPE.match(text)
    if match is None:
        return None
    parameters, at = [], match.end()
    while at < len(text) and text[at] == ";":
        found = _PARAMETER.match(text, at + 1)
        if found is None:
            break  # an empty or broken parameter: the type before it still counts, as every server does
        value = found[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        parameters.append((found[1].lower(), value))
        at = found.end()
    return MediaType(match[1].lower(), match[2].lower(), tuple(parameters))


def _range(element: str) -> MediaRange | None:
    media = _media_type(re.sub(r"^\s*\*\s*(?=;|$)", "*/*", element))
    if media is None:
        return None
    q, kept = 1.0, []
    for name, value in media.parameters:
        if name == "q":
            # What follows q is not part of the media type (RFC 7231's accept-ext).
            q = float(value) if _Q.fullmatch(value) else 0.0
            break
        kept.append((name, value))
    return MediaRange(MediaType(media.type, media.subtype, tuple(kept)), q)
