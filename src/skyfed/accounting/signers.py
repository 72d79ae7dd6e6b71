"""Who may send usage records, and for which site: the registry's accounting services (accounting digest 5.5, 4.4).

A signer is listed by the HOSTDN of a service of type `eu.egi.cloud.accounting` (or of its older names); the service's
site is the one it may report for. The list is fetched as a whole and kept while the registry is away, but not for ever.
"""

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from skyfed.core.clock import Clock
from skyfed.core.errors import SkyfedError, Unavailable
from skyfed.registry.client import ACCOUNTING_TYPES
from skyfed.registry.model import Service, same_dn

log = logging.getLogger(__name__)

# A signer that is not on the list may have been registered just now: look again, but not at every message.
LOOK_AGAIN_SECONDS = 5.0


class Registry(Protocol):
    """What is needed of `registry.client.RegistryClient`."""

    def services(
        self, *, type: str | None = None, site: str | None = None, scope: str | None = None
    ) -> tuple[Service, ...]:
        """Services of one type."""


class SignerList(msgspec.Struct, frozen=True):
    """One state of the list: DN in slash form → the sites it may report for."""

    sites: Mapping[str, frozenset[str]]

    def of(self, dn: str) -> frozenset[str]:
        """The sites of this DN, whatever the spelling of its e-mail attribute."""
        found = self.sites.get(dn)
        if found is not None:
            return found
        return frozenset().union(*(sites for known, sites in self.sites.items() if same_dn(known, dn)))

    @property
    def all_sites(self) -> frozenset[str]:
        return frozenset().union(*self.sites.values())


def listed(
    services: Iterable[Service],
    *,
    extra: Mapping[str, Iterable[str]],
    banned: Iterable[str],
    include_non_production: bool,
) -> SignerList:
    """The list that these services make, with the operator's additions (DN → sites) and without the banned."""
    sites: dict[str, set[str]] = {}
    for service in services:
        if service.production or include_non_production:
            for dn in service.host_dns:
                sites.setdefault(dn, set()).add(service.site)
    for dn, names in extra.items():
        sites.setdefault(dn, set()).update(names)
    refused = list(banned)
    kept = {dn: frozenset(found) for dn, found in sites.items() if _plausible(dn) and not _any_same(dn, refused)}
    return SignerList(kept)


def _plausible(dn: str) -> bool:
    """At least two parts, none ending in `, ` (a DN pasted in the other form); commas inside are legal."""
    parts = dn.split("/")[1:]
    return dn.startswith("/") and len(parts) >= 2 and not any(part.endswith(", ") for part in parts)


def _any_same(dn: str, others: Iterable[str]) -> bool:
    return any(same_dn(dn, other) for other in others)


class Signers:
    """The list, fetched when it is needed and old, kept for `expire_seconds` while the registry is away. Thread-safe.

    Without a registry only the operator's own `extra` counts.
    """

    def __init__(
        self,
        registry: Registry | None,
        clock: Clock,
        *,
        extra: Mapping[str, Iterable[str]],
        banned: Iterable[str],
        include_non_production: bool = False,
        refresh_seconds: float,
        expire_seconds: float,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._extra = {dn: tuple(sites) for dn, sites in extra.items()}
        self._banned = tuple(banned)
        self._include_non_production = include_non_production
        self._refresh = refresh_seconds
        self._expire = expire_seconds
        self._lock = threading.Lock()
        self._list: SignerList | None = None
        self._fetched = 0.0

    def banned(self, dn: str) -> bool:
        """Whether the operator refuses this signer whatever the registry says."""
        return _any_same(dn, self._banned)

    def current(self) -> SignerList:
        """The list, at most `refresh_seconds` old where the registry answers. Raises Unavailable when there is none."""
        with self._lock:
            return self._at_most(self._refresh)

    def sites_of(self, dn: str) -> frozenset[str]:
        """The sites that `dn` may report for; empty for a DN that is on no list. Raises Unavailable without a list."""
        with self._lock:
            found = self._at_most(self._refresh).of(dn)
            return found or self._at_most(LOOK_AGAIN_SECONDS).of(dn)

    def held(self, dn: str) -> frozenset[str]:
        """The sites of `dn` by the list at hand, however old; nothing without one. For views: never asks the registry."""
        return self._list.of(dn) if self._list is not None else frozenset()

    def _at_most(self, seconds: float) -> SignerList:
        age = self._clock.monotonic() - self._fetched
        if self._list is not None and age < seconds:
            return self._list
        try:
            self._list = self._fetch()
            self._fetched = self._clock.monotonic()
        except SkyfedError as error:
            if self._list is None or age >= self._expire:
                text = f"who may send usage records is not known: {error.message}"
                raise Unavailable(text, code="no_signer_list") from error
            log.warning("the list of signers is %.0f s old and kept: %s", age, error.message)
        return self._list

    def _fetch(self) -> SignerList:
        services: list[Service] = []
        if self._registry is not None:
            for kind in ACCOUNTING_TYPES:
                services += self._registry.services(type=kind, scope="")
        return listed(
            services, extra=self._extra, banned=self._banned, include_non_production=self._include_non_production
        )
