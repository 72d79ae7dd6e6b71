"""What the judge found out about a credential: one value for TLS peers, files, `proxy explain` and logs."""

from datetime import datetime

import msgspec

from skyfed.identity.principal import Principal
from skyfed.pki.findings import Finding


class AcVerdict(msgspec.Struct, frozen=True):
    """What became of one attribute certificate. Its names are claims, not rights, unless `ok`."""

    vo: str
    fqans: tuple[str, ...]
    authority: str
    not_before: datetime | None
    not_after: datetime | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every rule held."""
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def reason(self) -> Finding | None:
        """The first rule that failed."""
        return next((finding for finding in self.findings if finding.level == "error"), None)


class Verdict(msgspec.Struct, frozen=True):
    """The judgement of one credential. `principal` is there exactly when it is accepted.

    `findings` are about the chain and the bans. `acs` are judged apart: a bad attribute certificate takes the
    VO's rights away, not the identity. `subject` is the end-entity name as claimed, for logs, also of refused
    credentials.
    """

    principal: Principal | None
    findings: tuple[Finding, ...]
    acs: tuple[AcVerdict, ...] = ()
    subject: str = ""

    @property
    def ok(self) -> bool:
        """Whether the credential authenticates its holder."""
        return self.principal is not None

    @property
    def reason(self) -> Finding | None:
        """Why it is refused: the first error; None when it is accepted."""
        return next((finding for finding in self.findings if finding.level == "error"), None)

    @property
    def vo_reason(self) -> Finding | None:
        """Why an accepted credential gives no rights in a VO it names: the first bad AC's reason."""
        return next((ac.reason for ac in self.acs if ac.reason is not None), None)


__all__ = ["AcVerdict", "Finding", "Verdict"]
