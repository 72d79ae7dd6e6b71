"""Signed messages: what OpenSSL and M2Crypto write is read, what we write they read, what was changed is refused."""

import base64
import json
import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.core.errors import Invalid, TooLarge
from skyfed.pki import cms, names, smime
from skyfed.pki.files import Credential, read_credential
from skyfed.pki.testca import write_user
from support.peers import need
from support.pki import NOW, Pki
from support.vectors import vectors

GOOD = ("appdb-style", "bad-othersigner", "bad-revoked", "cms-sha512", "double-cr", "lf-only", "m2crypto-detached",
        "openssl-binary", "openssl-default", "openssl-opaque", "openssl-text", "pyca-detached")  # fmt: skip
JSON = b'{\n  "a": 1\n}\n'


def imagelist(name: str) -> bytes:
    return (vectors("images") / "imagelists" / f"{name}.list").read_bytes()


def refused(message: bytes, **options: bool) -> str:
    with pytest.raises(Invalid) as caught:
        smime.verify(message, **options)
    return caught.value.code


@pytest.mark.parametrize("name", GOOD)
def test_recorded_lists_verify_and_give_the_same_value(name: str) -> None:
    """The "bad" ones among them are bad by their signer, which is for the trust store to say."""
    signed = smime.verify(imagelist(name))
    payload = "appdb-style" if name.startswith("appdb") else "payload"
    expected = json.loads((vectors("images") / "imagelists" / f"{payload}.json").read_bytes())
    assert json.loads(smime.inner_text(signed.content)) == expected
    assert names.oneline(signed.signer.subject).startswith("/DC=org/DC=example/O=Testing/CN=")


@pytest.mark.parametrize("name", ["imagelist01", "imagelist02"])
def test_cloudkeepers_own_samples_verify(name: str) -> None:
    message = (vectors("images") / "cloudkeeper" / f"{name}.signed").read_bytes()
    assert "hv:imagelist" in json.loads(smime.verify(message).content)


def test_an_accounting_message_verifies() -> None:
    message = (vectors("accounting") / "wire" / "body-signed.eml").read_bytes()
    signed = smime.verify(message)
    assert smime.inner_text(signed.content).startswith(b"APEL-cloud-message: v0.4\r\n")
    assert (
        signed.signer
        == read_credential(*(vectors("accounting") / "certs" / f"site.{e}" for e in ("pem", "key"))).certificate
    )


def test_sha1_needs_a_policy() -> None:
    assert refused(imagelist("openssl-sha1")) == "weak_digest"
    assert smime.verify(imagelist("openssl-sha1"), allow_sha1=True).digest == "sha1"


def test_tampered_content_is_refused() -> None:
    assert refused(imagelist("bad-tampered")) == "digest_mismatch"
    assert refused((vectors("images") / "cloudkeeper" / "imagelist_invalid.signed").read_bytes()) == "digest_mismatch"


@pytest.mark.peer
@pytest.mark.parametrize("command", ["smime", "cms"])
@pytest.mark.parametrize("text", [False, True])
def test_openssl_accepts_what_we_sign(pki: Pki, tmp_path: Path, command: str, text: bool) -> None:
    message = tmp_path / "message"
    message.write_bytes(smime.sign(JSON, pki.robot, signed_at=NOW, text=text))
    options = ["-text"] if text else []
    ran = subprocess.run(
        [str(need("openssl")), command, "-verify", "-in", str(message), "-CApath", str(pki.certificates), *options],
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == JSON.replace(b"\n", b"\r\n")


@pytest.mark.peer
@pytest.mark.parametrize(
    "options",
    [
        ["smime"],
        ["smime", "-text"],
        ["smime", "-binary"],
        ["smime", "-nodetach"],
        ["smime", "-md", "sha384"],
        ["cms"],
        ["cms", "-keyid"],
        ["cms", "-md", "sha512", "-keyopt", "rsa_padding_mode:pss"],
        ["cms", "-keyopt", "rsa_padding_mode:pss", "-keyopt", "rsa_pss_saltlen:32"],
    ],
    ids=" ".join,
)
def test_we_accept_what_openssl_signs(pki: Pki, tmp_path: Path, options: list[str]) -> None:
    message = openssl_signed(pki.usercert("alice"), pki.userkey("alice"), tmp_path, options)
    signed = smime.verify(message)
    assert json.loads(smime.inner_text(signed.content)) == {"a": 1}
    assert signed.signer == pki.alice.certificate
    assert signed.signed_at is not None


@pytest.mark.peer
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=lambda c: c.name)
def test_ecdsa_is_accepted_both_ways(pki: Pki, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    signer = pki.ca.issue(f"{pki.ca.namespace}/OU=people/CN=elle", key=ec.generate_private_key(curve))
    write_user(signer, tmp_path)
    message = openssl_signed(tmp_path / "usercert.pem", tmp_path / "userkey.pem", tmp_path, ["cms"])
    assert smime.verify(message).signer == signer.certificate
    assert smime.verify(smime.sign(JSON, signer, signed_at=NOW)).signer == signer.certificate


@pytest.mark.peer
def test_two_signers_are_one_too_many(pki: Pki, tmp_path: Path) -> None:
    options = ["cms", "-signer", str(pki.usercert("bob")), "-inkey", str(pki.userkey("bob"))]
    assert refused(openssl_signed(pki.usercert("alice"), pki.userkey("alice"), tmp_path, options)) == "cms_signers"


@pytest.mark.peer
def test_a_message_without_signed_attributes_is_refused(pki: Pki, tmp_path: Path) -> None:
    message = openssl_signed(pki.usercert("alice"), pki.userkey("alice"), tmp_path, ["smime", "-noattr"])
    assert refused(message) == "cms_attributes"


@pytest.mark.peer
def test_a_message_without_the_signers_certificate_is_refused(pki: Pki, tmp_path: Path) -> None:
    message = openssl_signed(pki.usercert("alice"), pki.userkey("alice"), tmp_path, ["smime", "-nocerts"])
    assert refused(message) == "cms_certificate"


def openssl_signed(cert: Path, key: Path, folder: Path, options: list[str]) -> bytes:
    command, *rest = options
    source = folder / "content"
    source.write_bytes(JSON)
    run = [str(need("openssl")), command, "-sign", "-in", str(source), "-signer", str(cert), "-inkey", str(key), *rest]
    return subprocess.run(run, capture_output=True, check=True).stdout


def test_a_signature_made_with_another_key_is_refused(pki: Pki) -> None:
    """The certificate says alice, the key is bob's."""
    forged = smime.sign(JSON, Credential(pki.alice.certificate, pki.bob.key), signed_at=NOW)
    assert refused(forged) == "bad_signature"


def test_the_chain_travels_with_the_signature(pki: Pki) -> None:
    signer = Credential(pki.alice.certificate, pki.alice.key, (pki.ca.certificate,))
    assert smime.verify(smime.sign(JSON, signer, signed_at=NOW)).certificates == (pki.ca.certificate,)


def test_the_layout_is_opensslss(pki: Pki) -> None:
    message = smime.sign(JSON, pki.alice, signed_at=NOW)
    shape = re.compile(
        rb"MIME-Version: 1\.0\n"
        rb'Content-Type: multipart/signed; protocol="application/x-pkcs7-signature"; micalg="sha-256"; '
        rb'boundary="(----[0-9A-F]{32})"\n\n'
        rb"This is an S/MIME signed message\n\n"
        rb'--\1\n\{\r\n  "a": 1\r\n\}\r\n\n--\1\n'
        rb'Content-Type: application/x-pkcs7-signature; name="smime\.p7s"\n'
        rb"Content-Transfer-Encoding: base64\n"
        rb'Content-Disposition: attachment; filename="smime\.p7s"\n\n'
        rb"([A-Za-z0-9+/=]{1,64}\n)+\n--\1--\n\n"
    )
    assert shape.fullmatch(message)


def test_trailing_bytes_after_the_der_are_refused(pki: Pki) -> None:
    der = cms.sign(JSON, pki.alice, signed_at=NOW)
    assert cms.verify(der, [JSON]).content == JSON
    with pytest.raises(Invalid) as caught:
        cms.verify(der + b"\0", [JSON])
    assert caught.value.code == "cms_syntax"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\n\n",
        b'{"hv:imagelist": {}}',
        b"Content-Type: text/plain\n\nhello",
        b"Content-Type: multipart/signed\n\n--x\n",
        b"Content-Type: multipart/signed; boundary=x\n\n--x\na\n--x--\n",
        b"Content-Type: multipart/signed; boundary=x\n\n--x\na\n--x\nContent-Type: text/plain\n\n\n--x--\n",
        b"Content-Type: multipart/signed; boundary=x\n\n--x\na\n--x\n",
        b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nAAAA",
        b"Content-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\n\n!!!!",
        b"X: " + b"y" * 20000 + b"\n\n",
    ],
)
def test_what_is_no_signed_message_is_refused(message: bytes) -> None:
    assert refused(message) == "smime_syntax"


def test_a_message_over_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge):
        smime.verify(b"x" * 1001, max_bytes=1000)


def test_encoded_inner_text_is_decoded() -> None:
    quoted = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na=3Db"
    encoded = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(b"a=b")
    assert smime.inner_text(quoted) == smime.inner_text(encoded) == smime.inner_text(b"a=b") == b"a=b"


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_content_survives_up_to_its_line_ends(pki: Pki, content: bytes) -> None:
    signed = smime.verify(smime.sign(content, pki.alice, signed_at=NOW))
    assert signed.content == smime.canonical(content)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_byte_never_changes_what_is_verified(pki: Pki, data: st.DataObject) -> None:
    """Flip one byte anywhere: refused, or the same content by the same signer, or by one whom the trust store refuses (the
    embedded certificate is not what was signed)."""
    message = bytearray(smime.sign(JSON, pki.alice, signed_at=NOW))
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] ^= data.draw(st.integers(1, 255))
    try:
        signed = smime.verify(bytes(message))
    except Invalid:
        return
    assert smime.canonical(signed.content) == smime.canonical(JSON)
    assert signed.signer == pki.alice.certificate or not pki.trust().verify_path(signed.signer).ok
