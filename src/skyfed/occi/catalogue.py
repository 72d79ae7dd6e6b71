"""The set of categories that one caller may use (OCCI's model), with the look-ups and checks that stand on it."""

from collections.abc import Iterable, Mapping

from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.occi.model import Attribute, Category, Value


class Catalogue:
    """Categories by identifier and location. Terms are matched without regard to case: rOCCI lower-cases them."""

    def __init__(self, categories: Iterable[Category]) -> None:
        self.categories = tuple(categories)
        self._by_id = {category.type_id.lower(): category for category in self.categories}
        self._by_location = {one.location: one for one in self.categories if one.location}

    def find(self, type_id: str) -> Category | None:
        """The category with this identifier, or None."""
        return self._by_id.get(type_id.lower())

    def get(self, type_id: str, cls: str) -> Category:
        """The category of class `cls` with this identifier. Raises Invalid naming it."""
        category = self.find(type_id)
        if category is None or category.cls != cls:
            raise Invalid(
                f"there is no {cls} {shown(type_id, 200)} here; the query interface at /-/ lists those there are",
                code="unknown_category",
            )
        return category

    def at(self, location: str) -> Category | None:
        """The kind or mixin whose collection is at this path, or None."""
        return self._by_location.get(location)

    def related(self, type_id: str) -> tuple[Category, ...]:
        """The category, its descendants (by parent or depends) and their actions; nothing if it is unknown."""
        first = self.find(type_id)
        if first is None:
            return ()
        found = {first.type_id}
        grown = True
        while grown:
            more = {one.type_id for one in self.categories if one.parent in found or found & set(one.depends)}
            grown = not more <= found
            found |= more
        return tuple(category for category in self.categories if category.type_id in found)

    def family(self, type_id: str) -> frozenset[str]:
        """Identifiers, in lower case, of the category and its descendants; of an unknown one itself alone."""
        return frozenset({type_id.lower(), *(one.type_id.lower() for one in self.related(type_id))})


def checked(
    attributes: Mapping[str, Value], categories: Iterable[Category], *, ignore: frozenset[str] = frozenset()
) -> dict[str, Value]:
    """`attributes` with the types that `categories` declare. Names in `ignore` pass as they are.

    Raises Invalid naming the attribute: unknown, immutable, of the wrong type, not one of its choices, or missing.
    """
    declared: dict[str, Attribute] = {}
    for category in categories:
        for attribute in category.attributes:
            declared.setdefault(attribute.name, attribute)
    result: dict[str, Value] = {}
    for name, value in attributes.items():
        if name in ignore:
            result[name] = value
            continue
        definition = declared.get(name)
        if definition is None:
            raise Invalid(
                f"the attribute {shown(name)} belongs to none of the given categories", code="unknown_attribute"
            )
        if not definition.mutable:
            raise Invalid(f"the attribute '{name}' is immutable: the service sets it", code="immutable_attribute")
        result[name] = typed(definition, value)
    for name, definition in declared.items():
        if definition.required and name not in result:
            raise Invalid(f"the attribute '{name}' is required", code="missing_attribute")
    return result


def typed(definition: Attribute, value: Value) -> Value:
    """`value` as the declared type. Text senders quote numbers (pyssf) and leave quotes off strings: both are read.

    Raises Invalid naming the attribute, the value and what would be right."""
    result = _CONVERT.get(definition.type, _same)(value)
    if result is None:
        raise Invalid(
            f"the attribute '{definition.name}' has the value {shown(value, 60)}; right is {_WANTED[definition.type]}",
            code="attribute_type",
        )
    if definition.choices and result not in definition.choices:
        raise Invalid(
            f"the attribute '{definition.name}' has the value {shown(value, 60)}; "
            f"right is one of {', '.join(definition.choices)}",
            code="attribute_choice",
        )
    return result


_WANTED = {
    "string": "a string",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
}


def _string(value: Value) -> Value | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _number(value: Value) -> int | float | None:
    if isinstance(value, str) and len(value) <= 32:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 2**53 else None  # also refuses NaN and infinities


def _integer(value: Value) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _boolean(value: Value) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _same(value: Value) -> Value | None:
    return value


_CONVERT = {"string": _string, "number": _number, "integer": _integer, "boolean": _boolean}
