"""The values of the compute service: images, flavours, virtual machines, usage. Frozen, typed, no I/O.

Every Struct can go through msgpack: the same values cross the socket to the engine host. Words and states
are those of the OCCI and compute digests (section 2.3: one canonical set of states, whatever the engine
calls them).

Units: memory MiB, disk GiB (binary), speed GHz, network bytes, durations seconds, instants aware UTC.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType

import msgspec

MAX_USER_DATA = 64 * 1024
"""Bytes of decoded user data that a create may carry (Nova takes 65535 characters encoded; OCCI asks ≥ 64
KiB)."""
MAX_SSH_KEYS = 16
MAX_SSH_KEY = 16 * 1024


class VmState(StrEnum):
    """The canonical states of a virtual machine (compute digest 2.3)."""

    PENDING = "pending"
    BUILDING = "building"
    ACTIVE = "active"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    HIBERNATED = "hibernated"
    STOPPING = "stopping"
    STOPPED = "stopped"
    RESTARTING = "restarting"
    RESIZING = "resizing"
    SAVING = "saving"
    DELETING = "deleting"
    DELETED = "deleted"
    ERROR = "error"
    UNKNOWN = "unknown"


class DesiredState(StrEnum):
    """What the owner asked for last; the reconciler closes the gap to the observed state."""

    ACTIVE = "active"
    STOPPED = "stopped"
    DELETED = "deleted"


class Action(StrEnum):
    """The OCCI compute actions that this service knows (GFD.224 3.1; deletion is a method, not an action)."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"


class StopMethod(StrEnum):
    """OCCI stop methods. `graceful` and `acpioff` press the power button, then force; `poweroff` pulls the
    plug."""

    GRACEFUL = "graceful"
    ACPIOFF = "acpioff"
    POWEROFF = "poweroff"


class RestartMethod(StrEnum):
    """OCCI restart methods. `graceful` and `warm` ask the guest; `cold` is the reset button."""

    GRACEFUL = "graceful"
    WARM = "warm"
    COLD = "cold"


class ImageState(StrEnum):
    AVAILABLE = "available"
    RETIRED = "retired"


class DiskFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHD = "vhd"
    ISO = "iso"


class IdentifierKind(StrEnum):
    """The three names an image is known by; which of them is *the* identifier is a setting (decision 11)."""

    MPURI = "ad:mpuri"
    DC = "dc:identifier"
    OS_TPL = "os_tpl"


_LEGAL: Mapping[VmState, frozenset[Action]] = MappingProxyType(
    {
        VmState.ACTIVE: frozenset({Action.STOP, Action.RESTART}),
        VmState.STOPPED: frozenset({Action.START}),
        VmState.SUSPENDED: frozenset({Action.START}),
        VmState.HIBERNATED: frozenset({Action.START}),
        VmState.ERROR: frozenset({Action.START}),
    }
)


def legal_actions(state: VmState) -> frozenset[Action]:
    """The actions that an instance in `state` offers; none while it is in transition (compute digest 2.3)."""
    return _LEGAL.get(state, frozenset())


def target(action: Action) -> VmState:
    """The state an action leads to: asking for it again once there is no error (OCCI digest 3.1)."""
    return VmState.STOPPED if action is Action.STOP else VmState.ACTIVE


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """What one core of a flavour is worth, for usage records: `HEPSPEC06`, 10.5."""

    type: str
    value: float


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image that a user may start (an os_tpl). The bytes lie in the engine under `sha512`.

    `os_tpl_term` stays the same over the versions of an image; `id` is one version's.
    """

    id: str
    os_tpl_term: str
    mpuri: str | None
    dc_identifier: str | None
    identifier: str
    """The one of the three above that os_tpl, GLUE2 and accounting show (decision 11)."""
    title: str
    description: str = ""
    version: str = ""
    os_type: str = ""
    os_name: str = ""
    os_version: str = ""
    arch: str = "x86_64"
    disk_format: DiskFormat
    size_bytes: int
    """Of the file as delivered."""
    virtual_size_bytes: int
    """What the guest sees as its disk, before the flavour enlarges it."""
    sha512: str
    vos: frozenset[str]
    """Virtual organisations whose members may start it."""
    list_identifier: str | None = None
    """`dc:identifier` of the image list it came from."""
    endorser: str | None = None
    state: ImageState = ImageState.AVAILABLE
    expires: datetime | None = None
    imported: datetime | None = None


class ImageMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What the subscriber knows about an image before the import; see `Image` for the fields."""

    title: str
    disk_format: DiskFormat
    size_bytes: int
    virtual_size_bytes: int
    sha512: str
    vos: frozenset[str]
    mpuri: str | None = None
    dc_identifier: str | None = None
    description: str = ""
    version: str = ""
    os_type: str = ""
    os_name: str = ""
    os_version: str = ""
    arch: str = "x86_64"
    list_identifier: str | None = None
    endorser: str | None = None
    expires: datetime | None = None


class Flavour(msgspec.Struct, frozen=True, kw_only=True):
    """A size (a resource_tpl). Immutable once used: its values are copied into the virtual machine."""

    term: str
    title: str = ""
    cores: int
    memory_mib: int
    disk_gib: float
    speed_ghz: float | None = None
    benchmark: Benchmark | None = None


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a virtual machine is: from the authentication layer, never from an engine."""

    subject: str
    """Distinguished name, slash form."""
    issuer: str
    vo: str
    fqans: tuple[str, ...] = ()
    """The primary one first."""
    project: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over who it is: tells owners apart where no name should stand."""
        return sha256("\n".join((self.issuer, self.subject, self.vo)).encode()).hexdigest()


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What the guest is told at boot (NoCloud): keys go into meta-data, user data is delivered byte for
    byte."""

    ssh_keys: tuple[str, ...] = ()
    """OpenSSH public key lines, one key each, ASCII, without newline."""
    user_data: bytes = b""
    hostname: str = ""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a port of the guest answers from outside: with user-mode networking a forwarded port of the
    host."""

    name: str
    """`ssh` for guest port 22."""
    host: str
    port: int
    guest_port: int


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface; `id` is `{vm}_{n}`."""

    id: str
    interface: str
    mac: str
    address: str | None = None
    gateway: str | None = None


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of the guest; `size_gib` as the guest sees it."""

    id: str
    device: str
    size_gib: float


class Vm(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual machine as the service knows it. `observed` is what the API shows as its state."""

    id: str
    token: str | None
    """The client's idempotency token: a create with the same token of the same owner gives this machine
    again."""
    title: str
    hostname: str
    image_id: str
    image_term: str
    image_identifier: str
    flavour: Flavour
    owner: Owner
    desired: DesiredState
    observed: VmState
    fault: str | None = None
    """Why it is in `error`, or why the last operation failed: one line, safe to show to its owner."""
    created: datetime
    launched: datetime | None = None
    """First time the guest ran, measured by the engine."""
    terminated: datetime | None = None
    changed: datetime
    """When the observed state began."""
    endpoints: tuple[Endpoint, ...] = ()
    nics: tuple[Nic, ...] = ()
    disks: tuple[Disk, ...] = ()
    context_digest: str = ""
    """SHA-256 of the context, hexadecimal: the context itself holds secrets and is not shown."""
    version: int = 0
    """Grows by one with each change of the row."""

    @property
    def actions(self) -> frozenset[Action]:
        """The actions it offers now."""
        return legal_actions(self.observed)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The guest's own addresses."""
        return tuple(nic.address for nic in self.nics if nic.address)

    def endpoint(self, name: str) -> Endpoint | None:
        """The endpoint of that name (`ssh`), if it has one."""
        return next((one for one in self.endpoints if one.name == name), None)


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest has used since it was created: never decreasing. None = nobody can know, which is not
    0."""

    cpu_seconds: float | None = None
    net_in_bytes: int | None = None
    """Received by the guest."""
    net_out_bytes: int | None = None
    """Sent by the guest."""


class VmRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for. `os_tpl` and `flavour` are the terms of the two templates."""

    os_tpl: str
    flavour: str
    title: str = ""
    hostname: str = ""
    context: Context = Context()
    token: str | None = None
    """Idempotency token of the client (compute digest 1, rule 3)."""


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable fact for accounting: at `when`, `vm_id` went from `old` to `new` (equal: a sample of
    counters).

    Each event carries all that a usage record needs, so that a record is a fold over one machine's events.
    """

    seq: int
    """Grows over all machines of the site; the cursor of `usage_events(since_seq)`."""
    vm_id: str
    when: datetime
    """Measured by the engine where it can; never before the machine's previous event, even if the clock
    steps."""
    elapsed: float = 0.0
    """Seconds since the machine's previous event, without any step the wall clock made in between."""
    old: VmState | None
    """None: the machine was created."""
    new: VmState
    site: str
    """Registry name of the site."""
    title: str
    owner: Owner
    image_id: str
    image_identifier: str
    flavour: str
    cores: int
    memory_mib: int
    disk_gib: float
    benchmark: Benchmark | None = None
    counters: Counters = Counters()
    public_ips: int = 0


class UsageStatus(StrEnum):
    """The legal values of a cloud record's Status (compute digest 2.3)."""

    STARTED = "started"
    SUSPENDED = "suspended"
    COMPLETED = "completed"


class UsageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's usage up to its last event: the fold of its events. Every amount only ever grows.

    `wall_seconds + suspend_seconds` is the time from the first boot to `end`, or to `last.when`.
    """

    status: UsageStatus
    start: datetime
    """Creation (accounting digest 7.1: `created`, never launched)."""
    launched: datetime | None = None
    """First boot."""
    end: datetime | None = None
    """When its owner let go of it: the deletion was asked for."""
    wall_seconds: float = 0.0
    """Time the guest ran."""
    suspend_seconds: float = 0.0
    """Time since the first boot in which it did not run but was still allocated."""
    counters: Counters = Counters()
    """None = not measured, which a record leaves out."""
    last: UsageEvent
    """The newest event: owner, sizes, image and site are there."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of what quotas and capacities count."""

    vms: int = 0
    cores: int = 0
    memory_mib: int = 0
    disk_gib: float = 0.0

    def plus(self, other: "Sizes") -> "Sizes":
        return Sizes(
            vms=self.vms + other.vms,
            cores=self.cores + other.cores,
            memory_mib=self.memory_mib + other.memory_mib,
            disk_gib=self.disk_gib + other.disk_gib,
        )


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper bounds of the same; None = unlimited."""

    vms: int | None = None
    cores: int | None = None
    memory_mib: int | None = None
    disk_gib: float | None = None


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What a virtual organisation may use and uses at this site."""

    vo: str
    limits: Limits
    used: Sizes


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """The site as GLUE2 publishes it (compute digest 10)."""

    total: Limits
    used: Sizes
    largest: Sizes
    """The largest flavour: the maximum of one machine."""
    quotas: tuple[Quota, ...]
    running: Mapping[str, int]
    """Machines per VO whose guest runs."""
    suspended: Mapping[str, int]
    halted: Mapping[str, int]
