"""A trusted node in miniature: trust, attribute authority, bans, judge, and the TLS contexts of both sides."""

import itertools
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from skyfed.core.clock import FixedClock
from skyfed.identity import proxy
from skyfed.identity.bans import FileBans
from skyfed.identity.judge import Judge
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki.files import Credential, pem_certificate
from skyfed.pki.tls import ServerTls, client_context
from skyfed.pki.trust import TrustStore
from support.aai import Authority
from support.pki import NOW, Pki, make_pki

VO = "demo.skyfed"


@dataclass(frozen=True)
class Node:
    """What a server needs to judge its clients. `clock` moves only when told: advance it past the recheck intervals."""

    pki: Pki
    authority: Authority
    clock: FixedClock
    judge: Judge
    tls: ServerTls
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def client(self, credential: Credential | None = None) -> ssl.SSLContext:
        """A client's TLS context that presents `credential` (with its chain)."""
        anchors = pem_certificate(self.pki.ca.certificate).decode()
        if credential is None:
            return client_context(anchors)
        path = self.folder / f"client-{next(self.numbers)}.pem"
        proxy.write(credential, path)
        return client_context(anchors, path)

    def proxy(self, user: Credential, *, limited: bool = False) -> Credential:
        """A proxy of `user` with an attribute certificate of the VO."""
        return self.authority.proxy(user, (f"/{VO}",), limited=limited)

    def plain_proxy(self, user: Credential, lifetime: timedelta = timedelta(hours=1)) -> Credential:
        """A proxy of `user` without attributes."""
        return proxy.create(user, proxy.Proxy(lifetime=lifetime, key="ec"), self.clock.now())

    def ban(self, *lines: str) -> None:
        """Write the ban list; in force as soon as the clock has moved on."""
        (self.folder / "bans").write_text("".join(f"{line}\n" for line in lines))
        self.clock.advance(2)


def make_node(folder: Path) -> Node:
    """A node of its own, for tests that change its trust."""
    pki = make_pki(folder / "pki")
    clock = FixedClock(NOW)
    authority = Authority(VO, "voms.localhost", pki.ca.host("voms.localhost"))
    authority.trust_in(folder / "vomsdir")
    trust = TrustStore(pki.certificates, clock)
    judge = Judge(trust, Vomsdir(folder / "vomsdir", clock), (FileBans(folder / "bans", clock),), clock)
    tls = ServerTls(trust, pki.hostcert, pki.hostkey, clock)
    return Node(pki, authority, clock, judge, tls, folder)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A fresh node."""
    return make_node(tmp_path)


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node that tests of one module share and do not change."""
    return make_node(tmp_path_factory.mktemp("node"))
