"""The site level: the site's own catalogue, live, as GLUE 2 (infosys digest 10: a view, not a script)."""

from collections.abc import Iterable
from datetime import timedelta

import msgspec

from skyfed.compute.catalogue import Catalogue
from skyfed.compute.contract import EngineHealth
from skyfed.compute.model import Capacity
from skyfed.compute.model import Flavour as ComputeFlavour
from skyfed.compute.model import Image as ComputeImage
from skyfed.compute.service import ComputeService
from skyfed.core.clock import Clock
from skyfed.infosys import profile
from skyfed.infosys.directory import Directory, UpdateStats
from skyfed.infosys.model import Entry
from skyfed.occi.model import Names, os_tpl_id, resource_tpl_id

VALIDITY_SECONDS = 3600
# Entries are stamped anew only after this part of their validity, so that an update that changes nothing writes nothing.
RENEW_PART = 3


class CloudDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue does not know of itself: its address, names and the VOs that the site serves."""

    service: str
    url: str
    names: Names
    vos: tuple[str, ...]
    version: str
    interface_version: str
    quality: str


class SiteLevel:
    """Publishes one site; `refresh` is the periodic task, woken by the catalogue."""

    def __init__(
        self,
        directory: Directory,
        compute: ComputeService,
        site: profile.SiteDescription,
        cloud: CloudDescription,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._compute = compute
        self._site = site
        self._cloud = cloud
        self._clock = clock
        self._stamp = profile.Stamp(clock.now(), VALIDITY_SECONDS)

    async def start(self) -> None:
        """The server's first database: what is known now."""
        await self._directory.start(self._entries())

    async def refresh(self) -> UpdateStats:
        """Publish the catalogue, the machines and the engine's health as they are."""
        return await self._directory.publish(self._entries())

    def _entries(self) -> Iterable[Entry]:
        if self._clock.now() - self._stamp.created > timedelta(seconds=VALIDITY_SECONDS / RENEW_PART):
            self._stamp = profile.Stamp(self._clock.now(), VALIDITY_SECONDS)
        cloud = view(self._cloud, self._compute.catalogue(), self._compute.capacity(), self._compute.engine_health)
        return profile.site_entries(self._site, cloud, self._stamp)


def view(
    description: CloudDescription, catalogue: Catalogue, capacity: Capacity, health: EngineHealth
) -> profile.Cloud:
    """The compute service as the profile shows it."""
    names = description.names
    return profile.Cloud(
        service=description.service,
        url=description.url,
        images=tuple(_image(image, names) for image in catalogue.images),
        flavours=tuple(_flavour(flavour, names) for flavour in catalogue.flavours),
        shares=_shares(description.vos, catalogue, capacity),
        version=description.version,
        interface_version=description.interface_version,
        hypervisor="KVM" if health.acceleration == "kvm" else "QEMU",
        hypervisor_version=health.version,
        total_cores=capacity.total.cores,
        total_memory_mib=capacity.total.memory_mib,
        healthy=health.ok,
        health_info="" if health.ok else health.detail or "the engine is not well",
        quality=description.quality,
    )


def _image(image: ComputeImage, names: Names) -> profile.Image:
    system = " ".join(part for part in (image.os_type, image.os_name, image.os_version, image.arch) if part)
    version = f" version {image.version}" if image.version else ""
    return profile.Image(
        mixin=os_tpl_id(names, image.os_tpl_term),
        title=image.title,
        version=image.version,
        identifier=image.identifier,
        description=f"{image.title}{version} on {system}",
        vos=image.vos,
    )


def _flavour(flavour: ComputeFlavour, names: Names) -> profile.Flavour:
    return profile.Flavour(
        mixin=resource_tpl_id(names, flavour.term),
        cores=flavour.cores,
        memory_mib=flavour.memory_mib,
        disk_gib=flavour.disk_gib,
    )


def _shares(vos: tuple[str, ...], catalogue: Catalogue, capacity: Capacity) -> tuple[profile.Share, ...]:
    """One for each VO that the site serves; without a list of those, for each that an image is for."""
    served = vos or tuple(sorted({vo for image in catalogue.images for vo in image.vos}))
    quotas = {quota.vo: quota.limits.vms for quota in capacity.quotas}
    return tuple(
        profile.Share(
            vo=vo,
            running=capacity.running.get(vo, 0),
            suspended=capacity.suspended.get(vo, 0),
            halted=capacity.halted.get(vo, 0),
            most=quotas.get(vo),
        )
        for vo in served
    )
