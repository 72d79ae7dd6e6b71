"""From a raw path and query to what they mean in OCCI's URL space (GFD.223; OCCI digest 4). Sans-IO.

OCCI paths are not router-shaped: `/-/`, collections of kinds and mixins, entities, unions; each with its own methods.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs, unquote

import msgspec

from skyfed.core.errors import Invalid, NotFound, TooLarge
from skyfed.core.text import shown
from skyfed.occi import infrastructure as infra
from skyfed.occi.catalogue import Catalogue
from skyfed.occi.model import KIND, Category

QUERY_PATHS: Final = ("/-/", "/.well-known/org/ogf/occi/-/")
MAX_PATH: Final = 2048
MAX_QUERY: Final = 8192
MAX_PAGE_SIZE: Final = 1000


class What(Enum):
    """What a path names."""

    QUERY = "query interface"
    COLLECTION = "collection"
    ENTITY = "entity"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a path names: the query interface, the collection of a category (None: of everything), or an entity."""

    what: What
    category: Category | None = None
    id: str = ""

    @property
    def kind(self) -> str:
        """Type identifier of the category; empty for the union of everything."""
        return self.category.type_id if self.category is not None else ""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a request's query string that OCCI or we define."""

    action: str = ""
    category: str = ""
    """Type identifier to filter by: ours, for JSON clients, which have no filter in the standard."""
    page: int = 1
    number: int = 0
    """Entities per page; 0: all."""


_ALLOW: Mapping[What, tuple[str, ...]] = MappingProxyType(
    {
        What.QUERY: ("GET", "HEAD", "OPTIONS", "POST", "DELETE"),
        What.COLLECTION: ("GET", "HEAD", "OPTIONS", "POST", "DELETE"),
        What.ENTITY: ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"),
    }
)


def allowed(target: Target) -> tuple[str, ...]:
    """The methods that OCCI defines on the target (a mixin's membership can also be PUT)."""
    if target.what is What.COLLECTION and target.category is not None and target.category.cls != KIND:
        return (*_ALLOW[What.COLLECTION], "PUT")
    return _ALLOW[target.what]


def target(raw_path: bytes, catalogue: Catalogue, prefix: str = "") -> Target:
    """What the path names in the caller's model. Raises NotFound, Invalid (a path that cannot be one of ours)."""
    path = _path(raw_path)
    if path.rstrip("/") + "/" == QUERY_PATHS[1]:
        return Target(what=What.QUERY)  # RFC 8615: at the authority's root, whatever the service's prefix
    if prefix:
        if path != prefix and not path.startswith(prefix + "/"):
            raise NotFound(f"there is nothing at {shown(path)}; the service is at {shown(prefix + '/')}")
        path = path[len(prefix) :] or "/"
    if path.rstrip("/") + "/" == QUERY_PATHS[0]:
        return Target(what=What.QUERY)
    if path == "/":
        return Target(what=What.COLLECTION)
    folder = path if path.endswith("/") else path + "/"
    category = catalogue.at(prefix + folder)
    if category is not None:
        return Target(what=What.COLLECTION, category=category)
    parent, _, name = path.rpartition("/")
    kind = catalogue.at(prefix + parent + "/")
    if kind is not None and kind.cls == KIND and name and kind.type_id in _WITH_ENTITIES:
        return Target(what=What.ENTITY, category=kind, id=name)
    raise NotFound(f"there is nothing at {shown(path)}; the query interface at {prefix}/-/ lists what there is")


_WITH_ENTITIES = frozenset({infra.COMPUTE, infra.NETWORK, infra.NETWORKINTERFACE})


def query(raw: bytes) -> Query:
    """The parameters of a query string. Raises Invalid, TooLarge."""
    if len(raw) > MAX_QUERY:
        raise TooLarge(f"the query string has {len(raw)} bytes; at most {MAX_QUERY}", code="query_size")
    text = raw.decode("ascii", "replace").replace(";", "&")  # the specification's sample separates with ';'
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError as error:
        raise Invalid("the query string cannot be read: too many fields, or not UTF-8", code="query") from error
    number = _natural(found, "number", 0)
    if number > MAX_PAGE_SIZE:
        raise TooLarge(f"'number' is {number}; a page has at most {MAX_PAGE_SIZE} entities", code="page_size")
    return Query(
        action=_one(found, "action"), category=_one(found, "category"), page=_natural(found, "page", 1), number=number
    )


def _path(raw: bytes) -> str:
    if len(raw) > MAX_PATH:
        raise Invalid(f"the path has {len(raw)} bytes; at most {MAX_PATH}", code="path")
    try:
        path = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError as error:
        raise Invalid("the path is not percent-encoded UTF-8", code="path") from error
    if not path.startswith("/") or not path.isprintable() or any(p in (".", "..") for p in path.split("/")):
        raise Invalid(f"{shown(path)} is not a path of this service", code="path")
    return path


def _one(found: Mapping[str, list[str]], name: str) -> str:
    values = found.get(name, [""])
    if len(values) > 1:
        raise Invalid(f"'{name}' is given {len(values)} times; give it once", code="query")
    return values[0]


def _natural(found: Mapping[str, list[str]], name: str, default: int) -> int:
    text = _one(found, name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise Invalid(f"'{name}' is {shown(text)}; right is a whole number from 1", code="query")
    return int(text)
