"""TLS contexts, with real handshakes over memory buffers."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from skyfed.core.clock import FixedClock
from skyfed.core.errors import Invalid
from skyfed.pki.testca import write_host
from skyfed.pki.tls import NO_CHECK_TIME, ClientTls, ServerTls, client_context
from skyfed.pki.trust import TrustStore
from support.pki import NOW, Pki, copy_pki


@dataclass
class Handshake:
    server: ssl.SSLObject
    client: ssl.SSLObject

    def peer(self) -> x509.Certificate | None:
        der = self.server.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der) if der else None


def shake(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    *,
    name: str | None = "localhost",
    session: ssl.SSLSession | None = None,
) -> Handshake:
    """A handshake; raises what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    a = server.wrap_bio(to_server, to_client, server_side=True)
    b = client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    waiting = [b, a]
    for _ in range(20):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            break
    assert not waiting, "the handshake did not end"
    b.write(b"hello")
    assert a.read(5) == b"hello"
    return Handshake(a, b)


@pytest.fixture
def server(pki: Pki) -> ServerTls:
    return ServerTls(pki.trust(), pki.hostcert, pki.hostkey, FixedClock(NOW))


def user_context(pki: Pki, name: str) -> ssl.SSLContext:
    return client_context(pki.trust().anchors.pem(), pki.usercert(name), pki.userkey(name))


def test_a_servers_flags_are_set_outright(server: ServerTls) -> None:
    """Whatever a Python release turns on by default: strictness refuses real proxies, CRLs and dates are the judge's."""
    context = server.current()
    assert context.verify_mode is ssl.CERT_OPTIONAL
    assert context.verify_flags == ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_ALLOW_PROXY_CERTS | NO_CHECK_TIME
    assert context.options & ssl.OP_NO_TICKET
    assert context.num_tickets == 0


@pytest.mark.parametrize("name", ["alice", "expired", "revoked"])
def test_known_credentials_pass_the_handshake_even_when_the_application_will_refuse_them(
    pki: Pki, server: ServerTls, name: str
) -> None:
    assert shake(server.context, user_context(pki, name)).peer() == getattr(pki, name).certificate


def test_a_client_without_certificate_passes_the_handshake(pki: Pki, server: ServerTls) -> None:
    assert shake(server.context, client_context(pki.trust().anchors.pem())).peer() is None


def test_a_listener_that_requires_a_certificate_refuses_a_client_without(pki: Pki) -> None:
    strict = ServerTls(pki.trust(), pki.hostcert, pki.hostkey, FixedClock(NOW), require_certificate=True)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(strict.context, client_context(pki.trust().anchors.pem()))


def test_a_certificate_of_an_unknown_ca_is_refused_by_tls(pki: Pki, server: ServerTls) -> None:
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake(server.context, user_context(pki, "stranger"))


def test_no_session_tickets_are_given(pki: Pki, server: ServerTls) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = user_context(pki, "alice")
        context.minimum_version = context.maximum_version = version
        session = shake(server.context, context).client.session
        assert session is None or not session.has_ticket


def test_a_session_resumed_by_id_still_has_the_peers_certificate(pki: Pki, server: ServerTls) -> None:
    context = user_context(pki, "alice")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = shake(server.context, context).client.session
    assert shake(server.context, context, session=session).peer() == pki.alice.certificate


def test_tls_1_1_is_refused(pki: Pki, server: ServerTls) -> None:
    assert server.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_client_refuses_a_server_of_another_name(pki: Pki, server: ServerTls) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server.context, user_context(pki, "alice"), name="elsewhere.example.org")


@pytest.mark.parametrize("name", ["localhost", None])
def test_a_ca_that_leaves_the_trust_directory_is_refused_on_the_next_connection(
    pki: Pki, tmp_path: Path, name: str | None
) -> None:
    """Also for clients that send no server name."""
    pki = copy_pki(pki, tmp_path / "pki")
    clock = FixedClock(NOW)
    server = ServerTls(TrustStore(pki.certificates, clock), pki.hostcert, pki.hostkey, clock)
    client = user_context(pki, "alice")
    client.check_hostname = name is not None
    assert shake(server.context, client, name=name).peer() == pki.alice.certificate
    for path in pki.certificates.glob("*.0"):
        path.unlink()
    clock.advance(2)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake(server.context, client, name=name)


def test_a_renewed_host_certificate_is_served_without_restart(pki: Pki, tmp_path: Path) -> None:
    pki = copy_pki(pki, tmp_path / "pki")
    clock = FixedClock(NOW)
    server = ServerTls(TrustStore(pki.certificates, clock), pki.hostcert, pki.hostkey, clock)
    renewed = pki.ca.host("alpha.localhost")
    write_host(renewed, pki.directory / "host")
    clock.advance(2)
    served = shake(server.context, user_context(pki, "alice")).client.getpeercert(binary_form=True)
    assert served == renewed.certificate.public_bytes(Encoding.DER)


def test_a_broken_host_certificate_leaves_the_earlier_one_in_service(pki: Pki, tmp_path: Path) -> None:
    pki = copy_pki(pki, tmp_path / "pki")
    clock = FixedClock(NOW)
    server = ServerTls(TrustStore(pki.certificates, clock), pki.hostcert, pki.hostkey, clock)
    pki.hostcert.write_text("half a file")
    clock.advance(2)
    served = shake(server.context, user_context(pki, "alice")).client.getpeercert(binary_form=True)
    assert served == pki.host.certificate.public_bytes(Encoding.DER)


def test_a_client_presents_a_credential_from_one_file(pki: Pki, server: ServerTls, tmp_path: Path) -> None:
    proxy_file = tmp_path / "x509up"
    proxy_file.write_bytes(pki.alice.pem())
    client = ClientTls(pki.trust(), FixedClock(NOW), cert=proxy_file)
    assert shake(server.context, client.current()).peer() == pki.alice.certificate


def test_a_credential_that_cannot_be_used_is_named(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot use") as caught:
        client_context(pki.trust().anchors.pem(), pki.usercert("alice"), pki.userkey("bob"))
    assert caught.value.code == "tls_credential"
