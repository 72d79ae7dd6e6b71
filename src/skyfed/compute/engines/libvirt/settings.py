"""What an administrator can say about the libvirt engine."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from skyfed.core.settings import setting


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one engine. Everything it makes lies under `root`."""

    root: Annotated[
        Path, setting("Folder of the engine: images, machines, logs. Machines' disks keep its path; do not move it.")
    ]
    uri: Annotated[
        str,
        setting(
            "libvirt connection on this host: qemu:///session or qemu:///system; empty (the default) runs the driver "
            "in the engine's own process, without a daemon."
        ),
    ] = ""
    acceleration: Annotated[
        Literal["auto", "kvm", "tcg"],
        setting(
            "auto boots a small guest with KVM and falls back to emulation (tcg) where that fails, "
            "whatever /dev/kvm promises; kvm and tcg force one."
        ),
    ] = "auto"
    probe_image: Annotated[
        Path | None,
        setting(
            "The image (qcow2) that acceleration = auto boots: the demonstration guest. Without it KVM is not used."
        ),
    ] = None
    memory_mib: Annotated[
        int | None, setting("MiB that running machines may take together; default: the host's memory less 1 GiB.")
    ] = None
    max_disk_gib: Annotated[float, setting("Largest virtual disk, in GiB, of an image or a machine.")] = 200.0
    spare_disk_gib: Annotated[
        float, setting("GiB of the file system that stay free: nothing is imported or created below that.")
    ] = 0.5
    import_seconds: Annotated[float, setting("Seconds that one image conversion may take.")] = 3600.0
    tcg_cache_mib: Annotated[
        int, setting("MiB of translated code that an emulated machine may keep; less is slower.")
    ] = 64
    outbound: Annotated[
        bool,
        setting(
            "Whether guests may open connections: to the network and, with user-mode networking, also to services "
            "on this host's loopback. false leaves them reachable by SSH only."
        ),
    ] = True
    console_bytes: Annotated[int, setting("Bytes of serial console output kept for each machine.")] = 1 << 20
