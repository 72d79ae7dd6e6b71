"""Attribute certificates: what is written is read again, and every rule has its own refusal."""

import string
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.core.clock import FixedClock
from skyfed.core.errors import Invalid
from skyfed.identity import ac, ac_rules, proxy, signatures
from skyfed.identity.fqan import Fqan
from skyfed.identity.verdict import AcVerdict
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki import names
from skyfed.pki.files import Credential
from skyfed.pki.testca import write_lsc
from support.aai import Authority, chain_der, make_judge
from support.pki import NOW, Pki

HOST = "aa.example.org"


@pytest.fixture(name="authority", scope="module")
def _authority(pki: Pki) -> Authority:
    return Authority("testvo", HOST, pki.host)


@pytest.fixture(name="around")
def _around(pki: Pki, authority: Authority, tmp_path: Path) -> ac_rules.Surroundings:
    authority.trust_in(tmp_path / "vomsdir")
    vomsdir = Vomsdir(tmp_path / "vomsdir", FixedClock(NOW))
    assert vomsdir.generation == 1
    return ac_rules.Surroundings(pki.trust(), vomsdir, "vm.example.org", NOW)


def codes(verdict: AcVerdict) -> list[str]:
    return [finding.code for finding in verdict.findings]


def test_what_the_authority_states_is_read_again(pki: Pki, authority: Authority, around: ac_rules.Surroundings) -> None:
    attributes = (ac.GenericAttribute("nickname", "älice", "testvo"),)
    der = authority.ac(
        pki.alice.certificate,
        ("/testvo/Role=ops", "/testvo", "/testvo/sub"),
        targets=("vm.example.org", "other"),
        attributes=attributes,
    )
    read = ac.decode(der)
    assert [fqan.short for fqan in read.fqans] == ["/testvo/Role=ops", "/testvo", "/testvo/sub"]
    assert read.attributes == attributes
    assert read.targets == ("vm.example.org", "other")
    assert read.certificates == (pki.host.certificate,)
    verdict = ac_rules.judge(der, pki.alice.certificate, around)
    assert verdict.ok, verdict.findings
    assert verdict.fqans[0] == "/testvo/Role=ops/Capability=NULL"
    assert (verdict.vo, verdict.authority) == ("testvo", f"testvo://{HOST}:15000")


def test_an_authority_with_an_elliptic_curve_key_is_believed(pki: Pki, around: ac_rules.Surroundings) -> None:
    for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()):
        credential = pki.ca.issue(f"{pki.ca.namespace}/OU=hosts/CN={HOST}", key=ec.generate_private_key(curve))
        write_lsc(around.vomsdir.path, "ecvo", HOST, (credential.certificate,))
        der = Authority("ecvo", HOST, credential).ac(pki.alice.certificate)
        vomsdir = Vomsdir(around.vomsdir.path, FixedClock(NOW))
        assert vomsdir.generation
        verdict = ac_rules.judge(der, pki.alice.certificate, ac_rules.Surroundings(around.trust, vomsdir, "", NOW))
        assert verdict.ok, verdict.findings


def test_another_persons_certificate_is_refused(pki: Pki, authority: Authority, around: ac_rules.Surroundings) -> None:
    verdict = ac_rules.judge(authority.ac(pki.alice.certificate), pki.bob.certificate, around)
    assert codes(verdict) == ["ac_holder"]


def test_the_holders_own_name_in_place_of_its_issuers_is_accepted_as_old_authorities_wrote_it(
    pki: Pki, authority: Authority, around: ac_rules.Surroundings
) -> None:
    der = authority.ac(pki.alice.certificate, holder_issuer=pki.alice.certificate.subject)
    assert ac_rules.judge(der, pki.alice.certificate, around).ok


@pytest.mark.parametrize(
    ("begins", "ends", "code"),
    [(-3600, -301, "ac_expired"), (-3600, -299, None), (301, 3600, "ac_not_yet_valid"), (299, 3600, None)],
)
def test_clocks_may_differ_by_five_minutes_and_no_more(
    pki: Pki, authority: Authority, around: ac_rules.Surroundings, begins: int, ends: int, code: str | None
) -> None:
    der = authority.ac(
        pki.alice.certificate,
        not_before=NOW + timedelta(seconds=begins),
        not_after=NOW + timedelta(seconds=ends),
    )
    assert codes(ac_rules.judge(der, pki.alice.certificate, around)) == ([code] if code else [])


def test_an_authority_that_no_lsc_file_names_is_refused(pki: Pki, around: ac_rules.Surroundings) -> None:
    other_host = Authority("testvo", "elsewhere.example.org", pki.host).ac(pki.alice.certificate)
    assert codes(ac_rules.judge(other_host, pki.alice.certificate, around)) == ["ac_untrusted_aa"]
    other_vo = Authority("othervo", HOST, pki.host).ac(pki.alice.certificate)
    verdict = ac_rules.judge(other_vo, pki.alice.certificate, around)
    assert codes(verdict) == ["ac_untrusted_aa"]
    assert "othervo" in verdict.findings[0].message
    other_person = Authority("testvo", HOST, pki.bob).ac(pki.alice.certificate)
    assert codes(ac_rules.judge(other_person, pki.alice.certificate, around)) == ["ac_untrusted_aa"]


def test_an_authority_of_an_unknown_ca_is_refused_even_with_the_right_names(
    pki: Pki, around: ac_rules.Surroundings
) -> None:
    forged = Authority("testvo", HOST, pki.stranger)
    forged.trust_in(around.vomsdir.path)
    vomsdir = Vomsdir(around.vomsdir.path, FixedClock(NOW))
    assert vomsdir.generation
    around = ac_rules.Surroundings(around.trust, vomsdir, "", NOW)
    assert codes(ac_rules.judge(forged.ac(pki.alice.certificate), pki.alice.certificate, around)) == ["ac_untrusted_aa"]


def test_an_authority_whose_certificate_was_revoked_is_refused(pki: Pki, around: ac_rules.Surroundings) -> None:
    revoked = Authority("testvo", HOST, pki.revoked)
    revoked.trust_in(around.vomsdir.path)
    vomsdir = Vomsdir(around.vomsdir.path, FixedClock(NOW))
    assert vomsdir.generation
    around = ac_rules.Surroundings(around.trust, vomsdir, "", NOW)
    verdict = ac_rules.judge(revoked.ac(pki.alice.certificate), pki.alice.certificate, around)
    assert codes(verdict) == ["ac_untrusted_aa"]
    assert "revoked" in verdict.findings[0].message


def test_a_certificate_file_in_vomsdir_names_an_authority_by_its_key(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "testvo").mkdir()
    (tmp_path / "testvo" / "aa.pem").write_bytes(pki.hostcert.read_bytes())
    vomsdir = Vomsdir(tmp_path, FixedClock(NOW))
    assert vomsdir.generation
    around = ac_rules.Surroundings(pki.trust(), vomsdir, "", NOW)
    assert ac_rules.judge(
        Authority("testvo", HOST, pki.host).ac(pki.alice.certificate), pki.alice.certificate, around
    ).ok
    wrong = Authority("testvo", HOST, pki.bob).ac(pki.alice.certificate)
    assert codes(ac_rules.judge(wrong, pki.alice.certificate, around)) == ["ac_untrusted_aa"]


def test_more_certificates_than_the_lsc_file_lists_are_refused(
    pki: Pki, authority: Authority, around: ac_rules.Surroundings
) -> None:
    der = ac.issue(
        authority.content(pki.alice.certificate),
        pki.host.certificate,
        pki.host.key,
        issuers=(pki.ca.certificate,),
    )
    assert codes(ac_rules.judge(der, pki.alice.certificate, around)) == ["ac_untrusted_aa"]


def test_a_changed_byte_breaks_the_signature(pki: Pki, authority: Authority, around: ac_rules.Surroundings) -> None:
    der = authority.ac(pki.alice.certificate, ("/testvo/Role=user",))
    forged = der.replace(b"Role=user", b"Role=root")
    assert codes(ac_rules.judge(forged, pki.alice.certificate, around)) == ["ac_signature"]


def test_a_signature_with_another_key_is_refused(pki: Pki, authority: Authority, around: ac_rules.Surroundings) -> None:
    der = ac.issue(authority.content(pki.alice.certificate), pki.host.certificate, pki.bob.key)
    assert codes(ac_rules.judge(der, pki.alice.certificate, around)) == ["ac_signature"]


def test_targets_restrict_to_named_hosts(pki: Pki, authority: Authority, around: ac_rules.Surroundings) -> None:
    elsewhere = authority.ac(pki.alice.certificate, targets=("other.example.org",))
    assert codes(ac_rules.judge(elsewhere, pki.alice.certificate, around)) == ["ac_target"]
    here = authority.ac(pki.alice.certificate, targets=("other.example.org", "VM.example.org"))
    assert ac_rules.judge(here, pki.alice.certificate, around).ok
    nameless = ac_rules.Surroundings(around.trust, around.vomsdir, "", around.now)
    assert codes(ac_rules.judge(here, pki.alice.certificate, nameless)) == ["ac_target"]
    tool = ac_rules.Surroundings(around.trust, around.vomsdir, ac_rules.ANY_HOST, around.now)
    assert ac_rules.judge(elsewhere, pki.alice.certificate, tool).ok


def test_an_fqan_of_another_vo_is_neither_issued_nor_read(pki: Pki, authority: Authority) -> None:
    content = authority.content(pki.alice.certificate, ("/othervo",))
    with pytest.raises(Invalid) as refusal:
        ac.issue(content, pki.host.certificate, pki.host.key)
    assert refusal.value.code == "ac_fqan"
    der = authority.ac(pki.alice.certificate, ("/testvo/a",)).replace(b"/testvo/a/", b"/testvu/a/")
    with pytest.raises(Invalid) as refusal:
        ac.decode(der)
    assert refusal.value.code == "ac_fqan"


class Built:
    """Certificates that our own writer would never write."""

    def __init__(self, pki: Pki, authority: Authority) -> None:
        self.pki = pki
        self.good = ac.asn1.decode_der(ac._AttributeCertificate, authority.ac(pki.alice.certificate))
        self.info = self.good.info.parse(ac._Info)

    def signed(self) -> bytes:
        info = ac.asn1.encode_der(self.info)
        self.good.info = ac.asn1.decode_der(ac.asn1.TLV, info)
        self.good.signature = ac.asn1.BitString(signatures.sign(self.pki.host.key, info), 0)
        return ac.asn1.encode_der(self.good)

    def without(self, oid: x509.ObjectIdentifier) -> None:
        assert self.info.extensions
        self.info.extensions = [e for e in self.info.extensions if e.oid != oid]


@pytest.mark.parametrize("oid", [ac.NO_REV_AVAIL, ac.AUTHORITY_KEY_IDENTIFIER])
def test_a_missing_extension_is_named(
    pki: Pki, authority: Authority, around: ac_rules.Surroundings, oid: x509.ObjectIdentifier
) -> None:
    built = Built(pki, authority)
    built.without(oid)
    verdict = ac_rules.judge(built.signed(), pki.alice.certificate, around)
    assert codes(verdict) == ["ac_missing_extension"]
    assert oid.dotted_string in verdict.findings[0].message


def test_an_unknown_critical_extension_is_refused_and_a_plain_one_is_not(
    pki: Pki, authority: Authority, around: ac_rules.Surroundings
) -> None:
    for critical, expected in ((True, ["ac_critical_extension"]), (False, [])):
        built = Built(pki, authority)
        assert built.info.extensions
        unknown = ac._Extension(oid=x509.ObjectIdentifier("1.2.3.4"), critical=critical, value=b"\x05\x00")
        built.info.extensions = [*built.info.extensions, unknown]
        assert codes(ac_rules.judge(built.signed(), pki.alice.certificate, around)) == expected


def test_a_foreign_issuer_name_or_key_identifier_is_refused(
    pki: Pki, authority: Authority, around: ac_rules.Surroundings
) -> None:
    built = Built(pki, authority)
    built.info.issuer.issuer_name = [pki.bob.certificate.subject]
    assert codes(ac_rules.judge(built.signed(), pki.alice.certificate, around)) == ["ac_signature"]
    built = Built(pki, authority)
    built.without(ac.AUTHORITY_KEY_IDENTIFIER)
    assert built.info.extensions is not None
    wrong = ac._KeyIdentifier(key_identifier=b"x" * 20, issuer=None, serial=None)
    built.info.extensions.append(
        ac._Extension(oid=ac.AUTHORITY_KEY_IDENTIFIER, critical=False, value=ac.asn1.encode_der(wrong))
    )
    assert codes(ac_rules.judge(built.signed(), pki.alice.certificate, around)) == ["ac_signature"]


def test_form_faults_are_refused_as_such(pki: Pki, authority: Authority) -> None:
    def version(built: Built) -> None:
        built.info.version = 0

    def negative_serial(built: Built) -> None:
        built.info.serial = -5

    def long_serial(built: Built) -> None:
        built.info.serial = 1 << 161

    def twice(built: Built) -> None:
        assert built.info.extensions
        built.info.extensions = [*built.info.extensions, built.info.extensions[0]]

    def fraction(built: Built) -> None:
        built.info.validity.not_after = ac.asn1.GeneralizedTime(datetime(2027, 1, 1, 0, 0, 0, 500000, tzinfo=UTC))

    def two_attributes(built: Built) -> None:
        built.info.attributes = built.info.attributes * 2

    for change in (version, negative_serial, long_serial, twice, fraction, two_attributes):
        built = Built(pki, authority)
        change(built)
        with pytest.raises(Invalid) as refusal:
            ac.decode(built.signed())
        assert refusal.value.code == "ac_format", change.__name__
    good = authority.ac(pki.alice.certificate)
    for bad in (good + b"\0", good[:-1], b"", b"\x30\x80\x00\x00", b"\0" * (ac.MAX_AC_BYTES + 1)):
        with pytest.raises(Invalid) as refusal:
            ac.decode(bad)
        assert refusal.value.code == "ac_format"


@pytest.mark.parametrize(
    "uri", ["testvo", "testvo://", "testvo://host", "../x://host:1", "vo://..:1", "vo://a/b:1", "://h:1", "vo://h:port"]
)
def test_a_policy_authority_that_could_name_another_file_is_refused(uri: str) -> None:
    with pytest.raises(Invalid) as refusal:
        ac.parse_authority(uri)
    assert refusal.value.code == "ac_format"


def test_too_many_certificates_in_a_proxy_are_refused(pki: Pki, authority: Authority) -> None:
    one = authority.ac(pki.alice.certificate)
    value = ac.encode_sequence((one,) * (ac.MAX_ACS + 1))
    with pytest.raises(Invalid):
        ac.decode_sequence(value)
    assert ac.decode_sequence(ac.encode_sequence((one, one))) == (one, one)


_name = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."}
)
_groups = st.lists(_name, max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    vo=_name,
    paths=st.lists(
        st.tuples(_groups, st.one_of(st.just(""), _name.filter(lambda r: r != "NULL"))), min_size=1, max_size=6
    ),
    targets=st.lists(st.from_regex(r"[a-z][a-z0-9.\-]{0,20}", fullmatch=True), max_size=3),
    serial=st.integers(0, (1 << 159) - 1),
    seconds=st.integers(0, 10**9),
)
def test_any_statement_survives_the_round_trip(
    pki: Pki, vo: str, paths: list[tuple[list[str], str]], targets: list[str], serial: int, seconds: int
) -> None:
    fqans = tuple(Fqan("/" + "/".join((vo, *groups)), role) for groups, role in paths)
    content = ac.Content(
        holder_issuer=pki.alice.certificate.issuer,
        holder_serial=pki.alice.certificate.serial_number,
        authority=ac.PolicyAuthority(vo, HOST, 15000),
        fqans=fqans,
        serial=serial,
        not_before=datetime(2026, 1, 1, tzinfo=UTC),
        not_after=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds),
        targets=tuple(targets),
    )
    read = ac.decode(ac.issue(content, pki.host.certificate, pki.host.key))
    assert read.fqans == fqans
    assert read.targets == (tuple(targets) or None)
    assert (read.serial, read.not_before, read.not_after) == (serial, content.not_before, content.not_after)
    assert names.same_name(read.issuer, pki.host.certificate.subject)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 5000), byte=st.integers(0, 255))
def test_a_damaged_certificate_is_refused_and_nothing_else_happens(
    pki: Pki, damaged: tuple[bytes, ac_rules.Surroundings], position: int, byte: int
) -> None:
    der, around = damaged
    place = position % len(der)
    if der[place] == byte:
        return
    verdict = ac_rules.judge(der[:place] + bytes([byte]) + der[place + 1 :], pki.alice.certificate, around)
    assert not verdict.ok


@pytest.fixture(name="damaged", scope="module")
def _damaged(
    pki: Pki, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, ac_rules.Surroundings]:
    folder = tmp_path_factory.mktemp("damaged")
    authority.trust_in(folder)
    vomsdir = Vomsdir(folder, FixedClock(NOW))
    assert vomsdir.generation
    der = authority.ac(pki.alice.certificate, ("/testvo/Role=ops", "/testvo"))
    return der, ac_rules.Surroundings(pki.trust(), vomsdir, "", NOW)


@settings(max_examples=200, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_garbage_is_refused_as_garbage(garbage: bytes) -> None:
    with pytest.raises(Invalid):
        ac.decode(garbage)
    with pytest.raises(Invalid):
        ac.decode_sequence(b"\x04" + garbage)


def test_a_garbled_extension_leaves_the_name_and_reports(pki: Pki, tmp_path: Path) -> None:
    credential = _with_extension(pki.alice, b"not der")
    verdict = make_judge(pki.certificates, tmp_path).judge(chain_der(credential))
    assert verdict.principal is not None
    assert verdict.vo_reason is not None
    assert verdict.vo_reason.code == "ac_format"


def _with_extension(issuer: Credential, value: bytes) -> Credential:
    made = proxy.create(issuer, proxy.Proxy(key="ec"), NOW)
    builder = x509.CertificateBuilder(
        made.certificate.issuer,
        made.certificate.subject,
        made.certificate.public_key(),
        made.certificate.serial_number,
        made.certificate.not_valid_before_utc,
        made.certificate.not_valid_after_utc,
        [
            *made.certificate.extensions,
            x509.Extension(ac.AC_SEQUENCE, False, x509.UnrecognizedExtension(ac.AC_SEQUENCE, value)),
        ],
    )
    return Credential(builder.sign(issuer.key, signatures.hash_for(issuer.key.public_key())), made.key, made.chain)
