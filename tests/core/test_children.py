"""A child that asked for it ends with its parent, also when nobody had time to tell it."""

import contextlib
import os
import select
import signal
import subprocess
import sys

PARENT = """
import signal, subprocess, sys
from functools import partial
from skyfed.core.children import die_with_parent
child = subprocess.Popen(["sleep", "600"], preexec_fn=partial(die_with_parent, signal.SIGKILL))
print(child.pid, flush=True)
child.wait()
"""


def test_a_killed_parent_takes_its_children_along() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    watched = os.pidfd_open(child)
    try:
        parent.kill()
        parent.wait(10)
        assert select.select([watched], [], [], 10)[0], "the child outlives its parent"
    finally:
        os.close(watched)
        parent.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
