"""The throw-away CA, seen by OpenSSL and by its own second life."""

import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from skyfed.core.clock import FixedClock
from skyfed.core.errors import Conflict, NotFound
from skyfed.pki.testca import ThrowawayCA, vomses_line, write_lsc
from support.peers import need
from support.pki import NOW, Pki, copy_pki
from support.vectors import vectors


@pytest.mark.peer
def test_openssl_accepts_the_trust_directory_and_what_the_ca_issued(pki: Pki) -> None:
    command = [str(need("openssl")), "verify", "-x509_strict", "-crl_check", "-CApath", str(pki.certificates)]
    good = [str(pki.usercert("alice")), str(pki.usercert("robot")), str(pki.hostcert)]
    assert subprocess.run(command + good, capture_output=True, check=False).returncode == 0
    bad = subprocess.run([*command, str(pki.usercert("revoked"))], capture_output=True, text=True, check=False)
    assert "certificate revoked" in bad.stderr


def test_names_are_those_of_the_demonstration(pki: Pki) -> None:
    subject = pki.host.certificate.subject
    assert pki.ca.dn == "/DC=skyfed/DC=demo/CN=Skyfed demo CA"
    assert [a.value for a in subject] == ["skyfed", "demo", "hosts", "alpha.localhost"]
    alternatives = pki.host.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == ["alpha.localhost", "localhost"]
    assert [str(ip) for ip in alternatives.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_private_keys_are_for_their_owner_only(pki: Pki) -> None:
    for key in (pki.hostkey, pki.userkey("alice"), pki.ca.directory / "cakey.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_ca_that_is_opened_again_remembers_what_it_revoked(pki: Pki, tmp_path: Path) -> None:
    pki = copy_pki(pki, tmp_path / "pki")
    again = ThrowawayCA.open(pki.ca.directory, FixedClock(NOW + timedelta(days=1)))
    again.revoke(pki.bob.certificate)
    crl = again.crl()
    assert {entry.serial_number for entry in crl} == {c.certificate.serial_number for c in (pki.revoked, pki.bob)}
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    assert crl.last_update_utc > NOW


def test_a_ca_is_not_made_over_another(pki: Pki) -> None:
    with pytest.raises(Conflict):
        ThrowawayCA.create(pki.ca.directory, FixedClock(NOW))


def test_only_its_own_certificates_are_revoked(pki: Pki) -> None:
    foreign = x509.load_pem_x509_certificate((vectors("aai") / "pki" / "alice.pem").read_bytes())
    with pytest.raises(NotFound):
        pki.ca.revoke(foreign)


def test_lsc_and_vomses_are_written_as_recorded(pki: Pki, tmp_path: Path) -> None:
    folder = vectors("aai") / "pki"
    host = x509.load_pem_x509_certificate((folder / "host.pem").read_bytes())
    recorded = folder / "vomsdir" / "testvo" / "localhost.lsc"
    assert write_lsc(tmp_path, "testvo", "localhost", [host]).read_text().split("\n") == recorded.read_text().split(
        "\n"
    )
    line = vomses_line("demo.skyfed", "localhost", 15000, pki.host.certificate, "demo.skyfed")
    assert line == '"demo.skyfed" "localhost" "15000" "/DC=skyfed/DC=demo/OU=hosts/CN=alpha.localhost" "demo.skyfed"\n'
