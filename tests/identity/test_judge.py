"""The judge's memory: quick while nothing changes, void as soon as anything does."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from skyfed.core.clock import FixedClock
from skyfed.identity import proxy
from skyfed.identity.bans import FileBans
from skyfed.identity.judge import Judge, JudgeSettings
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki.trust import TrustStore
from support.aai import Authority, chain_der, make_judge
from support.pki import NOW, make_pki


class Site:
    """A judge with everything that it rests on."""

    def __init__(self, folder: Path) -> None:
        self.pki = make_pki(folder / "pki")
        self.clock = FixedClock(NOW)
        self.vomsdir = folder / "vomsdir"
        self.vomsdir.mkdir()
        self.bans = folder / "bans"
        self.authority = Authority("testvo", "aa.example.org", self.pki.host)
        self.authority.trust_in(self.vomsdir)
        self.chain = chain_der(self.authority.proxy(self.pki.alice, ("/testvo/Role=ops", "/testvo")))
        self.judge = self.make()

    def make(self, settings: JudgeSettings | None = None) -> Judge:
        trust = TrustStore(self.pki.certificates, self.clock)
        bans = [FileBans(self.bans, self.clock)]
        return Judge(trust, Vomsdir(self.vomsdir, self.clock), bans, self.clock, settings)

    def code(self) -> str:
        verdict = self.judge.judge(self.chain)
        return verdict.reason.code if verdict.reason else ""

    def ban(self, *lines: str) -> None:
        self.bans.write_text("".join(f"{line}\n" for line in lines))
        os.utime(self.bans, ns=(time.time_ns(), time.time_ns()))
        self.clock.advance(1)


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_same_verdict_is_given_again_while_nothing_changes(site: Site) -> None:
    first = site.judge.judge(site.chain)
    site.clock.advance(299)
    assert site.judge.judge(list(site.chain)) is first
    site.clock.advance(2)
    assert site.judge.judge(site.chain) is not first


def test_a_credential_that_ends_while_it_is_remembered_is_refused(site: Site) -> None:
    short = proxy.create(site.pki.alice, proxy.Proxy(key="ec", lifetime=timedelta(seconds=60)), NOW)
    assert site.judge.judge(chain_der(short)).ok
    site.clock.advance(61)
    verdict = site.judge.judge(chain_der(short))
    assert verdict.reason is not None
    assert verdict.reason.code == "expired"


def test_rights_end_with_the_attribute_certificate_while_the_name_goes_on(site: Site) -> None:
    made = site.authority.proxy(
        site.pki.alice, not_before=NOW - timedelta(hours=1), not_after=NOW - timedelta(seconds=200)
    )
    assert site.judge.judge(chain_der(made)).principal.vo_names == ("testvo",)  # type: ignore[union-attr]
    site.clock.advance(102)
    verdict = site.judge.judge(chain_der(made))
    assert verdict.principal is not None
    assert verdict.principal.vos == ()
    assert verdict.vo_reason is not None
    assert verdict.vo_reason.code == "ac_expired"


def test_a_clock_set_back_makes_the_judge_look_again(site: Site) -> None:
    first = site.judge.judge(site.chain)
    site.clock.step(-60)
    assert site.judge.judge(site.chain) is not first


def test_a_published_revocation_counts_at_the_next_request(site: Site) -> None:
    assert site.code() == ""
    site.pki.ca.revoke(site.pki.alice.certificate)
    site.pki.ca.publish(site.pki.certificates)
    site.clock.advance(1.1)
    assert site.code() == "revoked"


def test_a_removed_anchor_counts_at_the_next_request(site: Site) -> None:
    assert site.code() == ""
    for path in site.pki.certificates.glob("*.0"):
        path.unlink()
    site.clock.advance(1.1)
    assert site.code() == "unknown_ca"


def test_a_removed_lsc_file_counts_at_the_next_request(site: Site) -> None:
    assert site.judge.judge(site.chain).principal.vo_names == ("testvo",)  # type: ignore[union-attr]
    (site.vomsdir / "testvo" / "aa.example.org.lsc").unlink()
    site.clock.advance(1)
    verdict = site.judge.judge(site.chain)
    assert verdict.principal is not None
    assert verdict.principal.vos == ()
    assert verdict.vo_reason is not None
    assert verdict.vo_reason.code == "ac_untrusted_aa"


@pytest.mark.parametrize(
    "line",
    [
        '"/DC=skyfed/DC=demo/OU=people/CN=alice"',
        "/DC=skyfed/DC=demo/OU=people/CN=ali*",
        "issuer /DC=skyfed/DC=demo/*",
        "/testvo/Role=ops",
        "/testvo/Role=ops/Capability=NULL  # compromised",
        "fqan /testvo/*",
    ],
)
def test_a_ban_counts_within_a_second_and_its_removal_too(site: Site, line: str) -> None:
    assert site.code() == ""
    site.ban("# banned today", line)
    assert site.code() == "banned"
    site.ban()
    assert site.code() == ""


def test_a_ban_by_fingerprint_or_of_another_spares_this_one(site: Site) -> None:
    principal = site.judge.judge(site.chain).principal
    assert principal is not None
    site.ban("/DC=skyfed/DC=demo/OU=people/CN=bob", "/othervo", "dn /DC=skyfed/*/CN=bob")
    assert site.code() == ""
    site.ban(f"fingerprint {principal.fingerprint.upper()}")
    assert site.code() == "banned"


def test_a_line_that_is_no_ban_does_not_undo_the_others(site: Site) -> None:
    site.ban("no ban at all", '"/DC=skyfed/DC=demo/OU=people/CN=alice"')
    assert site.code() == "banned"


def test_the_memory_is_bounded(site: Site) -> None:
    judge = site.make(JudgeSettings(cache_entries=2))
    chains = [chain_der(c) for c in (site.pki.alice, site.pki.bob, site.pki.robot)]
    first = judge.judge(chains[0])
    for chain in chains:
        judge.judge(chain)
    assert len(judge._cache) == 2
    assert judge.judge(chains[0]) is not first


def test_a_remembered_verdict_costs_microseconds_and_a_new_one_milliseconds(site: Site) -> None:
    site.judge.judge(site.chain)
    warm = min(_seconds(lambda: site.judge.judge(site.chain), 500) for _ in range(5))
    cold = min(_seconds(lambda: site.judge.judge_at(site.chain, NOW), 20) for _ in range(5))
    assert warm < 100e-6
    assert cold < 10e-3


def _seconds(action: object, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        action()  # type: ignore[operator]
    return (time.perf_counter() - began) / times


def test_without_a_vomsdir_nobody_has_rights_but_everybody_a_name(site: Site, tmp_path: Path) -> None:
    judge = make_judge(site.pki.certificates, tmp_path / "absent")
    verdict = judge.judge(site.chain)
    assert verdict.principal is not None
    assert verdict.principal.vos == ()
