"""A certificate authority for a whole test session, and the credentials that most areas' tests want."""

import dataclasses
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skyfed.core.clock import FixedClock
from skyfed.pki.files import Credential
from skyfed.pki.testca import ThrowawayCA, write_host, write_user
from skyfed.pki.trust import TrustStore

# A working day well inside every certificate's life; TLS in tests uses the machine's own clock, which is later than
# this less an hour.
NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Pki:
    """Everything under `directory`: `certificates` (the trust directory), `users/NAME/{usercert,userkey}.pem`,
    `host/{hostcert,hostkey}.pem`.

    alice and bob are good, `revoked` is on the CRL, `expired` ended yesterday, `robot` is a program, `stranger`
    belongs to a CA that nobody trusts (same names otherwise).
    """

    directory: Path
    ca: ThrowawayCA
    host: Credential
    alice: Credential
    bob: Credential
    robot: Credential
    revoked: Credential
    expired: Credential
    stranger: Credential

    @property
    def certificates(self) -> Path:
        return self.directory / "certificates"

    @property
    def hostcert(self) -> Path:
        return self.directory / "host" / "hostcert.pem"

    @property
    def hostkey(self) -> Path:
        return self.directory / "host" / "hostkey.pem"

    def usercert(self, name: str) -> Path:
        return self.directory / "users" / name / "usercert.pem"

    def userkey(self, name: str) -> Path:
        return self.directory / "users" / name / "userkey.pem"

    def trust(self, clock: FixedClock | None = None) -> TrustStore:
        """A fresh trust store over the trust directory."""
        return TrustStore(self.certificates, clock or FixedClock(NOW))


def make_pki(directory: Path) -> Pki:
    """A new CA with its people; for tests that change it (revoke, expire). Others use the `pki` fixture, or a copy of it."""
    clock = FixedClock(NOW)
    ca = ThrowawayCA.create(directory / "ca", clock)
    other = ThrowawayCA.create(directory / "other-ca", clock)
    made = Pki(
        directory,
        ca,
        host=ca.host("alpha.localhost"),
        alice=ca.user("alice"),
        bob=ca.user("bob"),
        robot=ca.robot("images"),
        revoked=ca.user("revoked"),
        expired=ca.user("expired", not_before=NOW - timedelta(days=30), lifetime=timedelta(days=29)),
        stranger=other.user("alice"),
    )
    ca.revoke(made.revoked.certificate)
    ca.publish(made.certificates)
    write_host(made.host, directory / "host")
    for name in ("alice", "bob", "robot", "revoked", "expired", "stranger"):
        write_user(getattr(made, name), directory / "users" / name)
    return made


def copy_pki(made: Pki, directory: Path) -> Pki:
    """The same CA and people in another directory, free to be changed: keys take long to make."""
    shutil.copytree(made.directory, directory, symlinks=True)
    return dataclasses.replace(made, directory=directory, ca=ThrowawayCA.open(directory / "ca", FixedClock(NOW)))


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The session's CA and people. Do not change it: change a `copy_pki` of it."""
    return make_pki(tmp_path_factory.mktemp("pki"))
