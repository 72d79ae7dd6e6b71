"""A whole federation under a test's directory, and its end, whatever happens."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skyfed.federation.guests import guest_pids
from skyfed.federation.places import Places
from support.peers import need

SKYFED = [sys.executable, "-m", "skyfed.cli.main"]
# What the peers need that a federation is made of.
PROGRAMS = ("qemu-system-x86_64", "qemu-img", "slapd", "ldapmodify", "ssh", "syslinux", "mcopy", "mkfs.vfat")


def skyfed(*words: str, env: Mapping[str, str] | None = None, check: bool = True, seconds: float = 600) -> str:
    """What the command prints; fails with what it says on stderr."""
    done = subprocess.run(
        [*SKYFED, *words],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"skyfed {' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


@contextmanager
def federation(directory: Path) -> Iterator[Places]:
    """A running federation in `directory`; every process of it is gone afterwards."""
    for program in PROGRAMS:
        need(program)
    try:
        skyfed("up", "--dir", str(directory), "--detach", "--no-tour")
        yield Places.open(directory)
    finally:
        skyfed("down", "--dir", str(directory), check=False)


def environment(places: Places, user: str) -> dict[str, str]:
    """As `eval "$(skyfed env --as user)"` sets it."""
    found: dict[str, str] = json.loads(skyfed("env", "--dir", str(places.directory), "--as", user, "--json"))
    return found


def status(places: Places) -> list[dict[str, Any]]:
    """Every service, as `skyfed status --json` says."""
    found: list[dict[str, Any]] = json.loads(skyfed("status", "--dir", str(places.directory), "--json", check=False))
    return found


def processes(places: Places) -> list[int]:
    """Every process, of whatever kind, that names a file below the federation's directory or was started for it."""
    root = os.fsencode(places.directory)
    found = set(guest_pids(places))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if root in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return sorted(found)
