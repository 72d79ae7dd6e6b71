"""The engine contract: what the compute service asks of whatever runs virtual machines.

Engines get frozen values, never sessions or database rows; nothing above this contract may know which
engine runs.

Rules that every engine keeps (compute digest 1, 4.4):

- **Ours carry our UUID.** `list` and `images` show everything of ours that the engine still holds, half-made
  leftovers included, so that a crash between "engine made it" and "service stored it" is repaired by look-up.
- **Calls return when the engine holds the work durably**, not when the guest has followed: `create`, `start`,
  `stop` and `restart` return the machine in a transitional or in its final state; the rest comes by `events`.
  `delete`, `import_image` and `remove_image` return when it is done and nothing is left behind.
- **Idempotent**: `create` (by UUID), `delete`, `import_image`, `remove_image`; `start` of a running and
  `stop` of a stopped machine change nothing and return it.
- **Deadlines**: a caller may cancel any call; the work then goes on or not, and the next look-up tells. A
  remote engine gives up after `DEADLINES[call]` seconds with `TimedOut` (`stop` returns at once; its grace
  runs inside).
- **Concurrency**: calls for different machines may run at once; calls for one machine are ordered by the
  engine.
- **Measured times**: `at` and `since` are when the thing happened (the hypervisor's event), not when it was
  noticed.
- **Errors** are `skyfed.core.errors` with a `code` of `ERRORS`: a closed set, no stack traces, paths or
  secrets.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

import msgspec

from skyfed.compute.model import (
    Action,
    Context,
    Disk,
    DiskFormat,
    Endpoint,
    Nic,
    RestartMethod,
    StopMethod,
    VmState,
)
from skyfed.core import errors

DEADLINES: Mapping[str, float] = MappingProxyType(
    {
        "probe": 60.0,  # may boot a tiny guest to judge the acceleration; the verdict is cached
        "capabilities": 60.0,
        "import_image": 3600.0,  # copies and converts a whole disk
        "remove_image": 60.0,
        "images": 30.0,
        "create": 120.0,
        "start": 60.0,
        "stop": 30.0,
        "restart": 30.0,
        "delete": 120.0,
        "get": 30.0,
        "list": 30.0,
        "stats": 30.0,
        "console_log": 30.0,
    }
)
"""Seconds after which a call is given up. Generous: the service never lets a reader wait for an engine."""

STOP_GRACE = 60.0
"""Seconds a guest has to follow the power button before it is switched off (compute digest 4.4)."""

ERRORS: Mapping[str, type[errors.SkyfedError]] = MappingProxyType(
    {
        "unauthenticated": errors.Unauthenticated,
        "forbidden": errors.Forbidden,
        "quota": errors.Forbidden,
        "not_found": errors.NotFound,
        "conflict": errors.Conflict,
        "locked": errors.Conflict,
        "invalid": errors.Invalid,
        "not_implemented": errors.NotImplementedHere,
        "no_capacity": errors.Unavailable,
        "engine_down": errors.Unavailable,
        "timed_out": errors.TimedOut,
        "internal": errors.SkyfedError,
    }
)
"""The closed set of engine errors (compute digest 3.3)."""

TRANSIENT = frozenset({"engine_down", "timed_out", "locked", "no_capacity"})
"""Codes after which the same call may succeed later; after any other the operation has failed."""


def engine_error(code: str, message: str) -> errors.SkyfedError:
    """The exception for an engine error that came over a wire. An unknown code becomes `internal`."""
    known = code if code in ERRORS else "internal"
    return ERRORS[known](message, code=known)


def error_code(error: BaseException) -> str:
    """The code of the closed set for any exception an engine let out."""
    if isinstance(error, errors.SkyfedError):
        if error.code in ERRORS:
            return error.code
        for code in ("timed_out", "engine_down", "conflict", "not_found", "invalid", "forbidden"):
            if isinstance(error, ERRORS[code]):
                return code
        return "internal"
    if isinstance(error, TimeoutError):
        return "timed_out"
    return "engine_down" if isinstance(error, OSError | EOFError) else "internal"


class EngineHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What `probe` found. Not `ok`: no machine can be started now; `detail` says why and what would help."""

    ok: bool
    engine: str
    """`libvirt`, `simulated`, …"""
    version: str
    acceleration: str
    """`kvm`, `tcg` or `none`: as probed by booting, not as assumed."""
    detail: str = ""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine can do: an operation that it cannot is not advertised (compute digest 2.2)."""

    actions: frozenset[Action]
    disk_formats: frozenset[DiskFormat]
    network_counters: bool
    """Whether `stats` knows network bytes: user-mode interfaces have none (compute digest 4.5)."""
    console_log: bool = True
    cores: int | None = None
    """Of the host, where there is one."""
    memory_mib: int | None = None
    disk_gib: float | None = None


class VmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All an engine needs to make a machine, and nothing more."""

    id: str
    """UUID; also the guest's instance-id and SMBIOS UUID."""
    title: str
    image_sha512: str
    """Of an imported image."""
    cores: int
    memory_mib: int
    disk_gib: float
    """Least size of the root disk: the larger of this and the image's virtual size is used."""
    context: Context
    owner_digest: str = ""
    """SHA-256 over the owner: for the engine's own logs and metadata, reveals no name."""
    vo: str = ""


class VmCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one boot of one machine, cumulative since that boot; the service makes them monotone over
    boots.

    `boot` changes whenever the counters start from zero (a new hypervisor process). None = not measurable.
    """

    id: str
    boot: str
    at: datetime
    cpu_seconds: float | None = None
    net_in_bytes: int | None = None
    net_out_bytes: int | None = None


class EngineVm(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as the engine sees it now.

    `state` is one of building, active, suspended, hibernated, stopping, stopped, restarting, deleting,
    error, unknown. `building` also stands for leftovers of an unfinished create: the service will create it
    again or delete it.
    """

    id: str
    state: VmState
    since: datetime
    """When that state began, as measured."""
    booted: datetime | None = None
    """When its present or last boot began (hypervisor process started): lets the service account for a run
    that began and ended while the service was away. None: it never ran."""
    fault: str | None = None
    endpoints: tuple[Endpoint, ...] = ()
    nics: tuple[Nic, ...] = ()
    disks: tuple[Disk, ...] = ()
    counters: VmCounters | None = None
    """The last known of the present or last boot: a stopped machine keeps those taken at its end, where
    taken."""


class EventKind(StrEnum):
    STATE = "state"
    """`vm` has a new state (a restart gives `active` again with the time of the reset)."""
    GONE = "gone"
    """The engine holds nothing more of the machine."""
    RESYNC = "resync"
    """Events may have been lost (start, reconnection, overflow): list again. The first event of every
    stream."""


class EngineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, when. `vm` is set for STATE; `id` for STATE and GONE."""

    kind: EventKind
    at: datetime
    id: str | None = None
    vm: EngineVm | None = None


class Engine(Protocol):
    """What runs the machines. See the module's text for the rules; errors are those of `ERRORS`."""

    async def probe(self) -> EngineHealth:
        """Whether the engine works, and how. Does not raise for a sick engine: says so."""
        ...

    async def capabilities(self) -> Capabilities:
        """What it can do on this host."""
        ...

    async def import_image(self, sha512: str, path: str, disk_format: DiskFormat) -> None:
        """Take the image file at `path` (readable by the engine, digest already verified by the subscriber)
        into the content-addressed cache. Converts as needed, with the format given, never probed. Visible
        only when whole.

        Raises Invalid (refused: backing file, external data, over the size limit), Unavailable (no space)."""
        ...

    async def remove_image(self, sha512: str) -> None:
        """Drop an image; unknown is fine. Deferred by the engine while a machine's disk still stands on
        it."""
        ...

    async def images(self) -> frozenset[str]:
        """SHA-512 of every image that machines can be made from."""
        ...

    async def create(self, spec: VmSpec) -> EngineVm:
        """Make and start the machine. If one with this UUID exists whole it is returned as it is, not
        started again; leftovers of an unfinished create are made anew.

        Raises NotFound (`not_found`: the image is not here), Unavailable (`no_capacity`, `engine_down`),
        Invalid."""
        ...

    async def start(self, id: str) -> EngineVm:
        """Switch on. Raises NotFound, Conflict (in transition), Unavailable."""
        ...

    async def stop(self, id: str, method: StopMethod, grace: float) -> EngineVm:
        """Switch off; with graceful and acpioff the guest has `grace` seconds, then it is forced. Returns
        at once. Raises NotFound, Unavailable."""
        ...

    async def restart(self, id: str, method: RestartMethod) -> EngineVm:
        """Boot again. Returns at once. Raises NotFound, Conflict (not running), Unavailable."""
        ...

    async def delete(self, id: str) -> None:
        """Switch off at once and remove disks, context and every trace; unknown is fine."""
        ...

    async def get(self, id: str) -> EngineVm:
        """One machine. Raises NotFound."""
        ...

    async def list(self) -> tuple[EngineVm, ...]:
        """Everything of ours, leftovers included; waits until running guests are adopted after the engine's
        start."""
        ...

    async def stats(self) -> tuple[VmCounters, ...]:
        """Counters of all running machines, in one sweep."""
        ...

    async def console_log(self, id: str, tail_bytes: int) -> bytes:
        """The last `tail_bytes` of the serial console, as the guest wrote them (hostile). Raises NotFound."""
        ...

    def events(self) -> AsyncIterator[EngineEvent]:
        """What happens from now on, RESYNC first. One stream a reader; ends with `close`; a remote engine
        reconnects by itself (RESYNC again). A slow reader loses events, not memory: RESYNC tells it so."""
        ...

    async def close(self) -> None:
        """Let go of the engine. Guests keep running."""
        ...
