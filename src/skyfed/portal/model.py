"""What the portal knows: readings of three sources, each with its own age. No I/O."""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from skyfed.accounting.model import DayUsage

T = TypeVar("T")


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A registered service. `url` is empty where it is nothing that a browser should follow."""

    type: str
    hostname: str
    url: str = ""
    production: bool = False


class RegisteredSite(msgspec.Struct, frozen=True, kw_only=True):
    """A site as the registry has it. `certification` is "" where the registry does not tell us."""

    name: str
    title: str = ""
    country: str = ""
    infrastructure: str = ""
    certification: str = ""
    services: tuple[Service, ...] = ()


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that members of `vos` can start."""

    title: str
    version: str = ""
    identifier: str = ""
    vos: tuple[str, ...] = ()


class Flavour(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A size of virtual machine."""

    cores: int
    memory_mb: int
    disk_gb: float | None = None
    name: str = ""


class OfferedSite(msgspec.Struct, frozen=True, kw_only=True):
    """A site as the information system has it. None = the site does not publish it, which is not 0."""

    name: str
    country: str = ""
    health: str = ""
    vos: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    running: int | None = None
    total_cores: int | None = None
    images: tuple[Image, ...] = ()
    flavours: tuple[Flavour, ...] = ()


class DayReport(msgspec.Struct, frozen=True, kw_only=True):
    """Today's usage by site and VO; `since` is midnight UTC."""

    since: datetime
    usage: tuple[DayUsage, ...] = ()


class Reading(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """The last good answer of a source, and what went wrong since. Instants are UTC.

    `configured` is false for a source that this federation has not: nothing is missing then.
    """

    value: T | None = None
    at: datetime | None = None
    error: str = ""
    error_at: datetime | None = None
    configured: bool = True

    def succeeded(self, value: T, at: datetime) -> "Reading[T]":
        """The reading after a good answer."""
        return Reading(value=value, at=at)

    def failed(self, error: str, at: datetime) -> "Reading[T]":
        """The reading after a failure: the old value stays, and says so."""
        return Reading(value=self.value, at=self.at, error=error, error_at=at)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All readings at one moment; `version` grows with each change."""

    version: int = 0
    registry: Reading[tuple[RegisteredSite, ...]] = Reading(configured=False)
    infosys: Reading[tuple[OfferedSite, ...]] = Reading(configured=False)
    accounting: Reading[DayReport] = Reading(configured=False)
