"""Hostile images and image lists, against the running federation: the publisher takes none, a site believes none, and what a
title says is a title wherever it comes out."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from skyfed.core.clock import SystemClock
from skyfed.core.errors import Invalid
from skyfed.core.http import admin_client
from skyfed.federation.nodes import CA_DN, DEMO_VO, ENDORSER_DN
from skyfed.federation.places import NAME, Places
from skyfed.images import formats
from skyfed.images.model import Endorser
from skyfed.images.subscriber import TASK
from skyfed.node.config import to_toml
from skyfed.pki import names, smime
from skyfed.pki.files import Credential, read_credential
from skyfed.pki.testca import ThrowawayCA, write_host
from skyfed.pki.tls import server_context
from support.live import Live, until
from support.peers import need
from support.web import serving

pytestmark = [pytest.mark.e2e, pytest.mark.peer]


@pytest.fixture(scope="module")
def live(places: Places, tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live(places, tmp_path_factory.mktemp("live"))


def qemu_img(*words: str) -> None:
    subprocess.run([str(need("qemu-img")), *words], check=True, capture_output=True, timeout=30)


def _backing(path: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", str(path), "1M")


def _data_file(path: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={path}.raw,data_file_raw=on", str(path), "1M")


def _huge(path: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", str(path), "60T")


def _descriptor(path: Path) -> None:
    path.write_text(
        '# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/shadow" 0\n' + " " * 600
    )


def _empty(path: Path) -> None:
    path.write_bytes(b"")


HOSTILE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "qcow2 with a backing file": (_backing, "format_unsafe", "backing"),
    "qcow2 with an external data file": (_data_file, "format_unsafe", "data"),
    "qcow2 of 60 TiB": (_huge, "virtual_size", "are accepted here"),
    "a VMDK descriptor of a host's file": (_descriptor, "format_unsafe", "not safe"),
    "an empty file": (_empty, "image_empty", "empty"),
}


# -- the publisher ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_not_published(live: Live, tmp_path: Path, name: str) -> None:
    make, code, words = HOSTILE[name]
    image = tmp_path / "image"
    make(image)
    before = live.published()
    with pytest.raises(Invalid) as refused:
        publish(live, image, title="Hostile")
    assert (refused.value.code, words in refused.value.message) == (code, True), refused.value
    assert live.published() == before


def publish(live: Live, image: Path, *, title: str, description: str = "") -> Any:
    """As `skyfed image publish --node` asks for it."""
    wanted = {"path": str(image), "image": {"title": title, "name": "hostile", "description": description}}
    return live.admin("federation", "images", "POST", f"/lists/{DEMO_VO}/images", wanted)


# -- a site -----------------------------------------------------------------------------------------------------------


@dataclass
class Host:
    """A web server that serves whatever it was told to; counts what it was asked for."""

    answers: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.asked.append(path)
        body = self.answers.get(path)
        await send({"type": "http.response.start", "status": 404 if body is None else 200, "headers": []})
        await send({"type": "http.response.body", "body": body or b""})


@dataclass(frozen=True)
class Gamma:
    """A site of the federation's making in a process of its own, subscribed to a list on a host that turns hostile."""

    directory: Path
    host: Host
    url: str
    endorser: Credential

    def sign(self, version: str, *images: dict[str, Any], by: Credential | None = None, **changes: Any) -> bytes:
        """A signed list; `changes` replace its fields, `by` signs in the endorser's place."""
        now = datetime.now(UTC).replace(microsecond=0)
        fields: dict[str, Any] = {
            "identifier": "5b1f9f0e-7d0a-4d43-9a0e-000000000001", "title": "A list", "description": "For everybody",
            "source": "here", "uri": f"{self.url}/list", "version": version, "vo": DEMO_VO, "created": now - timedelta(minutes=1),
            "expires": now + timedelta(days=7), "images": images,
            "endorser": Endorser(dn=ENDORSER_DN, ca=CA_DN, email="images@example.org", name="endorser"),
        }  # fmt: skip
        return smime.sign(formats.write(formats.list_document(**fields | changes)), by or self.endorser, signed_at=now)

    def image(self, number: int, body: bytes, **changes: Any) -> dict[str, Any]:
        """An entry for `body`, which the host serves."""
        self.host.answers[f"/image-{number}"] = body
        return {
            "dc:identifier": f"00000000-0000-4000-8000-{number:012}", "dc:title": f"Image {number}", "dc:description": "",
            "hv:hypervisor": "KVM", "hv:size": len(body), "hv:uri": f"{self.url}/image-{number}", "hv:version": "1",
            "hv:format": "QCOW2", "sl:arch": "x86_64", "sl:checksum:sha512": hashlib.sha512(body).hexdigest(),
            "sl:comments": "", "sl:os": "Linux", "sl:osname": "Linux", "sl:osversion": "1",
            "ad:mpuri": f"{self.url}/image/{number}:1/",
            **changes,
        }  # fmt: skip

    def subscription(self) -> dict[str, Any]:
        """How the list stands at the site."""
        (found,) = admin_client(self.directory, "images").json("GET", "/subscriptions")
        return dict(found)

    def look(self, message: bytes) -> dict[str, Any]:
        """Serve `message`, have the site look at it, and return how its list stands then."""
        self.host.answers["/list"] = message
        admin = admin_client(self.directory, "images")

        def at_rest() -> bool:
            tasks = {task["name"]: task["state"] for task in admin.json("GET", "/tasks")}
            return bool(tasks[TASK] == "waiting")

        until(at_rest, "the site does not come to rest")
        self.host.asked.clear()
        admin.json("POST", "/subscriptions/refresh", {})
        until(lambda: "/list" in self.host.asked and at_rest(), "the site does not look at its list")
        return self.subscription()

    def offered(self) -> list[str]:
        """Titles of the images that may be started."""
        images = admin_client(self.directory, "compute").json("GET", "/images")
        return [image["title"] for image in images if image["state"] == "available"]

    def downloads(self) -> list[str]:
        return sorted(
            path.name for path in (self.directory / "data" / "images" / "downloads").rglob("*") if path.is_file()
        )


@pytest.fixture(scope="module")
def gamma(live: Live) -> Iterator[Gamma]:
    directory, host = live.folder / "gamma", Host()
    write_host(live.ca.host("gamma.localhost"), directory / "host")
    cert, key = directory / "host" / "hostcert.pem", directory / "host" / "hostkey.pem"
    tls = server_context((live.places.ca / "cacert.pem").read_text(), cert, key)
    robot = live.places.node("federation") / "endorser"
    with serving(host, tls=tls) as server:
        url = f"https://{NAME}:{server.port}"
        made = Gamma(directory, host, url, read_credential(robot / "usercert.pem", robot / "userkey.pem"))
        (directory / "node.toml").write_text(_node(live, url))
        (directory / "bans.txt").write_text("")
        (directory / "log").mkdir()
        with (directory / "log" / "site.log").open("wb") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", "skyfed.node.process", str(directory), "site"], stdout=log, stderr=log
            )
        try:
            until((directory / "run" / "images.sock").exists, "the node does not start")
            yield made
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(20)


def _node(live: Live, url: str) -> str:
    trust = {
        "certificates": str(live.places.certificates),
        "vomsdir": str(live.places.vomsdir),
        "rules": {"crl": "require"},
    }
    subscription = {"url": f"{url}/list", "endorsers": [{"dn": ENDORSER_DN, "ca": CA_DN}], "vos": [DEMO_VO]}
    return to_toml(
        {
            "node": {"name": "gamma", "role": "site", "site": "GAMMA"},
            "trust": trust,
            "outbound": {"allow": ["127.0.0.1/32", "::1/128"]},
            "processes": {"site": ["compute", "images"]},
            "services": {
                "compute": {"settings": {"engine": "simulated"}},
                "images": {"settings": {"poll_seconds": 86400.0, "subscriptions": {"list": subscription}}},
            },
        }
    )


def sound(folder: Path, size: str = "1M") -> bytes:
    path = folder / f"sound-{size}.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", str(path), size)
    return path.read_bytes()


@pytest.fixture(scope="module")
def in_force(gamma: Gamma, live: Live) -> list[dict[str, Any]]:
    """The list of version 5 with one sound image, accepted by the site."""
    images = [gamma.image(1, sound(live.folder))]
    found = gamma.look(gamma.sign("5", *images))
    assert (found["state"], found["code"]) == ("ok", "")
    assert gamma.offered() == ["Image 1"]
    return images


@dataclass(frozen=True)
class Signers:
    stranger: Credential
    revoked: Credential
    alice: Credential


@pytest.fixture(scope="module")
def signers(live: Live) -> Signers:
    """Who may not sign: the endorser's namesake of another CA, a robot that was revoked, a person."""
    foreign = ThrowawayCA.create(live.folder / "foreign-ca", SystemClock(), dn=CA_DN)
    ca = live.ca
    revoked = ca.issue(ENDORSER_DN)
    ca.revoke(revoked.certificate)
    ca.publish(live.places.certificates)
    return Signers(foreign.issue(ENDORSER_DN), revoked, live.user("alice"))


List = Callable[[Gamma, Signers, list[dict[str, Any]]], bytes]


def _past() -> dict[str, datetime]:
    now = datetime.now(UTC).replace(microsecond=0)
    return {"created": now - timedelta(days=30), "expires": now - timedelta(days=2)}


def _signed_by_alice(gamma: Gamma, signers: Signers, images: list[dict[str, Any]]) -> bytes:
    subject, issuer = signers.alice.certificate.subject, signers.alice.certificate.issuer
    endorser = Endorser(dn=names.oneline(subject), ca=names.oneline(issuer), email="a@x", name="alice")
    return gamma.sign("6", *images, by=signers.alice, endorser=endorser)


BAD_LISTS: dict[str, tuple[List, str]] = {
    "tampered with": (lambda g, _s, images: g.sign("6", *images).replace(b"Image 1", b"Image X"), "digest_mismatch"),
    "expired": (lambda g, _s, images: g.sign("6", *images, **_past()), "list_expired"),
    "older than the one in force": (lambda g, _s, images: g.sign("4", *images), "lower_version"),
    "from tomorrow": (
        lambda g, _s, images: g.sign(
            "6", *images, created=datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        ),
        "created_in_future",
    ),
    "signed by a namesake of another CA": (lambda g, s, images: g.sign("6", *images, by=s.stranger), "bad_signature"),
    "signed by a revoked endorser": (lambda g, s, images: g.sign("6", *images, by=s.revoked), "revoked"),
    "signed by somebody else in the endorser's name": (
        lambda g, s, images: g.sign("6", *images, by=s.alice),
        "endorser_mismatch",
    ),
    "signed by somebody who may not": (_signed_by_alice, "endorser_unknown"),
    "not signed": (lambda g, _s, images: json.dumps({"hv:imagelist": images}).encode(), "smime_syntax"),
    "a web page": (lambda _g, _s, _i: b"<html>502 Bad Gateway</html>", "smime_syntax"),
    "cut off": (lambda g, _s, images: g.sign("6", *images)[:3000], "smime_syntax"),
    "nothing": (lambda _g, _s, _i: b"", "smime_syntax"),
    "without an end": (lambda _g, _s, _i: b"a" * (9 << 20), "download_failed"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_bad_list_changes_nothing_at_a_site(
    gamma: Gamma, in_force: list[dict[str, Any]], signers: Signers, name: str
) -> None:
    make, code = BAD_LISTS[name]
    found = gamma.look(make(gamma, signers, in_force))
    assert (found["state"], found["code"]) == ("stale", code), found["reason"]
    assert (found["version"], found["reason"] != "") == ("5", True)
    assert gamma.offered() == ["Image 1"]
    assert gamma.downloads() == []


def test_a_site_refuses_the_hostile_images_of_a_good_list_and_takes_the_others(
    gamma: Gamma, in_force: list[dict[str, Any]], tmp_path: Path
) -> None:
    hostile, codes = [], {}
    for number, (make, code, _) in enumerate(list(HOSTILE.values())[:4], start=10):
        make(tmp_path / str(number))
        hostile.append(gamma.image(number, (tmp_path / str(number)).read_bytes()))
        codes[f"Image {number}"] = code
    good = sound(tmp_path, "2M")
    bodies = {number: sound(tmp_path, f"{number}M") for number in range(20, 25)}
    wrong = {
        20: ({"sl:checksum:sha512": "0" * 128}, "image_digest"),
        21: ({"hv:size": len(bodies[21]) - 1}, "image_size"),
        22: ({"hv:uri": "file:///etc/passwd"}, "bad_url"),
        23: ({"hv:uri": "http://169.254.169.254/latest/meta-data/"}, "address_refused"),
        24: ({"hv:uri": f"{gamma.url}/absent"}, "http_404"),
    }
    for number, (changes, code) in wrong.items():
        hostile.append(gamma.image(number, bodies[number], **changes))
        codes[f"Image {number}"] = code
    try:
        found = gamma.look(gamma.sign("7", *in_force, *hostile, gamma.image(30, good)))
        said = {image["title"]: image["code"] for image in found["images"] if image["code"]}
        assert said == codes
        assert {image["state"] for image in found["images"] if image["code"]} <= {"rejected", "failed"}
        assert all(image["reason"] for image in found["images"] if image["code"])
        assert sorted(gamma.offered()) == ["Image 1", "Image 30"]
        assert gamma.downloads() == []
    finally:
        assert gamma.look(gamma.sign("8", *in_force))["state"] == "ok"
    until(lambda: gamma.offered() == ["Image 1"], "the other images are not retired")


# -- what titles say --------------------------------------------------------------------------------------------------

TITLE = '  Evil,+"\\<>;= #\ndn: GLUE2DomainID=VICTIM,o=glue\nobjectClass: GLUE2Domain\n\n<script>alert(1)</script>'
DESCRIPTION = (
    "harmless\n-\nadd: GLUE2EntityOtherInfo\nGLUE2EntityOtherInfo: stolen=1\n\ndn: o=glue\nchangetype: delete\n"
)


def test_what_a_title_says_is_a_value_and_never_an_entry(live: Live, alice: dict[str, str], tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    image.write_bytes(sound(tmp_path))
    before = entries(live)
    publish(live, image, title=TITLE, description=DESCRIPTION)
    try:
        live.admin("alpha", "images", "POST", "/subscriptions/refresh", {})
        until(
            lambda: "Evil" in json.dumps(live.admin("alpha", "compute", "GET", "/images")),
            "alpha does not take the image",
        )
        until(lambda: shown_at(live, "alpha") and shown_at(live, "federation"), "the image is not shown")
        after = entries(live)
        known = {entry["dn"][0] for entry in before}
        added = [entry for entry in after if entry["dn"][0] not in known]
        (shown,) = added
        assert set(shown["objectClass"]) == {"GLUE2Entity", "GLUE2ApplicationEnvironment"}
        assert shown["GLUE2ApplicationEnvironmentAppName"] == [TITLE.strip().replace("\n", " ")]
        assert "stolen=1" not in [value for entry in after for value in entry.get("GLUE2EntityOtherInfo", ())]
        assert not any("VICTIM" in entry["dn"][0] for entry in after)
        model = live.ask("alpha", "occi", "GET", "/-/", live.authority().proxy(live.user("alice"))).body.decode()
        assert [line for line in model.splitlines() if not line.startswith("Category: ")] == []
        assert "Evil" in model
        page = live.ask("federation", "portal", "GET", "/").body.decode()
        assert "<script>alert" not in page
    finally:
        live.admin("federation", "images", "DELETE", f"/lists/{DEMO_VO}/images/hostile")
        live.admin("alpha", "images", "POST", "/subscriptions/refresh", {})
    until(
        lambda: not [entry for entry in entries(live) if "Evil" in str(entry)], "the image does not leave the directory"
    )


def shown_at(live: Live, node: str) -> bool:
    """Whether the node's directory knows the image, after a look at what it publishes."""
    live.admin(node, "infosys", "POST", "/refresh", {})
    return "Evil" in str(entries(live, node))


def entries(live: Live, node: str = "federation") -> list[dict[str, list[str]]]:
    """Everything that the node's directory says, as ldapsearch prints it."""
    done = subprocess.run(
        [str(need("ldapsearch")), "-x", "-LLL", "-o", "ldif-wrap=no", "-H", f"ldap://{live.places.ldap(node)}", "-b", "o=glue"],
        capture_output=True, text=True, timeout=30, check=True, env={**os.environ, "LDAPNOINIT": "1"},
    )  # fmt: skip
    found = []
    for block in done.stdout.strip().split("\n\n"):
        entry: dict[str, list[str]] = {}
        for line in block.splitlines():
            name, _, value = line.partition(":")
            coded = value.startswith(":")
            text = base64.b64decode(value[1:]).decode() if coded else value.removeprefix(" ")
            entry.setdefault(name, []).append(text)
        found.append(entry)
    return found
