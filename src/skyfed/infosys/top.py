"""The top level: every registered site's entries in one tree (infosys digest 1, 8, 12).

A site that does not answer keeps its last entries for a set time, its states marked unknown; what it last said is on disk, so a
restart serves it at once. A registry that does not answer leaves the list of sites as it was.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from skyfed.core.clock import Clock, iso
from skyfed.core.errors import Invalid, SkyfedError
from skyfed.core.text import one_line
from skyfed.infosys import aggregate, formats, glue2
from skyfed.infosys.directory import Directory, UpdateStats
from skyfed.infosys.model import Entry
from skyfed.infosys.names import GLUE, GRID
from skyfed.infosys.sources import FetchLimits, Permits, fetch

log = logging.getLogger(__name__)

AT_ONCE = 10
"""Sources that are read at the same time."""
MAX_PROBLEMS_SHOWN = 20
_SITE_NAME = re.compile(r"[A-Za-z0-9._ -]{1,255}")


class ListedSite(msgspec.Struct, frozen=True):
    """A site as the registry lists it."""

    name: str
    giis_url: str


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a site's source stands. `entries` are those published; `left_out` says what was dropped, and why."""

    site: str
    url: str
    entries: int
    last_success: datetime | None
    unchanged_since: datetime | None
    error: str
    left_out: tuple[str, ...]
    stale: bool


class _Copy(msgspec.Struct, frozen=True, kw_only=True):
    """What a site last said. `digest` is of the raw text: the same again costs nothing."""

    digest: str
    entries: tuple[Entry, ...]
    changed: datetime
    fetched: datetime
    left_out: tuple[str, ...] = ()


class _Noted(msgspec.Struct, frozen=True):
    """What is on disk beside a copy's LDIF."""

    digest: str
    changed: datetime
    fetched: datetime


ListSites = Callable[[], Iterable[ListedSite]]


class TopLevel:
    """Aggregates; `refresh` is the periodic task. `list_sites` asks the registry (called in a thread)."""

    def __init__(
        self,
        directory: Directory,
        list_sites: ListSites,
        *,
        cache: Path,
        clock: Clock,
        permits: Permits,
        keep: timedelta,
        limits: FetchLimits | None = None,
    ) -> None:
        self._directory = directory
        self._list_sites = list_sites
        self._cache = cache
        self._clock = clock
        self._permits = permits
        self._keep = keep
        self._limits = limits or FetchLimits()
        self._sites: tuple[ListedSite, ...] = ()
        self._copies: dict[str, _Copy] = {}
        self._errors: dict[str, str] = {}
        self.registry_error = ""

    async def start(self) -> None:
        """Serve what was known before the last stop."""
        await asyncio.to_thread(self._recall)
        await self._directory.start(self._entries())

    async def refresh(self) -> UpdateStats:
        """Ask the registry, then all sites at once; publish what they say."""
        began = self._clock.monotonic()
        await self._ask_registry()
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._pull(site, gate) for site in self._sites))
        seconds = self._clock.monotonic() - began
        return await self._directory.publish(self._entries(), sources_seconds=seconds)

    def status(self) -> tuple[SourceStatus, ...]:
        """How each site stands, by name."""
        return tuple(self._status(site) for site in sorted(self._sites, key=lambda s: s.name))

    # -- the registry -------------------------------------------------------------------------------------------

    async def _ask_registry(self) -> None:
        try:
            listed = await asyncio.to_thread(lambda: tuple(self._list_sites()))
        except SkyfedError as error:
            reason = one_line(error.message)
            if reason != self.registry_error:
                log.warning("the registry does not answer, the list of sites stays as it was: %s", reason)
            self.registry_error = reason
            return
        self.registry_error = ""
        if listed != self._sites:
            self._sites = listed
            await asyncio.to_thread(_write, self._cache / "sites.json", msgspec.json.encode(listed))
        for name in self._copies.keys() - {site.name for site in listed}:
            del self._copies[name]
            self._ldif(name).unlink(missing_ok=True)
            self._ldif(name).with_suffix(".json").unlink(missing_ok=True)

    # -- one site -----------------------------------------------------------------------------------------------

    async def _pull(self, site: ListedSite, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                if not _SITE_NAME.fullmatch(site.name):
                    raise Invalid("the site's name is none that the registry allows", code="site_name")
                data = await fetch(aggregate.source(site.giis_url), self._limits, self._permits)
                await self._take(site, data)
                if self._errors.pop(site.name, None) is not None:
                    log.info("site %s answers", site.name)
            except SkyfedError as error:
                self._silent(site.name, one_line(error.message))

    def _silent(self, name: str, reason: str) -> None:
        if self._errors.get(name) != reason:
            log.warning("site %s cannot be read: %s", name, reason)
        self._errors[name] = reason

    async def _take(self, site: ListedSite, data: bytes) -> None:
        now = self._clock.now()
        digest = hashlib.sha256(data).hexdigest()
        held = self._copies.get(site.name)
        if held is not None and held.digest == digest:
            self._copies[site.name] = msgspec.structs.replace(held, fetched=now)
            await asyncio.to_thread(self._note, site.name, self._copies[site.name])
            return
        copy = await asyncio.to_thread(_copy, site.name, data, digest, now, self._limits)
        if held is not None and held.entries == copy.entries:
            # Another order of the same entries: keep those that the directory knows.
            copy = msgspec.structs.replace(copy, entries=held.entries)
        self._copies[site.name] = copy
        await asyncio.to_thread(_write, self._ldif(site.name), data)
        await asyncio.to_thread(self._note, site.name, copy)

    def _entries(self) -> list[Entry]:
        entries = [
            Entry(GLUE, [("objectClass", ("organization",)), ("o", ("glue",))]),
            glue2.group(GLUE, "resource"),
            Entry(GRID, [("objectClass", ("GLUE2Group",)), ("GLUE2GroupID", ("grid",))]),
        ]
        for site in self._sites:
            copy = self._copies.get(site.name)
            if copy is None or self._clock.now() - copy.fetched > self._keep:
                continue
            if site.name in self._errors:
                entries += aggregate.with_unknown_states(copy.entries, f"no answer since {iso(copy.fetched)}")
            else:
                entries += copy.entries
        return entries

    def _status(self, site: ListedSite) -> SourceStatus:
        copy = self._copies.get(site.name)
        expired = copy is not None and self._clock.now() - copy.fetched > self._keep
        return SourceStatus(
            site=site.name,
            url=site.giis_url,
            entries=0 if copy is None or expired else len(copy.entries),
            last_success=copy.fetched if copy else None,
            unchanged_since=copy.changed if copy else None,
            error=self._errors.get(site.name, ""),
            left_out=copy.left_out if copy else (),
            stale=copy is not None and site.name in self._errors,
        )

    # -- disk ---------------------------------------------------------------------------------------------------

    def _ldif(self, name: str) -> Path:
        # A name may have blanks and dots but no slash; the suffix keeps `.` and `..` from meaning something.
        return self._cache / "copies" / f"{name}.ldif"

    def _note(self, name: str, copy: _Copy) -> None:
        noted = _Noted(copy.digest, copy.changed, copy.fetched)
        _write(self._ldif(name).with_suffix(".json"), msgspec.json.encode(noted))

    def _recall(self) -> None:
        (self._cache / "copies").mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._sites = msgspec.json.decode((self._cache / "sites.json").read_bytes(), type=tuple[ListedSite, ...])
        except (OSError, msgspec.DecodeError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("the kept list of sites cannot be read: %s", error)
            return
        for site in self._sites:
            if _SITE_NAME.fullmatch(site.name):
                self._recall_site(site.name)

    def _recall_site(self, name: str) -> None:
        try:
            noted = msgspec.json.decode(self._ldif(name).with_suffix(".json").read_bytes(), type=_Noted)
            data = self._ldif(name).read_bytes()
            if hashlib.sha256(data).hexdigest() != noted.digest:
                raise Invalid("its parts do not belong together", code="cache")
            copy = _copy(name, data, noted.digest, noted.changed, self._limits)
        except (OSError, msgspec.DecodeError, SkyfedError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("the kept copy of site %s cannot be used: %s", name, error)
            return
        self._copies[name] = msgspec.structs.replace(copy, fetched=noted.fetched)
        # Until it has answered again nobody knows how it is.
        self._errors[name] = "not read since this service started"


def _copy(name: str, data: bytes, digest: str, now: datetime, limits: FetchLimits) -> _Copy:
    parsed = formats.parse(data, formats.Limits(bytes=limits.bytes, entries=limits.entries))
    adopted = aggregate.adopt(name, parsed.entries, now)
    left_out = [f"line {p.line}: {p.reason}" for p in parsed.problems]
    left_out += [f"{dn}: {reason}" for dn, reason in adopted.dropped]
    shown = tuple(one_line(text, 300) for text in left_out[:MAX_PROBLEMS_SHOWN])
    return _Copy(digest=digest, entries=adopted.entries, changed=now, fetched=now, left_out=shown)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, unless the machine crashes: then the digest beside it does not fit, and the site is read again."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.replace(path)
