"""The socket protocol of the attribute authority, which C++ clients fall back to. Sans-IO, the server's side.

A request is one XML document without length or end mark; the answer ends when the server closes.
"""

import xml.etree.ElementTree as ET

from skyfed.core import safexml
from skyfed.core.errors import Invalid, SkyfedError
from skyfed.core.text import one_line
from skyfed.identity.fqan import Fqan
from skyfed.voms.model import AcRequest, Answer, AuthorityFault, Command, checked_name, uninterpretable
from skyfed.voms.wire import xmltext
from skyfed.voms.wire.rest import MAX_LIST, parse_lifetime

MAX_REQUEST_BYTES = 64 * 1024
END = b"</voms>"
# The C++ client cannot read an answer without an <ac>; this one decodes to the letter A.
_DUMMY = "QQ==\n"


class LegacyRequest(AcRequest, frozen=True):
    """A request, and whether the answer may be in standard base64."""

    standard_base64: bool = True


def parse_request(data: bytes) -> LegacyRequest:
    """Read `<voms>…</voms>`. Raises AuthorityFault (1005) for anything else."""
    try:
        root = safexml.parse(data, max_bytes=MAX_REQUEST_BYTES, max_depth=4, max_elements=4 * MAX_LIST)
    except SkyfedError as error:
        raise uninterpretable(one_line(data.decode("ascii", "replace"), 200)) from error
    commands = [one_line(element.text or "", 600) for element in root.iter("command")]
    if root.tag != "voms" or not 0 < len(commands) <= MAX_LIST:
        raise uninterpretable(one_line(data.decode("ascii", "replace"), 200))
    return LegacyRequest(
        commands=tuple(parse_command(command) for command in commands),
        order=tuple(_ordered(item) for item in _items(root, "order")),
        targets=_items(root, "targets"),
        lifetime=parse_lifetime(root.findtext("lifetime") or ""),
        standard_base64=root.find("base64") is not None,
    )


def parse_command(text: str) -> Command:
    """`G/vo/group`, `B/vo:role`, `B/vo/Role=role`, `Rrole`, `A`, `Aall`, `N`. Raises AuthorityFault (1005)."""
    letter, rest = text[:1], text[1:]
    try:
        if letter == "A" and rest in {"", "all"}:
            return Command("all")
        if letter == "N" and not rest:
            return Command("list")
        if letter == "R":
            return Command("role_everywhere", role=checked_name(rest, "role"))
        if letter in {"G", "B"}:
            fqan = _fqan(rest)
            if (letter == "B") == bool(fqan.role):
                return Command("role" if fqan.role else "group", fqan.group, fqan.role)
    except Invalid as error:
        raise uninterpretable(one_line(text, 200)) from error
    raise uninterpretable(one_line(text, 200))


def _fqan(text: str) -> Fqan:
    group, colon, role = text.partition(":")
    return Fqan.parse(f"{group}/Role={role}") if colon else Fqan.parse(group)


def _ordered(item: str) -> Fqan:
    try:
        return _fqan(item)
    except Invalid as error:
        raise uninterpretable(one_line(item, 200)) from error


def _items(root: ET.Element, tag: str) -> tuple[str, ...]:
    lists = (element.text or "" for element in root.iter(tag))
    items = tuple(item.strip() for text in lists for item in text.split(",") if item.strip())
    if len(items) > MAX_LIST:
        raise uninterpretable(f"{len(items)} items in {tag}")
    return items


def answer(result: Answer, *, standard_base64: bool = True) -> bytes:
    """The certificate or the list, warnings before it."""
    warnings = "".join(_item(notice.number, notice.text) for notice in result.notices)
    encode = xmltext.encode if standard_base64 else xmltext.encode_old
    if result.listing is None:
        return _document(warnings, f"<ac>{encode(result.ac)}</ac>")
    listing = "".join(f"{fqan}\n" for fqan in result.listing).encode()
    return _document(warnings, f"<bitstr>{encode(listing)}</bitstr>")


def refusal(fault: AuthorityFault) -> bytes:
    """The error, and the dummy certificate that lets C++ read it."""
    return _document(_item(fault.number, fault.text), f"<ac>{_DUMMY}</ac>")


def _item(number: int, message: str) -> str:
    return f"<item><number>{number}</number><message>{xmltext.text(message)}</message></item>"


def _document(items: str, content: str) -> bytes:
    errors = f"<error>{items}</error>" if items else ""
    text = f'<?xml version="1.0" encoding = "US-ASCII"?><vomsans><version>3</version>{errors}{content}</vomsans>'
    return text.encode("ascii", "xmlcharrefreplace")
