"""The main job, end to end, as its users do it: the tour, the commands, and the field's own clients."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from skyfed.core.clock import SystemClock
from skyfed.federation.doctor import examine
from skyfed.federation.guests import guest_pids
from skyfed.federation.places import Places
from skyfed.node.config import Node
from skyfed.node.supervisor import read_states
from support import federation as fed
from support.peers import need

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

EXPECTED_STEPS = 2 + 2 * 7 + 1


def run(*argv: str, env: dict[str, str], check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **env}, timeout=120, check=False)
    if check:
        assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_the_tour_holds_step_by_step(places: Places) -> None:
    lines = fed.skyfed("tour", "--dir", str(places.directory), "--json").splitlines()
    steps = [json.loads(line) for line in lines]
    assert len(steps) == EXPECTED_STEPS
    assert all(step["ok"] for step in steps)
    assert {"step", "ok", "seconds", "detail"} <= set(steps[0])
    refused = steps[-1]["detail"]
    assert "VO ops is not accepted here" in refused
    assert guest_pids(places) == []


def test_every_service_of_every_node_is_well(places: Places) -> None:
    services = fed.status(places)
    assert {(s["node"], s["service"]) for s in services} >= {
        ("federation", "voms"),
        ("federation", "portal"),
        ("alpha", "engine"),
        ("beta", "occi"),
    }
    assert [s for s in services if s["health"] != "ok"] == []


def test_the_doctor_finds_no_fault(places: Places) -> None:
    faults = [f for f in examine(places, places.directory, SystemClock()) if f.verdict == "fault"]
    assert faults == []


def test_every_setting_is_explained(places: Places) -> None:
    for node in ("federation", "alpha"):
        settings = json.loads(fed.skyfed("config", "show", "--node", str(places.node(node)), "--json"))
        assert [s["key"] for s in settings if not s["description"]] == []


# -- foreign clients ------------------------------------------------------------------------------------------------


def test_ldapsearch_finds_the_image_at_the_top_level(places: Places, alice: dict[str, str]) -> None:
    need("ldapsearch")
    found = run(
        "ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", f"ldap://{alice['LCG_GFAL_INFOSYS']}",
        "-b", "GLUE2GroupID=grid,o=glue", "(objectClass=GLUE2ApplicationEnvironment)", "GLUE2ApplicationEnvironmentAppName",
        env=alice,
    )  # fmt: skip
    assert found.count("GLUE2ApplicationEnvironmentAppName: Skyfed demo guest") == 2


def test_curl_with_a_proxy_reads_the_query_interface(places: Places, alice: dict[str, str]) -> None:
    need("curl")
    proxy = alice["X509_USER_PROXY"]
    found = run(
        "curl", "-sS", "--fail-with-body", "--capath", alice["X509_CERT_DIR"], "--cert", proxy, "--key", proxy,
        f"{alice['SKYFED_OCCI_ALPHA']}/-/", env=alice,
    )  # fmt: skip
    assert 'Category: compute; scheme="http://schemas.ogf.org/occi/infrastructure#"; class="kind"' in found
    assert "Category: skyfed-demo-guest" in found


def test_curl_without_a_credential_is_told_why(places: Places, alice: dict[str, str]) -> None:
    need("curl")
    said = run(
        "curl", "-sS", "-w", "%{http_code}", "--capath", alice["X509_CERT_DIR"], f"{alice['SKYFED_OCCI_ALPHA']}/compute/",
        env=alice,
    )  # fmt: skip
    assert said.endswith("401")
    assert "certificate" in said


def test_openssl_verifies_the_published_image_list(places: Places, alice: dict[str, str], tmp_path: Path) -> None:
    need("openssl")
    need("curl")
    signed = tmp_path / "list"
    run(
        "curl",
        "-sS",
        "--fail",
        "--capath",
        alice["X509_CERT_DIR"],
        "-o",
        str(signed),
        alice["SKYFED_IMAGE_LIST"],
        env=alice,
    )
    verified = tmp_path / "payload"
    run(
        "openssl", "smime", "-verify", "-in", str(signed), "-CApath", alice["X509_CERT_DIR"], "-out", str(verified),
        "-purpose", "any", env=alice,
    )  # fmt: skip
    images = json.loads(verified.read_text())["hv:imagelist"]["hv:images"]
    assert [image["hv:image"]["dc:title"] for image in images] == ["Skyfed demo guest"]


@pytest.mark.parametrize("client", ["voms-proxy-init2", "voms-proxy-init3"])
def test_the_fields_own_proxy_clients_work_with_our_environment(
    places: Places, alice: dict[str, str], tmp_path: Path, client: str
) -> None:
    program = str(need(client))
    env = {**alice, "X509_USER_PROXY": str(tmp_path / "proxy.pem")}
    run(program, "-voms", "demo.skyfed", "-out", env["X509_USER_PROXY"], env=env)
    info = json.loads(fed.skyfed("proxy", "info", "--json", env=env))
    assert "demo.skyfed" in json.dumps(info)
    listed = fed.skyfed("vm", "list", "--site", "ALPHA", "--json", env=env)
    assert json.loads(listed) == []


# -- an own image, an own machine -------------------------------------------------------------------------------------


def test_a_machine_by_hand_from_create_to_delete(places: Places, alice: dict[str, str]) -> None:
    created = json.loads(
        fed.skyfed(
            "vm", "create", "--site", "BETA", "--image", "Skyfed demo guest", "--flavour", "nano", "--title", "by-hand",
            "--ssh-key", alice["SKYFED_SSH_KEY"] + ".pub", "--wait", "--json", env=alice,
        )
    )  # fmt: skip
    assert created["state"] == "active"
    said = fed.skyfed(
        "vm",
        "ssh",
        "--site",
        "BETA",
        "by-hand",
        "--identity",
        alice["SKYFED_SSH_KEY"],
        "--",
        "uname",
        "-n",
        env=alice,
    )
    assert said.strip() == "by-hand"
    fed.skyfed("vm", "delete", "--site", "BETA", "by-hand", env=alice)
    assert json.loads(fed.skyfed("vm", "list", "--site", "BETA", "--json", env=alice)) == []


def test_ones_own_image_reaches_the_sites(places: Places, alice: dict[str, str]) -> None:
    guest = places.directory / "guest" / "guest.qcow2"
    fed.skyfed(
        "image", "publish", str(guest), "--title", "My own image", "--list", "demo.skyfed", "--os-name", "Debian",
        "--os-version", "12", "--node", str(places.node("federation")), env=alice,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while "My own image" not in fed.skyfed(
        "find", "image", "My own image", "--vo", "demo.skyfed", "--json", env=alice, check=False
    ):
        assert time.monotonic() < deadline, "the image did not reach the information system"
        time.sleep(1)  # the site looks at its lists once a minute


# -- the portal -------------------------------------------------------------------------------------------------------


def test_the_portal_shows_the_sites_in_a_real_browser(places: Places, alice: dict[str, str], tmp_path: Path) -> None:
    page = run(
        str(need("chromium")), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}",
        "--ignore-certificate-errors", "--dump-dom", alice["SKYFED_PORTAL"], env=alice,
    )  # fmt: skip
    assert "ALPHA" in page
    assert "BETA" in page


# -- what an administrator does ---------------------------------------------------------------------------------------


def test_a_banned_user_is_out_within_seconds_and_in_again(places: Places, alice: dict[str, str]) -> None:
    bans = places.node("beta") / "bans.txt"
    before = bans.read_text()
    me = "/DC=skyfed/DC=demo/OU=people/CN=alice"
    bans.write_text(f"{before}{me}\n")
    try:
        deadline = time.monotonic() + 5
        while "ban" not in (said := run(*fed.SKYFED, "vm", "list", "--site", "BETA", env=alice, check=False)):
            assert time.monotonic() < deadline, said
    finally:
        bans.write_text(before)
    deadline = time.monotonic() + 5
    while "ban" in (said := run(*fed.SKYFED, "vm", "list", "--site", "BETA", env=alice, check=False)):
        assert time.monotonic() < deadline, said


def test_a_node_restored_from_a_backup_has_its_machines_as_they_were(places: Places, alice: dict[str, str]) -> None:
    """The machine runs, its disk is written to, the backup is taken; what is written later is gone after the restore."""

    def guest(*command: str) -> str:
        return fed.skyfed("vm", "ssh", "--site", "ALPHA", "saved", "--identity", key, "--", *command, env=alice).strip()

    key = alice["SKYFED_SSH_KEY"]
    node, archive = places.node("alpha"), places.directory / "alpha.tar.gz"
    fed.skyfed(
        "vm", "create", "--site", "ALPHA", "--image", "Skyfed demo guest", "--flavour", "tiny", "--title", "saved",
        "--ssh-key", f"{key}.pub", "--wait", env=alice,
    )  # fmt: skip
    guest("mount -t vfat /dev/vda /mnt && echo before > /mnt/word && sync")
    fed.skyfed("backup", "--node", str(node), str(archive))
    guest("echo after > /mnt/word && sync")
    assert "stop it first" in run(*fed.SKYFED, "restore", str(archive), "--node", str(node), env={}, check=False)
    fed.skyfed("down", "--dir", str(places.directory))
    fed.skyfed("restore", str(archive), "--node", str(node))
    fed.skyfed("up", "--dir", str(places.directory), "--detach", "--no-tour")
    (machine,) = json.loads(fed.skyfed("vm", "list", "--site", "ALPHA", "--json", env=alice))
    assert machine["title"] == "saved"
    fed.skyfed("vm", "start", "--site", "ALPHA", "saved", "--wait", env=alice)
    assert guest("mount -t vfat /dev/vda /mnt && cat /mnt/word") == "before"
    fed.skyfed("vm", "delete", "--site", "ALPHA", "saved", env=alice)


def test_a_killed_process_is_started_again(places: Places) -> None:
    node = Node.load(places.node("federation"))
    (before,) = read_states(node)
    os.kill(before.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (state := read_states(node)[0]).pid == before.pid or state.state != "running":
        assert time.monotonic() < deadline, state
        time.sleep(0.1)
    assert state.restarts == before.restarts + 1
    assert state.last_exit == "killed by SIGKILL"


def test_down_leaves_no_process_and_up_again_keeps_all_data(places: Places, alice: dict[str, str]) -> None:
    fed.skyfed(
        "vm", "create", "--site", "ALPHA", "--image", "Skyfed demo guest", "--flavour", "tiny", "--title", "survivor",
        "--ssh-key", alice["SKYFED_SSH_KEY"] + ".pub", "--wait", env=alice,
    )  # fmt: skip
    fed.skyfed("down", "--dir", str(places.directory))
    assert fed.processes(places) == []
    fed.skyfed("up", "--dir", str(places.directory), "--detach", "--no-tour")
    (machine,) = json.loads(fed.skyfed("vm", "list", "--site", "ALPHA", "--json", env=alice))
    assert (machine["title"], machine["state"]) == ("survivor", "inactive")
    fed.skyfed("vm", "start", "--site", "ALPHA", "survivor", "--wait", env=alice)
    said = fed.skyfed(
        "vm",
        "ssh",
        "--site",
        "ALPHA",
        "survivor",
        "--identity",
        alice["SKYFED_SSH_KEY"],
        "--",
        "uname",
        "-s",
        env=alice,
    )
    assert said.strip() == "Linux"
    fed.skyfed("vm", "delete", "--site", "ALPHA", "survivor", env=alice)
