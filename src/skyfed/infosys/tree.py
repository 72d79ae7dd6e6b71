"""What must change for a directory to hold other entries: parents before children, children before parents. No I/O."""

from collections.abc import Iterable, Mapping

import msgspec

from skyfed.infosys import formats
from skyfed.infosys.model import Entry
from skyfed.infosys.names import Dn

Tree = Mapping[Dn, Entry]


def tree_of(entries: Iterable[Entry]) -> dict[Dn, Entry]:
    """Entries by name; the first of equal names counts."""
    tree: dict[Dn, Entry] = {}
    for entry in entries:
        tree.setdefault(entry.dn, entry)
    return tree


def rooted(tree: Tree, roots: Iterable[Dn]) -> tuple[dict[Dn, Entry], tuple[Dn, ...]]:
    """The entries whose ancestors are all there, up to one of `roots`, and the names of the orphans left out."""
    tops = set(roots)
    whole: dict[Dn, Entry] = {}
    orphans: list[Dn] = []
    for dn in sorted(tree, key=len):
        if dn in tops or dn.parent in whole:
            whole[dn] = tree[dn]
        else:
            orphans.append(dn)
    return whole, tuple(orphans)


class Delta(msgspec.Struct, frozen=True):
    """Changes in the order in which a directory takes them."""

    deletes: tuple[Dn, ...]
    adds: tuple[Entry, ...]
    modifies: tuple[tuple[Entry, Entry], ...]

    def __len__(self) -> int:
        return len(self.deletes) + len(self.adds) + len(self.modifies)

    def ldif(self) -> str:
        """As LDIF change records."""
        parts = [formats.write_delete(dn) for dn in self.deletes]
        parts += [formats.write_add(entry) for entry in self.adds]
        parts += [formats.write_modify(old, new) for old, new in self.modifies]
        return "".join(parts)


def delta(old: Tree, new: Tree) -> Delta:
    """What makes `old` into `new`. An entry whose classes change is removed and added again with all below it, since no
    directory lets an entry change its structural class (RFC 4512 2.4.2)."""
    reborn = {dn for dn, entry in new.items() if dn in old and _classes(old[dn]) != _classes(entry)}
    if reborn:
        reborn |= {dn for dn in old.keys() & new.keys() if any(dn.is_below(top) for top in reborn)}
    deletes = sorted((dn for dn in old if dn not in new or dn in reborn), key=len, reverse=True)
    adds = sorted((entry for dn, entry in new.items() if dn not in old or dn in reborn), key=lambda e: len(e.dn))
    modifies = [
        (old[dn], entry)
        for dn, entry in new.items()
        if dn in old and dn not in reborn and old[dn] is not entry and old[dn].canonical() != entry.canonical()
    ]
    return Delta(tuple(deletes), tuple(adds), tuple(modifies))


def _classes(entry: Entry) -> frozenset[str]:
    return frozenset(value.lower() for value in entry.all("objectClass"))
