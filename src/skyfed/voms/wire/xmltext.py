"""What both protocols of the attribute authority share: escaped text, base64 in lines, XML read with care."""

import base64
import binascii
import re
from xml.sax.saxutils import escape

from skyfed.core.errors import Invalid

LINE = 64
# What XML 1.0 allows in a document; anything else would make a client's parser fail on our refusal.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_OLD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789[]"
_STANDARD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TO_OLD = str.maketrans(_STANDARD, _OLD, "=")
_FROM_OLD = str.maketrans(_OLD, _STANDARD)


def text(value: str) -> str:
    """`value` as character data; what XML cannot hold becomes `?`."""
    return escape(_ILLEGAL.sub("?", value))


def encode(data: bytes) -> str:
    """Base64 in lines of 64 characters, each with its newline: C++ takes text without one for the old alphabet."""
    plain = base64.b64encode(data).decode("ascii")
    return "".join(f"{plain[i : i + LINE]}\n" for i in range(0, len(plain), LINE))


def encode_old(data: bytes) -> str:
    """The alphabet of the first servers: `a-zA-Z0-9[]`, no padding, no newline."""
    return base64.b64encode(data).decode("ascii").translate(_TO_OLD)


def decode(value: str) -> bytes:
    """Either alphabet; a newline tells them apart. Raises Invalid (`base64`)."""
    try:
        if "\n" in value.strip(" \t\r"):
            return base64.b64decode("".join(value.split()), validate=True)
        plain = value.strip().translate(_FROM_OLD)
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"the answer's attribute certificate is not base64: {error}", code="base64") from error
