"""The information system as a service of a node: a site's own server, or the federation's top level."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from skyfed.compute.service import ComputeService
from skyfed.core.errors import Invalid
from skyfed.core.settings import setting
from skyfed.infosys import http, profile
from skyfed.infosys.directory import Directory, UpdateStats
from skyfed.infosys.site import CloudDescription, SiteLevel
from skyfed.infosys.slapd import Slapd
from skyfed.infosys.slapd_config import SlapdConfig
from skyfed.infosys.sources import FetchLimits
from skyfed.infosys.top import ListedSite, SourceStatus, TopLevel
from skyfed.occi.model import site_names
from skyfed.registry.client import RegistryClient
from skyfed.registry.model import CertificationStatus, Infrastructure
from skyfed.web.runtime import Assembly, Health, Runtime

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class SiteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a site says of itself; its name comes from the node, its images and flavours from its compute service."""

    occi_url: Annotated[str, setting("URL of the site's OCCI service as clients know it.")] = ""
    service: Annotated[
        str, setting("Name of the compute service, unique in the site; empty: the host of occi_url.")
    ] = ""
    vos: Annotated[tuple[str, ...], setting("VOs that the site serves; empty: those that its images are for.")] = ()
    os_tpl_scheme: Annotated[str, setting("As in the settings of occi.")] = ""
    resource_tpl_scheme: Annotated[str, setting("As in the settings of occi.")] = ""
    interface_version: Annotated[str, setting("OCCI version that is published.")] = "1.2"
    quality: Annotated[
        Literal["development", "pre-production", "production", "testing"], setting("QualityLevel of the services.")
    ] = "production"
    description: Annotated[str, setting("One line about the site.")] = ""
    www: Annotated[str, setting("The site's web page.")] = ""
    ngi: Annotated[str, setting("The NGI that the site belongs to.")] = ""
    country: Annotated[str, setting("Two-letter code or name of the country; empty: no location is published.")] = ""
    latitude: Annotated[Annotated[float, msgspec.Meta(ge=-90, le=90)] | None, setting("Degrees north.")] = None
    longitude: Annotated[Annotated[float, msgspec.Meta(ge=-180, le=180)] | None, setting("Degrees east.")] = None
    contacts: Annotated[
        dict[Literal["general", "sysadmin", "security", "usersupport"], str],
        setting("Role addresses that anybody may read, by kind."),
    ] = {}


class TopSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the federation's tree is put together."""

    registry: Annotated[str, setting("URL of the service registry that lists the sites.")] = ""
    scope: Annotated[str | None, setting("Only sites with this scope; absent: as the registry thinks right.")] = None
    test_bed: Annotated[bool, setting("Also sites of the test infrastructure.")] = False
    keep_hours: Annotated[
        Seconds, setting("How long the last entries of a site that does not answer stay, states unknown, hours.")
    ] = 12.0
    source_seconds: Annotated[Seconds, setting("How long one site may take to answer, seconds.")] = 30.0
    source_bytes: Annotated[int, setting("Most that one site may send, bytes."), msgspec.Meta(ge=1024)] = 25 << 20
    source_entries: Annotated[int, setting("Most entries of one site."), msgspec.Meta(ge=1)] = 100_000


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the information system."""

    level: Annotated[Literal["site", "top"], setting("`site`: this site's own server; `top`: the whole federation.")]
    port: Annotated[Port, setting("Port of the LDAP server; by convention 2170.")] = 2170
    host: Annotated[str, setting("Address that the LDAP server binds.")] = "127.0.0.1"
    public_host: Annotated[str, setting("Host name under which it is found; empty: `host`.")] = ""
    refresh_seconds: Annotated[
        Seconds, setting("How often everything is looked at again; a site's catalogue is published when it changes.")
    ] = 120.0
    database_bytes: Annotated[
        int, setting("Most that the LDAP database may take on disk, bytes."), msgspec.Meta(ge=1 << 22)
    ] = 1 << 30
    schema_directory: Annotated[
        Path, setting("Where Debian's packages slapd and glue-schema put the LDAP schemas.")
    ] = Path("/etc/ldap/schema")
    site: SiteSettings = SiteSettings()
    top: TopSettings = TopSettings()


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """Wire a site's or the top level's information server into a node. Raises Invalid, Unavailable (no compute)."""
    slapd = Slapd(
        SlapdConfig(
            directory=runtime.data / "slapd",
            # Shorter than the name of the node's own socket, whose length the node has checked.
            socket=runtime.run / "slapd.ldapi",
            host=settings.host,
            port=settings.port,
            max_bytes=settings.database_bytes,
            schemas=settings.schema_directory,
        )
    )
    public_host = settings.public_host or settings.host
    directory = Directory(slapd, runtime.clock, hostname=public_host)
    build = _top if settings.level == "top" else _site
    return _Service(settings, runtime, slapd, directory, build(settings, runtime, directory, public_host)).assembly()


@dataclass(frozen=True)
class _Level:
    """What differs between a site and the top level."""

    start: Callable[[], Awaitable[None]]
    refresh: Callable[[], Awaitable[UpdateStats]]
    sources: Callable[[], tuple[tuple[SourceStatus, ...], str]]
    subscribe: Callable[[Callable[[], None]], Callable[[], None]]


def _site(settings: Settings, runtime: Runtime, directory: Directory, public_host: str) -> _Level:
    site = settings.site
    if not runtime.site or not site.occi_url:
        raise Invalid(
            "an information server of a site needs node.site and services.infosys.settings.site.occi_url",
            code="settings_value",
        )
    compute = runtime.require_compute(ComputeService)
    description = profile.SiteDescription(
        name=runtime.site,
        description=site.description,
        www=site.www,
        ngi=site.ngi,
        country=site.country,
        latitude=site.latitude,
        longitude=site.longitude,
        contacts={str(kind): address for kind, address in site.contacts.items()},
        bdii_host=public_host,
        bdii_port=settings.port,
        quality=site.quality,
    )
    cloud = CloudDescription(
        service=site.service or urlsplit(site.occi_url).hostname or runtime.site,
        url=site.occi_url,
        names=site_names(
            site=runtime.site,
            url=site.occi_url,
            os_tpl_scheme=site.os_tpl_scheme,
            resource_tpl_scheme=site.resource_tpl_scheme,
        ),
        vos=site.vos,
        version=metadata.version("skyfed"),
        interface_version=site.interface_version,
        quality=site.quality,
    )
    level = SiteLevel(directory, compute, description, cloud, runtime.clock)

    def subscribe(wake: Callable[[], None]) -> Callable[[], None]:
        ends = [compute.catalogue_changes.subscribe(wake), compute.vm_changes.subscribe(wake)]
        # What was published before the engine's first answer said that it is not well.
        first = asyncio.ensure_future(compute.synced())
        first.add_done_callback(lambda done: None if done.cancelled() else wake())

        def end() -> None:
            first.cancel()
            for unsubscribe in ends:
                unsubscribe()

        return end

    return _Level(level.start, level.refresh, lambda: ((), ""), subscribe)


def _top(settings: Settings, runtime: Runtime, directory: Directory, _public_host: str) -> _Level:
    top = settings.top
    if not top.registry:
        raise Invalid("the top level needs services.infosys.settings.top.registry", code="settings_value")
    registry = RegistryClient(runtime.http, top.registry)

    def list_sites() -> Iterable[ListedSite]:
        infrastructure = None if top.test_bed else Infrastructure.PRODUCTION
        listed = registry.site_list(
            certification=CertificationStatus.CERTIFIED, infrastructure=infrastructure, scope=top.scope
        )
        return [ListedSite(site.name, site.giis_url) for site in listed if site.giis_url]

    level = TopLevel(
        directory,
        list_sites,
        cache=runtime.data / "sites",
        clock=runtime.clock,
        permits=runtime.http.policy.permits,
        keep=timedelta(hours=top.keep_hours),
        limits=FetchLimits(bytes=top.source_bytes, entries=top.source_entries, seconds=top.source_seconds),
    )
    return _Level(
        level.start, level.refresh, lambda: (level.status(), level.registry_error), lambda _wake: lambda: None
    )


class _Service:
    """The running whole: one update at a time, periodic, on event and on demand."""

    def __init__(self, settings: Settings, runtime: Runtime, slapd: Slapd, directory: Directory, level: _Level) -> None:
        self._settings = settings
        self._runtime = runtime
        self._slapd = slapd
        self._directory = directory
        self._level = level
        self._lock = asyncio.Lock()
        self._unsubscribe: Callable[[], None] = lambda: None

    def assembly(self) -> Assembly:
        return Assembly(
            admin=http.admin_routes(
                self._settings.level, self._slapd, self._directory, self._level.sources, self.refresh
            ),
            start=self.start,
            stop=self.stop,
            health=self.health,
        )

    async def start(self) -> None:
        """The server answers with what is known; the first update follows at once."""
        (self._runtime.data / "slapd").mkdir(mode=0o700, parents=True, exist_ok=True)
        tasks = self._runtime.tasks
        await self._level.start()
        tasks.task("slapd", self._slapd.run)
        await self._slapd.ready()
        tasks.every("update", self._settings.refresh_seconds, self._update)
        self._unsubscribe = self._level.subscribe(lambda: tasks.wake("update"))

    async def stop(self) -> None:
        """No more events; the node stops the tasks, and with its task slapd ends."""
        self._unsubscribe()

    async def refresh(self) -> UpdateStats:
        """Update now."""
        async with self._lock:
            await self._slapd.ready()
            return await self._level.refresh()

    async def _update(self) -> None:
        await self.refresh()

    async def health(self) -> Health:
        """Well while slapd runs and the last update is not too old."""
        if self._slapd.pid is None:
            return Health(ok=False, detail="slapd does not run")
        stats = self._directory.stats
        if stats is None:
            return Health(ok=True, detail="the first update is under way")
        age = (self._runtime.clock.now() - stats.at).total_seconds()
        sources, registry_error = self._level.sources()
        silent = [source.site for source in sources if source.error]
        detail = f"{stats.total} entries, updated {age:.0f} s ago"
        if silent:
            detail += f"; no answer from {', '.join(silent)}"
        if registry_error:
            detail += f"; registry: {registry_error}"
        return Health(ok=age < 3 * self._settings.refresh_seconds + 60, detail=detail)
