"""The JSON renderings of OCCI (GFD.226), in two dialects. Sans-IO.

1.2: flat attribute names, link ends as objects. 1.1 (rOCCI-core 4, jOCCI): nested attributes, link ends as strings,
`related` beside `parent`. The reader tells them apart by shape; the writer is told which to write (OCCI digest 7).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeAlias

import msgspec

from skyfed.core.errors import Invalid, TooLarge
from skyfed.core.text import shown
from skyfed.occi.model import (
    ACTION,
    CORE_LINK,
    ID,
    KIND,
    MIXIN,
    REQUEST_LIMITS,
    SOURCE,
    SOURCE_KIND,
    SUMMARY,
    TARGET,
    TARGET_KIND,
    TITLE,
    Attribute,
    AttributeType,
    Category,
    Limits,
    Link,
    Message,
    Resource,
    Value,
    reference,
)

Object: TypeAlias = dict[str, Any]

_MAX_DEPTH = 16
_DESCRIBES = frozenset({"type", "mutable", "required"})
_TOP_LEVEL = (("id", ID), ("title", TITLE), ("summary", SUMMARY))
_ENTITY_LISTS = ("resources", "links")
_TYPES: Mapping[str, AttributeType] = {
    "string": "string",
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "array": "array",
    "object": "object",
}
_ALTERNATIVES = re.compile(r"\^\(([^()]*)\)\$\Z")


class Dialect(Enum):
    """Which of the two shapes is written."""

    OCCI_1_1 = "1.1"
    OCCI_1_2 = "1.2"


# --- reading ---------------------------------------------------------------------------------------------------


def parse(data: bytes, *, limits: Limits = REQUEST_LIMITS, tolerant: bool = False) -> Message:
    """The one entity, action invocation or set of categories in a JSON text, in either dialect.

    A collection with exactly one entity counts as that entity. Raises Invalid (naming the member), TooLarge."""
    return _message(_object(decoded(data, limits), "the body"), limits, tolerant)


def parse_entities(data: bytes, *, limits: Limits = REQUEST_LIMITS, tolerant: bool = False) -> tuple[Message, ...]:
    """The entities of a collection: its resources, then its links. Raises as `parse`."""
    document = decoded(data, limits)
    if isinstance(document, list):  # seen from occi-os: a bare list
        return tuple(_entity(_object(one, "an entity"), limits, tolerant) for one in document)
    members = _object(document, "the body")
    return tuple(_collected(members, limits, tolerant))


def parse_model(data: bytes, *, limits: Limits = REQUEST_LIMITS) -> tuple[Category, ...]:
    """The kinds, mixins and actions of a model. Raises as `parse`."""
    return tuple(_categories(_object(decoded(data, limits), "the body"), limits))


def decoded(data: bytes, limits: Limits = REQUEST_LIMITS) -> object:
    """The JSON value, bounded in size and depth. Raises Invalid, TooLarge."""
    if len(data) > limits.body:
        raise TooLarge(f"the body has {len(data)} bytes; at most {limits.body} are read", code="body_size")
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}", code="json") from error
    except RecursionError as error:
        raise Invalid("the body is nested too deeply", code="depth") from error
    _bounded(value, _MAX_DEPTH)
    return value


def _bounded(value: object, depth: int) -> None:
    if depth == 0:
        raise Invalid(f"the body is nested deeper than {_MAX_DEPTH} levels", code="depth")
    if isinstance(value, dict):
        for member in value.values():
            _bounded(member, depth - 1)
    elif isinstance(value, list):
        for member in value:
            _bounded(member, depth - 1)


def _message(members: Object, limits: Limits, tolerant: bool) -> Message:
    if "action" in members:
        return _invocation(members, limits)
    if "kind" in members:
        return _entity(members, limits, tolerant)
    if any(isinstance(members.get(name), list) for name in _ENTITY_LISTS):
        entities = tuple(_collected(members, limits, tolerant))
        if len(entities) != 1:
            raise Invalid(f"the body has {len(entities)} entities; send one at a time", code="several_entities")
        return entities[0]
    categories = tuple(_categories(members, limits))
    if not categories:
        raise Invalid(
            "the body has none of the members 'kind', 'resources', 'links', 'action', 'kinds', 'mixins', 'actions'",
            code="no_content",
        )
    return Message(categories=categories)


def _collected(members: Object, limits: Limits, tolerant: bool) -> Iterator[Message]:
    count = 0
    for name in _ENTITY_LISTS:
        for one in _list(members.get(name), name):
            count += 1
            if count > limits.locations:
                raise TooLarge(f"more than {limits.locations} entities", code="entities")
            yield _entity(_object(one, f"an element of '{name}'"), limits, tolerant)


def _invocation(members: Object, limits: Limits) -> Message:
    action = members["action"]
    if isinstance(action, dict) and "action" in action:  # rOCCI-core 4 wraps it in a collection
        return _invocation(action, limits)
    return Message(
        categories=(_reference(action, ACTION),),
        attributes=_attributes(members.get("attributes"), limits, tolerant=False),
    )


def _entity(members: Object, limits: Limits, tolerant: bool) -> Message:
    mixins = _list(members.get("mixins"), "mixins")
    if len(mixins) >= limits.categories:
        raise TooLarge(f"more than {limits.categories} categories", code="categories")
    attributes = _attributes(members.get("attributes"), limits, tolerant)
    for member, name in _TOP_LEVEL:
        if member in members:
            _merge(attributes, name, _text(members[member], member), tolerant)
    for member, name, kind_name in (("source", SOURCE, SOURCE_KIND), ("target", TARGET, TARGET_KIND)):
        if member in members:
            location, kind = _end(members[member], member)
            _merge(attributes, name, location, tolerant)
            if kind:
                attributes[kind_name] = kind
    links = _list(members.get("links"), "links")
    if len(links) > limits.links:
        raise TooLarge(f"more than {limits.links} links", code="links")
    return Message(
        categories=(_reference(members.get("kind"), KIND), *(_reference(one, MIXIN) for one in mixins)),
        attributes=attributes,
        links=tuple(_link(one, limits, tolerant) for one in links),
        actions=tuple(_reference(one, ACTION).type_id for one in _list(members.get("actions"), "actions")),
    )


def _link(value: object, limits: Limits, tolerant: bool) -> Link:
    if isinstance(value, str):  # 1.1: the location of a link that exists
        return Link(kind=CORE_LINK, target="", location=value)
    members = _object(value, "an element of 'links'")
    message = _entity({"kind": CORE_LINK, **members}, limits, tolerant)
    attributes = dict(message.attributes)
    target_kind = str(attributes.pop(TARGET_KIND, "") or _text(members.get("rel", ""), "rel"))
    return Link(
        kind=message.categories[0].type_id,
        mixins=tuple(mixin.type_id for mixin in message.of_class(MIXIN)),
        target=str(attributes.pop(TARGET, "")),
        target_kind=target_kind,
        source=str(attributes.pop(SOURCE, "")),
        source_kind=str(attributes.pop(SOURCE_KIND, "")),
        attributes=attributes,
        actions=message.actions,
    )


def _end(value: object, member: str) -> tuple[str, str]:
    """(location, kind) of a link's source or target: an object in 1.2, a string in 1.1."""
    if isinstance(value, str):
        return value, ""
    members = _object(value, member)
    return _text(members.get("location"), f"{member}.location"), _text(members.get("kind", ""), f"{member}.kind")


def _reference(value: object, cls: str) -> Category:
    """A category by type identifier; pyssf writes an object with scheme and term, or with a member `kind` of those."""
    if isinstance(value, dict):
        inner = value.get("kind", value)
        if isinstance(inner, dict) and isinstance(inner.get("scheme"), str) and isinstance(inner.get("term"), str):
            return reference(inner["scheme"] + inner["term"], cls)
    if not isinstance(value, str):
        raise Invalid(f"the {cls} is {shown(value, 40)}; right is a type identifier, 'scheme#term'", code=cls)
    return reference(value, cls)


def _attributes(value: object, limits: Limits, tolerant: bool) -> dict[str, Value]:
    attributes: dict[str, Value] = {}
    for name, one in _flat(_object(value if value is not None else {}, "attributes"), ""):
        if not _legal(one):
            raise Invalid(f"the attribute '{shown(name)}' is null", code="attribute_value")
        if isinstance(one, str) and len(one) > limits.value:
            raise TooLarge(f"the attribute {shown(name)} has {len(one)} characters", code="value_size")
        _merge(attributes, name, one, tolerant)
        if len(attributes) > limits.attributes:
            raise TooLarge(f"more than {limits.attributes} attributes", code="attributes")
    return attributes


def _legal(value: object) -> bool:
    return isinstance(value, str | int | float | bool | list | dict)


def _flat(members: Object, prefix: str) -> Iterator[tuple[str, Any]]:
    """Flat names. A name without a dot that holds an object is the first part of a nested (1.1) name."""
    for name, value in members.items():
        full = prefix + name
        if isinstance(value, dict) and (prefix or "." not in name):
            yield from _flat(value, full + ".")
        else:
            yield full, value


def _merge(attributes: dict[str, Value], name: str, value: Value, tolerant: bool) -> None:
    """rOCCI-server 2 says core attributes twice, at the top and among the attributes: fine where equal."""
    if attributes.setdefault(name, value) != value and not tolerant:
        raise Invalid(f"the attribute '{name}' is given twice with different values", code="duplicate_attribute")


def _categories(members: Object, limits: Limits) -> Iterator[Category]:
    count = 0
    for plural, cls in (("kinds", KIND), ("mixins", MIXIN), ("actions", ACTION)):
        for one in _list(members.get(plural), plural):
            count += 1
            if count > limits.categories:
                raise TooLarge(f"more than {limits.categories} categories", code="categories")
            yield (
                _category(_object(one, f"an element of '{plural}'"), cls)
                if isinstance(one, dict)
                else _reference(one, cls)
            )


def _category(members: Object, cls: str) -> Category:
    related = _names(members.get("related"), "related")
    depends = _names(members.get("depends"), "depends")
    return Category(
        term=_text(members.get("term"), "term"),
        scheme=_text(members.get("scheme"), "scheme"),
        cls=cls,
        title=_text(members.get("title", ""), "title"),
        parent="" if cls != KIND else _text(members.get("parent", ""), "parent") or "".join(related[:1]),
        depends=depends or (related if cls == MIXIN else ()),
        applies=_names(members.get("applies"), "applies"),
        actions=_names(members.get("actions"), "actions"),
        attributes=tuple(_definitions(members.get("attributes"))),
        location=_text(members.get("location", ""), "location"),
    )


def _definitions(value: object) -> Iterator[Attribute]:
    for name, description in _described(_object(value if value is not None else {}, "attributes"), ""):
        members = {key.lower(): one for key, one in description.items()}  # rOCCI-server 1 capitalises them
        kind = _TYPES.get(_text(members.get("type", "string"), "type"), "string")
        pattern = members.get("pattern")
        choices: tuple[str, ...] = ()
        if isinstance(pattern, dict):
            kind = "integer" if kind == "number" and pattern.get("type") == "integer" else kind
            choices = _names(pattern.get("enum"), "enum")
        elif isinstance(pattern, str) and (match := _ALTERNATIVES.match(pattern)):
            choices = tuple(match.group(1).split("|"))
        default = members.get("default")
        yield Attribute(
            name=name,
            type=kind,
            mutable=bool(members.get("mutable", False)),
            required=bool(members.get("required", False)),
            choices=choices,
            default=default if isinstance(default, str | int | float | bool) else None,
            description=_text(members.get("description", ""), "description"),
        )


def _described(members: Object, prefix: str) -> Iterator[tuple[str, Object]]:
    """Attribute descriptions under their flat names. A description has at least one member that is no object."""
    for name, value in members.items():
        full = prefix + name
        if not isinstance(value, dict):
            if prefix:
                continue  # a member of a description that has nested names below it
            yield full, {}  # pyssf: "muttable"
        elif "." in name or any(key.lower() in _DESCRIBES and not isinstance(one, dict) for key, one in value.items()):
            yield full, value
            yield from _described(
                {k: v for k, v in value.items() if isinstance(v, dict) and k != "pattern"}, full + "."
            )
        else:
            yield from _described(value, full + ".")


def _object(value: object, what: str) -> Object:
    if not isinstance(value, dict):
        raise Invalid(f"{what} is {shown(value, 40)}; right is a JSON object", code="shape")
    return value


def _list(value: object, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Invalid(f"'{what}' is {shown(value, 40)}; right is a JSON array", code="shape")
    return value


def _names(value: object, what: str) -> tuple[str, ...]:
    return tuple(_text(one, f"an element of '{what}'") for one in _list(value, what))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f"'{what}' is {shown(value, 40)}; right is a string", code="shape")
    return value


# --- writing ---------------------------------------------------------------------------------------------------


def model(categories: Iterable[Category], dialect: Dialect) -> bytes:
    """The model: kinds, mixins and actions."""
    found = tuple(categories)
    return _encoded(
        {
            "kinds": [_kind_object(one, dialect) for one in found if one.cls == KIND],
            "mixins": [_mixin_object(one, dialect) for one in found if one.cls == MIXIN],
            "actions": [_common(one, dialect) for one in found if one.cls == ACTION],
        }
    )


def resource(one: Resource, dialect: Dialect) -> bytes:
    """One resource."""
    return _encoded(_resource_object(one, dialect))


def link(one: Link, dialect: Dialect) -> bytes:
    """One link."""
    return _encoded(_link_object(one, dialect))


def collection(resources: Iterable[Resource], links: Iterable[Link], dialect: Dialect, *, of_links: bool) -> bytes:
    """A collection; an empty one still says which of the two it is."""
    members: Object = {}
    found = [_resource_object(one, dialect) for one in resources]
    found_links = [_link_object(one, dialect) for one in links]
    if found or not of_links:
        members["resources"] = found
    if found_links or of_links:
        members["links"] = found_links
    return _encoded(members)


def invocation(action: str, attributes: Mapping[str, Value], dialect: Dialect) -> bytes:
    """The invocation of an action (a request's content)."""
    return _encoded({"action": action, "attributes": _attribute_object(attributes, dialect)})


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value)


def _resource_object(one: Resource, dialect: Dialect) -> Object:
    attributes = dict(one.attributes)
    members: Object = {"kind": one.kind, "mixins": list(one.mixins)}
    for member, name in _TOP_LEVEL:
        if name in attributes:
            members[member] = attributes.pop(name)
    members["attributes"] = _attribute_object(attributes, dialect)
    members["actions"] = list(one.actions)
    members["links"] = [_link_object(link, dialect) for link in one.links]
    return members


def _link_object(one: Link, dialect: Dialect) -> Object:
    attributes = dict(one.attributes)
    members: Object = {"kind": one.kind, "mixins": list(one.mixins)}
    for member, name in (("id", ID), ("title", TITLE)):
        if name in attributes:
            members[member] = attributes.pop(name)
    members["attributes"] = _attribute_object(attributes, dialect)
    if one.actions:
        members["actions"] = list(one.actions)
    if dialect is Dialect.OCCI_1_1:
        members |= {"source": one.source, "target": one.target}
    else:
        members["source"] = {"location": one.source} | ({"kind": one.source_kind} if one.source_kind else {})
        members["target"] = {"location": one.target} | ({"kind": one.target_kind} if one.target_kind else {})
    if one.target_kind:
        members["rel"] = one.target_kind
    return members


def _attribute_object(attributes: Mapping[str, Value], dialect: Dialect) -> Object:
    return dict(attributes) if dialect is Dialect.OCCI_1_2 else _nested(attributes)


def _nested(flat: Mapping[str, Any]) -> Object:
    """Nested names (1.1). A name below another name's value cannot be said and is left out: `….state.message`."""
    tree: Object = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        if any(".".join(path[:n]) in flat for n in range(1, len(path) + 1)):
            continue
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def _common(one: Category, dialect: Dialect) -> Object:
    members: Object = {"term": one.term, "scheme": one.scheme}
    if one.title:
        members["title"] = one.title
    described = {attribute.name: _description(attribute, dialect) for attribute in one.attributes}
    members["attributes"] = described if dialect is Dialect.OCCI_1_2 else _nested(described)
    return members


def _kind_object(one: Category, dialect: Dialect) -> Object:
    members = _common(one, dialect)
    members["actions"] = list(one.actions)
    if one.parent:
        members["parent"] = one.parent
        if dialect is Dialect.OCCI_1_1:
            members["related"] = [one.parent]
    if one.location:
        members["location"] = one.location
    return members


def _mixin_object(one: Category, dialect: Dialect) -> Object:
    members = _common(one, dialect)
    members |= {"actions": list(one.actions), "depends": list(one.depends), "applies": list(one.applies)}
    if dialect is Dialect.OCCI_1_1:
        members["related"] = list(one.depends)
    members["location"] = one.location
    return members


def _description(attribute: Attribute, dialect: Dialect) -> Object:
    new = dialect is Dialect.OCCI_1_2
    # rOCCI-core 4 knows only these three types and aborts on any other.
    plain = attribute.type if attribute.type in ("string", "number", "boolean") else "string"
    kind = "number" if attribute.type == "integer" else attribute.type if new else plain
    members: Object = {"type": kind, "mutable": attribute.mutable, "required": attribute.required}
    if new and attribute.type == "integer":
        members["pattern"] = {"type": "integer"}
    elif attribute.choices and new:
        members["pattern"] = {"enum": list(attribute.choices)}
    elif attribute.choices:
        members["pattern"] = f"^({'|'.join(attribute.choices)})$"
    if attribute.default is not None:
        members["default"] = attribute.default
    if attribute.description:
        members["description"] = attribute.description
    return members
