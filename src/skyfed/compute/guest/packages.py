"""Debian packages, fetched as files and unpacked into a folder: nothing is installed, root is not needed."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from skyfed.core.errors import Invalid, NotFound, TimedOut, Unavailable
from skyfed.core.text import one_line, shown

Progress = Callable[[str], None]

_APT_SECONDS = 300
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
# 'URI' FILE SIZE SHA256:HEX, as `apt-get --print-uris download` writes it
_URI_LINE = re.compile(r"^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Package:
    """One concrete version of a Debian package, as the machine's signed package lists name it."""

    name: str
    file: str
    size: int
    sha256: str


def run(argv: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 60) -> str:
    """The output of a program. Raises Unavailable with its last words where it fails or is not installed."""
    try:
        done = subprocess.run(  # noqa: PLW1510  (the status is looked at below, for a better message)
            argv, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as missing:
        raise Unavailable(f"the program '{argv[0]}' is not installed", code="program_missing") from missing
    except subprocess.TimeoutExpired as late:
        raise TimedOut(f"'{argv[0]}' did not end within {timeout:.0f} s", code="program_timeout") from late
    if done.returncode != 0:
        words = one_line(done.stderr[-800:] or done.stdout[-800:])
        raise Unavailable(f"'{argv[0]}' failed with status {done.returncode}: {words}", code="program_failed")
    return done.stdout


def cloud_kernel(metapackage: str) -> str:
    """The kernel package that Debian's metapackage (`linux-image-cloud-amd64`) stands for today."""
    for line in run(["apt-cache", "depends", metapackage]).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise NotFound(
        f"the package lists do not say which kernel {shown(metapackage)} stands for; run 'apt-get update' as root",
        code="no_kernel_package",
    )


def with_dependencies(name: str) -> list[str]:
    """`name` and every package it depends on, directly or not, sorted."""
    options = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    listing = run(["apt-cache", "depends", "--recurse", *(f"--no-{option}" for option in options), name])
    return sorted({line for line in listing.splitlines() if _NAME.fullmatch(line)} | {name})


def resolve(names: list[str]) -> tuple[Package, ...]:
    """The versions that apt would download now. Needs the package lists, not the network."""
    listing = run(["apt-get", "--print-uris", "download", *names])
    found = {}
    for uri, _, size, sha256 in _URI_LINE.findall(listing):
        file = unquote(uri.rsplit("/", 1)[-1])
        name = file.partition("_")[0]
        found[name] = Package(name, file, int(size), sha256)
    missing = sorted(set(names) - set(found))
    if missing:
        raise NotFound(
            f"no downloadable version of {', '.join(missing)}; run 'apt-get update' as root",
            code="package_missing",
        )
    return tuple(found[name] for name in sorted(found))


def fetch(packages: tuple[Package, ...], cache: Path, work: Path, progress: Progress) -> tuple[Path, ...]:
    """The packages' files in `cache`, downloaded where they are not there yet, each checked by its digest."""
    cache.mkdir(parents=True, exist_ok=True)
    absent = [package for package in packages if not _intact(cache / package.file, package)]
    if absent:
        size = sum(package.size for package in absent)
        progress(f"downloading {len(absent)} Debian packages ({size / 1e6:.0f} MB)")
        landing = work / "download"
        landing.mkdir(parents=True)
        # Without its own sandbox user: that one cannot write into a private folder.
        argv = [
            "apt-get",
            "-q",
            "-o",
            "APT::Sandbox::User=",
            "download",
            *(package.name for package in absent),
        ]
        run(argv, cwd=landing, timeout=_APT_SECONDS)
        _shelve(absent, landing, cache)
    return tuple(cache / package.file for package in packages)


def _shelve(absent: list[Package], landing: Path, cache: Path) -> None:
    landed = {file.name.partition("_")[0]: file for file in landing.glob("*.deb")}
    for package in absent:
        file = landed.get(package.name)
        if file is None or not _intact(file, package):
            raise Invalid(
                f"the downloaded package {package.file} does not have the SHA-256 {package.sha256} "
                "that the signed package list demands",
                code="package_digest",
            )
        partial = cache / f".{package.file}.new"
        shutil.copyfile(file, partial)
        partial.replace(cache / package.file)


def _intact(file: Path, package: Package) -> bool:
    if not file.is_file() or file.stat().st_size != package.size:
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == package.sha256


def unpack(debs: tuple[Path, ...], root: Path) -> None:
    """Unpacks all of `debs` into `root`, without running their scripts."""
    root.mkdir(parents=True)
    for deb in debs:
        run(["dpkg-deb", "--extract", str(deb), str(root)])
