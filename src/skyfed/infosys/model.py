"""What the information system holds: entries, and what a researcher learns from them. No I/O."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from skyfed.infosys.names import Dn

Attributes = Mapping[str, tuple[str, ...]]


class Entry:
    """One LDAP entry: a name and attributes with their values. Immutable; attribute names keep their spelling, and are
    looked up without regard to case."""

    __slots__ = ("_index", "attributes", "dn")

    def __init__(self, dn: Dn, attributes: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        self.dn = dn
        self.attributes = tuple(attributes)
        self._index: dict[str, tuple[str, ...]] | None = None

    def all(self, name: str) -> tuple[str, ...]:
        """All values of an attribute."""
        return self._lookup().get(name.lower(), ())

    def first(self, name: str) -> str:
        """The first value of an attribute; "" when it has none."""
        values = self.all(name)
        return values[0] if values else ""

    def has_class(self, name: str) -> bool:
        """Whether `objectClass` has that value, in any case."""
        wanted = name.lower()
        return any(value.lower() == wanted for value in self.all("objectClass"))

    def replaced(self, changes: Attributes) -> "Entry":
        """With some attributes' values replaced; those that it does not have are added, empty ones removed."""
        todo = {name.lower(): (name, values) for name, values in changes.items()}
        kept: list[tuple[str, tuple[str, ...]]] = []
        for name, values in self.attributes:
            _, new = todo.pop(name.lower(), (name, values))
            if new:
                kept.append((name, new))
        kept += [(name, values) for name, values in todo.values() if values]
        return Entry(self.dn, kept)

    def at(self, dn: Dn) -> "Entry":
        """The same entry at another place."""
        return Entry(dn, self.attributes)

    def canonical(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What equal entries have in common: the order of attributes and values does not matter."""
        return tuple(sorted((name.lower(), tuple(sorted(values))) for name, values in self.attributes))

    def _lookup(self) -> dict[str, tuple[str, ...]]:
        if self._index is None:
            index: dict[str, tuple[str, ...]] = {}
            for name, values in self.attributes:
                index[name.lower()] = index.get(name.lower(), ()) + values
            self._index = index
        return self._index

    def __iter__(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        return iter(self.attributes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and self.dn == other.dn and self.canonical() == other.canonical()

    def __hash__(self) -> int:
        return hash(self.dn)

    def __repr__(self) -> str:
        return f"Entry({str(self.dn)!r}, {self.attributes!r})"


class FlavourOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A size of virtual machine at an endpoint; `id` is the resource template's OCCI mixin."""

    id: str
    cores: int
    memory_mb: int
    disk_gb: float | None = None


class ImageOffer(msgspec.Struct, frozen=True, kw_only=True):
    """An image at an endpoint: `id` is the OS template's OCCI mixin, `identifier` its name in the image list."""

    id: str
    title: str
    version: str
    identifier: str
    description: str


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a VO can start an image: everything that a create needs. `policy_published` is False where the site says
    nothing about who may use the endpoint."""

    site: str
    endpoint_url: str
    interface: str
    interface_version: str
    image: ImageOffer
    flavours: tuple[FlavourOffer, ...]
    health: str
    serving_state: str
    quality: str
    policy_published: bool


class SiteSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A site as the information system knows it."""

    name: str
    country: str
    endpoints: tuple[str, ...]
    vos: tuple[str, ...]
    images: int
    flavours: int
    total_cores: int | None
    health: str
    running: int | None = None
    """Virtual machines that run there for anybody; None where the site publishes no share."""
