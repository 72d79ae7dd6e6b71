"""The HTTP protocol of the attribute authority: `GET /generate-ac`. Sans-IO, both sides.

Real clients end lines with a bare newline and speak HTTP/1.0; the C++ one believes an answer only when it begins with
`HTTP/1.1 200`.
"""

from http import HTTPStatus
from urllib.parse import unquote_to_bytes, urlencode

import msgspec

from skyfed.core import safexml
from skyfed.core.errors import Forbidden, Invalid, SkyfedError, Unavailable
from skyfed.core.text import one_line, plural
from skyfed.identity.fqan import Fqan
from skyfed.voms.model import (
    OTHER,
    AcRequest,
    Answer,
    AuthorityFault,
    Command,
    Notice,
    command_for,
    unsatisfied,
)
from skyfed.voms.wire import xmltext

PATH = "/generate-ac"
MAX_ANSWER_BYTES = 256 * 1024
MAX_LIST = 100
_KNOWN = {"fqans", "lifetime", "order", "targets"}
_PROLOGUE = '<?xml version="1.0" encoding="UTF-8"?>'


class NotHere(Exception):
    """The request is for nothing that this protocol has: answer 404 without a body, as vomsd does."""


# -- the server's side ------------------------------------------------------------------------------------------


def parse_target(request_line: str) -> str:
    """The request target of `GET target HTTP/1.x`. Raises NotHere."""
    parts = request_line.split(" ")
    if len(parts) != 3 or parts[0] != "GET" or not parts[2].startswith("HTTP/1."):
        raise NotHere
    return parts[1]


def parse_request(target: str) -> AcRequest:
    """What `/generate-ac?…` asks for. Raises NotHere, AuthorityFault (400)."""
    path, mark, query = target.partition("?")
    if path != PATH or (mark and not query):
        raise NotHere
    values: dict[str, str] = {}
    unknown = False
    for part in query.split("&") if query else ():
        name, equals, raw = part.partition("=")
        if not equals:
            raise NotHere
        if name in _KNOWN:
            values[name] = unquote_to_bytes(raw).decode("utf-8", "replace")
        else:
            unknown = True
    return AcRequest(
        commands=tuple(_command(item) for item in _items(values.get("fqans", ""))),
        order=tuple(_fqan(item) for item in _items(values.get("order", ""))),
        targets=_items(values.get("targets", "")),
        lifetime=parse_lifetime(values.get("lifetime", "")),
        unknown_parameters=unknown,
    )


def _items(text: str) -> tuple[str, ...]:
    """A comma list; Java leaves a trailing comma."""
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    if len(items) > MAX_LIST:
        raise unsatisfied("voms", plural(len(items), "item"))
    return items


def _command(item: str) -> Command:
    try:
        return command_for(item)
    except Invalid as error:
        raise unsatisfied("voms", one_line(item, 200)) from error


def _fqan(item: str) -> Fqan:
    try:
        return Fqan.parse(item)
    except Invalid as error:
        raise unsatisfied("voms", one_line(item, 200)) from error


def parse_lifetime(text: str) -> int:
    """Seconds; anything that is not a number above zero means as long as possible."""
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 12 else 0


def answer(result: Answer) -> bytes:
    """200 with the certificate or the list. Also with warnings: vomsd's 500 makes C++ clients ask a second time."""
    tag, data = ("ac", result.ac) if result.listing is None else ("bitstr", _listing(result.listing))
    warnings = "".join(f"<warning>{xmltext.text(notice.text)}</warning>" for notice in result.notices)
    body = f"{_PROLOGUE}<voms><{tag}>{xmltext.encode(data)}</{tag}>{warnings}</voms>"
    return _response(HTTPStatus.OK, body.encode())


def _listing(fqans: tuple[str, ...]) -> bytes:
    return "".join(f"{fqan}\n" for fqan in fqans).encode()


def refusal(fault: AuthorityFault) -> bytes:
    """The error's status and body."""
    error = f"<code>{fault.code}</code><message>{xmltext.text(fault.text)}</message>"
    return _response(HTTPStatus(fault.status), f"{_PROLOGUE}<voms><error>{error}</error></voms>".encode())


def not_here(status: HTTPStatus = HTTPStatus.NOT_FOUND) -> bytes:
    """An answer without a body."""
    return _response(status, b"")


def _response(status: HTTPStatus, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: text/xml; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


# -- the client's side ------------------------------------------------------------------------------------------


def target(request: AcRequest) -> str:
    """The request target for `request`."""
    parameters: dict[str, str] = {}
    if request.commands:
        parameters["fqans"] = ",".join(_item(command) for command in request.commands)
    if request.lifetime:
        parameters["lifetime"] = str(request.lifetime)
    if request.order:
        parameters["order"] = ",".join(fqan.short for fqan in request.order)
    if request.targets:
        parameters["targets"] = ",".join(request.targets)
    # vomsd decodes no %XX: what it needs to see stays as it is.
    return f"{PATH}?{urlencode(parameters, safe='/=,')}" if parameters else PATH


def _item(command: Command) -> str:
    if command.kind == "group":
        return command.group
    if command.kind == "role":
        return f"{command.group}/Role={command.role}"
    return "all" if command.kind in {"all", "list"} else f"/Role={command.role}"


class Told(msgspec.Struct, frozen=True):
    """What an attribute authority's error body says."""

    code: str
    message: str


def parse_answer(status: int, body: bytes, source: str) -> Answer:
    """The certificate and warnings of an answer, also out of a 500: vomsd sends one with every warning.

    Raises Forbidden (`no_such_user`, `suspended_user`), Invalid (`ac_refused`), Unavailable (`bad_answer`).
    """
    try:
        root = safexml.parse(body, max_bytes=MAX_ANSWER_BYTES)
    except SkyfedError as error:
        message = f"{source} answered {status} without an attribute certificate"
        raise Unavailable(f"{message}: {error.message}", code="bad_answer") from error
    found = root.findtext("ac")
    if found:
        notices = tuple(Notice(_number(text), text) for e in root.iter("warning") if (text := one_line(e.text or "")))
        return Answer(ac=xmltext.decode(found), notices=notices)
    raise _refused(Told(root.findtext("error/code") or "", one_line(root.findtext("error/message") or "")), source)


def _refused(told: Told, source: str) -> SkyfedError:
    message = f"{source} says: {told.message or told.code or 'nothing that explains it'}"
    if told.code in {"NoSuchUser", "SuspendedUser"}:
        return Forbidden(message, code="no_such_user" if told.code == "NoSuchUser" else "suspended_user")
    if told.code in {"InternalError", ""}:
        return Unavailable(message, code="bad_answer")
    return Invalid(message, code="ac_refused")


def _number(text: str) -> int:
    """Warnings have no numbers here; the words tell, as Java reads them."""
    for number, words in ((2, "validity"), (1, "selected"), (3, "contains attributes")):
        if words in text:
            return number
    return OTHER
