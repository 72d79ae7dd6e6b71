"""Who is banned. A ban refuses an otherwise good credential, within a second, also on open connections."""

import logging
import re
import threading
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from skyfed.core.clock import Clock
from skyfed.core.errors import Invalid
from skyfed.core.log import event
from skyfed.core.text import one_line, shown
from skyfed.identity.fqan import Fqan
from skyfed.identity.principal import Principal
from skyfed.identity.watch import Watch
from skyfed.pki import names
from skyfed.pki.files import read_bounded

log = logging.getLogger(__name__)

MAX_BAN_FILE_BYTES = 16 << 20
Kind = Literal["dn", "issuer", "fqan", "fingerprint"]


class Ban(msgspec.Struct, frozen=True):
    """One rule: who is meant, and where it stands, for the log."""

    kind: Kind
    pattern: str
    source: str = ""

    def hits(self, principal: Principal) -> bool:
        """Whether the ban means this Principal. `*` and `?` are wildcards, also across `/`."""
        if self.kind == "fqan":
            return any(_fits(self.pattern, Fqan.parse(fqan).short) for fqan in principal.fqans)
        if self.kind == "fingerprint":
            return self.pattern == principal.fingerprint
        name = principal.subject if self.kind == "dn" else principal.issuer
        return _fits(self.pattern, name) or _fits(self.pattern, names.normalise_text(name))


class BanSource(Protocol):
    """Where bans come from: a file, the federation's list, a database."""

    @property
    def generation(self) -> int:
        """A number that grows whenever the bans change: verdicts reached before that are void."""

    def find(self, principal: Principal) -> Ban | None:
        """The first ban that means this Principal."""


def _fits(pattern: str, text: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return pattern == text
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL) is not None


def parse_line(line: str, *, source: str = "") -> Ban | None:
    """Read one line; None for an empty one or a comment. Raises Invalid (`ban`).

    `"/DC=org/CN=Mallory"` (a DN), `/vo/Role=x` (an FQAN), or with a word before it: `dn`, `issuer`, `fqan`,
    `fingerprint`. Quotes are optional; `#` begins a comment.
    """
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    match = re.fullmatch(r'(?:(dn|issuer|fqan|fingerprint)\s+)?(?:"([^"]+)"|(\S.*?))\s*(?:\s#.*)?', text)
    if match is None:
        raise Invalid(f"{shown(text)} is not a ban; right is a DN or FQAN pattern, quoted if it has blanks", code="ban")
    value = match[2] or match[3]
    return _ban(match[1] or _guess(value), value, source)


def _guess(value: str) -> str:
    """A DN has a `=` in its first component, an FQAN begins with the VO's name."""
    first = value.removeprefix("/").partition("/")[0]
    return "dn" if "=" in first else "fqan"


def _ban(kind: str, value: str, source: str) -> Ban:
    if kind == "fingerprint":
        digits = value.replace(":", "").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise Invalid(f"{shown(value)} is not a SHA-256 fingerprint", code="ban")
        return Ban("fingerprint", digits, source)
    if not value.startswith(("/", "*")):
        raise Invalid(f"{shown(value)} is neither a DN nor an FQAN: both begin with '/'", code="ban")
    if kind == "fqan":
        return Ban("fqan", value.removesuffix("/Capability=NULL").removesuffix("/Role=NULL"), source)
    return Ban("issuer" if kind == "issuer" else "dn", value, source)


class FileBans:
    """The bans in a file, one a line (`parse_line`); read again when it changes. A missing file bans nobody."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._watch = Watch(lambda: (path,), clock)
        self._lock = threading.Lock()
        self._generation = 0
        self._bans: tuple[Ban, ...] = ()

    @property
    def generation(self) -> int:
        with self._lock:
            if self._watch.changed():
                self._load()
                self._generation += 1
            return self._generation

    @property
    def bans(self) -> tuple[Ban, ...]:
        """All of them, in file order."""
        return self._bans

    def find(self, principal: Principal) -> Ban | None:
        return next((ban for ban in self._bans if ban.hits(principal)), None)

    def _load(self) -> None:
        if not self._path.exists():
            self._bans = ()
            return
        try:
            text = read_bounded(self._path, MAX_BAN_FILE_BYTES).decode("utf-8", "replace")
        except Invalid as error:
            # Bans in force stay in force: an unreadable list must not let anybody in.
            event(log, logging.ERROR, "ban file unreadable", file=str(self._path), reason=one_line(error.message))
            return
        bans = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                ban = parse_line(line, source=f"{self._path}:{number}")
            except Invalid as error:
                event(log, logging.ERROR, "ban ignored", line=f"{self._path}:{number}", reason=one_line(error.message))
                continue
            if ban is not None:
                bans.append(ban)
        self._bans = tuple(bans)
