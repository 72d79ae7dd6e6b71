"""A site's entries in the cloud profile of 2014 (infosys digest 5): GLUE 2.0 with the federation's conventions. No I/O.

Two things that the wild sites of that profile left out are always here: who may use an endpoint (AccessPolicy) and what each VO
has there (Share with MappingPolicy).
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from skyfed.core.clock import iso
from skyfed.infosys import policy
from skyfed.infosys.glue2 import VO_OF_IMAGE, entry, group
from skyfed.infosys.model import Entry
from skyfed.infosys.names import GLUE, Dn

CAPABILITIES = ("cloud.managementSystem", "cloud.vm.uploadImage", "executionmanagement.dynamicvmdeploy")
BDII_CAPABILITIES = ("information.model", "information.discovery", "information.monitoring")


class SiteDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The site itself. `contacts`: general, sysadmin, security, usersupport → role address."""

    name: str
    description: str = ""
    www: str = ""
    ngi: str = ""
    country: str = ""
    latitude: float | None = None
    longitude: float | None = None
    contacts: dict[str, str] = {}
    bdii_host: str
    bdii_port: int
    quality: str = "production"


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image as users see it: `mixin` is its os_tpl's type identifier, `identifier` its name in accounting too."""

    mixin: str
    title: str
    version: str
    identifier: str
    description: str
    vos: frozenset[str]


class Flavour(msgspec.Struct, frozen=True, kw_only=True):
    """A size: `mixin` is its resource_tpl's type identifier; memory in MiB, disk in GiB."""

    mixin: str
    cores: int
    memory_mib: int
    disk_gib: float


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a VO has at the site: machines by state, and the most it may run."""

    vo: str
    running: int = 0
    suspended: int = 0
    halted: int = 0
    most: int | None = None


class Cloud(msgspec.Struct, frozen=True, kw_only=True):
    """The site's compute service at this moment."""

    service: str
    """Unique in the site; by convention the host name of the service."""
    url: str
    images: tuple[Image, ...]
    flavours: tuple[Flavour, ...]
    shares: tuple[Share, ...]
    interface: str = "OCCI"
    interface_version: str = "1.2"
    authentication: str = "X509-VOMS"
    implementation: str = "Skyfed"
    implementor: str = "Skyfed"
    version: str = ""
    hypervisor: str = ""
    hypervisor_version: str = ""
    total_cores: int | None = None
    total_memory_mib: int | None = None
    healthy: bool = True
    health_info: str = ""
    quality: str = "production"


class Stamp(msgspec.Struct, frozen=True):
    """When the entries were made and for how many seconds they hold."""

    created: datetime
    validity: int


def site_entries(site: SiteDescription, cloud: Cloud, stamp: Stamp) -> list[Entry]:
    """The whole tree of a site's own server, below and with `o=glue`; parents first."""
    domain = Dn.of("GLUE2DomainID", site.name, GLUE)
    resource = group(GLUE, "resource")
    site_resource, cloud_group = group(domain, "resource"), group(domain, "cloud")
    return [
        Entry(GLUE, [("objectClass", ("organization",)), ("o", ("glue",))]),
        resource,
        *_bdii(site, resource.dn, stamp),
        *_domain(site, domain, stamp),
        site_resource,
        *_bdii(site, site_resource.dn, stamp),
        cloud_group,
        *_compute(site, cloud, cloud_group.dn, stamp),
    ]


def _stamped(stamp: Stamp) -> dict[str, str | int | Iterable[str] | None]:
    return {"EntityCreationTime": iso(stamp.created), "EntityValidity": str(stamp.validity)}


def _domain(site: SiteDescription, domain: Dn, stamp: Stamp) -> list[Entry]:
    above = domain.parent
    entries = [
        entry(
            above,
            "AdminDomain",
            ("DomainID", site.name),
            {
                "DomainDescription": site.description or site.name,
                "DomainWWW": site.www,
                "EntityOtherInfo": f"EGI_NGI={site.ngi}" if site.ngi else None,
                **_stamped(stamp),
            },
        )
    ]
    if site.country:
        entries.append(
            entry(
                domain,
                "Location",
                ("LocationID", f"location.{site.name}"),
                {
                    "LocationCountry": site.country,
                    "LocationLatitude": None if site.latitude is None else str(site.latitude),
                    "LocationLongitude": None if site.longitude is None else str(site.longitude),
                    "LocationDomainForeignKey": site.name,
                    **_stamped(stamp),
                },
            )
        )
    return entries + [
        entry(
            domain,
            "Contact",
            ("ContactID", f"{kind}.contact.{site.name}"),
            {
                "ContactDetail": f"mailto:{address}",
                "ContactType": kind,
                "ContactDomainForeignKey": site.name,
                **_stamped(stamp),
            },
        )
        for kind, address in site.contacts.items()
    ]


def _bdii(site: SiteDescription, parent: Dn, stamp: Stamp) -> list[Entry]:
    """The information server, described by itself."""
    service_id = f"{site.name}_sitebdii"
    service = entry(
        parent,
        "Service",
        ("ServiceID", service_id),
        {
            "EntityName": service_id,
            "ServiceType": "bdii_site",
            "ServiceQualityLevel": site.quality,
            "ServiceAdminDomainForeignKey": site.name,
            "ServiceCapability": BDII_CAPABILITIES,
            "ServiceComplexity": "endpointType=1, share=0, resource=0",
            **_stamped(stamp),
        },
    )
    endpoint_id = f"{site.bdii_host}:{site.bdii_port}_sitebdii_endpoint"
    endpoint = entry(
        service.dn,
        "Endpoint",
        ("EndpointID", endpoint_id),
        {
            "EntityName": f"bdii_site endpoint for Service {site.name}",
            "EndpointURL": f"ldap://{site.bdii_host}:{site.bdii_port}/GLUE2DomainID={site.name},o=glue",
            "EndpointInterfaceName": "bdii_site",
            "EndpointQualityLevel": site.quality,
            "EndpointServingState": "production",
            "EndpointHealthState": "ok",
            "EndpointCapability": BDII_CAPABILITIES,
            "EndpointServiceForeignKey": service_id,
            **_stamped(stamp),
        },
    )
    return [service, endpoint, _access_policy(endpoint, endpoint_id, [policy.ALL], stamp)]


def _access_policy(endpoint: Entry, endpoint_id: str, rules: list[str], stamp: Stamp) -> Entry:
    return entry(
        endpoint.dn,
        "AccessPolicy",
        ("PolicyID", f"{endpoint_id}_policy"),
        {
            "PolicyScheme": policy.SCHEME,
            "PolicyRule": rules,
            "AccessPolicyEndpointForeignKey": endpoint_id,
            **_stamped(stamp),
        },
    )


def _compute(site: SiteDescription, cloud: Cloud, parent: Dn, stamp: Stamp) -> list[Entry]:
    service_id = f"{cloud.service}_cloud.compute"
    manager_id = f"{service_id}_manager"
    endpoint_id = f"{cloud.url}_{cloud.interface}_{cloud.interface_version}_{cloud.authentication}"
    service = entry(
        parent,
        "ComputingService",
        ("ServiceID", service_id),
        {
            "ServiceType": "IaaS",
            "ServiceQualityLevel": cloud.quality,
            "ServiceCapability": CAPABILITIES,
            "ServiceAdminDomainForeignKey": site.name,
            "ServiceComplexity": f"endpointType=1, share={len(cloud.shares)}, resource={len(cloud.flavours)}",
            "ComputingServiceRunningJobs": sum(share.running for share in cloud.shares),
            "ComputingServiceSuspendedJobs": sum(share.suspended for share in cloud.shares),
            "ComputingServiceTotalJobs": sum(_total(share) for share in cloud.shares),
            **_stamped(stamp),
        },
    )
    endpoint = _compute_endpoint(cloud, service.dn, service_id, endpoint_id, stamp)
    rules = [policy.rule_for(share.vo) for share in cloud.shares]
    return [
        service,
        _manager(cloud, service.dn, service_id, manager_id, stamp),
        endpoint,
        # A policy must have a rule: without any VO there is none, and nobody is admitted.
        *([_access_policy(endpoint, endpoint_id, rules, stamp)] if rules else []),
        *(e for share in cloud.shares for e in _share(share, service.dn, service_id, endpoint_id, stamp)),
        *(_flavour(flavour, cloud, service.dn, manager_id, stamp) for flavour in cloud.flavours),
        *(_image(image, cloud, service.dn, manager_id, stamp) for image in cloud.images),
    ]


def _total(share: Share) -> int:
    return share.running + share.suspended + share.halted


def _manager(cloud: Cloud, parent: Dn, service_id: str, manager_id: str, stamp: Stamp) -> Entry:
    memory = cloud.total_memory_mib
    return entry(
        parent,
        "ComputingManager",
        ("ManagerID", manager_id),
        {
            "EntityName": f"Cloud Manager for {cloud.service}",
            "ManagerProductName": cloud.hypervisor or "unknown",
            "ManagerProductVersion": cloud.hypervisor_version,
            "ComputingManagerTotalLogicalCPUs": cloud.total_cores,
            # The profile puts the total memory in GB into this attribute.
            "ComputingManagerWorkingAreaTotal": None if memory is None else memory // 1024,
            "ManagerServiceForeignKey": service_id,
            "ComputingManagerComputingServiceForeignKey": service_id,
            **_stamped(stamp),
        },
    )


def _compute_endpoint(cloud: Cloud, parent: Dn, service_id: str, endpoint_id: str, stamp: Stamp) -> Entry:
    return entry(
        parent,
        "ComputingEndpoint",
        ("EndpointID", endpoint_id),
        {
            "EndpointURL": cloud.url,
            "EndpointInterfaceName": cloud.interface,
            "EndpointInterfaceVersion": cloud.interface_version,
            "EndpointTechnology": "REST",
            "EndpointCapability": CAPABILITIES,
            "EndpointQualityLevel": cloud.quality,
            "EndpointServingState": "production",
            "EndpointHealthState": "ok" if cloud.healthy else "critical",
            "EndpointHealthStateInfo": cloud.health_info,
            "EndpointImplementationName": cloud.implementation,
            "EndpointImplementationVersion": cloud.version,
            "EndpointImplementor": cloud.implementor,
            "EntityOtherInfo": f"Authn={cloud.authentication}",
            "EndpointServiceForeignKey": service_id,
            "ComputingEndpointComputingServiceForeignKey": service_id,
            **_stamped(stamp),
        },
    )


def _share(share: Share, parent: Dn, service_id: str, endpoint_id: str, stamp: Stamp) -> list[Entry]:
    share_id = f"{service_id}_share_{share.vo}"
    found = entry(
        parent,
        "ComputingShare",
        ("ShareID", share_id),
        {
            "ShareDescription": f"Virtual machines of {share.vo}",
            "ComputingShareMappingQueue": share.vo,
            "ComputingShareServingState": "production",
            "ComputingShareRunningJobs": share.running,
            "ComputingShareSuspendedJobs": share.suspended,
            "ComputingShareTotalJobs": _total(share),
            "ComputingShareMaxRunningJobs": share.most,
            "ShareServiceForeignKey": service_id,
            "ComputingShareComputingServiceForeignKey": service_id,
            "ShareEndpointForeignKey": endpoint_id,
            "ComputingShareComputingEndpointForeignKey": endpoint_id,
            **_stamped(stamp),
        },
    )
    mapping = entry(
        found.dn,
        "MappingPolicy",
        ("PolicyID", f"{share_id}_policy"),
        {
            "PolicyScheme": policy.SCHEME,
            "PolicyRule": policy.rule_for(share.vo),
            "PolicyUserDomainForeignKey": share.vo,
            "MappingPolicyShareForeignKey": share_id,
            **_stamped(stamp),
        },
    )
    return [found, mapping]


def _flavour(flavour: Flavour, cloud: Cloud, parent: Dn, manager_id: str, stamp: Stamp) -> Entry:
    return entry(
        parent,
        "ExecutionEnvironment",
        ("ResourceID", f"{flavour.mixin}_{cloud.service}"),
        {
            "EntityName": flavour.mixin,
            "EntityOtherInfo": f"disk={flavour.disk_gib:g}",
            "ExecutionEnvironmentPlatform": "amd64",
            "ExecutionEnvironmentOSFamily": "linux",
            "ExecutionEnvironmentMainMemorySize": flavour.memory_mib,
            "ExecutionEnvironmentLogicalCPUs": flavour.cores,
            "ExecutionEnvironmentPhysicalCPUs": flavour.cores,
            "ExecutionEnvironmentCPUMultiplicity": "multicpu-multicore",
            "ExecutionEnvironmentCPUVendor": "virtual vendor",
            "ExecutionEnvironmentCPUModel": "virtual model",
            "ExecutionEnvironmentVirtualMachine": "TRUE",
            "ExecutionEnvironmentConnectivityIn": "TRUE",
            "ExecutionEnvironmentConnectivityOut": "TRUE",
            "ResourceManagerForeignKey": manager_id,
            "ExecutionEnvironmentComputingManagerForeignKey": manager_id,
            **_stamped(stamp),
        },
    )


def _image(image: Image, cloud: Cloud, parent: Dn, manager_id: str, stamp: Stamp) -> Entry:
    return entry(
        parent,
        "ApplicationEnvironment",
        ("ApplicationEnvironmentID", f"{image.mixin}_{cloud.service}"),
        {
            "EntityName": image.mixin,
            "EntityOtherInfo": [f"{VO_OF_IMAGE}{vo}" for vo in sorted(image.vos)],
            # An image must have a name; one whose list gives none goes by its template.
            "ApplicationEnvironmentAppName": image.title or image.mixin,
            "ApplicationEnvironmentAppVersion": image.version,
            "ApplicationEnvironmentRepository": image.identifier,
            "ApplicationEnvironmentDescription": image.description,
            "ApplicationEnvironmentComputingManagerForeignKey": manager_id,
            **_stamped(stamp),
        },
    )
