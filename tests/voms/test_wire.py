"""The recorded exchanges of a real attribute authority, asked of ours: the same meaning, without its faults."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.core.errors import Invalid, SkyfedError
from skyfed.identity import ac
from skyfed.identity.fqan import Fqan
from skyfed.pki.files import Credential
from skyfed.voms.model import AcRequest, Answer, AuthorityFault, Command, Notice, command_for
from skyfed.voms.wire import legacy, rest, vomses, xmltext
from support.pki import Pki
from support.vectors import vectors
from support.voms import Service, who


@pytest.fixture(name="folder")
def _folder() -> Path:
    return vectors("aai") / "wire-vomsd-2.1.1"


def fqans(answer: bytes) -> list[str]:
    found = re.search(rb"<ac>(.*?)</ac>", answer, re.DOTALL)
    assert found, answer
    return [fqan.short for fqan in ac.decode(xmltext.decode(found[1].decode())).fqans]


def messages(answer: bytes) -> list[bytes]:
    return re.findall(rb"<(?:message|warning)>(.*?)</(?:message|warning)>", answer, re.DOTALL)


def localised(texts: list[bytes], port: int) -> list[bytes]:
    return [text.replace(b"localhost:15010", f"localhost:{port}".encode()) for text in texts]


# vomsd's faults that we do not copy: 500 with a warning, no %XX, "R" puts the role where it likes.
REST_GOOD = ["all", "group", "role", "order", "nofqans", "targets", "lifetime-neg", "lifetime-too-long"]
REST_BAD = ["not-member-group", "not-member-role"]


@pytest.mark.parametrize("name", REST_GOOD)
def test_rest_gives_what_the_recording_gave(service: Service, pki: Pki, folder: Path, name: str) -> None:
    request = (folder / f"rest-{name}.request.txt").read_bytes()
    recorded = (folder / f"rest-{name}.response.txt").read_bytes()
    answer = service.exchange(pki.alice, b"0", request)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert fqans(answer) == fqans(recorded)
    assert messages(answer) == localised(messages(recorded), service.port)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize("name", REST_BAD)
def test_rest_refuses_what_the_recording_refused(service: Service, pki: Pki, folder: Path, name: str) -> None:
    request = (folder / f"rest-{name}.request.txt").read_bytes()
    recorded = (folder / f"rest-{name}.response.txt").read_bytes()
    answer = service.exchange(pki.alice, b"0" + request)
    assert answer.split(b"\r\n", 1)[0] == recorded.split(b"\r\n", 1)[0].rstrip()
    assert answer.partition(b"\r\n\r\n")[2] == recorded.replace(b"\r\n", b"\n").partition(b"\n\n")[2]


def test_rest_decodes_what_clients_encode(service: Service, pki: Pki, folder: Path) -> None:
    answer = service.exchange(pki.alice, (folder / "rest-percent-encoded.request.txt").read_bytes())
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert fqans(answer) == ["/testvo", "/testvo/sub", "/testvo/sub/deep"]


def test_rest_ignores_unknown_parameters_and_says_so_with_200(service: Service, pki: Pki, folder: Path) -> None:
    answer = service.exchange(pki.alice, (folder / "rest-unknown-param.request.txt").read_bytes())
    recorded = (folder / "rest-unknown-param.response.txt").read_bytes()
    assert recorded.startswith(b"HTTP/1.1 500")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert messages(answer) == messages(recorded)


@pytest.mark.parametrize("name", ["404", "empty-query"])
def test_rest_has_nothing_at_other_places(service: Service, pki: Pki, folder: Path, name: str) -> None:
    answer = service.exchange(pki.alice, (folder / f"rest-{name}.request.txt").read_bytes())
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert answer.endswith(b"\r\n\r\n")


def test_rest_tells_strangers_and_another_vos_members_so(service: Service, pki: Pki, folder: Path) -> None:
    request = (folder / "rest-unknown-user.request.txt").read_bytes()
    recorded = (folder / "rest-unknown-user.response.txt").read_bytes()
    for stranger in (pki.bob, pki.robot):
        answer = service.exchange(stranger, request)
        assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"<code>NoSuchUser</code>" in answer
        assert messages(answer) == messages(recorded)
    answer = service.exchange(pki.alice, (folder / "rest-wrong-vo.request.txt").read_bytes())
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert messages(answer) == [b"othervo: Unable to satisfy G/othervo request!"]


def test_suspension_is_told_in_both_protocols(service: Service, pki: Pki, folder: Path) -> None:
    named = {"subject": who(pki.alice).subject, "issuer": who(pki.alice).issuer}
    service.admin.json("POST", "/vos/testvo/members/suspend", named | {"reason": "Failed to sign AUP"})
    try:
        for name in ("rest-suspended", "legacy-suspended"):
            answer = service.exchange(pki.alice, (folder / f"{name}.request.txt").read_bytes())
            assert messages(answer) == messages((folder / f"{name}.response.txt").read_bytes())
        assert b"QQ==\n</ac>" in answer
    finally:
        service.admin.json("POST", "/vos/testvo/members/restore", named)
    answer = service.exchange(pki.alice, (folder / "rest-group.request.txt").read_bytes())
    assert answer.startswith(b"HTTP/1.1 200")


LEGACY_GOOD = [
    "all", "all2", "group", "role", "role-any", "order", "order-notfirst", "targets", "lifetime-too-long", "nobase64",
]  # fmt: skip


@pytest.mark.parametrize("name", LEGACY_GOOD)
def test_the_socket_protocol_gives_what_the_recording_gave(service: Service, pki: Pki, folder: Path, name: str) -> None:
    request = (folder / f"legacy-{name}.request.txt").read_bytes()
    recorded = (folder / f"legacy-{name}.response.txt").read_bytes()
    answer = service.exchange(pki.alice, b"0", request)
    assert answer.startswith(b'<?xml version="1.0" encoding = "US-ASCII"?><vomsans><version>3</version>')
    assert fqans(answer) == fqans(recorded)
    assert re.findall(rb"<number>(\d+)", answer) == re.findall(rb"<number>(\d+)", recorded)
    assert messages(answer) == localised(messages(recorded), service.port)


@pytest.mark.parametrize("name", ["garbage", "not-member-group", "not-member-role", "list"])
def test_the_socket_protocol_says_word_for_word_what_the_recording_said(
    service: Service, pki: Pki, folder: Path, name: str
) -> None:
    request = (folder / f"legacy-{name}.request.txt").read_bytes()
    assert service.exchange(pki.alice, request) == (folder / f"legacy-{name}.response.txt").read_bytes()


def test_two_roles_come_in_the_order_asked_and_the_groups_sorted(service: Service, pki: Pki, folder: Path) -> None:
    expected = ["/testvo/Role=VMManagement", "/testvo/sub/Role=ops", "/testvo", "/testvo/sub", "/testvo/sub/deep"]
    for name in ("rest-two", "legacy-two-commands"):
        assert fqans(service.exchange(pki.alice, (folder / f"{name}.request.txt").read_bytes())) == expected
        # vomsd leaves the groups unsorted.
        assert sorted(fqans((folder / f"{name}.response.txt").read_bytes())) == sorted(expected)


def test_no_certificate_no_handshake(service: Service) -> None:
    try:
        answer = service.exchange(None, b"GET /generate-ac HTTP/1.0\n\n")
    except OSError:
        return  # an alert or a reset: TLS 1.3 tells the client after its own part of the handshake is done
    assert answer == b""


# -- sans-IO ----------------------------------------------------------------------------------------------------


def test_answers_are_read_back_also_out_of_a_500(folder: Path) -> None:
    recorded = (folder / "rest-lifetime-too-long.response.txt").read_bytes().replace(b"\r\n", b"\n")
    body = recorded.partition(b"\n\n")[2]
    answer = rest.parse_answer(500, body, "vomsd")
    assert ac.decode(answer.ac).authority.vo == "testvo"
    assert [notice.number for notice in answer.notices] == [2]
    refused = (folder / "rest-unknown-user.response.txt").read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")[2]
    with pytest.raises(SkyfedError) as refusal:
        rest.parse_answer(403, refused, "vomsd")
    assert refusal.value.code == "no_such_user"
    assert "User unknown to this VO" in refusal.value.message


_fqan = st.sampled_from(["/vo", "/vo/sub", "/vo/Role=r", "/Role=r", "all", "/vo/sub/Role=x"])


@settings(max_examples=50)
@given(
    asked=st.lists(_fqan, max_size=4),
    order=st.lists(st.sampled_from(["/vo", "/vo/sub/Role=x"]), max_size=2),
    targets=st.lists(st.from_regex(r"[a-z][a-z0-9.]{0,9}", fullmatch=True), max_size=3),
    lifetime=st.integers(0, 10**6),
)
def test_what_the_client_writes_the_server_reads(
    asked: list[str], order: list[str], targets: list[str], lifetime: int
) -> None:
    request = AcRequest(tuple(map(command_for, asked)), tuple(map(Fqan.parse, order)), tuple(targets), lifetime)
    assert rest.parse_request(rest.target(request)) == request


@settings(max_examples=150)
@given(target=st.text(max_size=80))
def test_any_target_is_read_or_refused(target: str) -> None:
    try:
        rest.parse_request(f"/generate-ac?{target}")
    except (rest.NotHere, AuthorityFault):
        return


@settings(max_examples=150)
@given(data=st.binary(max_size=200))
def test_any_document_is_read_or_refused(data: bytes) -> None:
    for document in (data, b"<voms><command>" + data + b"</command></voms>"):
        try:
            legacy.parse_request(document)
        except AuthorityFault as fault:
            answer = legacy.refusal(fault)
            assert answer.endswith(b"<ac>QQ==\n</ac></vomsans>")


@pytest.mark.parametrize(
    "document",
    [
        b'<!DOCTYPE voms [<!ENTITY e "x">]><voms><command>&e;</command></voms>',
        b"<voms>" + b"<command>A</command>" * 200 + b"</voms>",
        b"<voms><a><b><c><d><e/></d></c></b></a></voms>",
        b"<voms></voms>",
        b"<other><command>A</command></other>",
    ],
)
def test_hostile_documents_are_refused(document: bytes) -> None:
    with pytest.raises(AuthorityFault) as refusal:
        legacy.parse_request(document)
    assert refusal.value.number == 1005


@settings(max_examples=80)
@given(data=st.binary(min_size=1, max_size=300))
def test_both_alphabets_survive_the_round_trip(data: bytes) -> None:
    assert xmltext.decode(xmltext.encode(data)) == data
    assert xmltext.decode(xmltext.encode_old(data)) == data
    assert all(len(line) <= 64 for line in xmltext.encode(data).splitlines())


def test_warnings_cannot_break_the_answer() -> None:
    answer = Answer(ac=b"x" * 60, notices=(Notice(4, "<b>&\x00\ud800"),))
    assert rest.parse_answer(200, rest.answer(answer).partition(b"\r\n\r\n")[2], "us").notices[0].number == 4
    assert b"&lt;b&gt;&amp;??" in legacy.answer(answer)


@pytest.mark.parametrize("text", ["X/vo", "G", "Gvo", "B/vo", "G/vo:r", "R", "Ra b", "Axx", "Nx", "", "B/vo:"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(AuthorityFault) as refusal:
        legacy.parse_command(text)
    assert refusal.value.number == 1005


def test_commands_have_one_text() -> None:
    for text in ("G/vo/a", "B/vo/a:r", "Rr", "A", "N"):
        assert legacy.parse_command(text).text == text
    assert legacy.parse_command("B/vo/Role=r") == Command("role", "/vo", "r")


def test_a_vomses_file_is_read() -> None:
    text = '# ours\n"a" "h.example.org" "15000" "/DC=x/CN=h" "vo"\n\n"b" "h2" "15001" "/CN=h2" "vo" "24"\n'
    contacts = vomses.parse(text, source="vomses")
    assert [contact.url for contact in contacts] == ["https://h.example.org:15000", "https://h2:15001"]
    assert vomses.matching(contacts, "b") == contacts[1:]
    assert vomses.matching(contacts, "vo") == contacts
    for bad in ('"a" "h" "x" "/CN=h" "vo"', '"a" "h" "0" "/CN=h" "vo"', "a h 1 /CN=h vo"):
        with pytest.raises(Invalid):
            vomses.parse(bad, source="vomses")


def test_openssl_reads_our_port(service: Service, pki: Pki, credential: Credential) -> None:
    """A client that is nobody's VOMS client: TLS 1.2 and a request in pieces."""
    path = service.directory / "peer.pem"
    path.write_bytes(credential.pem())
    done = subprocess.run(
        [
            "openssl", "s_client", "-quiet", "-tls1_2", "-connect", f"127.0.0.1:{service.port}",
            "-cert", path, "-key", path, "-CApath", pki.certificates, "-verify_return_error",
        ],
        input=b"0GET /generate-ac?fqans=/testvo HTTP/1.0\n\n",
        capture_output=True,
        timeout=20,
        check=False,
    )  # fmt: skip
    assert done.stdout.startswith(b"HTTP/1.1 200 OK"), done.stderr


@pytest.fixture(name="credential")
def _credential(pki: Pki) -> Credential:
    return pki.alice
