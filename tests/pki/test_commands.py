"""What commands trust, and what they say of a server that they do not trust."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from skyfed.core.clock import SystemClock
from skyfed.core.errors import Invalid, Unavailable
from skyfed.pki import commands
from skyfed.pki.tls import ServerTls
from support.pki import Pki
from support.web import serving


@pytest.fixture(name="port")
def _port(pki: Pki) -> Iterator[int]:
    app = Starlette(routes=[Route("/", lambda _request: PlainTextResponse("hello"))])
    tls = ServerTls(pki.trust(), pki.hostcert, pki.hostkey, SystemClock())
    with serving(app, tls=tls.context) as server:
        assert server.port is not None
        yield server.port


def test_a_server_of_an_authority_in_the_directory_is_trusted(pki: Pki, port: int) -> None:
    assert commands.outbound(pki.certificates).request("GET", f"https://localhost:{port}/").text == "hello"


def test_a_server_that_is_not_trusted_is_refused_with_the_directory_that_was_looked_in(
    tmp_path: Path, port: int
) -> None:
    with pytest.raises(Unavailable, match="certificate verify failed") as refused:
        commands.outbound(tmp_path).request("GET", f"https://localhost:{port}/")
    assert f"trusted are those in {tmp_path} ($X509_CERT_DIR or --certdir; 0 authorities)" in refused.value.message


def test_a_certificate_for_another_name_is_not_blamed_on_the_directory(pki: Pki, port: int) -> None:
    with pytest.raises(Unavailable, match="not valid for") as refused:
        commands.outbound(pki.certificates).request("GET", f"https://127.1:{port}/")
    assert "trusted are" not in refused.value.message


def test_a_trust_directory_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"none does not exist; right in \$X509_CERT_DIR or --certdir is") as refused:
        commands.outbound(tmp_path / "none")
    assert refused.value.code == "trust_directory"
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="file is no directory"):
        commands.outbound(tmp_path / "file")


def test_without_the_grids_own_directory_the_systems_authorities_count_and_the_refusal_says_so(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "GRID_CERTIFICATES", tmp_path / "grid")
    with pytest.raises(Unavailable, match=r"grid .*; no such directory\) and the system's"):
        commands.outbound(tmp_path / "grid").request("GET", f"https://localhost:{port}/")
