"""The trust store: a watched IGTF directory that answers who is trusted, now and at any instant asked for."""

import hashlib
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path as FilePath
from typing import Annotated

import msgspec
from cryptography import x509

from skyfed.core.clock import Clock
from skyfed.core.errors import Invalid
from skyfed.core.settings import setting
from skyfed.pki.anchors import FILE_LIMITS, Anchors, Parsed, Problem, assemble, file_kind, objection, parse_file
from skyfed.pki.files import read_bounded
from skyfed.pki.path import Path, PathSettings, verify_path

log = logging.getLogger(__name__)

MAX_FILES = 20_000


class TrustSettings(PathSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a trust directory is watched and how strictly certificates are judged."""

    recheck_seconds: Annotated[
        float, setting("how often at most the directory is looked at for changes, seconds"), msgspec.Meta(ge=0, le=60)
    ] = 1.0


@dataclass(frozen=True, slots=True)
class _File:
    """What is known of one file: its stat signature, the digest of its bytes and what was parsed from it (or from its
    last readable version)."""

    signature: tuple[int, int, int]
    digest: bytes
    parsed: Parsed | None
    problem: Problem | None


class TrustStore:
    """The anchors, CRLs and name rules of `directory`, reloaded as it changes. Safe to use from several threads.

    A file that can no longer be parsed keeps its earlier content in force and is listed by `problems`.
    """

    def __init__(self, directory: FilePath, clock: Clock, settings: TrustSettings | None = None) -> None:
        self.directory = directory
        self.settings = settings or TrustSettings()
        self._clock = clock
        self._lock = threading.Lock()
        self._files: dict[str, _File] = {}
        self._anchors = Anchors()
        self._generation = 0
        self._checked_at: float | None = None
        self._look()

    @property
    def generation(self) -> int:
        """Grows whenever the directory's content has changed: part of the key of cached verdicts."""
        self._look()
        return self._generation

    @property
    def anchors(self) -> Anchors:
        """The present snapshot."""
        self._look()
        return self._anchors

    def problems(self) -> tuple[Problem, ...]:
        """Files that are not in force as they stand, or are although a standard objects, and why."""
        return self.anchors.problems

    def refresh(self) -> int:
        """Look at the directory now, whenever it was looked at last. Returns the generation."""
        self._look(now=True)
        return self._generation

    def verify_path(
        self,
        leaf: x509.Certificate,
        intermediates: Sequence[x509.Certificate] = (),
        at: datetime | None = None,
        *,
        settings: PathSettings | None = None,
    ) -> Path:
        """Judge `leaf` at the instant `at` (default: now); codes as in `skyfed.pki.path.verify_path`. `settings`
        replaces the store's own for callers with stricter rules (image lists require every CRL)."""
        moment = at or self._clock.now()
        return verify_path(leaf, intermediates, anchors=self.anchors, settings=settings or self.settings, at=moment)

    def _look(self, *, now: bool = False) -> None:
        with self._lock:
            moment = self._clock.monotonic()
            recent = self._checked_at is not None and moment - self._checked_at < self.settings.recheck_seconds
            if recent and not now:
                return
            self._checked_at = moment
            self._reload()

    def _reload(self) -> None:
        try:
            seen = _scan(self.directory)
        except OSError as error:
            # Unreadable for a moment (remount, package upgrade): what was read stays in force.
            problem = Problem(str(self.directory), f"cannot be read: {error.strerror}")
            self._set(self._files, (problem,))
            return
        files = {name: self._read(name, signature) for name, signature in seen.items()}
        self._set(files, tuple(file.problem for _name, file in sorted(files.items()) if file.problem))

    def _read(self, name: str, signature: tuple[int, int, int]) -> _File:
        known = self._files.get(name)
        if known is not None and known.signature == signature:
            return known
        try:
            data = read_bounded(self.directory / name, FILE_LIMITS[file_kind(name) or "certificate"])
            parsed = parse_file(name, data)
            objected = objection(parsed)
            problem = Problem(name, objected) if objected else None
            return _File(signature, hashlib.sha256(data).digest(), parsed, problem)
        except Invalid as error:
            kept = known.parsed if known is not None else None
            message = error.message + ("; its earlier content stays in force" if kept is not None else "")
            log.warning("trust directory %s: %s", self.directory, message)
            return _File(signature, known.digest if known is not None else b"", kept, Problem(name, message))

    def _set(self, files: dict[str, _File], problems: tuple[Problem, ...]) -> None:
        changed = {n: f.digest for n, f in files.items()} != {n: f.digest for n, f in self._files.items()}
        if not changed and problems == self._anchors.problems and self._generation:
            self._files = files
            return
        self._files = files
        parsed = {name: file.parsed for name, file in files.items() if file.parsed is not None}
        self._anchors = assemble(parsed, problems)
        if changed or not self._generation:
            self._generation += 1


def _scan(directory: FilePath) -> dict[str, tuple[int, int, int]]:
    """(mtime, size, inode) of the files we read, links followed. Links that lead nowhere are left out."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if file_kind(entry.name) is None:
                continue
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            found[entry.name] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if len(found) >= MAX_FILES:
                break
    return found
