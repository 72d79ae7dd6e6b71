"""An OCCI client: works against ours, and tolerates what other servers send. Synchronous; text and JSON.

It reads the model first, since names and locations are the server's to choose, and speaks text/plain in requests,
the rendering that every server has had to know since OCCI 1.1.
"""

import base64
import ipaddress
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from skyfed.core.errors import Conflict, Invalid, NotFound, SkyfedError, TimedOut, Unavailable
from skyfed.core.http import Client, Response
from skyfed.core.ids import new_uuid
from skyfed.core.text import one_line, plural, shown
from skyfed.occi import infrastructure as infra
from skyfed.occi.model import (
    ID,
    KIND,
    MIXIN,
    RESPONSE_LIMITS,
    TITLE,
    Category,
    Message,
    Resource,
    Value,
    split_type_id,
    to_resource,
)
from skyfed.occi.wire import json, text

T = TypeVar("T")

USER_AGENT: Final = "skyfed OCCI/1.2"
PREFER_JSON: Final = "application/occi+json, text/plain;q=0.5"
PREFER_TEXT: Final = "text/plain, application/occi+json;q=0.5"
PLAIN: Final = "text/plain"
CREATE_DEADLINE: Final = 120.0
"""Seconds for a create: other servers answer only when their cloud has."""
FIRST_PAUSE: Final = 0.2
LAST_PAUSE: Final = 2.0
_MAX_SHOWN: Final = 12
_USER_MODE: Final = ipaddress.ip_network("10.0.2.0/24")
"""What QEMU's user-mode network gives its guests: the same in each, and to be reached through forwarded ports only."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual machine as a user sees it."""

    id: str
    location: str
    """Its URL."""
    title: str = ""
    state: str = ""
    """`active`, `inactive`, `suspended`, `error`, `waiting`."""
    message: str = ""
    """Why it is in that state, where the server says."""
    image: str = ""
    """Type identifier of its os_tpl."""
    flavour: str = ""
    """Type identifier of its resource_tpl."""
    cores: int | None = None
    memory_gib: float | None = None
    addresses: tuple[str, ...] = ()
    ssh_host: str = ""
    ssh_port: int = 0
    actions: tuple[str, ...] = ()
    """Terms of the actions that it offers now."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What machine to make. Image and flavour by type identifier, term or title."""

    image: str
    flavour: str
    title: str = ""
    ssh_key: str = ""
    """One OpenSSH public key line."""
    user_data: bytes = b""
    token: str = ""
    """A UUID that makes a retry give the same machine; empty: a fresh one."""


class OcciClient:
    """One endpoint. `http` carries the credential and the trust; `sleep` is for tests."""

    def __init__(self, endpoint: str, http: Client, *, sleep: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{shown(endpoint)} is no OCCI endpoint; right is an https URL", code="endpoint")
        self.endpoint = endpoint.rstrip("/")
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._http = http
        self._sleep = sleep
        self._model: tuple[Category, ...] = ()

    # -- the model ----------------------------------------------------------------------------------------------

    def model(self) -> tuple[Category, ...]:
        """The endpoint's categories; asked for once. Raises as the server refuses, Unavailable for what is no OCCI."""
        if not self._model:
            answer = self._get(f"{self.endpoint}/-/", PREFER_JSON)
            self._model = _read(answer, _categories)
        return self._model

    def os_templates(self) -> tuple[Category, ...]:
        """The images that may be started here."""
        return self._children(infra.OS_TPL)

    def resource_templates(self) -> tuple[Category, ...]:
        """The sizes that there are here."""
        return self._children(infra.RESOURCE_TPL)

    def template(self, offered: Sequence[Category], wanted: str, what: str) -> Category:
        """The one of `offered` that `wanted` names: by type identifier, term, title or the beginning of the term.

        Raises NotFound or Invalid (ambiguous), saying what there is."""
        low = wanted.lower()
        tests: tuple[Callable[[Category], bool], ...] = (
            lambda one: one.type_id.lower() == low,
            lambda one: one.term.lower() == low,
            lambda one: one.title.lower() == low,
            lambda one: one.term.lower().startswith(low),
        )
        for test in tests:
            found = [one for one in offered if test(one)]
            if len(found) == 1:
                return found[0]
            if found:
                raise Invalid(f"{shown(wanted)} could be any of {_terms(found)}; give more of it", code="ambiguous")
        raise NotFound(f"{self.endpoint} offers no {what} {shown(wanted)}; it offers: {_terms(offered)}")

    # -- machines -----------------------------------------------------------------------------------------------

    def list(self) -> tuple[Machine, ...]:
        """All machines that the caller may see."""
        collection = self._collection()
        answer = self._get(collection, f"{PREFER_JSON}, text/uri-list;q=0.1")
        if _is_json(answer):
            messages = _read(answer, lambda one: json.parse_entities(one.body, limits=RESPONSE_LIMITS, tolerant=True))
            resources = (to_resource(message) for message in messages if message.attributes.get(ID))
            return tuple(self._machine(one, collection) for one in resources if one.kind == infra.COMPUTE)
        locations = _read(answer, _locations)
        return tuple(one for one in (self._try_get(self._here(uri)) for uri in locations) if one is not None)

    def get(self, ref: str) -> Machine:
        """One machine, by identifier, path or URL. Raises NotFound."""
        url = self._url(ref)
        answer = self._get(url, PREFER_TEXT)
        return self._machine(_read(answer, lambda one: to_resource(_message(one))), "", url)

    def find(self, ref: str) -> Machine:
        """One machine, also by title or the beginning of its identifier. Raises NotFound, Invalid (ambiguous)."""
        if "/" in ref or len(ref) >= len(new_uuid()):
            return self.get(ref)
        machines = self.list()
        for found in (
            [one for one in machines if one.id == ref],
            [one for one in machines if one.title == ref],
            [one for one in machines if one.id.startswith(ref)],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                ids = ", ".join(one.id for one in found[:_MAX_SHOWN])
                raise Invalid(f"{shown(ref)} could be any of {ids}; name it by its identifier", code="ambiguous")
        raise NotFound(
            f"{self.endpoint} has no machine {shown(ref)} for you; you have {plural(len(machines), 'machine')}"
        )

    def create(self, order: Order) -> str:
        """The URL of a new machine; it starts soon (see `wait`).

        Raises as the server refuses; Invalid for an order that this endpoint cannot take, before anything is sent."""
        categories = [
            _reference(infra.COMPUTE, KIND),
            self.template(self.os_templates(), order.image, "image"),
            self.template(self.resource_templates(), order.flavour, "flavour"),
        ]
        attributes: dict[str, Value] = {ID: order.token or new_uuid()}
        if order.title:
            attributes[TITLE] = order.title
        if order.ssh_key:
            mixin, name = self._either(
                (infra.SSH_KEY, infra.SSH_KEY_VALUE),
                (infra.LEGACY_PUBLIC_KEY, infra.LEGACY_PUBLIC_KEY_VALUE),
                "SSH keys",
            )
            categories.append(mixin)
            attributes[name] = order.ssh_key.strip()
        if order.user_data:
            mixin, name = self._either(
                (infra.USER_DATA, infra.USER_DATA_VALUE),
                (infra.LEGACY_USER_DATA, infra.LEGACY_USER_DATA_VALUE),
                "user data",
            )
            categories.append(mixin)
            attributes[name] = base64.b64encode(order.user_data).decode()
        fields = [text.category_field(one, full=False) for one in categories]
        fields += text.attribute_fields(attributes)
        answer = self._post(self._collection(), text.body(fields), CREATE_DEADLINE)
        return self._here(_created(answer))

    def act(self, ref: str, action: str, method: str = "") -> None:
        """Start, stop or restart (`action` is the term). Raises as the server refuses: Conflict where the state does not
        allow it."""
        attributes: dict[str, Value] = {"method": method} if method else {}
        fields = text.action_fields(infra.COMPUTE_ACTION + action, attributes)
        self._post(f"{self._url(ref)}?action={action}", text.body(fields))

    def delete(self, ref: str) -> None:
        """Delete the machine. Raises NotFound."""
        self._checked(self._http.request("DELETE", self._url(ref), headers=_headers(PREFER_TEXT)))

    def wait(
        self,
        ref: str,
        *states: str,
        seconds: float,
        progress: Callable[[Machine], None] = lambda _machine: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Machine:
        """The machine as soon as it is in one of `states`; `progress` is called with each look.

        Raises TimedOut after `seconds`, Conflict when it went into `error` instead (with the server's reason)."""
        end = clock() + seconds
        pause = FIRST_PAUSE
        while True:
            machine = self.get(ref)
            progress(machine)
            if machine.state in states:
                return machine
            if machine.state == "error":
                reason = one_line(machine.message) or "the server gives no reason"
                raise Conflict(f"machine {machine.id} is in error: {reason}", code="machine_error")
            if clock() + pause > end:
                raise TimedOut(
                    f"machine {machine.id} is still {machine.state} after {seconds:g} s, not {' or '.join(states)}",
                    code="wait",
                )
            self._sleep(pause)
            pause = min(pause * 1.5, LAST_PAUSE)

    # -- inside -------------------------------------------------------------------------------------------------

    def _children(self, family: str) -> tuple[Category, ...]:
        return tuple(one for one in self.model() if one.cls == MIXIN and family in one.depends)

    def _either(self, standard: tuple[str, str], legacy: tuple[str, str], what: str) -> tuple[Category, str]:
        """The mixin that the endpoint has for a purpose, and its attribute: of 1.2, else what occi-os began with."""
        known = {one.type_id for one in self.model()}
        for type_id, name in (standard, legacy):
            if type_id in known:
                return _reference(type_id, MIXIN), name
        raise Invalid(f"{self.endpoint} takes no {what}: its model has neither {standard[0]} nor {legacy[0]}")

    def _collection(self) -> str:
        """URL of the collection of computes: its location is the server's to choose."""
        kind = next((one for one in self.model() if one.type_id == infra.COMPUTE), None)
        if kind is None:
            raise Unavailable(f"{self.endpoint} has no kind compute in its model", code="no_compute_kind")
        return self._here(kind.location or f"{urlsplit(self.endpoint).path}/compute/")

    def _url(self, ref: str) -> str:
        if ref.startswith(("/", "http://", "https://")):
            return self._here(ref)
        if not ref or not all(c.isalnum() or c in "-_.:" for c in ref):
            raise Invalid(f"{shown(ref)} is no identifier, path or URL of a machine", code="reference")
        return self._collection() + ref

    def _here(self, uri: str) -> str:
        """A location at this endpoint. Servers behind proxies name hosts that cannot be reached; and the credential is
        for this endpoint, not for wherever an answer points."""
        return self._origin + (urlsplit(uri).path if "://" in uri else "/" + uri.lstrip("/"))

    def _get(self, url: str, accept: str) -> Response:
        answer = self._http.request("GET", url, headers=_headers(accept), max_bytes=RESPONSE_LIMITS.body)
        if answer.status == 406:  # some servers take the first type of the list for the only one
            answer = self._http.request("GET", url, headers=_headers(PLAIN), max_bytes=RESPONSE_LIMITS.body)
        return self._checked(answer)

    def _try_get(self, url: str) -> Machine | None:
        """None where it has gone since it was listed."""
        try:
            return self.get(url)
        except NotFound:
            return None

    def _post(self, url: str, body: bytes, deadline: float = 60.0) -> Response:
        headers = {**_headers(PLAIN), "Content-Type": PLAIN}
        return self._checked(self._http.request("POST", url, headers=headers, body=body, deadline=deadline))

    def _checked(self, answer: Response) -> Response:
        return answer.raise_for_status()

    def _machine(self, resource: Resource, collection: str, url: str = "") -> Machine:
        values = resource.attributes
        id = str(values.get(ID, "")).removeprefix("urn:uuid:").rpartition("/")[2]
        addresses = tuple(
            str(link.attributes[infra.ADDRESS]) for link in resource.links if infra.ADDRESS in link.attributes
        )
        return Machine(
            id=id or url.rpartition("/")[2],
            location=url or collection + id,
            title=str(values.get(TITLE, "")),
            state=str(values.get(infra.STATE, "")),
            message=str(values.get(infra.STATE_MESSAGE, "")),
            image=self._mixin(resource, infra.OS_TPL, "os_tpl", "/os#"),
            flavour=self._mixin(resource, infra.RESOURCE_TPL, "resource_tpl", "/resource#"),
            cores=_whole(values.get(infra.CORES)),
            memory_gib=_number(values.get(infra.MEMORY)),
            addresses=addresses,
            ssh_host=str(values.get(infra.SSH_HOST, "")),
            ssh_port=_whole(values.get(infra.SSH_PORT)) or 0,
            actions=tuple(split_type_id(one)[1] for one in resource.actions),
        )

    def _mixin(self, resource: Resource, family: str, *marks: str) -> str:
        """The template among the mixins: as the model says, else by its name (the image may be offered no more)."""
        known = {one.type_id for one in self._children(family)}
        return next(
            (one for one in resource.mixins if one in known),
            next((one for one in resource.mixins if any(mark in one.rpartition("#")[0] + "#" for mark in marks)), ""),
        )


def ssh_address(machine: Machine) -> tuple[str, int]:
    """Where its SSH answers: as the server says, else port 22 of its first address that leads there from elsewhere.
    Raises Unavailable."""
    if machine.ssh_host and machine.ssh_port:
        return machine.ssh_host, machine.ssh_port
    for address in machine.addresses:
        if not _inside_only(address):
            return address, 22
    running = machine.state == "active"
    remedy = "its site forwards no port to it" if running else "start it first"
    raise Unavailable(
        f"machine {machine.id} is {machine.state or 'in an unknown state'} and has no address to reach it at; {remedy}",
        code="no_address",
    )


def _inside_only(address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in _USER_MODE
    except ValueError:  # a host's name, where a server gives that
        return False


def _headers(accept: str) -> dict[str, str]:
    return {"Accept": accept, "User-Agent": USER_AGENT}


def _reference(type_id: str, cls: str) -> Category:
    scheme, term = split_type_id(type_id)
    return Category(term=term, scheme=scheme, cls=cls)


def _is_json(answer: Response) -> bool:
    return "json" in answer.headers.get("content-type", "")


def _read(answer: Response, reader: Callable[[Response], T]) -> T:
    """What `reader` makes of the answer; Unavailable where the server sent something that is no OCCI."""
    try:
        return reader(answer)
    except SkyfedError as error:
        raise Unavailable(f"{answer.url} answers what is no OCCI: {error.message}", code="bad_answer") from error


def _message(answer: Response) -> Message:
    media = answer.headers.get("content-type", "")
    if "json" in media:
        return json.parse(answer.body, limits=RESPONSE_LIMITS, tolerant=True)
    if media.startswith("text/occi") and "+plain" not in media:
        return text.parse_fields(answer.headers.items(), limits=RESPONSE_LIMITS, tolerant=True)
    return text.parse_body(answer.body, limits=RESPONSE_LIMITS, tolerant=True)


def _categories(answer: Response) -> tuple[Category, ...]:
    if _is_json(answer):
        return json.parse_model(answer.body, limits=RESPONSE_LIMITS)
    found = _message(answer).categories
    if not found:
        raise Invalid("the model has no categories", code="empty_model")
    return found


def _locations(answer: Response) -> tuple[str, ...]:
    if answer.headers.get("content-type", "").startswith("text/uri-list"):
        return text.parse_uri_list(answer.body, limits=RESPONSE_LIMITS, tolerant=True)
    return _message(answer).locations


def _created(answer: Response) -> str:
    """The new entity's location: servers put it into Location, X-OCCI-Location or the body."""
    for name in ("location", "x-occi-location"):
        if answer.headers.get(name):
            return answer.headers[name].partition(",")[0].strip()
    locations = _read(answer, _locations)
    if not locations:
        raise Unavailable(f"{answer.url} made something but does not say where it is", code="bad_answer")
    return locations[0]


def _terms(categories: Iterable[Category]) -> str:
    names = [one.term for one in categories]
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return (", ".join(names[:_MAX_SHOWN]) or "nothing") + more


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        return None


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and abs(number) < 1e9 else None
