"""Which attribute authorities a site trusts: the `vomsdir` directory.

`vomsdir/VO/HOST.lsc` lists the authority's certificate chain by names; certificates (`*.pem`) in `vomsdir/VO` or, as
long ago, in `vomsdir` itself name an authority by its key. Neither is an anchor: the authority's certificate must still
have a valid path to the trust directory.
"""

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography import x509

from skyfed.core.clock import Clock
from skyfed.core.errors import Invalid
from skyfed.core.log import event
from skyfed.core.text import one_line, shown
from skyfed.identity.ac import is_safe_name
from skyfed.identity.watch import Watch
from skyfed.pki import names
from skyfed.pki.files import parse_bundle, read_bounded

log = logging.getLogger(__name__)

MAX_LSC_BYTES = 64 * 1024
_NEXT_CHAIN = re.compile(r"-{2,}\s*NEXT CHAIN\s*-{2,}")


class NamePair(msgspec.Struct, frozen=True):
    """Subject and issuer of one certificate, OpenSSL one-line form."""

    subject: str
    issuer: str


class Lsc(msgspec.Struct, frozen=True):
    """The chains of one file, each from the authority's certificate upward."""

    chains: tuple[tuple[NamePair, ...], ...]

    def allows(self, certificates: tuple[x509.Certificate, ...]) -> bool:
        """Whether `certificates` (the authority's first) are, name by name, the beginning of one of the chains.

        More certificates than names do not match: nothing unlisted may slip in.
        """
        return bool(certificates) and any(_begins(chain, certificates) for chain in self.chains)


def _begins(chain: tuple[NamePair, ...], certificates: tuple[x509.Certificate, ...]) -> bool:
    return len(certificates) <= len(chain) and all(
        names.matches_text(certificate.subject, pair.subject) and names.matches_text(certificate.issuer, pair.issuer)
        for certificate, pair in zip(certificates, chain, strict=False)
    )


def parse_lsc(text: str, *, source: str) -> Lsc:
    """Read an LSC file. Raises Invalid (`lsc`) when a subject has no issuer or a line is not a name."""
    chains: list[tuple[NamePair, ...]] = []
    lines: list[str] = []
    for raw in [*text.splitlines(), "--NEXT CHAIN--"]:
        line = raw.strip()
        if _NEXT_CHAIN.fullmatch(line):
            if lines:
                chains.append(_pairs(lines, source))
            lines = []
        elif line and not line.startswith("#"):
            lines.append(_unquoted(line))
    if not chains:
        raise Invalid(f"{source} lists no certificate; right is a subject line and an issuer line", code="lsc")
    return Lsc(tuple(chains))


def _pairs(lines: list[str], source: str) -> tuple[NamePair, ...]:
    if len(lines) % 2:
        raise Invalid(f"{source}: the subject {shown(lines[-1])} has no issuer line", code="lsc")
    for line in lines:
        if not line.startswith("/"):
            raise Invalid(f"{source}: {shown(line)} is not a name such as /DC=org/CN=host", code="lsc")
    return tuple(NamePair(subject, issuer) for subject, issuer in zip(lines[::2], lines[1::2], strict=True))


def _unquoted(line: str) -> str:
    if len(line) >= 2 and line.startswith('"') and line.endswith('"'):
        return re.sub(r"\\(.)", r"\1", line[1:-1])
    return line


class Vomsdir:
    """A `vomsdir` on disk. Changes are noticed within a second; `generation` counts them."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._watch = Watch(self._files, clock)
        self._lock = threading.Lock()
        self._generation = 0
        self._lscs: dict[tuple[str, str], Lsc] = {}
        self._certificates: dict[str, tuple[x509.Certificate, ...]] = {}

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    @property
    def generation(self) -> int:
        """A number that grows when a file changed; looks at the disk twice a second at most."""
        self._refresh()
        return self._generation

    def _refresh(self) -> None:
        with self._lock:
            if self._watch.changed():
                self._load()
                self._generation += 1

    def vos(self) -> tuple[str, ...]:
        """The VOs that have a directory, sorted."""
        return tuple(sorted(p.name for p in self._directories() if p != self._path))

    def lsc(self, vo: str, host: str) -> Lsc | None:
        """The list for the authority of `vo` on `host`."""
        self._refresh()
        return self._lscs.get((vo, host.lower()))

    def certificates(self, vo: str) -> tuple[x509.Certificate, ...]:
        """Certificates trusted as authorities of `vo`."""
        self._refresh()
        return (*self._certificates.get(vo, ()), *self._certificates.get("", ()))

    def _directories(self) -> Iterator[Path]:
        if not self._path.is_dir():
            return
        yield self._path
        yield from sorted(p for p in self._path.iterdir() if is_safe_name(p.name) and p.is_dir())

    def _files(self) -> Iterator[Path]:
        for directory in self._directories():
            yield from sorted(p for p in directory.iterdir() if p.suffix in {".lsc", ".pem"})

    def _load(self) -> None:
        lscs: dict[tuple[str, str], Lsc] = {}
        certificates: dict[str, tuple[x509.Certificate, ...]] = {}
        for path in self._files():
            vo = "" if path.parent == self._path else path.parent.name
            try:
                data = read_bounded(path, MAX_LSC_BYTES)
                if path.suffix == ".pem":
                    found = parse_bundle(data, source=str(path)).certificates
                    certificates[vo] = (*certificates.get(vo, ()), *found)
                elif vo:
                    lscs[vo, path.stem.lower()] = parse_lsc(data.decode("utf-8", "replace"), source=str(path))
            except Invalid as error:
                # One broken file must not take the other VOs' trust away.
                event(log, logging.ERROR, "vomsdir file ignored", file=str(path), reason=one_line(error.message))
        self._lscs, self._certificates = lscs, certificates
