"""A VO with an attribute authority in memory: gives tests proxies with real attribute certificates."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from skyfed.core.clock import FixedClock
from skyfed.identity import ac, proxy
from skyfed.identity.bans import BanSource
from skyfed.identity.fqan import Fqan
from skyfed.identity.judge import Judge, JudgeSettings
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki.files import Credential
from skyfed.pki.testca import write_lsc
from skyfed.pki.trust import TrustStore
from support.pki import NOW


@dataclass(frozen=True)
class Authority:
    """The attribute authority of `vo` on `host`; `credential` signs. Its time is NOW, as of the clocks in tests."""

    vo: str
    host: str
    credential: Credential

    def trust_in(self, vomsdir: Path) -> None:
        """Write the LSC file that makes sites believe it."""
        write_lsc(vomsdir, self.vo, self.host, (self.credential.certificate,))

    def content(self, holder: x509.Certificate, fqans: Sequence[str] = (), **changes: object) -> ac.Content:
        """What it would state about `holder`; `changes` replace fields."""
        fields: dict[str, object] = {
            "holder_issuer": holder.issuer,
            "holder_serial": holder.serial_number,
            "authority": ac.PolicyAuthority(self.vo, self.host, 15000),
            "fqans": tuple(Fqan.parse(fqan) for fqan in fqans or (f"/{self.vo}",)),
            "serial": secrets.randbits(120),
            "not_before": NOW,
            "not_after": NOW + timedelta(hours=12),
        }
        return ac.Content(**(fields | changes))  # type: ignore[arg-type]

    def ac(self, holder: x509.Certificate, fqans: Sequence[str] = (), **changes: object) -> bytes:
        """A signed attribute certificate (DER)."""
        return ac.issue(self.content(holder, fqans, **changes), self.credential.certificate, self.credential.key)

    def proxy(self, user: Credential, fqans: Sequence[str] = (), **changes: object) -> Credential:
        """A proxy of `user` with one attribute certificate; an EC key, for speed. `limited=True` limits it."""
        limited = bool(changes.pop("limited", False))
        wanted = proxy.Proxy(key="ec", limited=limited, acs=(self.ac(user.certificate, fqans, **changes),))
        return proxy.create(user, wanted, NOW)


def make_judge(
    certificates: Path,
    vomsdir: Path,
    *,
    bans: Sequence[BanSource] = (),
    clock: FixedClock | None = None,
    settings: JudgeSettings | None = None,
) -> Judge:
    """A judge over directories."""
    clock = clock or FixedClock(datetime.now(UTC))
    return Judge(TrustStore(certificates, clock), Vomsdir(vomsdir, clock), bans, clock, settings)


def chain_der(credential: Credential) -> tuple[bytes, ...]:
    """What a TLS peer with this credential shows."""
    return proxy.chain_der(credential)
