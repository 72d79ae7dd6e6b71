"""Distinguished names in their text forms."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.core.errors import Invalid
from skyfed.pki import names
from support.peers import need
from support.pki import Pki
from support.vectors import vectors

UID = "0.9.2342.19200300.100.1.1"
VALUE = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x17F, blacklist_characters="/\\="), min_size=1, max_size=30
).filter(lambda text: text.strip() == text)


def openssl(certificate: Path, *options: str) -> str:
    command = [str(need("openssl")), "x509", "-in", str(certificate), "-noout", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.peer
def test_names_and_hashes_are_openssls(pki: Pki, tmp_path: Path) -> None:
    odd = x509.Name(
        [
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "Org"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "  Două   Spații ", _type=_ASN1Type.UTF8String),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Wide é", _type=_ASN1Type.BMPString),
            x509.NameAttribute(NameOID.COMMON_NAME, "host/Foo.example.org"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "Who@example.org"),
            x509.NameAttribute(x509.ObjectIdentifier(UID), "u1"),
            x509.NameAttribute(x509.ObjectIdentifier("1.2.3.4.5"), "odd"),
        ]
    )
    path = tmp_path / "odd.pem"
    credential = pki.ca.issue("/DC=skyfed/CN=x")
    builder = x509.CertificateBuilder(
        odd, odd, credential.key.public_key(), 7, credential.certificate.not_valid_before_utc,
        credential.certificate.not_valid_after_utc,
    )  # fmt: skip
    path.write_bytes(builder.sign(credential.key, hashes.SHA256()).public_bytes(Encoding.PEM))
    for certificate in (path, pki.usercert("alice"), pki.hostcert):
        subject = x509.load_pem_x509_certificate(certificate.read_bytes()).subject
        # Recent releases put a backslash before a "/" in a value.
        text = openssl(certificate, "-subject", "-nameopt", "compat").removeprefix("subject=")
        assert text.replace("\\/", "/") == names.oneline(subject)
        assert names.same_text(text, names.oneline(subject))
        assert openssl(certificate, "-subject_hash") == names.subject_hash(subject)
        assert openssl(certificate, "-subject_hash_old") == names.subject_hash_old(subject)


def test_the_hashes_of_the_recorded_ca_name_its_files() -> None:
    folder = vectors("aai") / "pki"
    subject = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()).subject
    found = {path.stem for path in (folder / "certificates").glob("*.0")}
    assert found == {names.subject_hash(subject), names.subject_hash_old(subject)}


def test_the_two_text_forms() -> None:
    name = names.from_oneline("/DC=org/DC=example/OU=people/CN=Alice/emailAddress=a@example.org")
    assert names.oneline(name) == "/DC=org/DC=example/OU=people/CN=Alice/emailAddress=a@example.org"
    assert names.rfc4514(name) == "emailAddress=a@example.org,CN=Alice,OU=people,DC=example,DC=org"


def test_a_slash_in_a_value_does_not_split_it() -> None:
    name = names.from_oneline("/DC=org/CN=host/foo.example.org")
    assert names.common_name(name) == "host/foo.example.org"


def test_non_ascii_is_escaped_by_byte() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "é")])
    assert names.oneline(name) == r"/CN=\xC3\xA9"
    assert names.same_text(r"/CN=\xC3\xA9", "/CN=é")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("/DC=org/CN=A/Email=a@b", "/DC=org/CN=A/emailAddress=a@b"),
        ("/DC=org/CN=A/E=a@b", "/DC=org/CN=A/emailAddress=a@b"),
        ("/C=IT/USERID=u1", "/C=IT/UID=u1"),
        ("/C=IT/userId=u1", f"/C=IT/{UID}=u1"),
        ("/DC=org/CN=Alice", "CN=Alice,DC=org"),
        ("/DC=org/CN=A/emailAddress=a@b", "EMAILADDRESS=a@b,CN=A,DC=org"),
    ],
)
def test_spellings_of_one_name_compare_equal(left: str, right: str) -> None:
    assert names.same_text(left, right)


@pytest.mark.parametrize("other", ["/DC=org/CN=alice", "/DC=org/CN=Alice/CN=1", "/CN=Alice/DC=org"])
def test_different_names_compare_different(other: str) -> None:
    assert not names.same_text("/DC=org/CN=Alice", other)


@pytest.mark.parametrize("text", ["", "Alice", "/", "/Alice", "/nosuch=1", "/DC=org" * 1000, "/CN="])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        names.from_oneline(text)
    assert caught.value.code == "dn_syntax"


def test_parsed_names_compare_without_regard_to_string_type_case_and_spaces() -> None:
    def name(value: str, kind: _ASN1Type) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value, _type=kind)])

    assert names.same_name(name("Alice  B", _ASN1Type.PrintableString), name(" alice b", _ASN1Type.UTF8String))
    assert not names.same_name(name("Alice", _ASN1Type.UTF8String), name("Alicf", _ASN1Type.UTF8String))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["DC", "O", "OU", "CN", "UID"]), VALUE), min_size=1, max_size=5))
def test_a_name_survives_its_text(parts: list[tuple[str, str]]) -> None:
    parts = [(key, value if key != "DC" else "dc") for key, value in parts]
    name = names.from_oneline("".join(f"/{key}={value}" for key, value in parts))
    assert names.from_oneline(names.oneline(name)) == name
    assert names.same_text(names.oneline(name), names.rfc4514(name))
