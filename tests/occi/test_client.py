"""Our client against our server over real HTTP, and against what other servers were recorded to answer."""

import re

import msgspec
import pytest
from click.testing import CliRunner

from skyfed.core.errors import Conflict, Forbidden, Invalid, NotFound, TimedOut, Unavailable
from skyfed.core.http import Client, Response
from skyfed.occi import cli
from skyfed.occi.client import Machine, OcciClient, Order, ssh_address
from support.compute_site import KEY
from support.occi_front import Front, Live, member
from support.vectors import vectors


@pytest.fixture
def live(tmp_path):
    with Live(tmp_path) as running:
        yield running


@pytest.fixture
def client(live) -> OcciClient:
    return OcciClient(live.url, Client())


ORDER = Order(image="debian-12", flavour="tiny", title="web1", ssh_key=KEY, user_data=b"#!/bin/sh\n")


def test_a_machine_from_create_to_delete(live, client):
    location = client.create(ORDER)
    seen: list[str] = []
    machine = client.wait(location, "active", seconds=10, progress=lambda m: seen.append(m.state))
    assert seen[-1] == "active"
    assert machine.title == "web1"
    assert (machine.cores, machine.memory_gib, machine.addresses) == (1, 0.125, ("10.0.2.15",))
    assert machine.image == live.front.os_tpl
    assert machine.flavour == live.front.resource_tpl
    assert ssh_address(machine) == ("127.0.0.1", machine.ssh_port)
    assert client.list() == (machine,)
    assert client.find("web1") == client.find(machine.id[:6]) == client.get(machine.id) == machine
    spec = live.front.site.host.machines[machine.id].spec
    assert (spec.context.ssh_keys, spec.context.user_data) == ((KEY,), b"#!/bin/sh\n")
    client.act(location, "stop", "graceful")
    assert client.wait(location, "inactive", seconds=10).actions == ("start",)
    client.act(location, "start")
    client.wait(location, "active", seconds=10)
    client.delete(location)
    with pytest.raises(NotFound, match=machine.id):
        client.get(location)
    assert client.list() == ()


def test_the_same_token_gives_the_same_machine(client):
    order = msgspec.structs.replace(ORDER, token="0e0a5a30-30c4-4a7b-9d0f-6f0c1a3f6b11")
    assert client.create(order) == client.create(order)
    assert client.create(ORDER) != client.create(ORDER)


def test_names_that_are_not_there_are_answered_with_those_that_are(client):
    with pytest.raises(NotFound, match="debian-12"):
        client.create(msgspec.structs.replace(ORDER, image="windows"))
    with pytest.raises(NotFound, match="tiny, large"):
        client.create(msgspec.structs.replace(ORDER, flavour="huge"))
    with pytest.raises(NotFound, match="0 machines"):
        client.find("web9")


def test_an_ambiguous_name_is_refused(client):
    client.create(ORDER)
    client.create(ORDER)
    with pytest.raises(Invalid, match="could be any of"):
        client.find("web1")


def test_refusals_come_with_the_servers_reason(live, client):
    with pytest.raises(Invalid, match="OpenSSH public key"):
        client.create(msgspec.structs.replace(ORDER, ssh_key="ssh-rsa"))
    location = client.create(ORDER)
    client.wait(location, "active", seconds=10)
    client.act(location, "stop")
    client.wait(location, "inactive", seconds=10)
    with pytest.raises(Conflict, match="stopped"):
        client.act(location, "restart")
    live.who = member("Eve", "other.vo")
    with pytest.raises(Forbidden, match=r"other\.vo.*demo\.skyfed"):
        client.get(location)


def test_waiting_ends_with_the_reason_when_the_machine_fails(live, client):
    live.front.site.host.boot_faults.append("the disk is broken")
    with pytest.raises(Conflict, match="the disk is broken"):
        client.wait(client.create(ORDER), "active", seconds=10)


def test_waiting_has_an_end():
    times = iter(range(100))
    http = Recorded({"/-/": ("ooi-1.2.0/query.text", 200), "/compute/1": ("ooi-1.2.0/compute.text", 200)})
    client = OcciClient("http://127.0.0.1:18787", http, sleep=lambda _s: None)
    with pytest.raises(TimedOut, match="still active after 5 s, not inactive"):
        client.wait("1", "inactive", seconds=5, clock=lambda: next(times))


class Recorded:
    """An endpoint that answers from recordings: path → (file, status) or (headers, body, status)."""

    def __init__(self, answers):
        self.answers = answers
        self.sent = []

    def request(self, method, url, *, headers=None, body=None, deadline=0, max_bytes=0):
        path = "/" + url.split("/", 3)[3]
        self.sent.append((method, url, headers, body))
        found = self.answers.get(f"{method} {path}", self.answers.get(path))
        if found is None:
            return Response(404, {"content-type": "text/plain"}, b"not here", url)
        if len(found) == 3:
            fields, content, status = found
            return Response(status, fields, content, url)
        data = (vectors("occi") / found[0]).read_bytes().partition(b"\n")[2].replace(b"\r\n", b"\n")
        head, _, content = data.partition(b"\n\n")
        pairs = (line.partition(": ") for line in head.decode().split("\n")[1:])
        return Response(found[1], {k.lower(): v for k, _, v in pairs}, content, url)


def test_ooi_is_understood():
    ours = "/compute/69656aca-7184-4f29-a088-f042c64312ac"
    http = Recorded(
        {
            "/-/": ("ooi-1.2.0/query.text", 200),
            ours: ("ooi-1.2.0/compute.text", 200),
            "GET /compute/": (
                {"content-type": "text/plain"},
                f"X-OCCI-Location: http://inside:1{ours}\n".encode(),
                200,
            ),
            "POST /compute/": ("ooi-1.2.0/create.text", 200),
        }
    )
    client = OcciClient("https://ooi.example.org:8787", http)
    (machine,) = client.list()
    assert machine.image == "http://schemas.openstack.org/template/os#foo"
    assert machine.flavour == "http://schemas.openstack.org/template/resource#1"
    assert (machine.title, machine.state, machine.cores) == ("vm0", "active", 2)
    location = client.create(Order(image="foo", flavour="1", ssh_key=KEY, user_data=b"x"))
    assert location == "https://ooi.example.org:8787/compute/foo", "the credential is for this endpoint only"
    assert all(url.startswith("https://ooi.example.org:8787/") for _, url, _, _ in http.sent)


def test_pyssf_is_understood():
    path = "/compute/c7d1b3a9-7b1a-4734-8680-8310561462a6"
    http = Recorded({"/-/": ("pyssf-0.4.7/query.text", 200), path: ("pyssf-0.4.7/compute.text", 200)})
    machine = OcciClient("http://127.0.0.1:18888/", http).get(path)
    assert machine.id == "c7d1b3a9-7b1a-4734-8680-8310561462a6"
    assert (machine.cores, machine.memory_gib, machine.actions) == (2, 2.0, ("start",))


def test_rocci_server_2_is_understood_in_json():
    http = Recorded(
        {
            "/-/": ("rocci-server-2/query.occi-json", 200),
            "/compute/": ("rocci-server-2/compute-collection.occi-json", 200),
        }
    )
    client = OcciClient("https://site.example.org", http)
    assert len(client.list()) >= 1
    assert any(one.term == "small" for one in client.resource_templates())


def test_what_an_endpoint_cannot_take_is_not_sent():
    infra = "http://schemas.ogf.org/occi/infrastructure#"
    model = "".join(
        f'Category: {term}; scheme="http://x#"; class="mixin"; rel="{infra}{rel}"\n'
        for term, rel in (("debian", "os_tpl"), ("small", "resource_tpl"))
    )
    http = Recorded({"/-/": ({"content-type": "text/plain"}, model.encode(), 200)})
    client = OcciClient("https://site.example.org", http)
    with pytest.raises(Invalid, match="takes no user data"):
        client.create(Order(image="debian", flavour="small", user_data=b"x"))
    assert [method for method, *_ in http.sent] == ["GET"]


def test_a_server_that_takes_one_type_only_is_asked_again():
    class Strict(Recorded):
        def request(self, method, url, *, headers=None, **rest):
            if headers["Accept"] != "text/plain":
                return Response(406, {}, b"", url)
            return super().request(method, url, headers=headers, **rest)

    client = OcciClient("http://x", Strict({"/-/": ("pyssf-0.4.7/query.text", 200)}))
    assert any(one.term == "compute" for one in client.model())


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/html"}, b"<html>login</html>"),
        ({"content-type": "application/json"}, b"{"),
        ({"content-type": "application/json"}, b"[1]"),
        ({"content-type": "text/plain"}, b""),
        ({"content-type": "text/plain"}, b'Category: x; scheme="'),
    ],
)
def test_an_answer_that_is_no_occi_is_said_to_be_none(headers, body):
    client = OcciClient("http://x", Recorded({"/-/": (headers, body, 200)}))
    with pytest.raises(Unavailable, match="no OCCI"):
        client.model()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"location": "http://x/compute/7", "content-type": "text/plain"}, b"OK", 201),
        ({"x-occi-location": "http://x/compute/7", "content-type": "text/occi"}, b"OK", 201),
        ({"content-type": "text/plain"}, b"X-OCCI-Location: /compute/7\n", 200),
        ({"content-type": "text/uri-list"}, b"http://elsewhere/compute/7\n", 201),
    ],
)
def test_the_new_machine_is_found_wherever_a_server_says_it(headers, body, status):
    http = Recorded({"/-/": ("ooi-1.2.0/query.text", 200), "POST /compute/": (headers, body, status)})
    assert OcciClient("http://x", http).create(Order(image="foo", flavour="1")) == "http://x/compute/7"


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(live, tmp_path, monkeypatch):
    proxy = tmp_path / "proxy.pem"
    proxy.write_text("")
    monkeypatch.setattr(cli, "outbound", lambda _certificates, _proxy: Client())
    monkeypatch.setenv("X509_USER_PROXY", str(proxy))
    monkeypatch.setenv("SKYFED_OCCI_ALPHA", live.url)
    key = tmp_path / "id.pub"
    key.write_text(KEY + "\n")

    def run(*args: str):
        return CliRunner().invoke(cli.vm if args[0] != "model" else cli.occi, list(args))

    run.key = str(key)
    return run


def test_the_commands_do_what_they_say(command):
    made = command("create", "--site", "alpha", "--image", "debian-12", "--flavour", "tiny", "--title", "web1",
                   "--ssh-key", command.key, "--wait", "--json")  # fmt: skip
    assert made.exit_code == 0, made.output
    machine = msgspec.json.decode(made.stdout, type=Machine)
    assert machine.state == "active"
    assert "web1" in command("list").stdout
    shown = command("show", "web1").stdout
    assert f"127.0.0.1:{machine.ssh_port}" in shown
    assert re.search(r"^memory +128 MiB$", shown, re.MULTILINE)
    assert "inactive" in command("stop", "web1", "--method", "poweroff", "--wait").stdout
    assert not re.search("^ssh ", command("show", "web1").stdout, re.MULTILINE)
    assert "active" in command("start", machine.id[:8], "--wait").stdout
    assert command("restart", "web1", "--wait").exit_code == 0
    assert machine.id in command("delete", "web1").stdout
    assert command("list").stdout == "no machines\n"


def test_without_a_site_the_machines_of_all_sites_are_listed(command, live, monkeypatch):
    made = command("create", "--image", "debian-12", "--flavour", "tiny", "--title", "web1", "--wait", "--json")
    machine = msgspec.json.decode(made.stdout)
    assert "SITE" not in command("list").stdout
    monkeypatch.setenv("SKYFED_OCCI_BETA", live.url)
    header, *rows = command("list").stdout.splitlines()
    assert header.split()[:2] == ["SITE", "ID"]
    assert [row.split()[:2] for row in rows] == [["alpha", machine["id"]], ["beta", machine["id"]]]
    found = msgspec.json.decode(command("list", "--json").stdout)
    assert found == [machine | {"site": "alpha"}, machine | {"site": "beta"}]
    assert msgspec.json.decode(command("list", "--site", "beta", "--json").stdout) == [machine | {"site": "beta"}]


def test_a_site_that_fails_keeps_no_other_from_being_listed(command, monkeypatch):
    command("create", "--image", "debian-12", "--flavour", "tiny", "--title", "web1", "--wait")
    monkeypatch.setenv("SKYFED_OCCI_AWAY", "ftp://x")
    done = command("list")
    assert done.exit_code == 1
    assert "web1" in done.stdout
    assert done.stderr == "skyfed: away: 'ftp://x' is no OCCI endpoint; right is an https URL\n"
    monkeypatch.setenv("SKYFED_OCCI_ALPHA", "ftp://y")
    none = command("list")
    assert (none.exit_code, none.stdout, len(none.stderr.splitlines())) == (1, "", 2)
    assert isinstance(command("list", "--site", "away").exception, Invalid)


def test_ssh_runs_the_real_program_with_the_machines_address(command, monkeypatch):
    started = []
    monkeypatch.setattr(cli.os, "execvp", lambda program, argv: started.append((program, argv)))
    command("create", "--image", "debian-12", "--flavour", "tiny", "--title", "web1", "--wait")
    done = command("ssh", "web1", "--user", "debian", "--seconds", "0", "--", "uname", "-a")
    assert done.exit_code == 0, done.output
    ((program, argv),) = started
    assert program == "ssh"
    assert argv[3:5] == ["-l", "debian"]
    assert argv[-4:] == ["--", "127.0.0.1", "uname", "-a"]


def test_what_an_endpoint_offers_is_listed(command, live):
    short = command("model")
    assert live.front.image.os_tpl_term in short.stdout
    assert "compute" not in short.stdout
    assert "networkinterface" in command("model", "--all").stdout


def test_wrong_use_says_what_would_be_right(command, monkeypatch, tmp_path):
    assert "no $SKYFED_OCCI_GAMMA is set (sites set: alpha)" in command("list", "--site", "gamma").output
    monkeypatch.setenv("SKYFED_OCCI_BETA", "http://x")
    refused = command("show", "web1")
    assert (refused.exit_code, "say which site: --site NAME (set: alpha, beta)" in refused.output) == (2, True)
    private = tmp_path / "id"
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    refused = command("create", "--site", "alpha", "--image", "x", "--flavour", "y", "--ssh-key", str(private))
    assert "no OpenSSH public key" in str(refused.exception)


def test_without_a_proxy_one_is_told_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "none"))
    refused = CliRunner().invoke(cli.vm, ["list", "--endpoint", "https://x"])
    assert isinstance(refused.exception, NotFound)
    assert "skyfed proxy init" in refused.exception.message


def test_ssh_remembers_host_keys_by_machine_and_cannot_be_given_options_by_a_server():
    machine = Machine(id="1-2", location="", ssh_host="127.0.0.1", ssh_port=22022)
    argv = cli.ssh_command(machine, user="root", identity=None, command=("uname", "-a"))
    assert argv[-4:] == ["--", "127.0.0.1", "uname", "-a"]
    assert "HostKeyAlias=1-2" in argv
    evil = msgspec.structs.replace(machine, ssh_host="-oProxyCommand=x")
    with pytest.raises(Invalid):
        cli.ssh_command(evil, user="root", identity=None, command=())
    with pytest.raises(Unavailable, match="start it first"):
        ssh_address(Machine(id="1", location="", state="inactive"))


def test_the_address_that_every_guest_has_inside_is_no_place_to_log_in_to():
    running = Machine(id="1", location="", state="active", addresses=("10.0.2.15",))
    with pytest.raises(Unavailable, match="forwards no port"):
        ssh_address(running)
    assert ssh_address(msgspec.structs.replace(running, addresses=("10.0.2.15", "192.0.2.7"))) == ("192.0.2.7", 22)
    assert ssh_address(msgspec.structs.replace(running, addresses=("vm.example.org",))) == ("vm.example.org", 22)
    forwarded = msgspec.structs.replace(running, ssh_host="127.0.0.1", ssh_port=22022)
    assert ssh_address(forwarded) == ("127.0.0.1", 22022)


@pytest.mark.parametrize(
    ("gib", "text"),
    [(0.15625, "160 MiB"), (0.5, "512 MiB"), (1.0, "1 GiB"), (1.5, "1.5 GiB"), (64.0, "64 GiB")],
)
def test_memory_is_told_in_the_unit_that_fits(gib, text):
    machine = Machine(id="1", location="http://x/compute/1", state="active", memory_gib=gib)
    assert re.search(rf"^memory +{text}$", cli._described(machine), re.MULTILINE)


def test_a_machine_that_does_not_run_has_no_ssh_line():
    machine = Machine(id="1", location="http://x/1", state="inactive", ssh_host="127.0.0.1", ssh_port=22022)
    assert "22022" not in cli._described(machine)
    assert "22022" not in cli._listed([cli.Listed(**msgspec.structs.asdict(machine))])
    assert "127.0.0.1:22022" in cli._described(msgspec.structs.replace(machine, state="active"))


def test_the_client_needs_only_base_dependencies():
    import subprocess
    import sys

    script = (
        "import sys, skyfed.occi.cli, skyfed.occi.client;"
        "bad = [m for m in sys.modules if m.split('.')[0] in "
        "('starlette', 'uvicorn', 'sqlalchemy', 'jinja2', 'alembic', 'prometheus_client', 'libvirt')];"
        "print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_is_real_http(live, client):
    """Nothing of the above is mocked between client and server."""
    raw = Client().request("GET", f"{live.url}/-/", headers={"Accept": "text/occi"})
    assert raw.headers["category"].count("scheme=") > 10
    assert "OCCI/1.2" in raw.headers["server"]
    assert isinstance(live.front, Front)
