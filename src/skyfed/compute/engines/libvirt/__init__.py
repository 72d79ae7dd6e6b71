"""The libvirt engine: `open_engine` is the way in, since libvirt's own log is fixed when its library is loaded."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyfed.compute.engines.libvirt.engine import LibvirtEngine
    from skyfed.compute.engines.libvirt.settings import Settings
    from skyfed.core.clock import Clock


def open_engine(settings: "Settings", clock: "Clock | None" = None) -> "LibvirtEngine":
    """An engine that opens with its first call; libvirt's own errors go to `root`/log/libvirt.log.

    They would go to stderr otherwise, with a dozen at each start that mean nothing.
    """
    log = settings.root.absolute() / "log" / "libvirt.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", f"4:file:{log}")

    from skyfed.compute.engines.libvirt.engine import LibvirtEngine

    return LibvirtEngine(settings, clock=clock)
