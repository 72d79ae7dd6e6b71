"""libvirt's numbers for what became of a domain, in the contract's states. Pure tables."""

from dataclasses import dataclass

import libvirt

from skyfed.compute.model import VmState

PROCESS_DIED = "the hypervisor process ended unexpectedly"


@dataclass(frozen=True)
class Observation:
    """A state, with the fault that explains it if it is `error`."""

    state: VmState
    fault: str | None = None


_STOPPED = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: Observation(VmState.STOPPED),
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: Observation(VmState.STOPPED),
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: Observation(VmState.ERROR, "the guest crashed"),
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: Observation(VmState.HIBERNATED),
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: Observation(VmState.ERROR, PROCESS_DIED),
}

_SUSPENDED_FAULTS = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR: "paused after an error on its disk; the host may be out of space",
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG: "paused by its watchdog",
}


def from_event(event: int, detail: int) -> Observation | None:
    """What a lifecycle event means; None for those that change no state of ours (defined, undefined, shutdown, …)."""
    if event in (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_RESUMED):
        return Observation(VmState.ACTIVE)
    if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
        return _STOPPED.get(detail, Observation(VmState.STOPPED))
    if event in (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED):
        return Observation(VmState.SUSPENDED, _SUSPENDED_FAULTS.get(detail))
    return None


def from_state(state: int, reason: int) -> Observation:
    """What `virDomainGetState` means."""
    if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
        return Observation(VmState.ACTIVE)
    if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
        return Observation(VmState.SUSPENDED)
    if state == libvirt.VIR_DOMAIN_SHUTDOWN:
        return Observation(VmState.STOPPING)
    if state == libvirt.VIR_DOMAIN_CRASHED:
        return Observation(VmState.ERROR, "the guest crashed")
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        return Observation(VmState.HIBERNATED if reason == libvirt.VIR_DOMAIN_SHUTOFF_SAVED else VmState.STOPPED)
    return Observation(VmState.UNKNOWN)
