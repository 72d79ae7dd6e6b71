"""The categories of OCCI core and infrastructure that this service has (GFD.221, GFD.224), as data.

Only what is served is listed: a client believes the model. Storage, further actions and networks of one's own come
into this table when the compute service has them.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from skyfed.occi.model import ACTION, CORE, ID, KIND, MIXIN, SOURCE, SUMMARY, TARGET, TITLE, Attribute, Category

INFRASTRUCTURE: Final = "http://schemas.ogf.org/occi/infrastructure#"
COMPUTE_ACTION: Final = "http://schemas.ogf.org/occi/infrastructure/compute/action#"
SKYFED: Final = "http://schemas.skyfed.org/occi/infrastructure/compute#"

ENTITY: Final = CORE + "entity"
RESOURCE: Final = CORE + "resource"
LINK: Final = CORE + "link"
COMPUTE: Final = INFRASTRUCTURE + "compute"
NETWORK: Final = INFRASTRUCTURE + "network"
NETWORKINTERFACE: Final = INFRASTRUCTURE + "networkinterface"
OS_TPL: Final = INFRASTRUCTURE + "os_tpl"
RESOURCE_TPL: Final = INFRASTRUCTURE + "resource_tpl"
IPNETWORKINTERFACE: Final = "http://schemas.ogf.org/occi/infrastructure/networkinterface#ipnetworkinterface"
USER_DATA: Final = "http://schemas.ogf.org/occi/infrastructure/compute#user_data"
SSH_KEY: Final = "http://schemas.ogf.org/occi/infrastructure/credentials#ssh_key"
# What occi-os introduced and rOCCI-cli sends to this day.
LEGACY_USER_DATA: Final = "http://schemas.openstack.org/compute/instance#user_data"
LEGACY_PUBLIC_KEY: Final = "http://schemas.openstack.org/instance/credentials#public_key"
SSH_ACCESS: Final = SKYFED + "ssh_access"

START: Final = COMPUTE_ACTION + "start"
STOP: Final = COMPUTE_ACTION + "stop"
RESTART: Final = COMPUTE_ACTION + "restart"
ACTIONS: Final = (START, STOP, RESTART)

ARCHITECTURE: Final = "occi.compute.architecture"
CORES: Final = "occi.compute.cores"
HOSTNAME: Final = "occi.compute.hostname"
SPEED: Final = "occi.compute.speed"
MEMORY: Final = "occi.compute.memory"
EPHEMERAL: Final = "occi.compute.ephemeral_storage.size"
STATE: Final = "occi.compute.state"
STATE_MESSAGE: Final = "occi.compute.state.message"
USER_DATA_VALUE: Final = "occi.compute.userdata"
LEGACY_USER_DATA_VALUE: Final = "org.openstack.compute.user_data"
SSH_KEY_VALUE: Final = "occi.credentials.ssh.publickey"
LEGACY_PUBLIC_KEY_VALUE: Final = "org.openstack.credentials.publickey.data"
LEGACY_PUBLIC_KEY_NAME: Final = "org.openstack.credentials.publickey.name"
SSH_HOST: Final = "org.skyfed.compute.ssh.host"
SSH_PORT: Final = "org.skyfed.compute.ssh.port"
INTERFACE: Final = "occi.networkinterface.interface"
MAC: Final = "occi.networkinterface.mac"
INTERFACE_STATE: Final = "occi.networkinterface.state"
ADDRESS: Final = "occi.networkinterface.address"
GATEWAY: Final = "occi.networkinterface.gateway"
ALLOCATION: Final = "occi.networkinterface.allocation"
NETWORK_STATE: Final = "occi.network.state"
NETWORK_LABEL: Final = "occi.network.label"

ALIASES: Final = {
    "occi.compute.user_data": USER_DATA_VALUE,  # ooi 1.2
    "occi.crendentials.ssh.publickey": SSH_KEY_VALUE,  # ooi 1.2.0's misspelling: accepted, never sent
    "occi.credentials.ssh_key": SSH_KEY_VALUE,  # ooi 1.2
}
"""Attribute names that deployed clients send for one of ours."""

_ENTITY = (Attribute(name=ID, mutable=False), Attribute(name=TITLE))
_RESOURCE = (*_ENTITY, Attribute(name=SUMMARY))
_LINK = (*_ENTITY, Attribute(name=SOURCE, required=True), Attribute(name=TARGET, required=True))
_ALLOCATIONS = ("dynamic", "static")

_COMPUTE = (
    *_RESOURCE,
    Attribute(name=ARCHITECTURE, choices=("x86", "x64"), description="CPU architecture"),
    Attribute(name=CORES, type="integer", description="virtual CPU cores"),
    Attribute(name=HOSTNAME, description="host name of the guest"),
    Attribute(name=SPEED, type="number", description="clock of a core in GHz"),
    Attribute(name=MEMORY, type="number", description="memory in GiB"),
    Attribute(name=STATE, mutable=False, choices=("active", "inactive", "suspended", "error", "waiting")),
    Attribute(name=STATE_MESSAGE, mutable=False, description="why it is in this state"),
    Attribute(name=EPHEMERAL, type="number", mutable=False, description="root disk in GiB"),
)
_NETWORK_STATES = ("active", "inactive", "error")

_CATEGORIES: Final = (
    Category(term="entity", scheme=CORE, cls=KIND, title="Entity", location="/entity/", attributes=_ENTITY),
    Category(
        term="resource",
        scheme=CORE,
        cls=KIND,
        title="Resource",
        parent=ENTITY,
        location="/resource/",
        attributes=_RESOURCE,
    ),
    Category(term="link", scheme=CORE, cls=KIND, title="Link", parent=ENTITY, location="/link/", attributes=_LINK),
    Category(
        term="compute",
        scheme=INFRASTRUCTURE,
        cls=KIND,
        title="Virtual machine",
        parent=RESOURCE,
        location="/compute/",
        attributes=_COMPUTE,
        actions=ACTIONS,
    ),
    Category(
        term="network",
        scheme=INFRASTRUCTURE,
        cls=KIND,
        title="Network",
        parent=RESOURCE,
        location="/network/",
        attributes=(
            *_RESOURCE,
            Attribute(name="occi.network.vlan", type="integer"),
            Attribute(name=NETWORK_LABEL),
            Attribute(name=NETWORK_STATE, mutable=False, choices=_NETWORK_STATES),
        ),
    ),
    Category(
        term="networkinterface",
        scheme=INFRASTRUCTURE,
        cls=KIND,
        title="Network interface",
        parent=LINK,
        location="/networkinterface/",
        attributes=(
            *_LINK,
            Attribute(name=INTERFACE, mutable=False),
            Attribute(name=MAC),
            Attribute(name=INTERFACE_STATE, mutable=False, choices=_NETWORK_STATES),
        ),
    ),
    Category(
        term="os_tpl",
        scheme=INFRASTRUCTURE,
        cls=MIXIN,
        title="Operating system template",
        location="/mixin/os_tpl/",
    ),
    Category(
        term="resource_tpl",
        scheme=INFRASTRUCTURE,
        cls=MIXIN,
        title="Resource template",
        location="/mixin/resource_tpl/",
    ),
    Category(
        term="ipnetworkinterface",
        scheme="http://schemas.ogf.org/occi/infrastructure/networkinterface#",
        cls=MIXIN,
        title="IP network interface",
        applies=(NETWORKINTERFACE,),
        location="/mixin/ipnetworkinterface/",
        attributes=(
            Attribute(name=ADDRESS, description="IP address"),
            Attribute(name=GATEWAY, description="IP address of the gateway"),
            Attribute(name=ALLOCATION, choices=_ALLOCATIONS),
        ),
    ),
    Category(
        term="user_data",
        scheme="http://schemas.ogf.org/occi/infrastructure/compute#",
        cls=MIXIN,
        title="User data for contextualisation",
        applies=(COMPUTE,),
        location="/mixin/compute_user_data/",
        attributes=(Attribute(name=USER_DATA_VALUE, required=True, description="base64; at most 64 KiB decoded"),),
    ),
    Category(
        term="ssh_key",
        scheme="http://schemas.ogf.org/occi/infrastructure/credentials#",
        cls=MIXIN,
        title="SSH public key",
        applies=(COMPUTE,),
        location="/mixin/ssh_key/",
        attributes=(Attribute(name=SSH_KEY_VALUE, required=True, description="one OpenSSH public key line"),),
    ),
    Category(
        term="user_data",
        scheme="http://schemas.openstack.org/compute/instance#",
        cls=MIXIN,
        title="User data for contextualisation (OCCI 1.1)",
        applies=(COMPUTE,),
        location="/mixin/user_data/",
        attributes=(
            Attribute(name=LEGACY_USER_DATA_VALUE, required=True, description="base64; at most 64 KiB decoded"),
        ),
    ),
    Category(
        term="public_key",
        scheme="http://schemas.openstack.org/instance/credentials#",
        cls=MIXIN,
        title="SSH public key (OCCI 1.1)",
        applies=(COMPUTE,),
        location="/mixin/public_key/",
        attributes=(
            Attribute(name=LEGACY_PUBLIC_KEY_NAME, description="accepted and not needed"),
            Attribute(name=LEGACY_PUBLIC_KEY_VALUE, required=True, description="one OpenSSH public key line"),
        ),
    ),
    Category(
        term="ssh_access",
        scheme=SKYFED,
        cls=MIXIN,
        title="Where SSH of the guest answers",
        applies=(COMPUTE,),
        location="/mixin/ssh_access/",
        attributes=(
            Attribute(name=SSH_HOST, mutable=False),
            Attribute(name=SSH_PORT, type="integer", mutable=False),
        ),
    ),
    Category(term="start", scheme=COMPUTE_ACTION, cls=ACTION, title="Start the virtual machine"),
    Category(
        term="stop",
        scheme=COMPUTE_ACTION,
        cls=ACTION,
        title="Stop the virtual machine",
        attributes=(Attribute(name="method", choices=("graceful", "acpioff", "poweroff")),),
    ),
    Category(
        term="restart",
        scheme=COMPUTE_ACTION,
        cls=ACTION,
        title="Restart the virtual machine",
        attributes=(Attribute(name="method", choices=("graceful", "warm", "cold")),),
    ),
)


def categories(prefix: str, actions: Iterable[str]) -> tuple[Category, ...]:
    """The fixed categories, with locations under `prefix`, and of the compute actions those named in `actions`."""
    offered = {COMPUTE_ACTION + action for action in actions}
    return tuple(
        msgspec.structs.replace(
            category,
            location=prefix + category.location if category.location else "",
            actions=tuple(action for action in category.actions if action in offered),
        )
        for category in _CATEGORIES
        if category.cls != ACTION or category.type_id in offered
    )


def os_tpl(term: str, scheme: str, title: str, prefix: str = "") -> Category:
    """An operating system template: an image that a compute can be made from."""
    return Category(
        term=term,
        scheme=scheme,
        cls=MIXIN,
        title=title,
        depends=(OS_TPL,),
        applies=(COMPUTE,),
        location=f"{prefix}/mixin/os_tpl/{term}/",
    )


def resource_tpl(term: str, scheme: str, title: str, defaults: Iterable[Attribute], prefix: str = "") -> Category:
    """A size; `defaults` are compute attributes with the template's values."""
    return Category(
        term=term,
        scheme=scheme,
        cls=MIXIN,
        title=title,
        depends=(RESOURCE_TPL,),
        applies=(COMPUTE,),
        attributes=tuple(defaults),
        location=f"{prefix}/mixin/resource_tpl/{term}/",
    )
