"""A tree of entries kept on a managed slapd: what differs is written, what is refused is known, what happened is counted."""

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from skyfed.core.clock import Clock
from skyfed.infosys import formats
from skyfed.infosys.model import Entry
from skyfed.infosys.names import GLUE, Dn
from skyfed.infosys.slapd import Slapd
from skyfed.infosys.tree import delta, rooted, tree_of

log = logging.getLogger(__name__)

# A new database by slapadd costs a start of the server, and is about ten times faster an entry than changes over LDAP.
FULL_LOAD_ENTRIES = 400
_MAX_LOADS = 5
MAX_REFUSALS_SHOWN = 100


# Reasons that no change of ours can have: somebody else wrote, or a batch was cut short.
_DOUBTS = ("No such object", "Already exists", "Operation not allowed on non-leaf")


class _Diverged(Exception):
    """The server holds something else than we think."""


class UpdateStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the last update did; times in seconds. Published in o=infosys (infosys digest 7)."""

    at: datetime
    total: int = 0
    added: int = 0
    modified: int = 0
    deleted: int = 0
    failed_adds: int = 0
    failed_modifies: int = 0
    failed_deletes: int = 0
    orphans: int = 0
    sources_seconds: float = 0.0
    write_seconds: float = 0.0
    full_load: bool = False


class Directory:
    """The tree below `o=glue` on `slapd`. One update at a time: its callers see to that."""

    def __init__(self, slapd: Slapd, clock: Clock, *, hostname: str) -> None:
        self._slapd = slapd
        self._clock = clock
        self._hostname = hostname
        self._tree: dict[Dn, Entry] = {}
        self._refused: dict[Dn, tuple[Entry, str]] = {}
        self._certain = True
        self.stats: UpdateStats | None = None

    @property
    def tree(self) -> Mapping[Dn, Entry]:
        """What the server holds."""
        return self._tree

    @property
    def refusals(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of entries that the server does not take; tried again when they change."""
        shown = list(self._refused.items())[:MAX_REFUSALS_SHOWN]
        return tuple((str(dn), reason) for dn, (_, reason) in shown)

    async def start(self, entries: Iterable[Entry]) -> None:
        """Make the server's first database, before it runs."""
        self._slapd.remove_leftovers()
        await self._load(self._whole(entries)[0])

    async def publish(self, entries: Iterable[Entry], *, sources_seconds: float = 0.0) -> UpdateStats:
        """Make the server hold `entries` (with `o=glue`), and say what that took."""
        began = self._clock.monotonic()
        wanted, orphans = self._whole(entries)
        change = delta(self._tree, wanted)
        full = not self._certain or len(change.adds) > max(FULL_LOAD_ENTRIES, len(self._tree))
        before = len(self._refused)
        failed = (0, 0, 0)
        if len(change) and not full:
            try:
                # If this ends half-way, only a new database brings us together again.
                self._certain = False
                failed = await self._apply(wanted)
                self._certain = True
            except _Diverged as error:
                log.warning("slapd does not hold what we last wrote (%s): made anew", error)
                full = True
        if full:
            await self._load(wanted)
            self._certain = True
            failed = (len(self._refused) - before, 0, 0)
        stats = UpdateStats(
            at=self._clock.now(),
            total=len(self._tree),
            added=len(change.adds) - failed[0],
            modified=len(change.modifies) - failed[1],
            deleted=len(change.deletes) - failed[2],
            failed_adds=failed[0],
            failed_modifies=failed[1],
            failed_deletes=failed[2],
            orphans=orphans,
            sources_seconds=sources_seconds,
            write_seconds=self._clock.monotonic() - began,
            full_load=full,
        )
        await self._publish_stats(stats)
        self.stats = stats
        return stats

    # -- inside -------------------------------------------------------------------------------------------------

    def _whole(self, entries: Iterable[Entry]) -> tuple[dict[Dn, Entry], int]:
        """The tree without what the server has refused as it is, and without orphans (how many there are)."""
        tree = tree_of(entries)
        self._refused = {dn: kept for dn, kept in self._refused.items() if tree.get(dn) == kept[0]}
        whole, orphans = rooted({dn: entry for dn, entry in tree.items() if dn not in self._refused}, [GLUE])
        return whole, len(orphans)

    async def _load(self, wanted: dict[Dn, Entry]) -> None:
        """A new database. slapadd makes up the missing parents of an entry, so a refused one's children must go too."""
        for _ in range(_MAX_LOADS):
            refusals = (await self._slapd.load(wanted.values())).reasons
            self._tree = wanted
            if not refusals:
                return
            self._note(wanted, refusals)
            wanted, orphans = rooted({dn: e for dn, e in wanted.items() if dn not in refusals}, [GLUE])
            self._tree = wanted
            if not orphans:
                return

    async def _apply(self, wanted: dict[Dn, Entry]) -> tuple[int, int, int]:
        """Changes over LDAP; how many adds, modifies and deletes failed."""
        change = delta(self._tree, wanted)
        refusals = (await self._slapd.apply(change.ldif())).reasons
        # What hangs below a refused entry cannot be added: that is no refusal of its own, and no surprise.
        causes = {dn: reason for dn, reason in refusals.items() if dn.parent not in refusals}
        if doubt := next((reason for reason in causes.values() if reason.startswith(_DOUBTS)), None):
            raise _Diverged(doubt)
        removed = [dn for dn in change.deletes if dn not in refusals]
        for dn in removed:
            self._tree.pop(dn)
        for entry in change.adds:
            if entry.dn not in refusals:
                self._tree[entry.dn] = entry
        for _, entry in change.modifies:
            if entry.dn not in refusals:
                self._tree[entry.dn] = entry
        self._note(wanted, causes)
        return (
            sum(entry.dn in refusals for entry in change.adds),
            sum(entry.dn in refusals for _, entry in change.modifies),
            len(change.deletes) - len(removed),
        )

    def _note(self, wanted: Mapping[Dn, Entry], refusals: Mapping[Dn, str]) -> None:
        for dn, reason in refusals.items():
            if dn in wanted:
                self._refused[dn] = (wanted[dn], reason)
        if refusals:
            dn, reason = next(iter(refusals.items()))
            log.warning("slapd refused %d entries; the first: %s: %s", len(refusals), dn, reason)

    async def _publish_stats(self, stats: UpdateStats) -> None:
        """The entry that monitoring reads; its modifyTimestamp is the sign of freshness (infosys digest 3)."""
        dn = Dn.of("Hostname", self._hostname, Dn.parse("o=infosys"))
        values = {
            "Hostname": self._hostname,
            "TotalEntries": stats.total,
            "UpdateTime": round(stats.sources_seconds + stats.write_seconds),
            "DBUpdateTime": round(stats.write_seconds),
            "NewEntries": stats.added,
            "ModifiedEntries": stats.modified,
            "DeletedEntries": stats.deleted,
            "QueryTime": 0,
            "ProvidersTime": round(stats.sources_seconds),
            "PluginsTime": 0,
            "ReadTime": 0,
            "FailedAdds": stats.failed_adds,
            "FailedModifies": stats.failed_modifies,
            "FailedDeletes": stats.failed_deletes,
        }
        entry = Entry(
            dn, [("objectClass", ("UpdateStats",)), *((name, (str(value),)) for name, value in values.items())]
        )
        # Replacing every attribute renews modifyTimestamp also when no number has changed.
        lines = [f"replace: {name}\n{formats.line(name, str(value))}-\n" for name, value in values.items()]
        renew = formats.line("dn", str(dn)) + "changetype: modify\n" + "".join(lines[1:]) + "\n"
        refusals = await self._slapd.apply(renew)
        if dn in refusals.reasons:
            await self._slapd.apply(formats.write_add(entry))
