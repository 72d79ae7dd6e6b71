"""`skyfed image build-guest`: the demonstration guest as a file."""

import os
from pathlib import Path

import click

from skyfed.compute.guest.build import build


@click.command("build-guest")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where packages and built images are kept. Default: skyfed/guest under $XDG_CACHE_HOME or ~/.cache.",
)
def build_guest(out: Path, cache: Path | None) -> None:
    """Build the small Linux guest that Skyfed demonstrates itself with, and write it to OUT (qcow2).

    It is made from Debian's own packages (kernel, busybox, dropbear), which are downloaded and checked but not
    installed; root is not needed. It starts in 128 MiB, takes SSH keys, host name and user data from a NoCloud
    disk, and follows the power button.
    """
    guest = build(out, cache or default_cache(), lambda step: click.echo(step, err=True))
    click.echo(f"{guest.path}  kernel {guest.version}  key {guest.key}")


def default_cache() -> Path:
    """Where a person's caches belong (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "skyfed" / "guest"
