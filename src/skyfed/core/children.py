"""Child processes that do not outlive their parent."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: between fork and exec nothing may be imported or allocated at leisure.
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(sig: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process `sig` when its parent ends, however that happens (prctl(2), PR_SET_PDEATHSIG).

    Call it in the child: as `preexec_fn` of `subprocess`, or first thing in a program of ours. The setting survives exec.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def exit_if_orphaned(parent: int) -> None:
    """End this process when `parent` is no longer its parent: it died before `die_with_parent` could take hold."""
    if os.getppid() != parent:
        raise SystemExit(1)
