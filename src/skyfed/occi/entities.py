"""Virtual machines of the compute service as OCCI entities. Pure: values in, values out."""

from collections.abc import Mapping
from typing import Final

import msgspec

from skyfed.compute.model import Action, Flavour, Image, Nic, Vm, VmState
from skyfed.core.text import one_line
from skyfed.occi import infrastructure as infra
from skyfed.occi.model import (
    ID,
    TITLE,
    Attribute,
    Category,
    Link,
    Names,
    Resource,
    Value,
    os_tpl_id,
    published_term,
    resource_tpl_id,
)

NETWORK_ID: Final = "default"
"""The one network of user-mode networking: every machine has an interface on it."""
NETWORK_PATH: Final = f"/network/{NETWORK_ID}"
MIB_PER_GIB: Final = 1024
_MAX_TITLE: Final = 200

_STATES: Mapping[VmState, str] = {
    VmState.ACTIVE: "active",
    VmState.STOPPED: "inactive",
    VmState.SUSPENDED: "suspended",
    VmState.HIBERNATED: "suspended",
    VmState.ERROR: "error",
}
ACTIONS: Mapping[Action, str] = {
    Action.START: infra.START,
    Action.STOP: infra.STOP,
    Action.RESTART: infra.RESTART,
}


class Version(msgspec.Struct, frozen=True, order=True):
    """An OCCI version as a User-Agent names it."""

    major: int
    minor: int


OCCI_1_1: Final = Version(1, 1)
OCCI_1_2: Final = Version(1, 2)


def image_category(image: Image, names: Names) -> Category:
    """The os_tpl of an image."""
    title = _title(image.title) or image.os_tpl_term
    return infra.os_tpl(published_term(image.os_tpl_term), names.os_tpl_scheme, title, names.prefix)


def flavour_category(flavour: Flavour, names: Names) -> Category:
    """The resource_tpl of a flavour: its sizes are the attributes' defaults."""
    values = _sizes(flavour)
    kinds = {infra.CORES: "integer"}
    defaults = tuple(
        Attribute(name=name, type="integer" if name in kinds else "number", mutable=False, default=value)
        for name, value in values.items()
    )
    return infra.resource_tpl(
        published_term(flavour.term),
        names.resource_tpl_scheme,
        _title(flavour.title) or flavour.term,
        defaults,
        names.prefix,
    )


def _title(title: str) -> str:
    """A template's title, which comes from an image list: rOCCI's regular expression ends it at any quote, escaped or not,
    and one such title would cost its users the whole model."""
    return one_line(title, _MAX_TITLE).replace('"', "'").replace("\\", "/")


def _sizes(flavour: Flavour) -> dict[str, int | float]:
    sizes: dict[str, int | float] = {
        infra.CORES: flavour.cores,
        infra.MEMORY: flavour.memory_mib / MIB_PER_GIB,
        infra.EPHEMERAL: float(flavour.disk_gib),
    }
    if flavour.speed_ghz is not None:
        sizes[infra.SPEED] = flavour.speed_ghz
    return sizes


def state(observed: VmState, version: Version | None) -> str:
    """`occi.compute.state`. 1.1 has neither `error` nor `waiting`; who says no version gets no `waiting`, which GFD.224
    does not list but rOCCI-server 2 sends (compute digest 2.3)."""
    known = _STATES.get(observed)
    if known == "error" and version == OCCI_1_1:
        return "inactive"
    if known is not None:
        return known
    return "waiting" if version is not None and version >= OCCI_1_2 else "inactive"


def compute(vm: Vm, names: Names, version: Version | None, able: frozenset[Action], architecture: str = "") -> Resource:
    """A machine as a compute resource with its network interfaces and the actions that it offers now, as far as its
    engine is `able` to."""
    attributes: dict[str, Value] = {ID: vm.id, TITLE: vm.title, infra.HOSTNAME: vm.hostname}
    if architecture in ("x86", "x64"):
        attributes[infra.ARCHITECTURE] = architecture
    attributes |= _sizes(vm.flavour)
    attributes[infra.STATE] = state(vm.observed, version)
    message = vm.fault or ("" if vm.observed in _STATES else str(vm.observed))
    if message:
        attributes[infra.STATE_MESSAGE] = message
    mixins = [os_tpl_id(names, vm.image_term), resource_tpl_id(names, vm.flavour.term)]
    ssh = vm.endpoint("ssh")
    if ssh is not None:
        mixins.append(infra.SSH_ACCESS)
        attributes |= {infra.SSH_HOST: ssh.host, infra.SSH_PORT: ssh.port}
    return Resource(
        kind=infra.COMPUTE,
        mixins=tuple(mixins),
        attributes=attributes,
        links=tuple(interface(vm, nic, names) for nic in vm.nics),
        actions=tuple(ACTIONS[action] for action in Action if action in vm.actions & able),
    )


def interface(vm: Vm, nic: Nic, names: Names) -> Link:
    """An interface as a link from its machine to the default network; with its address where it has one."""
    attributes: dict[str, Value] = {
        ID: nic.id,
        infra.INTERFACE: nic.interface,
        infra.MAC: nic.mac,
        infra.INTERFACE_STATE: "active" if vm.observed is VmState.ACTIVE else "inactive",
    }
    if nic.address:
        attributes[infra.ADDRESS] = nic.address
        attributes[infra.ALLOCATION] = "dynamic"
        if nic.gateway:
            attributes[infra.GATEWAY] = nic.gateway
    return Link(
        kind=infra.NETWORKINTERFACE,
        mixins=(infra.IPNETWORKINTERFACE,) if nic.address else (),
        source=f"{names.prefix}/compute/{vm.id}",
        source_kind=infra.COMPUTE,
        target=names.prefix + NETWORK_PATH,
        target_kind=infra.NETWORK,
        attributes=attributes,
        location=f"{names.prefix}/networkinterface/{nic.id}",
    )


def network() -> Resource:
    """The default network."""
    return Resource(
        kind=infra.NETWORK,
        attributes={
            ID: NETWORK_ID,
            TITLE: "Private network with address translation",
            infra.NETWORK_LABEL: NETWORK_ID,
            infra.NETWORK_STATE: "active",
        },
    )
