"""Settings of the compute service: the flavours and quotas of a site, and how it deals with its engine."""

from typing import Annotated, Literal

import msgspec

from skyfed.compute.contract import STOP_GRACE
from skyfed.compute.model import Benchmark, Flavour, IdentifierKind, Limits
from skyfed.core.settings import setting


class FlavourSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One size of virtual machine."""

    cores: Annotated[int, msgspec.Meta(ge=1, le=1024), setting("virtual cores")]
    memory_mib: Annotated[int, msgspec.Meta(ge=16, le=1 << 24), setting("memory, MiB")]
    disk_gib: Annotated[float, msgspec.Meta(ge=0, le=1 << 20), setting("least root disk, GiB")] = 0.0
    title: Annotated[str, setting("one line for people; empty: made from the numbers")] = ""
    speed_ghz: Annotated[float | None, setting("clock of a core, GHz, shown to users of OCCI 1.1")] = None
    benchmark_type: Annotated[str | None, setting("benchmark for usage records, such as HEPSPEC06")] = None
    benchmark_value: Annotated[float | None, setting("its value for one core")] = None

    def flavour(self, term: str) -> Flavour:
        """The flavour under the name it has in the settings."""
        benchmark = None
        if self.benchmark_type is not None and self.benchmark_value is not None:
            benchmark = Benchmark(type=self.benchmark_type, value=self.benchmark_value)
        title = self.title or f"{self.cores} × core, {self.memory_mib} MiB memory, {self.disk_gib:g} GiB disk"
        return Flavour(
            term=term,
            title=title,
            cores=self.cores,
            memory_mib=self.memory_mib,
            disk_gib=self.disk_gib,
            speed_ghz=self.speed_ghz,
            benchmark=benchmark,
        )


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Upper bounds; a missing one means no bound."""

    vms: Annotated[int | None, setting("machines at once")] = None
    cores: Annotated[int | None, setting("virtual cores at once")] = None
    memory_mib: Annotated[int | None, setting("memory at once, MiB")] = None
    disk_gib: Annotated[float | None, setting("disk at once, GiB")] = None

    def limits(self) -> Limits:
        return Limits(vms=self.vms, cores=self.cores, memory_mib=self.memory_mib, disk_gib=self.disk_gib)


DEFAULT_FLAVOURS = {
    "tiny": FlavourSettings(cores=1, memory_mib=160, disk_gib=0.0),
    "small": FlavourSettings(cores=1, memory_mib=512, disk_gib=1.0),
}


class ComputeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an administrator may choose."""

    flavours: Annotated[
        dict[str, FlavourSettings],
        setting("sizes users may choose from, by name; a name in use must keep its numbers"),
    ] = msgspec.field(default_factory=lambda: dict(DEFAULT_FLAVOURS))
    capacity: Annotated[
        LimitSettings, setting("what all machines together may use: creates beyond it are refused (503)")
    ] = LimitSettings()
    default_quota: Annotated[
        LimitSettings, setting("what one virtual organisation may use unless `quotas` says otherwise (403)")
    ] = LimitSettings(vms=50)
    quotas: Annotated[dict[str, LimitSettings], setting("what particular virtual organisations may use, by name")] = {}
    identifier_order: Annotated[
        tuple[IdentifierKind, ...],
        setting(
            "which of an image's names is its one identifier in os_tpl, GLUE2 and accounting: "
            "the first of these that it has"
        ),
    ] = (IdentifierKind.MPURI, IdentifierKind.DC, IdentifierKind.OS_TPL)
    database: Annotated[str, setting("SQLAlchemy URL; empty: an SQLite file in the service's data directory")] = ""
    engine: Annotated[
        Literal["libvirt", "simulated"],
        setting(
            "`libvirt`: through the engine host on `engine_socket`; `simulated`: no real guests, to try things out"
        ),
    ] = "libvirt"
    engine_socket: Annotated[str, setting("unix socket of the engine host; empty: the node's own engine host")] = ""
    engine_calls: Annotated[
        int,
        msgspec.Meta(ge=1, le=256),
        setting("engine operations on different machines at once: more start faster, but load the host"),
    ] = 8
    reconcile_seconds: Annotated[
        float,
        msgspec.Meta(gt=0),
        setting("how often desired and observed states are compared when no event asks for it, seconds"),
    ] = 30.0
    retry_seconds: Annotated[
        float,
        msgspec.Meta(gt=0, le=30),
        setting("first pause after the engine could not do something; doubles up to 30 seconds"),
    ] = 1.0
    sample_seconds: Annotated[
        float, msgspec.Meta(gt=0), setting("how often counters (CPU, network) are read, seconds")
    ] = 60.0
    checkpoint_seconds: Annotated[
        float,
        msgspec.Meta(gt=0),
        setting("how often a running machine's counters become a usage event, seconds"),
    ] = 900.0
    stop_grace_seconds: Annotated[
        float,
        msgspec.Meta(ge=0, le=3600),
        setting("how long a guest may take to shut down before it is switched off, seconds"),
    ] = STOP_GRACE
    orphan_seconds: Annotated[
        float,
        msgspec.Meta(ge=0),
        setting(
            "how long a guest that this service has no record of may stay before it is deleted, seconds; "
            "time to notice a database restored from an old backup"
        ),
    ] = 600.0
