"""Bad input to a running federation: each gets an answer with a reason of its own, and leaves nothing behind."""

import contextlib
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from skyfed.core.clock import SystemClock
from skyfed.federation.nodes import DEMO_VO
from skyfed.federation.places import NAME, NODES, Places
from skyfed.identity import ac, proxy
from skyfed.node.config import Node
from skyfed.node.supervisor import read_states
from skyfed.pki.files import Credential, pem_certificate
from skyfed.pki.testca import ThrowawayCA
from skyfed.voms.cli import proxy as proxy_command
from skyfed.web.guard import Limits
from support.aai import Authority
from support.doors import CLAIMS, Door, doors
from support.live import Live, ask_on, code_of, until
from support.peers import need
from support.web import read_answer, read_end

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

KIND = 'Category: compute; scheme="http://schemas.ogf.org/occi/infrastructure#"; class="kind"\n'
JSON = {"Accept": "application/json"}
TEXT = {**JSON, "Content-Type": "text/plain"}
LIMITS = Limits()


@pytest.fixture(scope="module")
def live(places: Places, tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live(places, tmp_path_factory.mktemp("live")).settled()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(live: Live) -> Iterator[None]:
    before = live.stock()
    yield
    assert live.stock() == before


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


# -- credentials ------------------------------------------------------------------------------------------------------


class Strangers:
    """A CA that nobody here trusts, with the demo CA's own name, and an attribute authority of its own."""

    def __init__(self, folder: Path) -> None:
        self.ca = ThrowawayCA.create(folder, SystemClock())
        self.authority = Authority(DEMO_VO, NAME, self.ca.host("federation.localhost"))


@pytest.fixture(scope="module")
def strangers(live: Live) -> Strangers:
    return Strangers(live.folder / "strangers")


@pytest.fixture(scope="module")
def revoked(live: Live) -> Credential:
    """A person of the demo CA on its published CRL."""
    ca = live.ca
    credential = ca.user("mallory")
    ca.revoke(credential.certificate)
    ca.publish(live.places.certificates)
    return credential


def _expired(live: Live, _strangers: Strangers) -> Credential:
    wanted = proxy.Proxy(lifetime=timedelta(minutes=10), key="ec")
    return proxy.create(live.user("alice"), wanted, now() - timedelta(minutes=30))


def _with_ac(live: Live, der: bytes) -> Credential:
    return proxy.create(live.user("alice"), proxy.Proxy(key="ec", acs=(der,)), now())


def _forged(live: Live, strangers: Strangers) -> Credential:
    """What the real authority never said: its own certificate, another key's signature."""
    real = live.authority()
    alice = live.user("alice").certificate
    stranger = strangers.authority.credential.key
    return _with_ac(live, ac.issue(real.content(alice), real.credential.certificate, stranger))


def _elsewhere(live: Live, _strangers: Strangers) -> Credential:
    host = live.ca.host("evil.localhost")
    return Authority(DEMO_VO, "evil.localhost", host).proxy(live.user("alice"))


def _past(live: Live, _strangers: Strangers) -> Credential:
    hours = {"not_before": now() - timedelta(hours=3), "not_after": now() - timedelta(hours=1)}
    return live.authority().proxy(live.user("alice"), **hours)


Maker = Callable[[Live, Strangers], Credential | None]
REFUSED: dict[str, tuple[Maker, int, str, str]] = {
    "no credential": (lambda _l, _s: None, 401, "no_certificate", "skyfed proxy init"),
    "an expired proxy": (_expired, 401, "expired", "make a new one"),
    "a proxy without attributes": (
        lambda live, _: proxy.create(live.user("alice"), proxy.Proxy(key="ec"), now()),
        403,
        "no_vo",
        "accepted here: demo.skyfed",
    ),
    "a member of another VO": (
        lambda live, _: live.authority("ops").proxy(live.user("oscar")),
        403,
        "vo_not_accepted",
        "VO ops is not accepted here",
    ),
    "attributes of an authority on another host": (_elsewhere, 403, "ac_untrusted_aa", "evil.localhost"),
    "attributes of an authority of the right names and an unknown CA": (
        lambda live, strangers: strangers.authority.proxy(live.user("alice")),
        403,
        "ac_untrusted_aa",
        "the signature does not verify",
    ),
    "attributes that the authority did not sign": (_forged, 403, "ac_signature", "not the attribute authority's"),
    "another person's attributes": (
        lambda live, _: _with_ac(live, live.authority().ac(live.user("bob").certificate)),
        403,
        "ac_holder",
        "it was issued to the certificate",
    ),
    "attributes of yesterday": (_past, 403, "ac_expired", "make a new proxy"),
    "attributes for another host": (
        lambda live, _: live.authority().proxy(live.user("alice"), targets=("elsewhere.org",)),
        403,
        "ac_target",
        "elsewhere.org",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_credential_that_is_not_good_enough_is_told_why(live: Live, strangers: Strangers, name: str) -> None:
    make, status, code, words = REFUSED[name]
    credential = make(live, strangers)
    for method, body in (("GET", b""), ("POST", KIND.encode())):
        answer = live.ask("alpha", "occi", method, "/compute/", credential, headers=TEXT, body=body)
        assert (answer.status, code_of(answer)) == (status, code)
        assert words in answer.body.decode()


def test_a_revoked_person_is_told_so_and_gets_no_attributes(live: Live, revoked: Credential) -> None:
    credential = live.authority().proxy(revoked)
    until(
        lambda: code_of(live.ask("alpha", "occi", "GET", "/compute/", credential, headers=JSON)) == "revoked", "the CRL"
    )
    answer = live.ask("alpha", "occi", "POST", "/compute/", credential, headers=TEXT, body=KIND.encode())
    assert (answer.status, code_of(answer)) == (401, "revoked")
    assert explained(live, live.file(credential)) == {"revoked"}

    def asked_for_attributes() -> str:
        with live.connect("federation", "voms", revoked) as sock:
            sock.sendall(b"GET /generate-ac HTTP/1.0\n\n")
            said = read_end(sock).decode()
        assert "<ac>" not in said
        return said

    until(lambda: "was revoked at" in asked_for_attributes(), "the authority does not notice the CRL")


def test_a_limited_proxy_looks_and_starts_nothing(live: Live) -> None:
    limited = live.authority().proxy(live.user("alice"), limited=True)
    assert live.ask("alpha", "occi", "GET", "/compute/", limited, headers=JSON).status == 200
    answer = live.ask("alpha", "occi", "POST", "/compute/", limited, headers=TEXT, body=KIND.encode())
    assert (answer.status, code_of(answer)) == (403, "limited_proxy")


def gets_an_answer(live: Live, node: str, service: str, credential: Credential) -> bool:
    """Whether TLS lets it get as far as an HTTP answer."""
    try:
        return bool(live.ask(node, service, "GET", "/", credential).status)
    except (ssl.SSLError, ConnectionError):
        return False


def test_an_unknown_authority_ends_in_the_handshake_everywhere_and_explain_says_why(
    live: Live, strangers: Strangers
) -> None:
    stranger = strangers.ca.user("alice")
    for node, service in (
        ("alpha", "occi"),
        ("federation", "registry"),
        ("federation", "portal"),
        ("federation", "voms"),
    ):
        assert not gets_an_answer(live, node, service, stranger), (node, service)
    log = (live.places.node("alpha") / "log" / "site.log").read_text()
    assert "TLS handshake failed; `skyfed proxy explain` says why" in log
    assert explained(live, live.file(stranger)) == {"bad_signature"}


def test_a_legacy_proxy_ends_in_the_handshake_and_explain_says_why(live: Live) -> None:
    """GT2 proxies have no extension that says so: to TLS this is a person's certificate that signs another's."""
    alice = live.user("alice")
    key = ec.generate_private_key(ec.SECP256R1())
    below = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "proxy")])
    builder = x509.CertificateBuilder().issuer_name(alice.certificate.subject).public_key(key.public_key())
    builder = builder.subject_name(x509.Name([*alice.certificate.subject.rdns, below])).serial_number(7)
    builder = builder.not_valid_before(now()).not_valid_after(now() + timedelta(hours=1))
    legacy = Credential(builder.sign(alice.key, hashes.SHA256()), key, (alice.certificate,))
    assert not gets_an_answer(live, "alpha", "occi", legacy)
    assert "legacy_proxy" in explained(live, live.file(legacy))


def explained(live: Live, path: Path) -> set[str]:
    """The codes of the rules that a credential breaks."""
    trust = {"X509_CERT_DIR": str(live.places.certificates), "X509_VOMS_DIR": str(live.places.vomsdir)}
    done = CliRunner().invoke(proxy_command, ["explain", str(path), "--json"], env=trust)
    assert done.exit_code == 1
    return {rule["code"] for rule in json.loads(done.stdout)["rules"] if rule["outcome"] == "failed"}


def test_what_is_no_credential_is_called_so(live: Live, alice: dict[str, str]) -> None:
    garbage = live.folder / "garbage.pem"
    garbage.write_bytes(b"-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n")
    trust = {"X509_CERT_DIR": alice["X509_CERT_DIR"], "X509_VOMS_DIR": alice["X509_VOMS_DIR"]}
    said = CliRunner().invoke(proxy_command, ["explain", str(garbage)], env=trust)
    assert said.exit_code == 1
    assert "garbage.pem" in str(said.exception)
    with live.connect("alpha", "occi") as sock:
        sock.sendall(b"\x00\xff garbage\r\n\r\n")
        assert read_answer(sock).status == 400


# -- anchors and sessions ---------------------------------------------------------------------------------------------


def test_a_removed_authority_is_believed_no_more_though_nothing_was_restarted(live: Live) -> None:
    other = ThrowawayCA.create(live.folder / "guests-ca", SystemClock(), dn="/DC=org/DC=elsewhere/CN=Guests CA")
    guest = proxy.create(other.user("guest"), proxy.Proxy(key="ec"), now())
    before = [(state.pid, state.restarts) for state in read_states(Node.load(live.places.node("alpha")))]
    kept = set(live.places.certificates.iterdir())
    other.publish(live.places.certificates)
    try:
        until(lambda: gets_an_answer(live, "alpha", "occi", guest), "the new authority is not noticed")
        with live.connect("alpha", "occi", guest) as sock:
            answer = ask_on(sock, "GET", "/compute/", headers=JSON)
            assert (answer.status, code_of(answer)) == (403, "no_vo")
            for path in set(live.places.certificates.iterdir()) - kept:
                path.unlink()
            until(lambda: not gets_an_answer(live, "alpha", "occi", guest), "the removed authority is still believed")
            answer = ask_on(sock, "GET", "/compute/", headers=JSON)
            assert (answer.status, code_of(answer)) == (401, "unknown_ca")
    finally:
        for path in set(live.places.certificates.iterdir()) - kept:
            path.unlink()
    assert [(state.pid, state.restarts) for state in read_states(Node.load(live.places.node("alpha")))] == before


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_session_that_is_taken_up_again_gives_no_access_without_a_chain(
    live: Live, tmp_path: Path, version: str
) -> None:
    """TLS 1.3 resumes nothing. A TLS 1.2 session is in the server's memory, with the chain: the judge sees it each time,
    and a ban counts for it."""
    name = f"taken-up{version}"
    credential = live.authority().proxy(live.ca.user(name))
    file, chain, session = live.file(credential), tmp_path / "chain.pem", tmp_path / "session"
    chain.write_bytes(b"".join(map(pem_certificate, credential.chain)))
    address = f"127.0.0.1:{live.places.port('alpha', 'occi')}"
    command = [str(need("openssl")), "s_client", "-connect", address, version, "-ign_eof"]
    request = b"GET /compute/ HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n"

    def said(*more: str) -> str:
        done = subprocess.run([*command, *more], input=request, capture_output=True, timeout=20, check=False)
        return done.stdout.decode(errors="replace")

    first = said("-cert", str(file), "-key", str(file), "-cert_chain", str(chain), "-sess_out", str(session))
    assert "HTTP/1.1 200" in first
    taken_up = ("-sess_in", str(session)) if session.exists() else ()
    again = said(*taken_up)
    resumed = "Reused, TLSv1" in again
    assert (version == "-tls1_2") == resumed
    assert ("HTTP/1.1 200" in again) == resumed
    assert ("no_certificate" in again) != resumed
    with banned(live, f"/DC=skyfed/DC=demo/OU=people/CN={name}"):
        until(lambda: "HTTP/1.1 40" in said(*taken_up), "a resumed session outlives a ban")
        assert ("is banned here" in said(*taken_up)) == resumed


@contextlib.contextmanager
def banned(live: Live, who: str) -> Iterator[None]:
    bans = live.places.node("alpha") / "bans.txt"
    before = bans.read_text()
    bans.write_text(f"{before}{who}\n")
    try:
        yield
    finally:
        bans.write_text(before)


# -- headers that claim an identity -----------------------------------------------------------------------------------


def test_an_identity_that_headers_claim_is_nobodys_on_any_route_of_any_service(live: Live) -> None:
    found = [door for node in NODES for door in doors(live.places.node(node))]
    assert len({(door.node, door.service) for door in found}) == 6
    for door in found:
        with live.connect(door.node, door.service) as plain, live.connect(door.node, door.service) as claiming:
            for method, path in door.targets:
                _claims_nothing(door, method, path, plain, claiming)


def _claims_nothing(door: Door, method: str, path: str, plain: ssl.SSLSocket, claiming: ssl.SSLSocket) -> None:
    target = path.replace("{", "").replace("}", "")
    if method == "HEAD":
        return  # is GET; `read_answer` cannot know that no body follows
    without, with_claims = ask_on(plain, method, target), ask_on(claiming, method, target, headers=CLAIMS)
    assert with_claims.status == without.status, (door.service, method, path)
    assert with_claims.status != 500
    if without.status == 401:
        assert "certificate" in with_claims.body.decode()


def test_claimed_identities_see_no_personal_data_where_the_door_is_public(live: Live) -> None:
    contacts = live.ask("federation", "registry", "GET", "/gocdbpi/public/?method=get_site_contacts", headers=CLAIMS)
    assert b"EMAIL" not in contacts.body.upper()
    users = live.ask("federation", "accounting", "GET", "/v1/summaries?users=true", headers=CLAIMS)
    assert (users.status, code_of(users)) == (401, "no_certificate")


# -- oversized and malformed OCCI -------------------------------------------------------------------------------------

MIB = 1 << 20
MANY = KIND + "".join(f'Category: c{n}; scheme="http://example.org/x#"; class="mixin"\n' for n in range(5000))
BAD_REQUESTS: dict[str, tuple[Mapping[str, str], bytes, int, str]] = {
    "an unterminated quote of 64 KiB": (
        {"Content-Type": "text/plain"}, f'{KIND}X-OCCI-Attribute: occi.core.title="{"a" * 65536}\n'.encode(), 400, "title",
    ),
    "the same in a header field": (
        {"Content-Type": "text/occi", "Category": KIND[10:-1], "X-OCCI-Attribute": f'occi.core.title="{"a" * 65536}'},
        b"", 400, "title",
    ),
    "five thousand categories": ({"Content-Type": "text/plain"}, MANY.encode(), 413, "more than 100 categories"),
    "bytes that are no text": ({"Content-Type": "text/plain"}, b"Category: \xff\xfe\n", 400, "UTF-8"),
    "no kind": ({"Content-Type": "text/plain"}, b'X-OCCI-Attribute: occi.core.title="x"\n', 400, "kind"),
    "a kind that is not offered": (
        {"Content-Type": "text/plain"}, b'Category: x; scheme="http://example.org/y#"; class="kind"\n', 400, "http://example.org/y#x",
    ),
    "control characters": (
        {"Content-Type": "text/plain"}, f'{KIND}X-OCCI-Attribute: occi.core.title="a\x00b"\n'.encode(), 400, "control",
    ),
    "JSON without an end": ({"Content-Type": "application/occi+json"}, b'{"kind": "', 400, "JSON"),
    "JSON a hundred thousand deep": ({"Content-Type": "application/occi+json"}, b"[" * 100_000, 400, "nested too deeply"),
    "a body over a mebibyte": ({"Content-Type": "text/plain"}, b"a" * (MIB + 1), 413, str(MIB)),
    "another protocol's body": ({"Content-Type": "text/xml"}, b"<!DOCTYPE x [<!ENTITY y 'z'>]><x>&y;</x>", 415, "text/xml"),
    "too large a field": ({"X-OCCI-Attribute": "a" * (300 * 1024)}, b"", 431, "head"),
    "too many fields": ({f"X-OCCI-{n}": "a" for n in range(1200)}, b"", 431, "head"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_refused_with_its_reason_and_the_next_one_answered(live: Live, name: str) -> None:
    headers, body, status, words = BAD_REQUESTS[name]
    good = live.authority().proxy(live.user("alice"))
    answer = live.ask("alpha", "occi", "POST", "/compute/", good, headers={**JSON, **headers}, body=body)
    assert (answer.status, words in answer.body.decode()) == (status, True), answer.body[:500]
    assert len(answer.body) < 4096
    assert b"Traceback" not in answer.body
    assert live.ask("alpha", "occi", "GET", "/compute/", good, headers=JSON).status == 200


def test_a_chunked_body_without_end_is_cut_at_the_limit(live: Live) -> None:
    good = live.authority().proxy(live.user("alice"))
    with live.connect("alpha", "occi", good) as sock:
        sock.sendall(
            b"POST /compute/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"
        )
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # the server may close before all is sent
            for _ in range(20):
                sock.sendall(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
        assert read_answer(sock).status == 413


def test_half_requests_and_slow_ones_are_ended_and_nobody_waits_for_them(live: Live) -> None:
    good = live.authority().proxy(live.user("alice"))
    with contextlib.ExitStack() as stack:
        half, slow = (stack.enter_context(live.connect("alpha", "occi", good)) for _ in range(2))
        silent, *_ = (stack.enter_context(live.connect("alpha", "occi")) for _ in range(20))
        began = time.monotonic()
        half.sendall(b"POST /compute/ HTTP/1.1\r\nHost: x\r\nContent-Le")
        slow.sendall(b"GET /compute/ HTTP/1.1\r\n")
        assert live.ask("alpha", "occi", "GET", "/compute/", good, headers=JSON).status == 200
        slow.settimeout(0.5)
        said = b""
        while not said and time.monotonic() < began + 2 * LIMITS.head_seconds:
            slow.sendall(b"X-Slow: 1\r\n")  # each line moves no deadline
            with contextlib.suppress(TimeoutError):
                said = slow.recv(4096)
        assert said.startswith(b"HTTP/1.1 408")
        assert read_answer(half).status == 408
        assert read_answer(silent).status == 408
        assert time.monotonic() - began < LIMITS.head_seconds + 5


def test_an_unknown_method_and_paths_out_of_the_tree_are_refused(live: Live) -> None:
    good = live.authority().proxy(live.user("alice"))
    for method, path, status in (
        ("PATCH", "/compute/", 405),
        ("BREW", "/compute/", 400),
        ("GET", "/../../etc/passwd", 400),
        ("GET", "/compute/..%2f..%2fetc%2fpasswd", 400),
        ("GET", "/compute/" + "a" * 3000, 400),
        ("GET", "/compute/" + "a" * 30000, 414),
        ("GET", "/compute/absent", 404),
        ("DELETE", "/compute/%00", 400),
    ):
        answer = live.ask("alpha", "occi", method, path, good, headers=JSON)
        assert 400 <= answer.status < 500, (method, path, answer)
        assert answer.status == status, (method, path[:40], answer.status, answer.body[:300])
