"""The repository over real TLS: who may post, what is public, what the client and the commands show."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.applications import Starlette

from accounting.support_repository import MemoryRegistry, dn, record, repository, signed
from skyfed.accounting import http
from skyfed.accounting.cli import accounting
from skyfed.accounting.client import AccountingClient
from skyfed.accounting.formats import write_records
from skyfed.accounting.service import Repository
from skyfed.core.clock import FixedClock, SystemClock
from skyfed.core.errors import Forbidden, Invalid, TooLarge, Unauthenticated
from skyfed.core.http import Client
from skyfed.core.sql import Database
from skyfed.pki import smime
from skyfed.pki.tls import ClientTls, ServerTls
from skyfed.web.front import front_door
from skyfed.web.runtime import Assembly
from support.aai import make_judge
from support.pki import NOW, Pki
from support.web import serving

MAX = 20_000


@pytest.fixture
def repo(db: Database, pki: Pki) -> Repository:
    return repository(db, pki.trust(), MemoryRegistry({"ALPHA": [dn(pki.host)]}))


@pytest.fixture
def url(repo: Repository, pki: Pki, tmp_path: Path) -> Iterator[str]:
    clock = FixedClock(NOW)
    routes = http.routes(repo, max_message_bytes=MAX)
    assembly = Assembly(app=Starlette(routes=routes), public=http.is_public)
    (tmp_path / "vomsdir").mkdir()
    judge = make_judge(pki.certificates, tmp_path / "vomsdir", clock=clock)
    tls = ServerTls(pki.trust(), pki.hostcert, pki.hostkey, clock)
    app = front_door(assembly, service="accounting", judge=judge, clock=clock)
    with serving(app, tls=tls.context) as server:
        yield f"https://localhost:{server.port}"


def as_(pki: Pki, who: str | None) -> Client:
    """An HTTP client with the credential of `who` (`host`, a user, or nobody)."""
    files = {"host": (pki.hostcert, pki.hostkey), None: (None, None)}
    cert, key = files[who] if who in files else (pki.usercert(who), pki.userkey(who))
    return Client(ssl_context=ClientTls(pki.trust(), SystemClock(), cert=cert, key=key).current)


def client(pki: Pki, url: str, who: str | None) -> AccountingClient:
    return AccountingClient(as_(pki, who), url)


def test_a_site_posts_and_everybody_sees_the_sums(pki: Pki, url: str) -> None:
    receipt = client(pki, url, "host").post_message(signed(pki.host, record("a"), record("b")), empaid="1/2")
    assert (receipt.stored, receipt.duplicate) == (2, False)
    (found,) = client(pki, url, None).summaries(site="ALPHA", vo="demo.skyfed")
    assert (found.wall_duration, found.cpu_duration, found.number_of_vms) == (7200, 7200, 2)
    assert found.network_inbound is None
    assert found.global_user_name == "withheld"
    assert float(found.cpu_count) == 2


def test_posting_needs_a_credential(pki: Pki, url: str) -> None:
    for who, code in ((None, "no_certificate"), ("expired", "expired"), ("revoked", "revoked")):
        with pytest.raises(Unauthenticated) as caught:
            client(pki, url, who).post_message(signed(pki.host, record()), empaid="1")
        assert caught.value.code == code


def test_the_reason_of_a_refusal_reaches_the_sender(pki: Pki, url: str) -> None:
    with pytest.raises(Forbidden, match="BETA") as caught:
        client(pki, url, "host").post_message(signed(pki.host, record(site="BETA")), empaid="1")
    assert caught.value.code == "signer_not_bound"
    with pytest.raises(Invalid) as wrong:
        client(pki, url, "host").post_message(b"nonsense", empaid="1")
    assert wrong.value.code == "smime_syntax"


def test_a_message_over_the_limit_is_refused_unread(pki: Pki, url: str) -> None:
    with pytest.raises(TooLarge):
        client(pki, url, "host").post_message(b"x" * (MAX + http.ENVELOPE_BYTES + 1), empaid="1")


def test_another_client_may_bring_a_message_but_the_signer_counts(pki: Pki, url: str) -> None:
    assert client(pki, url, "alice").post_message(signed(pki.host, record()), empaid="1").stored == 1
    with pytest.raises(Forbidden):
        client(pki, url, "host").post_message(signed(pki.alice, record("x")), empaid="1")


def test_the_reference_rest_interface_takes_bare_text_from_the_host(pki: Pki, url: str) -> None:
    def post(who: str) -> tuple[int, str]:
        body = write_records([record("rest")])
        answer = as_(pki, who).request("POST", f"{url}/api/v1/cloud/record", body=body, headers={"Empa-Id": "x"})
        return answer.status, answer.text

    assert post("host") == (202, "Data successfully saved for future loading.")
    assert post("alice")[0] == 403
    assert [s.number_of_vms for s in client(pki, url, None).summaries()] == [1]


def test_names_and_records_are_for_those_who_may_see_them(pki: Pki, url: str) -> None:
    alice, bob = dn(pki.alice), dn(pki.bob)
    body = signed(pki.host, record("a", global_user_name=alice), record("b", global_user_name=bob))
    client(pki, url, "host").post_message(body, empaid="1")
    for ask in (
        lambda c: list(c.records()),
        lambda c: list(c.summaries(users=True)),
        lambda c: list(c.summaries(user="me")),
    ):
        with pytest.raises(Unauthenticated):
            ask(client(pki, url, None))
    (mine,) = client(pki, url, "alice").records()
    assert (mine.record.vm_uuid, mine.record.global_user_name, mine.current) == ("a", alice, True)
    assert list(client(pki, url, "alice").records(user=bob)) == []
    assert [s.global_user_name for s in client(pki, url, "bob").summaries(users=True)] == [bob]
    assert len(list(client(pki, url, "host").records())) == 2
    with pytest.raises(Invalid):
        list(client(pki, url, None)._pages("/v1/summaries", {"user": alice}, dict))


def test_nothing_public_holds_a_name(pki: Pki, url: str) -> None:
    client(pki, url, "host").post_message(signed(pki.host, record(global_user_name=dn(pki.alice))), empaid="1")
    for path in ("/v1/summaries", "/v1/usage/today", "/v1/summaries?vo=demo.skyfed&limit=1"):
        text = as_(pki, None).request("GET", url + path).raise_for_status().text
        assert "ALPHA" in text
        assert "alice" not in text


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=99999", "month=2026-13", "month=13", "offset=-1", "yeer=2026", "users=1", "site=%00"],
)
def test_a_wrong_parameter_is_named(pki: Pki, url: str, query: str) -> None:
    answer = as_(pki, None).request("GET", f"{url}/v1/summaries?{query}")
    assert answer.status == 400
    assert answer.json()["code"] == "parameter"


def test_answers_come_in_pages(pki: Pki, url: str) -> None:
    records = [record(str(i), image_id=f"image-{i}") for i in range(5)]
    client(pki, url, "host").post_message(signed(pki.host, *records), empaid="1")
    http_client = as_(pki, None)
    seen, path = [], "/v1/summaries?limit=2"
    while path:
        page = http_client.request("GET", url + path).raise_for_status().json()
        seen += [item["ImageId"] for item in page["results"]]
        path = page["next"]
    assert sorted(seen) == [f"image-{i}" for i in range(5)]


def test_a_sender_reads_its_ledger(pki: Pki, url: str) -> None:
    host = client(pki, url, "host")
    with pytest.raises(Forbidden):
        host.post_message(signed(pki.host, record(site="BETA")), empaid="mine")
    (entry,) = host.messages(verdict="rejected")
    assert (entry["empaid"], entry["code"]) == ("mine", "signer_not_bound")
    assert client(pki, url, "alice").messages() == []


def test_todays_usage_is_public(pki: Pki, url: str) -> None:
    client(pki, url, "host").post_message(signed(pki.host, record()), empaid="1")
    today = client(pki, url, None).today()
    assert today.since % 86_400 == 0
    assert [(usage.site, usage.vo, usage.vms) for usage in today.usage] == [("ALPHA", "demo.skyfed", 1)]


# -- commands ---------------------------------------------------------------------------------------------------


def run(pki: Pki, url: str, *arguments: str, proxy: Path | None = None) -> str:
    environment = {
        "SKYFED_ACCOUNTING": url,
        "X509_CERT_DIR": str(pki.certificates),
        "X509_USER_PROXY": str(proxy) if proxy else "",
    }
    result = CliRunner().invoke(accounting, list(arguments), env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def proxy(pki: Pki, tmp_path: Path) -> Path:
    """Alice's credential in one file, as a proxy file is."""
    path = tmp_path / "x509up"
    path.write_bytes(pki.alice.pem())
    return path


def test_the_summary_command_shows_the_sums(pki: Pki, url: str) -> None:
    assert run(pki, url, "summary").strip() == "no usage"
    client(pki, url, "host").post_message(signed(pki.host, record()), empaid="1")
    text = run(pki, url, "summary", "--site", "ALPHA", "--vo", "demo.skyfed")
    assert "demo.skyfed" in text
    assert " 60 min " in text
    (row,) = json.loads(run(pki, url, "summary", "--json"))
    assert (row["SiteName"], row["WallDuration"], row["CpuCount"]) == ("ALPHA", 3600, 2)
    assert json.loads(run(pki, url, "summary", "--json", "--month", "1999-01")) == []


def test_a_short_run_is_told_in_seconds_and_a_long_one_in_hours(pki: Pki, url: str, proxy: Path) -> None:
    alice = dn(pki.alice)
    short = record("short", wall=17, cpu_duration=0, global_user_name=alice, image_id="i-1")
    long = record("long", wall=9_000, cpu_duration=8_000, global_user_name=alice, image_id="i-2")
    client(pki, url, "host").post_message(signed(pki.host, short, long), empaid="1")
    for command in ("summary", "records"):
        text = run(pki, url, command, proxy=proxy)
        assert re.search(r" 17 s +0 s ", text)
        assert re.search(r" 2\.5 h +2\.2 h ", text)


def test_the_records_command_shows_ones_own(pki: Pki, url: str, proxy: Path) -> None:
    body = signed(pki.host, record("mine", global_user_name=dn(pki.alice)), record("theirs"))
    client(pki, url, "host").post_message(body, empaid="1")
    text = run(pki, url, "records", proxy=proxy)
    assert "mine" in text
    assert "theirs" not in text
    (row,) = json.loads(run(pki, url, "summary", "--mine", "--json", proxy=proxy))
    assert row["GlobalUserName"] == dn(pki.alice)


def test_what_a_site_sends_cannot_steer_the_terminal(pki: Pki, url: str, proxy: Path) -> None:
    text = (
        write_records([record("plain", global_user_name=dn(pki.alice))])
        .decode()
        .replace("VMUUID: plain", "VMUUID: \x9b31mred")
    )
    body = smime.sign(text.encode(), pki.host, signed_at=NOW, text=True)
    client(pki, url, "host").post_message(body, empaid="1")
    shown = run(pki, url, "records", proxy=proxy)
    assert "31mred" in shown
    assert "\x9b" not in shown


def test_a_wrong_month_is_a_usage_error(pki: Pki, url: str) -> None:
    result = CliRunner().invoke(accounting, ["summary", "--month", "soon"], env={"SKYFED_ACCOUNTING": url})
    assert result.exit_code == 2
    assert "YYYY-MM" in result.output
