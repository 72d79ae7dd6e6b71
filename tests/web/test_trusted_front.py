"""A TLS-terminating proxy may speak for its clients only where the node names its certificate; nobody else ever."""

import base64
import contextlib
import json
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from skyfed.core.errors import Invalid
from skyfed.pki import names
from skyfed.web.front import front_door
from skyfed.web.trusted_front import CHAIN, LEAF, forwarded_chain
from support.web import Answer, Serving, read_answer, serving

from .test_access import ASSEMBLY


@pytest.fixture
def server(node) -> Iterator[Serving]:
    front = names.oneline(node.pki.host.certificate.subject)
    app = front_door(ASSEMBLY, service="test", judge=node.judge, clock=node.clock, fronts=frozenset({front}))
    with serving(app, tls=node.tls.context) as running:
        yield running


def fields(credential) -> str:
    """What a front end says of a client with this credential (RFC 9440)."""
    leaf, *rest = [one.public_bytes(Encoding.DER) for one in (credential.certificate, *credential.chain)]
    said = f"Client-Cert: :{base64.b64encode(leaf).decode()}:\r\n"
    if rest:
        said += "Client-Cert-Chain: " + ", ".join(f":{base64.b64encode(der).decode()}:" for der in rest) + "\r\n"
    return said


def ask(server: Serving, context, said: str = "") -> Answer:
    with server.connect(context) as sock:
        sock.sendall(f"GET /who HTTP/1.1\r\nHost: x\r\n{said}\r\n".encode())
        return read_answer(sock)


def test_a_named_front_speaks_for_its_client(server: Serving, node) -> None:
    answer = ask(server, node.client(node.pki.host), fields(node.proxy(node.pki.alice)))
    assert answer.status == 200
    assert json.loads(answer.body)["subject"].endswith("CN=alice")
    assert json.loads(answer.body)["vos"] == ["demo.skyfed"]


def test_what_a_front_passes_on_is_judged_like_any_credential(server: Serving, node) -> None:
    answer = ask(server, node.client(node.pki.host), fields(node.pki.revoked))
    assert (answer.status, b"revoked" in answer.body) == (401, True)


def test_a_fronts_own_certificate_is_nobodys_identity(server: Serving, node) -> None:
    assert ask(server, node.client(node.pki.host)).status == 401


def test_nobody_else_speaks_for_others(server: Serving, node) -> None:
    answer = ask(server, node.client(node.proxy(node.pki.bob)), fields(node.proxy(node.pki.alice)))
    assert json.loads(answer.body)["subject"].endswith("CN=bob")
    assert ask(server, node.client(), fields(node.proxy(node.pki.alice))).status == 401


def test_a_proxy_of_the_front_is_no_front(server: Serving, node) -> None:
    answer = ask(server, node.client(node.plain_proxy(node.pki.host)), fields(node.proxy(node.pki.alice)))
    assert not json.loads(answer.body).get("subject", "").endswith("CN=alice")


def test_without_a_front_the_fields_claim_nothing(node) -> None:
    app = front_door(ASSEMBLY, service="test", judge=node.judge, clock=node.clock)
    with serving(app, tls=node.tls.context) as running:
        answer = ask(running, node.client(node.pki.host), fields(node.proxy(node.pki.alice)))
    assert not json.loads(answer.body)["subject"].endswith("CN=alice")


@pytest.mark.parametrize(
    "said", ["Client-Cert: nonsense", "Client-Cert: :%%%:", "Client-Cert: :YQ==:, :YQ==:", "Client-Cert-Chain: :YQ==:"]
)
def test_what_a_front_says_wrongly_is_refused_with_the_right_form(server: Serving, node, said: str) -> None:
    answer = ask(server, node.client(node.pki.host), f"{said}\r\n")
    assert answer.status == 400
    assert b"front end passed on" in answer.body


@given(st.lists(st.tuples(st.sampled_from([LEAF, CHAIN]), st.binary(max_size=60)), max_size=4))
def test_any_bytes_give_a_chain_or_a_refusal(said: list[tuple[bytes, bytes]]) -> None:
    chain: tuple[bytes, ...] = ()
    with contextlib.suppress(Invalid):  # any other exception is a fault
        chain = forwarded_chain(said)
    assert all(isinstance(der, bytes) for der in chain)
