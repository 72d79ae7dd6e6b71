"""Credentials that real clients made, and forged ones, against the recorded verdicts."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from skyfed.core.clock import FixedClock
from skyfed.identity import ac, proxy
from skyfed.identity.judge import JudgeSettings
from skyfed.identity.verdict import Verdict
from support.aai import chain_der, make_judge
from support.vectors import vectors

RECORDED_AT = datetime(2026, 11, 23, 4, 40, tzinfo=UTC)
GOOD = [
    "cpp-vomsd-2.1.1",
    "cpp-vomsd-debian",
    "java-vomsd-2.1.1",
    "arcproxy-vomsd-2.1.1",
    "py-full",
    "py-limited",
    "py-pathlen0",
    "py-two-level",
    "target-vomsd",
    "target-rfc5755",
]


@pytest.fixture(name="folder")
def _folder() -> Path:
    return vectors("aai")


def judged(folder: Path, name: str, **settings: object) -> Verdict:
    options = {"host": "vm"} | settings
    judge = make_judge(
        folder / "pki/certificates",
        folder / "pki/vomsdir",
        clock=FixedClock(RECORDED_AT),
        settings=JudgeSettings(**options),  # type: ignore[arg-type]
    )
    return judge.judge(chain_der(proxy.read(folder / f"proxies/{name}.pem")))


@pytest.mark.parametrize("name", GOOD)
def test_a_proxy_of_every_client_is_accepted_with_its_attribute_certificate(folder: Path, name: str) -> None:
    verdict = judged(folder, name)
    assert verdict.reason is None
    assert verdict.vo_reason is None
    assert verdict.principal is not None
    assert verdict.principal.subject == "/DC=org/DC=example/OU=people/CN=TEST Alice Example"
    assert verdict.principal.vo_names == ("testvo",)
    assert verdict.principal.fqans[0] == "/testvo/Role=NULL/Capability=NULL" or name.startswith("py-")
    assert verdict.principal.limited == (name == "py-limited")


def test_a_legacy_proxy_is_accepted_only_where_it_is_allowed(folder: Path) -> None:
    refused = judged(folder, "py-gt2-legacy")
    assert refused.principal is None
    assert refused.reason is not None
    assert refused.reason.code == "legacy_proxy"
    allowed = judged(folder, "py-gt2-legacy", accept_legacy_proxies=True)
    assert allowed.principal is not None
    assert allowed.principal.kind == "legacy-proxy"
    assert allowed.principal.vo_names == ("testvo",)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("bad-holder", "ac_holder"),
        ("bad-forged-aa", "ac_untrusted_aa"),
        ("bad-forged-aa-with-fake-ca", "ac_untrusted_aa"),
    ],
)
def test_a_bad_attribute_certificate_leaves_the_name_and_takes_the_rights(folder: Path, name: str, code: str) -> None:
    verdict = judged(folder, name)
    assert verdict.principal is not None
    assert verdict.principal.vos == ()
    assert verdict.vo_reason is not None
    assert verdict.vo_reason.code == code


@pytest.mark.parametrize("name", ["target-vomsd", "target-rfc5755"])
def test_a_targeted_attribute_certificate_is_refused_elsewhere(folder: Path, name: str) -> None:
    verdict = judged(folder, name, host="elsewhere.example.org")
    assert verdict.vo_reason is not None
    assert verdict.vo_reason.code == "ac_target"
    assert judged(folder, name, host="VM").vo_reason is None


def test_a_day_later_every_proxy_has_expired(folder: Path) -> None:
    clock = FixedClock(RECORDED_AT)
    clock.advance(2 * 86400)
    judge = make_judge(folder / "pki/certificates", folder / "pki/vomsdir", clock=clock)
    for name in GOOD:
        verdict = judge.judge(chain_der(proxy.read(folder / f"proxies/{name}.pem")))
        assert verdict.reason is not None, name
        assert verdict.reason.code == "expired", name


def test_every_recorded_attribute_certificate_is_read_and_written_again_byte_for_byte_in_its_names(
    folder: Path,
) -> None:
    files = sorted((folder / "ac").glob("*.ac.der"))
    assert len(files) >= 19
    for file in files:
        read = ac.decode(file.read_bytes())
        assert read.authority.uri == "testvo://localhost:15010"
        assert all(fqan.vo == "testvo" for fqan in read.fqans)
        assert read.no_revocation_available
        assert read.key_identifier == ac.key_identifier(read.certificates[0])
    assert [f.short for f in ac.decode((folder / "ac/rest-role.ac.der").read_bytes()).fqans] == [
        "/testvo/Role=VMManagement",
        "/testvo",
        "/testvo/sub",
        "/testvo/sub/deep",
    ]
    assert ac.decode((folder / "ac/rest-targets.ac.der").read_bytes()).targets == ("vm", "other.example.org")
