"""The VOMS clients that researchers have, and the library that sites have, against our attribute authority and tool."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from skyfed.core.clock import SystemClock
from skyfed.identity import proxy as proxies
from skyfed.voms.cli import proxy
from support.aai import Authority
from support.peers import find, need
from support.pki import Pki
from support.voms import Service, wanted

pytestmark = pytest.mark.peer

GROUPS = ["/testvo", "/testvo/sub", "/testvo/sub/deep"]


def long(fqans: Sequence[str]) -> list[str]:
    return [f"{f}/Capability=NULL" if "/Role=" in f else f"{f}/Role=NULL/Capability=NULL" for f in fqans]


def environment(service: Service, pki: Pki, user: str) -> dict[str, str]:
    """What `skyfed env` gives any client. Java has no variable for vomses: it looks below its idea of a home only."""
    folder = service.directory / ".voms"
    folder.mkdir(exist_ok=True)
    (folder / "vomses").write_bytes(service.vomses.read_bytes())
    return {
        **os.environ,
        "HOME": str(service.directory),
        "X509_USER_CERT": str(pki.usercert(user)),
        "X509_USER_KEY": str(pki.userkey(user)),
        "X509_CERT_DIR": str(pki.certificates),
        "X509_VOMS_DIR": str(service.vomsdir),
        "VOMS_CLIENTS_JAVA_OPTIONS": f"-XX:+UseSerialGC -Xmx64m -Duser.home={service.directory}",
        "X509_VOMSES": str(service.vomses),
        "VOMS_USERCONF": str(service.vomses),
        "X509_USER_PROXY": str(service.directory / f"x509up_{user}"),
    }


def run(command: Sequence[object], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=60, check=False)


def skyfed_proxy(env: dict[str, str], *arguments: str) -> str:
    """Our command's output."""
    result = CliRunner(env=env).invoke(proxy, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def attributes(text: str) -> list[str]:
    return [line.partition(": ")[2] for line in text.splitlines() if line.startswith("attribute :")]


CLIENTS = {
    "C++": ("voms-proxy-init2", "voms-proxy-info2"),
    "Java": ("voms-proxy-init3", "voms-proxy-info3"),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("testvo", GROUPS),
        ("testvo:/testvo/Role=VMManagement", ["/testvo/Role=VMManagement", *GROUPS]),
        ("testvo:/testvo/sub", ["/testvo/sub", "/testvo", "/testvo/sub/deep"]),
    ],
)
def test_a_foreign_client_gets_its_attributes_and_our_tool_reads_its_proxy(
    service: Service, pki: Pki, client: str, asked: str, expected: list[str]
) -> None:
    program, info = CLIENTS[client]
    env = environment(service, pki, "alice")
    out = service.directory / f"proxy-{client}"
    done = run([need(program), "--voms", asked, "--out", out, "--valid", "10:00"], env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in (done.stdout + done.stderr).lower().replace(".rnd", "")
    ours = skyfed_proxy(env, "info", "--file", str(out))
    assert attributes(ours) == long(expected)
    assert "accepted  : yes" in ours
    assert "verified  : yes" in ours
    theirs = run([need(info), "-all", "-file", out], env)
    assert attributes(theirs.stdout) == long(expected), theirs.stdout + theirs.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_a_foreign_client_is_told_why_it_gets_nothing(service: Service, pki: Pki, client: str) -> None:
    program, _ = CLIENTS[client]
    env = environment(service, pki, "bob")
    done = run([need(program), "--voms", "testvo", "--out", service.directory / "nothing"], env)
    assert done.returncode == 1
    assert "User unknown to this VO" in done.stdout + done.stderr


def test_the_cpp_client_lists_over_the_socket_protocol(service: Service, pki: Pki) -> None:
    env = environment(service, pki, "alice")
    done = run([need("voms-proxy-init2"), "--voms", "testvo", "--list"], env)
    text = done.stdout + done.stderr
    for fqan in ("/testvo/Role=VMManagement", "/testvo/sub/Role=ops", "/testvo/sub/deep"):
        assert fqan in text


@pytest.mark.parametrize("info", ["voms-proxy-info2", "voms-proxy-info3"])
def test_foreign_tools_read_the_proxy_that_ours_makes(service: Service, pki: Pki, info: str) -> None:
    env = environment(service, pki, "alice")
    out = service.directory / f"ours-for-{info}"
    skyfed_proxy(env, "init", "--voms", "testvo:/testvo/sub/Role=ops", "--out", str(out), "--hours", "3")
    done = run([need(info), "-all", "-file", out], env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert attributes(done.stdout) == long(["/testvo/sub/Role=ops", *GROUPS])
    assert "RFC" in done.stdout


# -- libvomsapi -------------------------------------------------------------------------------------------------


@pytest.fixture(name="retrieve", scope="module")
def _retrieve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that verifies with libvomsapi, compiled now."""
    compiler = need("gcc")
    if not Path("/usr/include/voms/voms_apic.h").exists():
        need("the headers of libvomsapi (package voms-dev)")
    program = tmp_path_factory.mktemp("libvomsapi") / "retrieve"
    source = Path(__file__).with_name("retrieve.c")
    libraries = ["-lvomsapi", "-lssl", "-lcrypto", "-lexpat", "-lgsoapssl++", "-lstdc++", "-ldl", "-lpthread"]
    if find("pkg-config"):
        asked = run(["pkg-config", "--libs", "--static", "voms-2.0"], dict(os.environ))
        libraries = [*asked.stdout.split(), "-lssl", "-lcrypto", "-lstdc++"]
    done = run([compiler, "-o", program, source, *libraries], dict(os.environ))
    assert done.returncode == 0, done.stderr
    return program


def proven(retrieve: Path, service: Service, pki: Pki, path: Path) -> list[str]:
    done = run([retrieve, path, service.vomsdir, pki.certificates], environment(service, pki, "alice"))
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", [[], ["--limited"], ["--ec"], ["--path-length", "0"], ["--bits", "3072"]])
def test_libvomsapi_believes_our_attributes_in_every_proxy_of_ours(
    service: Service, pki: Pki, retrieve: Path, kind: list[str]
) -> None:
    env = environment(service, pki, "alice")
    out = service.directory / "for-libvomsapi"
    skyfed_proxy(env, "init", "--voms", "testvo:/testvo/Role=VMManagement", "--out", str(out), *kind)
    assert proven(retrieve, service, pki, out) == [
        "vo testvo",
        f"uri localhost:{service.port}",
        *(f"fqan {fqan}" for fqan in long(["/testvo/Role=VMManagement", *GROUPS])),
    ]


def test_libvomsapi_believes_an_authority_with_an_elliptic_curve_key(
    service: Service, pki: Pki, retrieve: Path
) -> None:
    credential = pki.ca.issue(f"{pki.ca.namespace}/OU=hosts/CN=ec", key=ec.generate_private_key(ec.SECP256R1()))
    authority = Authority("ecvo", "ec.example.org", credential)
    authority.trust_in(service.vomsdir)
    out = service.directory / "ec-authority"
    proxies.write(authority.proxy(pki.alice, ("/ecvo/Role=x", "/ecvo")), out)
    assert proven(retrieve, service, pki, out)[2:] == [f"fqan {fqan}" for fqan in long(["/ecvo/Role=x", "/ecvo"])]


def test_libvomsapi_refuses_what_we_refuse(service: Service, pki: Pki, retrieve: Path) -> None:
    authority = Authority("testvo", "localhost", pki.host)
    foreign = authority.ac(pki.bob.certificate)
    made = proxies.create(pki.alice, proxies.Proxy(acs=(foreign,)), SystemClock().now())
    out = service.directory / "foreign-ac"
    proxies.write(made, out)
    assert proven(retrieve, service, pki, out)[0].startswith("error")
    result = CliRunner(env=environment(service, pki, "alice")).invoke(proxy, ["info", "--file", str(out)])
    assert "verified  : no (ac_holder:" in result.output


def test_a_robot_of_another_vo_works_too(service: Service, pki: Pki) -> None:
    assert wanted(pki.robot).subject.endswith("/CN=Robot: images")
    env = environment(service, pki, "robot")
    out = service.directory / "robot"
    done = run([need("voms-proxy-init2"), "--voms", "ops", "--out", out], env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert attributes(skyfed_proxy(env, "info", "--file", str(out))) == long(["/ops"])
