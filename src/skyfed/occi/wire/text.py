"""The text renderings of OCCI (GFD.229; GFD.185): text/plain, text/occi, text/uri-list. Sans-IO.

Liberal reader, strict writer (OCCI digest 6). The reader goes over its input once: peers' regular expressions
backtrack without end on a long unterminated quote, this one cannot. With `tolerant=True` it forgives what foreign
servers are known to send; a server reads strictly.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import TypeAlias

import msgspec

from skyfed.core.errors import Invalid, TooLarge
from skyfed.core.text import shown
from skyfed.occi.model import (
    ACTION,
    CORE_LINK,
    KIND,
    MIXIN,
    REQUEST_LIMITS,
    SOURCE,
    SOURCE_KIND,
    TARGET,
    TARGET_KIND,
    Attribute,
    Category,
    Limits,
    Link,
    Message,
    Resource,
    Value,
    split_type_id,
)
from skyfed.occi.wire.scanner import EXCERPT, NAME, Scanner

Field: TypeAlias = tuple[str, str]
"""A field name and its value: a header, or a line of a text/plain body."""

CATEGORY = "Category"
LINK = "Link"
ATTRIBUTE = "X-OCCI-Attribute"
LOCATION = "X-OCCI-Location"

_PROPERTIES = frozenset({"required", "immutable"})
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z", re.ASCII)
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_NUMBER = 64


# --- reading ---------------------------------------------------------------------------------------------------


def parse_body(data: bytes, *, limits: Limits = REQUEST_LIMITS, tolerant: bool = False) -> Message:
    """The message in a text/plain body. Raises Invalid (naming field and place), TooLarge."""
    if len(data) > limits.body:
        raise TooLarge(f"the body has {len(data)} bytes; at most {limits.body} are read", code="body_size")
    reader = _Reader(limits, tolerant)
    for line in _lines(_decoded(data)):
        name, colon, value = line.partition(":")
        if not colon or not reader.read(name.strip(), value.strip()):
            if tolerant and not colon:
                continue
            raise Invalid(
                f"the line {shown(line, EXCERPT)} does not begin with one of "
                f"'{CATEGORY}:', '{LINK}:', '{ATTRIBUTE}:', '{LOCATION}:'",
                code="unknown_field",
            )
    return reader.message()


def parse_fields(fields: Iterable[Field], *, limits: Limits = REQUEST_LIMITS, tolerant: bool = False) -> Message:
    """The message in HTTP header fields (text/occi); others are passed over. Raises as `parse_body`."""
    reader = _Reader(limits, tolerant)
    size = 0
    for name, value in fields:
        size += len(value)
        if size > limits.body:
            raise TooLarge(f"the header fields have more than {limits.body} bytes", code="header_size")
        reader.read("X-OCCI-Location" if name.lower() == "location" else name, value)
    return reader.message()


def parse_uri_list(data: bytes, *, limits: Limits = REQUEST_LIMITS, tolerant: bool = False) -> tuple[str, ...]:
    """The URIs of a text/uri-list body (RFC 2483: `#` begins a comment). Raises Invalid, TooLarge."""
    if len(data) > limits.body:
        raise TooLarge(f"the body has {len(data)} bytes; at most {limits.body} are read", code="body_size")
    uris = tuple(line.strip() for line in _lines(_decoded(data)) if not line.startswith("#"))
    if len(uris) > limits.locations:
        raise TooLarge(f"more than {limits.locations} locations", code="locations")
    return tuple(_location(uri, tolerant) for uri in uris)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"the body is not UTF-8 (byte {error.start})", code="encoding") from error


def _lines(text: str) -> Iterator[str]:
    # pOCCI ends lines with "\n\r" in one of its tests.
    for line in text.replace("\r\n", "\n").replace("\n\r", "\n").rstrip("\r").split("\n"):
        if line.strip():
            yield line


def _location(uri: str, tolerant: bool) -> str:
    scheme, mark, rest = uri.partition("://")
    if not (mark and rest and scheme.lower() in ("http", "https")) and not tolerant:
        raise Invalid(f"{shown(uri, EXCERPT)} is not an absolute http(s) URI", code="location")
    _no_controls(uri, LOCATION)
    return uri


def _no_controls(text: str, field: str) -> None:
    """Values end up in headers and logs: CR, LF, NUL and their kin are refused (OCCI digest 13)."""
    match = _CONTROL.search(text)
    if match:
        raise Invalid(f"{field} holds the control character U+{ord(match.group()):04X}", code="control_character")


class _Reader:
    """Collects the fields of one message."""

    def __init__(self, limits: Limits, tolerant: bool) -> None:
        self._limits = limits
        self._tolerant = tolerant
        self._categories: list[Category] = []
        self._attributes: dict[str, Value] = {}
        self._links: list[Link] = []
        self._actions: list[str] = []
        self._locations: dict[str, None] = {}

    def read(self, name: str, value: str) -> bool:
        """Take one field; False if it is none of OCCI's."""
        field = _FIELDS.get(name.lower())
        if field is None:
            return False
        _no_controls(value, field)
        if field == LOCATION:
            self._read_locations(value)
            return True
        scanner = Scanner(value, field)
        while not scanner.at_end():
            if field == CATEGORY:
                self._add(self._categories, self._limits.categories, "categories", _category(scanner))
            elif field == LINK:
                self._read_link(scanner)
            else:
                self._set(self._attributes, *_attribute(scanner, ","))
            scanner.next_value()
        return True

    def message(self) -> Message:
        return Message(
            categories=tuple(self._categories),
            attributes=self._attributes,
            links=tuple(self._links),
            actions=tuple(self._actions),
            locations=tuple(self._locations),
        )

    def _add(self, into: "list[Category] | list[Link]", limit: int, what: str, one: "Category | Link") -> None:
        if len(into) >= limit:
            raise TooLarge(f"more than {limit} {what}", code=what)
        into.append(one)  # type: ignore[arg-type]  # the two lists are only told apart by what is added

    def _set(self, attributes: dict[str, Value], name: str, value: Value) -> None:
        if isinstance(value, str) and len(value) > self._limits.value:
            raise TooLarge(
                f"the attribute '{name}' has {len(value)} characters; at most {self._limits.value}", code="value_size"
            )
        if name in attributes and attributes[name] != value and not self._tolerant:
            raise Invalid(f"the attribute '{name}' is given twice with different values", code="duplicate_attribute")
        if name not in attributes and len(attributes) >= self._limits.attributes:
            raise TooLarge(f"more than {self._limits.attributes} attributes", code="attributes")
        attributes[name] = value

    def _read_locations(self, value: str) -> None:
        for uri in value.split(","):
            if uri.strip():
                self._locations[_location(uri.strip(), self._tolerant)] = None
            if len(self._locations) > self._limits.locations:
                raise TooLarge(f"more than {self._limits.locations} locations", code="locations")

    def _read_link(self, scanner: Scanner) -> None:
        uri = scanner.angle()
        parameters: dict[str, Value] = {}
        while scanner.take(";"):
            if scanner.at_value_end():
                break
            name, value = _link_parameter(scanner)
            self._set(parameters, name, value)
        rel = str(parameters.pop("rel", ""))
        if not rel.strip() and "category" not in parameters:
            raise scanner.wrong('rel="…" (the target\'s kind, or the action)')
        if "?action=" in uri:
            self._actions.append(rel)
            if len(self._actions) > self._limits.links:
                raise TooLarge(f"more than {self._limits.links} action links", code="links")
            return
        self._add(self._links, self._limits.links, "links", _link(uri, rel, parameters))


_FIELDS: Mapping[str, str] = {
    "category": CATEGORY,
    "x-occi-category": CATEGORY,  # rOCCI-server 2 renders its model under this name in text/occi
    "link": LINK,
    "x-occi-attribute": ATTRIBUTE,
    "x-occi-location": LOCATION,
}


def _category(scanner: Scanner) -> Category:
    term = scanner.name("a term")
    parameters: dict[str, str] = {}
    while scanner.take(";"):
        if scanner.at_value_end():
            break
        name = scanner.name("a parameter such as scheme or class").lower()
        if not scanner.take("="):
            raise scanner.wrong(f"'=' after '{name}'")
        if name in parameters:
            raise Invalid(f"the category '{term}' has '{name}' twice", code="duplicate_parameter")
        value = scanner.quoted()
        parameters[name] = scanner.bare(";,") if value is None else value
    for needed in ("scheme", "class"):
        if not parameters.get(needed):
            raise Invalid(f"the category '{term}' lacks '{needed}'", code=f"category_{needed}")
    return _categorised(term, parameters)


def _categorised(term: str, parameters: Mapping[str, str]) -> Category:
    cls = parameters["class"].lower() if parameters["class"].lower() in (KIND, MIXIN, ACTION) else parameters["class"]
    rel = tuple(parameters.get("rel", "").split())
    is_mixin = cls == MIXIN
    return Category(
        term=term,
        scheme=parameters["scheme"],
        cls=cls,
        title=parameters.get("title", ""),
        parent="" if is_mixin or not rel else rel[0],
        # Several identifiers: 1.1 and rOCCI-server 2 put what the mixin applies to behind what it depends on.
        depends=rel[:1] if is_mixin else (),
        applies=rel[1:] if is_mixin else (),
        actions=tuple(parameters.get("actions", "").split()),
        attributes=tuple(_definitions(term, parameters.get("attributes", ""))),
        location=parameters.get("location", ""),
    )


def _definitions(term: str, text: str) -> Iterator[Attribute]:
    """`a b{required} c{immutable required}`."""
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        match = NAME.match(text, at)
        if match is None:
            raise Invalid(
                f"the category '{term}' has a bad attribute list at {shown(text[at:], 40)}", code="attributes"
            )
        at = match.end()
        properties: frozenset[str] = frozenset()
        if text.startswith("{", at):
            end = text.find("}", at)
            properties = frozenset(text[at + 1 : end].split()) if end > 0 else frozenset({"{"})
            if not properties <= _PROPERTIES:
                raise Invalid(
                    f"the attribute '{match.group()}' of category '{term}' has properties "
                    f"{shown(text[at : end + 1 or None], 40)}; known are 'required' and 'immutable'",
                    code="attribute_properties",
                )
            at = end + 1
        yield Attribute(name=match.group(), mutable="immutable" not in properties, required="required" in properties)


def _attribute(scanner: Scanner, stop: str) -> tuple[str, Value]:
    name = scanner.name("an attribute name")
    if not scanner.take("="):
        raise scanner.wrong(f"'=' and a value after '{name}'")
    value: Value | None = scanner.quoted()
    if value is None:
        bare = scanner.bare(stop)
        value = _literal(bare)
        if value is None:
            raise Invalid(
                f"the attribute '{name}' has the value {shown(bare, EXCERPT)}; "
                "right would be a quoted string, a number, true or false",
                code="attribute_value",
            )
    return name, value


def _literal(text: str) -> int | float | bool | None:
    """A number or boolean; None if it is neither."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if len(text) > _MAX_NUMBER or not _NUMBER.match(text):
        return None
    if text.lstrip("-").isdigit():
        return int(text)
    number = float(text)
    return number if math.isfinite(number) else None


def _link_parameter(scanner: Scanner) -> tuple[str, Value]:
    """`rel`, `self` and `category` may be unquoted in old senders; all others are attributes."""
    start = scanner.name("a link parameter")
    if not scanner.take("="):
        raise scanner.wrong(f"'=' and a value after '{start}'")
    quoted = scanner.quoted()
    if quoted is not None:
        return start, quoted
    bare = scanner.bare(";,")
    if start in ("rel", "self", "category"):
        return start, bare
    value = _literal(bare)
    if value is None:
        raise Invalid(
            f"the link attribute '{start}' has the value {shown(bare, EXCERPT)}; "
            "right would be a quoted string, a number, true or false",
            code="attribute_value",
        )
    return start, value


def _link(uri: str, rel: str, parameters: dict[str, Value]) -> Link:
    categories = str(parameters.pop("category", "")).split()
    location = str(parameters.pop("self", ""))
    parameters.pop(TARGET, None)  # the URI says it; rOCCI sends it again in path form
    parameters.pop(TARGET_KIND, None)
    return Link(
        kind=categories[0] if categories else CORE_LINK,
        mixins=tuple(categories[1:]),
        target=uri,
        target_kind=rel.partition(" ")[0],
        source=str(parameters.pop(SOURCE, "")),
        source_kind=str(parameters.pop(SOURCE_KIND, "")),
        attributes=parameters,
        location=location,
    )


# --- writing ---------------------------------------------------------------------------------------------------


def category_field(category: Category, *, full: bool = True) -> Field:
    """The Category line. The order of its parts is fixed: rOCCI reads it with one anchored regular expression.

    `full=False`: term, scheme and class only, as in an entity."""
    parts = [category.term, f"scheme={_quoted(category.scheme)}", f"class={_quoted(category.cls)}"]
    if full:
        rel = category.depends[:1] if category.cls == MIXIN else (category.parent,) if category.parent else ()
        definitions = " ".join(_definition(attribute) for attribute in category.attributes)
        named = (
            ("title", category.title),
            ("rel", " ".join(rel)),
            ("location", category.location),
            ("attributes", definitions),
            ("actions", " ".join(category.actions)),
        )
        parts += [f"{name}={_quoted(value)}" for name, value in named if value]
    return CATEGORY, "; ".join(parts)


def category_fields(categories: Iterable[Category]) -> list[Field]:
    """The model: a full Category field each."""
    return [category_field(category) for category in categories]


def resource_fields(resource: Resource, location: str) -> list[Field]:
    """A resource at the path `location`: categories, attributes, links, and a link for each action it offers."""
    fields = [*_reference_fields(resource.kind, resource.mixins), *attribute_fields(resource.attributes)]
    fields += [_link_field(link) for link in resource.links]
    return fields + _action_fields(location, resource.actions)


def link_fields(link: Link, location: str) -> list[Field]:
    """A link entity at the path `location`: source and target stand among its attributes."""
    attributes = {**link.attributes, SOURCE: link.source, TARGET: link.target}
    if link.source_kind:
        attributes[SOURCE_KIND] = link.source_kind
    if link.target_kind:
        attributes[TARGET_KIND] = link.target_kind
    fields = [*_reference_fields(link.kind, link.mixins), *attribute_fields(attributes)]
    return fields + _action_fields(location, link.actions)


def action_fields(action: str, attributes: Mapping[str, Value]) -> list[Field]:
    """The invocation of an action (a request's content)."""
    scheme, term = split_type_id(action)
    category = Category(term=term, scheme=scheme, cls=ACTION)
    return [category_field(category, full=False), *attribute_fields(attributes)]


def location_fields(uris: Iterable[str]) -> list[Field]:
    """An X-OCCI-Location field each; the URIs are absolute."""
    return [(LOCATION, uri) for uri in uris]


def body(fields: Iterable[Field]) -> bytes:
    """The fields as a text/plain body."""
    return "".join(f"{name}: {value}\n" for name, value in fields).encode()


def headers(fields: Iterable[Field]) -> list[Field]:
    """The fields as HTTP headers (text/occi): all values of one name in ONE header.

    rOCCI-api keeps only the first of repeated headers, and a header carries ASCII: other characters become `?`."""
    joined: dict[str, list[str]] = {}
    for name, value in fields:
        joined.setdefault(name, []).append(value.encode("ascii", "replace").decode())
    return [(name, ", ".join(values)) for name, values in joined.items()]


def without_commas(categories: Iterable[Category]) -> Iterator[Category]:
    """For text/occi: rOCCI-api splits a header at every comma, also in a title (OCCI digest 6.2)."""
    for category in categories:
        yield msgspec.structs.replace(category, title=category.title.replace(",", " "))


def uri_list(uris: Iterable[str]) -> bytes:
    """A text/uri-list body."""
    return "".join(f"{uri}\n" for uri in uris).encode()


def _reference_fields(kind: str, mixins: Iterable[str]) -> Iterator[Field]:
    for cls, type_id in ((KIND, kind), *((MIXIN, mixin) for mixin in mixins)):
        scheme, term = split_type_id(type_id)
        yield category_field(Category(term=term, scheme=scheme, cls=cls), full=False)


def attribute_fields(attributes: Mapping[str, Value]) -> list[Field]:
    """An X-OCCI-Attribute field each."""
    return [(ATTRIBUTE, f"{name}={_value(value)}") for name, value in attributes.items()]


def _action_fields(location: str, actions: Iterable[str]) -> list[Field]:
    return [(LINK, f"<{location}?action={split_type_id(one)[1]}>; rel={_quoted(one)}") for one in actions]


def _link_field(link: Link) -> Field:
    parts = [f"<{link.target}>", f"rel={_quoted(link.target_kind or CORE_LINK)}"]
    if link.location:
        parts.append(f"self={_quoted(link.location)}")
    parts.append(f"category={_quoted(' '.join((link.kind, *link.mixins)))}")
    attributes = dict(link.attributes)
    if link.source:
        attributes[SOURCE] = link.source
    attributes[TARGET] = link.target
    if link.source_kind:
        attributes[SOURCE_KIND] = link.source_kind
    return LINK, "; ".join((*parts, *(f"{name}={_value(value)}" for name, value in attributes.items())))


def _definition(attribute: Attribute) -> str:
    properties = [
        *(["immutable"] if not attribute.mutable else []),
        *(["required"] if attribute.required else []),
    ]
    return attribute.name + (f"{{{' '.join(properties)}}}" if properties else "")


def _value(value: Value) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")  # no exponent: rOCCI's number has none
        return text if "." in text else text + ".0"
    # Text has no notation for lists and objects: JSON in a string, as ooi and rOCCI-server do.
    return _quoted(msgspec.json.encode(value).decode())


def _quoted(text: str) -> str:
    """A quoted string on one line: OCCI has no escape for line ends, so control characters become blanks."""
    text = _CONTROL.sub(" ", text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
