"""Talking to a running federation's listeners byte by byte, as nobody or with any credential; and what it has in store."""

import itertools
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyfed.core.clock import SystemClock
from skyfed.core.http import admin_client
from skyfed.federation.guests import guest_pids
from skyfed.federation.nodes import DEMO_VO
from skyfed.federation.places import NAME, SITES, Places
from skyfed.identity import proxy
from skyfed.pki.files import Credential, read_credential
from skyfed.pki.testca import ThrowawayCA
from skyfed.pki.tls import client_context
from support.aai import Authority
from support.web import Answer, read_answer

# Longer than any deadline of the guard that a test waits for.
DEADLINE = 20.0


@dataclass(frozen=True)
class Live:
    """A running federation from outside. Its people's keys and its CA are at hand; `folder` is for credential files."""

    places: Places
    folder: Path
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def ca(self) -> ThrowawayCA:
        return ThrowawayCA.open(self.places.ca, SystemClock())

    def user(self, name: str) -> Credential:
        """The long-lived credential of a demo user."""
        folder = self.places.user(name)
        return read_credential(folder / "usercert.pem", folder / "userkey.pem")

    def authority(self, vo: str = DEMO_VO, host: str = NAME) -> Authority:
        """The federation's own attribute authority, ready to state anything."""
        folder = self.places.node("federation") / "host"
        return Authority(vo, host, read_credential(folder / "hostcert.pem", folder / "hostkey.pem"))

    def file(self, credential: Credential) -> Path:
        """A file with certificate, key and chain."""
        path = self.folder / f"credential-{next(self.numbers)}.pem"
        proxy.write(credential, path)
        return path

    def tls(self, credential: Credential | None = None) -> ssl.SSLContext:
        """The context of a client that believes the federation's CA and shows `credential`."""
        anchors = (self.places.ca / "cacert.pem").read_text()
        return client_context(anchors, self.file(credential) if credential else None)

    def connect(self, node: str, service: str, credential: Credential | None = None) -> ssl.SSLSocket:
        """An open connection."""
        plain = socket.create_connection(("127.0.0.1", self.places.port(node, service)), timeout=DEADLINE)
        return self.tls(credential).wrap_socket(plain, server_hostname=NAME)

    def ask(
        self,
        node: str,
        service: str,
        method: str,
        path: str,
        credential: Credential | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """One request on a connection of its own. Raises ssl.SSLError or ConnectionError where TLS refuses."""
        with self.connect(node, service, credential) as sock:
            return ask_on(sock, method, path, headers=headers, body=body)

    def admin(self, node: str, service: str, method: str, path: str, body: object = None) -> Any:
        """The administration API of a service."""
        return admin_client(self.places.node(node), service).json(method, path, body)

    def published(self) -> dict[str, Any]:
        """The federation's image lists, and the files of its image service."""
        folder = self.places.node("federation") / "data" / "images" / "files"
        return {
            "lists": self.admin("federation", "images", "GET", "/lists"),
            "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        }

    def stock(self) -> dict[str, Any]:
        """Everything that bad input could leave behind: machines, guests, images, files, messages."""
        files = (
            str(path.relative_to(self.places.directory))
            for site in SITES
            for room in ("images/downloads", "engine/machines", "engine/images")
            for path in (self.places.node(site) / "data" / room).rglob("*")
        )
        return {
            "published": self.published(),
            "guests": sorted(guest_pids(self.places)),
            "files": sorted(files),
            "machines": {site: self.admin(site, "compute", "GET", "/vms") for site in SITES},
            "unknown guests": {site: self.admin(site, "compute", "GET", "/engine")["unknown_guests"] for site in SITES},
            "images": {site: self.admin(site, "compute", "GET", "/images") for site in SITES},
            "messages": {site: self.admin(site, "accounting", "GET", "/status")["sender"]["dead"] for site in SITES},
        }

    def settled(self) -> "Live":
        """Return when every site offers images and has nothing in work: `up` does not wait for all of that."""
        until(
            lambda: all(self.admin(site, "compute", "GET", "/images") for site in SITES), "the sites have no images", 60
        )
        until(lambda: self.stock() == (time.sleep(0.5), self.stock())[1], "the sites do not come to rest", 60)
        return self


def until(holds: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """What `holds` gives as soon as it is true; fails with `what` when it takes too long. For what tells nobody."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def ask_on(
    sock: socket.socket, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request on an open connection."""
    fields = {"Host": NAME, "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    sock.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
    return read_answer(sock)


def code_of(answer: Answer) -> str:
    """The stable code of a refusal in problem+json or OCCI's JSON."""
    found = json.loads(answer.body)
    return str(found.get("code") or "")
