"""The contract's calls as bytes, for the socket between the compute service and the engine host. Sans-IO.

A frame is four bytes of length (big endian) and a msgpack message, tagged by its kind. `CALLS` types every argument
and answer: both sides decode into the contract's own values or refuse.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from skyfed.compute.contract import Capabilities, EngineEvent, EngineHealth, EngineVm, VmCounters, VmSpec, engine_error
from skyfed.compute.model import DiskFormat, RestartMethod, StopMethod

MAX_FRAME = 16 << 20
"""Bytes: a list of some ten thousand machines."""
HEADER = 4
EVENTS = "events"
"""The call that is answered by a stream of `Event` instead of one `Answer`."""


class Request(msgspec.Struct, frozen=True, tag="request"):
    """`number` comes back with the answer; `arguments` are positional, typed by `CALLS`."""

    number: int
    call: str
    arguments: msgspec.Raw


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """What the call returned."""

    number: int
    value: msgspec.Raw


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """What it raised: `code` is one of the contract's."""

    number: int
    code: str
    message: str


class Event(msgspec.Struct, frozen=True, tag="event"):
    """One event of the stream."""

    event: EngineEvent


FromHost = Answer | Refusal | Event


@dataclass(frozen=True)
class Call:
    """Types of a call: positional arguments as a tuple type, and what it returns."""

    arguments: Any
    returns: Any


CALLS = {
    "probe": Call(tuple[()], EngineHealth),
    "capabilities": Call(tuple[()], Capabilities),
    "import_image": Call(tuple[str, str, DiskFormat], None),
    "remove_image": Call(tuple[str], None),
    "images": Call(tuple[()], frozenset[str]),
    "create": Call(tuple[VmSpec], EngineVm),
    "start": Call(tuple[str], EngineVm),
    "stop": Call(tuple[str, StopMethod, float], EngineVm),
    "restart": Call(tuple[str, RestartMethod], EngineVm),
    "delete": Call(tuple[str], None),
    "get": Call(tuple[str], EngineVm),
    "list": Call(tuple[()], tuple[EngineVm, ...]),
    "stats": Call(tuple[()], tuple[VmCounters, ...]),
    "console_log": Call(tuple[str, int], bytes),
}

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_answers = msgspec.msgpack.Decoder(FromHost)


def frame(message: Request | FromHost) -> bytes:
    """The message with its length before it. Raises Invalid over the limit."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise engine_error("invalid", f"a message of {len(body)} bytes; {MAX_FRAME} are the limit")
    return len(body).to_bytes(HEADER) + body


def length(header: bytes) -> int:
    """How long the frame's body is. Raises Invalid over the limit."""
    size = int.from_bytes(header)
    if size > MAX_FRAME:
        raise engine_error("invalid", f"a frame of {size} bytes; {MAX_FRAME} are the limit")
    return size


def packed(value: object) -> msgspec.Raw:
    """A value inside a message."""
    return msgspec.Raw(_encoder.encode(value))


def unpacked(raw: msgspec.Raw, kind: Any) -> Any:
    """The value, as `kind`. Raises Invalid."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise engine_error("invalid", f"the engine host and its client disagree: {error}") from error


def request(body: bytes) -> Request:
    """Raises Invalid."""
    try:
        return _requests.decode(body)
    except msgspec.DecodeError as error:
        raise engine_error("invalid", f"no request: {error}") from error


def from_host(body: bytes) -> FromHost:
    """Raises Invalid."""
    try:
        message: FromHost = _answers.decode(body)
    except msgspec.DecodeError as error:
        raise engine_error("invalid", f"no answer: {error}") from error
    return message
