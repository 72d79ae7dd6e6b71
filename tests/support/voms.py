"""A running VO service with its attribute authority on a loopback port."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from skyfed.core.clock import SystemClock
from skyfed.core.http import AddressPolicy, AdminClient, Client, admin_client
from skyfed.core.tasks import Supervisor
from skyfed.identity.bans import FileBans
from skyfed.identity.judge import Judge
from skyfed.identity.vomsdir import Vomsdir
from skyfed.pki import names
from skyfed.pki.files import Credential
from skyfed.pki.testca import vomses_line, write_lsc
from skyfed.pki.tls import client_context
from skyfed.pki.trust import TrustStore
from skyfed.voms.assembly import Settings, assemble
from skyfed.voms.service import Wanted, WantedVo, Who
from skyfed.web.front import serve_admin
from skyfed.web.runtime import Assembly, HostCredential, Listener, Runtime
from support.pki import Pki


def who(credential: Credential) -> Who:
    """The names of a certificate."""
    certificate = credential.certificate
    return Who(subject=names.oneline(certificate.subject), issuer=names.oneline(certificate.issuer))


def wanted(credential: Credential, **more: object) -> Wanted:
    """A member to be."""
    named = who(credential)
    return Wanted(subject=named.subject, issuer=named.issuer, **more)  # type: ignore[arg-type]


class Service:
    """The service in an event loop of its own thread; `directory` has vomses and vomsdir for clients."""

    def __init__(self, pki: Pki, directory: Path) -> None:
        self.pki = pki
        self.directory = directory
        self.vomsdir = directory / "vomsdir"
        self.vomses = directory / "vomses"
        self.run = directory / "run"
        self.bans = directory / "bans"
        self.port = _free_port()
        self.vomsdir.mkdir()
        self.run.mkdir()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._assembly: Assembly | None = None
        self._thread.start()

    def start(self, settings: Settings | None = None) -> None:
        self._call(self._start(settings or Settings()))

    async def _start(self, settings: Settings) -> None:
        runtime = self._runtime()
        self._assembly = assemble(settings, runtime)
        await self._assembly.start()
        self._admin = await serve_admin(self._assembly, runtime)

    def _runtime(self) -> Runtime:
        clock = SystemClock()
        trust = TrustStore(self.pki.certificates, clock)
        judge = Judge(trust, Vomsdir(self.vomsdir, clock), [FileBans(self.bans, clock)], clock)
        return Runtime(
            node="federation",
            role="federation",
            site="",
            service="voms",
            data=self.directory / "data",
            run=self.run,
            listener=Listener("127.0.0.1", self.port, f"https://localhost:{self.port}"),
            clock=clock,
            tasks=Supervisor(clock),
            trust=trust,
            vomsdir=self.vomsdir,
            judge=judge,
            host=HostCredential(self.pki.hostcert, self.pki.hostkey),
            http=Client(policy=AddressPolicy()),
        )

    def stop(self) -> None:
        if self._assembly is not None:
            self._call(self._admin.stop(1.0))
            self._call(self._assembly.stop())
            self._assembly = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)  # type: ignore[arg-type]

    @property
    def admin(self) -> AdminClient:
        """The administration API, as commands use it."""
        return admin_client(self.directory, "voms")

    def publish(self, *vos: str) -> None:
        """Write vomses and LSC files for clients."""
        host = self.pki.host.certificate
        self.vomses.write_text("".join(vomses_line(vo, "localhost", self.port, host, vo) for vo in vos))
        for vo in vos:
            write_lsc(self.vomsdir, vo, "localhost", (host,))

    def exchange(self, credential: Credential | None, *writes: bytes) -> bytes:
        """What a client that sends `writes` (a TLS record each) reads until the end."""
        context = client_context(TrustStore(self.pki.certificates, SystemClock()).anchors.pem())
        if credential is not None:
            path = self.directory / "credential.pem"
            path.write_bytes(credential.pem())
            path.chmod(0o600)
            context.load_cert_chain(path)
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            for data in writes:
                tls.sendall(data)
            return _until_end(tls)


def _until_end(tls: ssl.SSLSocket) -> bytes:
    data = b""
    while chunk := tls.recv(65536):
        data += chunk
    return data


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def recorded_vo(pki: Pki) -> WantedVo:
    """The VO of the recordings: alice with groups and roles, dave suspended later by the test."""
    return WantedVo(
        name="testvo",
        groups=("/testvo/sub/deep", "/testvo/other"),
        roles=("VMManagement", "ops", "VO-Admin"),
        members=(
            wanted(
                pki.alice,
                groups=("/testvo/sub/deep",),
                roles=("/testvo/Role=VMManagement", "/testvo/sub/Role=ops"),
            ),
            wanted(pki.revoked),
        ),
    )


@pytest.fixture(name="service", scope="module")
def running_service(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service a module, with the VOs `testvo` (alice) and `ops` (robot)."""
    service = Service(pki, tmp_path_factory.mktemp("voms"))
    try:
        service.start()
        ops = WantedVo(name="ops", members=(wanted(pki.robot),))
        service.admin.json("POST", "/apply", {"vos": msgspec.to_builtins((recorded_vo(pki), ops))})
        service.publish("testvo", "ops")
        yield service
    finally:
        service.stop()
