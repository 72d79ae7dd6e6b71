"""Certificate and key files."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from skyfed.core.errors import Invalid
from skyfed.pki.files import parse_bundle, pem_certificate, pem_key, read_credential, write_atomic
from support.pki import Pki


def code_of(call: object) -> str:
    with pytest.raises(Invalid) as caught:
        call()  # type: ignore[operator]
    return caught.value.code


def test_a_written_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_atomic(tmp_path / "key", b"secret")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "x509up").symlink_to(victim)
    write_atomic(tmp_path / "x509up", b"proxy")
    assert victim.read_text() == "untouched"
    assert (tmp_path / "x509up").read_bytes() == b"proxy"
    assert not (tmp_path / "x509up").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "f", "text, not bytes")  # type: ignore[arg-type]
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("traditional", [True, False])
def test_blocks_are_read_in_any_order_with_text_and_crlf(pki: Pki, traditional: bool) -> None:
    key, cert, ca = (
        pem_key(pki.alice.key, traditional=traditional),
        pem_certificate(pki.alice.certificate),
        pem_certificate(pki.ca.certificate),
    )
    for blocks in ((cert, key, ca), (key, cert, ca), (cert, ca, key)):
        bundle = parse_bundle(b"Bag Attributes\n".join((b"", *blocks)).replace(b"\n", b"\r\n"))
        assert bundle.certificates == (pki.alice.certificate, pki.ca.certificate)
        assert bundle.key is not None
        assert bundle.key.private_numbers() == pki.alice.key.private_numbers()


def test_an_encrypted_key_needs_its_pass_phrase(pki: Pki, tmp_path: Path) -> None:
    locked = pki.alice.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"open")
    )
    (tmp_path / "key").write_bytes(locked)
    cert, key = pki.usercert("alice"), tmp_path / "key"
    assert read_credential(cert, key, password=b"open").certificate == pki.alice.certificate
    assert code_of(lambda: read_credential(cert, key)) == "key_password"
    assert code_of(lambda: read_credential(cert, key, password=b"wrong")) == "key_password"


def test_what_cannot_be_a_credential_is_refused_by_reason(pki: Pki, tmp_path: Path) -> None:
    alice = pki.usercert("alice")
    assert code_of(lambda: read_credential(alice)) == "no_key"
    assert code_of(lambda: read_credential(alice, pki.userkey("bob"))) == "key_mismatch"
    assert code_of(lambda: read_credential(pki.userkey("alice"))) == "no_certificate"
    assert code_of(lambda: read_credential(tmp_path / "none")) == "unreadable"
    assert code_of(lambda: parse_bundle(b"no pem here")) == "pem_syntax"
    assert code_of(lambda: parse_bundle(b"x" * (1 << 21))) == "pem_size"
    assert (
        code_of(lambda: parse_bundle(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")) == "pem_syntax"
    )
    assert code_of(lambda: parse_bundle(pem_key(pki.alice.key) * 2)) == "pem_syntax"
