"""OCCI values (GFD.221 core): categories, entities and messages. Typed, frozen, no I/O.

The model of a service is data: `skyfed.occi.infrastructure` writes the standard's categories down as these values.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from skyfed.core.errors import Conflict, Invalid
from skyfed.core.text import shown

Value: TypeAlias = str | int | float | bool | Sequence[object] | Mapping[str, object]
"""What an attribute may hold. Text renderings know only strings, numbers and booleans."""

AttributeType = Literal["string", "number", "integer", "boolean", "array", "object"]
"""JSON's types (GFD.226); `integer` is a number without fraction."""

KIND, MIXIN, ACTION = "kind", "mixin", "action"

ID = "occi.core.id"
TITLE = "occi.core.title"
SUMMARY = "occi.core.summary"
SOURCE = "occi.core.source"
TARGET = "occi.core.target"
SOURCE_KIND = "occi.core.source.kind"
TARGET_KIND = "occi.core.target.kind"

CORE = "http://schemas.ogf.org/occi/core#"
CORE_LINK = CORE + "link"

NO_ATTRIBUTES: Mapping[str, Value] = MappingProxyType({})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one message is read (OCCI digest 13). Over a limit: TooLarge."""

    body: int
    """Bytes of a body, or of all header fields that are read."""
    categories: int
    attributes: int
    links: int
    locations: int
    value: int
    """Characters of one attribute's value as it stands on the wire."""


REQUEST_LIMITS = Limits(body=1 << 20, categories=100, attributes=256, links=64, locations=1024, value=96 * 1024)
"""What a server reads. The longest legal value is 64 KiB of user data in base64, 87384 characters."""
RESPONSE_LIMITS = Limits(
    body=16 << 20, categories=20_000, attributes=4096, links=4096, locations=100_000, value=256 * 1024
)
"""What a client reads: the model of a large site has thousands of templates."""


class Attribute(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of an attribute in a category."""

    name: str
    type: AttributeType = "string"
    mutable: bool = True
    required: bool = False
    choices: tuple[str, ...] = ()
    """The legal strings; empty: any."""
    default: str | int | float | bool | None = None
    description: str = ""


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """A Kind, Mixin or Action, told apart by `cls`. As a reference in a message only term, scheme and cls are set."""

    term: str
    scheme: str
    cls: str
    title: str = ""
    parent: str = ""
    """Of a kind: type identifier of its parent kind."""
    depends: tuple[str, ...] = ()
    """Of a mixin: type identifiers of the mixins it depends on."""
    applies: tuple[str, ...] = ()
    """Of a mixin: type identifiers of the kinds it applies to; empty: to any."""
    actions: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    location: str = ""
    """Path of its collection; actions have none."""

    @property
    def type_id(self) -> str:
        """The type identifier: scheme and term."""
        return self.scheme + self.term


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link entity, inline in a resource or by itself. `attributes` does not repeat source and target."""

    kind: str
    target: str
    source: str = ""
    """Empty where the sender left it to the resource around it."""
    target_kind: str = ""
    source_kind: str = ""
    mixins: tuple[str, ...] = ()
    attributes: Mapping[str, Value] = NO_ATTRIBUTES
    actions: tuple[str, ...] = ()
    location: str = ""
    """Its own path, where the rendering tells (`self` in text)."""


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A resource entity. Its id, title and summary are among the attributes (`occi.core.id`, …)."""

    kind: str
    mixins: tuple[str, ...] = ()
    attributes: Mapping[str, Value] = NO_ATTRIBUTES
    links: tuple[Link, ...] = ()
    actions: tuple[str, ...] = ()
    """Type identifiers of the actions that it offers now."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a request or an answer said, whatever its rendering."""

    categories: tuple[Category, ...] = ()
    attributes: Mapping[str, Value] = NO_ATTRIBUTES
    links: tuple[Link, ...] = ()
    actions: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()

    def of_class(self, cls: str) -> tuple[Category, ...]:
        """The categories of that class, in the order they were sent."""
        return tuple(category for category in self.categories if category.cls == cls)


def published_term(name: str) -> str:
    """`name` as a term that every client can handle: rOCCI-core lower-cases terms and takes no dot in them."""
    term = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name.lower())
    return term if term[:1].isalnum() else "t" + term


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """How a site names its templates, and the path under which its collections lie."""

    os_tpl_scheme: str
    resource_tpl_scheme: str
    prefix: str = ""
    """Path of the service's URL, without a slash at its end; locations begin with it."""


def site_names(*, site: str, url: str, os_tpl_scheme: str = "", resource_tpl_scheme: str = "") -> Names:
    """The names at `site` (its registry name), whose OCCI service is at `url`; the schemes where they are configured.

    The information system publishes the same names. Raises Invalid for a scheme that cannot be one."""
    host = urlsplit(url).hostname or "localhost"
    authority = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in site.lower()) or host
    os_tpl = os_tpl_scheme or f"http://{authority}/occi/infrastructure/os_tpl#"
    resource_tpl = resource_tpl_scheme or f"http://{authority}/occi/infrastructure/resource_tpl#"
    for scheme in (os_tpl, resource_tpl):
        if not scheme.endswith("#") or "://" not in scheme or any(c in scheme for c in ' "<>,;'):
            raise Invalid(f"{shown(scheme)} is no category scheme; right is a URI that ends in '#'", code="scheme")
    return Names(os_tpl_scheme=os_tpl, resource_tpl_scheme=resource_tpl, prefix=urlsplit(url).path.rstrip("/"))


def os_tpl_id(names: Names, image_term: str) -> str:
    """Type identifier of an image's os_tpl."""
    return names.os_tpl_scheme + published_term(image_term)


def resource_tpl_id(names: Names, flavour_term: str) -> str:
    """Type identifier of a flavour's resource_tpl."""
    return names.resource_tpl_scheme + published_term(flavour_term)


def split_type_id(type_id: str) -> tuple[str, str]:
    """(scheme with its `#`, term). Raises Invalid where there is no `#` or no term."""
    scheme, mark, term = type_id.rpartition("#")
    if not mark or not term or not scheme:
        raise Invalid(
            f"{shown(type_id)} is not a type identifier; it is a scheme and a term: 'http://…/infrastructure#compute'",
            code="type_identifier",
        )
    return scheme + "#", term


def reference(type_id: str, cls: str) -> Category:
    """The category as an entity or action request names it."""
    scheme, term = split_type_id(type_id)
    return Category(term=term, scheme=scheme, cls=cls)


def unique(categories: Iterable[Category]) -> None:
    """Raises Conflict naming a category that stands there twice (terms count without regard to case)."""
    seen: set[str] = set()
    for category in categories:
        key = category.type_id.lower()
        if key in seen:
            raise Conflict(
                f"the category {shown(category.type_id)} is given twice; give each once", code="duplicate_category"
            )
        seen.add(key)


def one_kind(message: Message) -> str:
    """Type identifier of the message's kind. Raises Invalid unless it has exactly one."""
    kinds = message.of_class(KIND)
    if len(kinds) != 1:
        found = ", ".join(kind.type_id for kind in kinds[:4]) or "none"
        raise Invalid(f"an entity has exactly one category of class kind; found: {found}", code="kind")
    return kinds[0].type_id


def to_resource(message: Message) -> Resource:
    """The resource that a message describes. Raises Invalid unless it has exactly one kind."""
    return Resource(
        kind=one_kind(message),
        mixins=tuple(mixin.type_id for mixin in message.of_class(MIXIN)),
        attributes=message.attributes,
        links=message.links,
        actions=message.actions,
    )


def to_link(message: Message) -> Link:
    """The link entity that a message describes. Raises Invalid unless it has exactly one kind and a target."""
    attributes = dict(message.attributes)
    target = attributes.pop(TARGET, "")
    if not isinstance(target, str) or not target:
        raise Invalid(f"a link needs the attribute '{TARGET}': the path or URI of its target", code="link_target")
    return Link(
        kind=one_kind(message),
        mixins=tuple(mixin.type_id for mixin in message.of_class(MIXIN)),
        target=target,
        source=str(attributes.pop(SOURCE, "")),
        target_kind=str(attributes.pop(TARGET_KIND, "")),
        source_kind=str(attributes.pop(SOURCE_KIND, "")),
        attributes=attributes,
        actions=message.actions,
    )
