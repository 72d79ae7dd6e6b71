"""Who is calling, once a verdict has accepted the credential: the same value for X.509 and, later, tokens."""

from datetime import datetime
from typing import Literal

import msgspec

CredentialKind = Literal["certificate", "proxy", "legacy-proxy"]


class Membership(msgspec.Struct, frozen=True):
    """What a verified attribute certificate says: a VO and its FQANs, long form, in the order issued."""

    vo: str
    fqans: tuple[str, ...]


class Principal(msgspec.Struct, frozen=True):
    """An authenticated person, robot or host.

    `subject` and `issuer` are the end-entity certificate's names in OpenSSL one-line form
    (`/DC=org/CN=Alice`), never a proxy's. `vos` holds verified memberships only, the attribute certificate
    nearest to the leaf first. `limited`: the chain has a limited proxy, which may not start machines.
    `not_after` is the earliest end of any certificate in the chain. `fingerprint` is the SHA-256 (lower-case
    hex) of the end-entity certificate.
    """

    subject: str
    issuer: str
    vos: tuple[Membership, ...]
    limited: bool
    not_after: datetime
    fingerprint: str
    kind: CredentialKind

    @property
    def fqans(self) -> tuple[str, ...]:
        """Every FQAN of every VO, long form, in the order issued; the first is the primary one."""
        return tuple(fqan for membership in self.vos for fqan in membership.fqans)

    @property
    def vo_names(self) -> tuple[str, ...]:
        """The VOs this credential proves membership of."""
        return tuple(membership.vo for membership in self.vos)
