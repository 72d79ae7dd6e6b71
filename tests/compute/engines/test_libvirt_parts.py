"""The libvirt engine's parts that need no hypervisor."""

import io
import json
import os
import signal
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from pathlib import Path

import libvirt
import pycdlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfed.compute.contract import VmCounters
from skyfed.compute.engines.libvirt import acceleration, adoption, console, observed, ports, processes
from skyfed.compute.engines.libvirt.connection import forget_short_path, short_path, translate
from skyfed.compute.engines.libvirt.domain import NAMESPACE, Domain, document, is_uuid
from skyfed.compute.engines.libvirt.nocloud import context_disk, meta_data
from skyfed.compute.engines.libvirt.records import Record, Records
from skyfed.compute.model import Context, VmState
from skyfed.core.errors import Invalid, Unavailable
from support.vectors import vectors

ID = "11111111-2222-4333-8444-555555555555"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA alice@example.org"
NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def a_domain(**changes: object) -> Domain:
    values: dict[str, object] = {
        "id": ID,
        "title": "a machine",
        "cores": 2,
        "memory_mib": 256,
        "acceleration": "tcg",
        "emulator": Path("/usr/bin/qemu-system-x86_64"),
        "root_disk": Path("/srv/engine/root.qcow2"),
        "base": Path("/srv/engine/base.qcow2"),
        "context_disk": Path("/srv/engine/context.iso"),
        "serial_log": Path("/srv/engine/serial.log"),
        "mac": "52:54:00:00:00:01",
        "ssh_port": 40022,
        "outbound": True,
        "tcg_cache_mib": 64,
        "image_sha512": "ab" * 64,
        "owner_digest": "cd" * 32,
        "vo": "demo.skyfed",
    }
    return Domain(**{**values, **changes})  # type: ignore[arg-type]


def test_a_domain_document_has_what_libvirt_made_of_ours_and_names_its_whole_disk_chain() -> None:
    ours = ET.fromstring(document(a_domain()))
    recorded = ET.parse(vectors("compute") / "libvirt" / "live-domain.xml").getroot()
    for path in ("os/type", "clock", "on_poweroff", "on_reboot", "on_crash", "features/acpi", "devices/emulator"):
        mine, theirs = ours.find(path), recorded.find(path)
        assert mine is not None
        assert theirs is not None
        assert (mine.text or "").strip() == (theirs.text or "").strip()
    assert ours.get("type") == recorded.get("type") == "qemu"
    disk = ours.find("devices/disk[1]")
    assert disk is not None
    assert disk.find("driver").get("type") == "qcow2"  # type: ignore[union-attr]
    assert disk.find("backingStore/format").get("type") == "qcow2"  # type: ignore[union-attr]
    assert disk.find("backingStore/backingStore") is not None
    assert ours.find("devices/disk[2]/readonly") is not None
    machine = ours.find(f"metadata/{{{NAMESPACE}}}machine")
    assert machine is not None
    assert machine.get("vo") == "demo.skyfed"


def test_ssh_is_forwarded_from_loopback_only_and_outbound_connections_can_be_refused() -> None:
    def backend(domain: Domain) -> str:
        arguments = [one.get("value", "") for one in ET.fromstring(document(domain)).iter(f"{QEMU}arg")]
        return arguments[arguments.index("-netdev") + 1]

    assert "hostfwd=tcp:127.0.0.1:40022-:22" in backend(a_domain())
    assert "restrict=on" not in backend(a_domain())
    assert "restrict=on" in backend(a_domain(outbound=False))


def test_kvm_gives_the_hosts_processor_and_emulation_bounds_its_cache() -> None:
    kvm, tcg = (ET.fromstring(document(a_domain(acceleration=kind))) for kind in ("kvm", "tcg"))
    assert kvm.get("type") == "kvm"
    assert kvm.find("cpu").get("mode") == "host-passthrough"  # type: ignore[union-attr]
    assert tcg.findtext("features/tcg/tb-cache") == "64"


@given(st.text(max_size=200), st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_no_title_breaks_out_of_its_element(title: str, vo: str) -> None:
    vo = "".join(character for character in vo if character.isprintable())
    parsed = ET.fromstring(document(a_domain(title=title, vo=vo)))
    assert len(parsed.findall("title")) == 1
    assert len(parsed.findall("devices/disk")) == 2


def test_only_the_normal_form_of_a_uuid_is_one() -> None:
    assert is_uuid(ID)
    for other in (
        ID.replace("-", ""),
        f"{{{ID}}}",
        f"urn:uuid:{ID}",
        "AAAAAAAA-2222-4333-8444-555555555555",
        "../x",
        "",
    ):
        assert not is_uuid(other)


def test_a_context_disk_is_labelled_cidata_and_holds_the_bytes_as_given() -> None:
    script = b"#!/bin/sh\necho '\xff\x00'\n"
    data = context_disk(ID, Context(ssh_keys=(KEY,), hostname="node-1", user_data=script))
    assert len(data) >= 366 * 1024
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(data))
    assert image.pvd.volume_identifier.decode().strip() == "cidata"
    for kind in ("joliet_path", "rr_path"):
        out = io.BytesIO()
        image.get_file_from_iso_fp(out, **{kind: "/user-data"})
        assert out.getvalue() == script
    image.close()


def test_meta_data_is_yaml_in_which_every_string_is_json() -> None:
    lines = meta_data(ID, Context(ssh_keys=(KEY, KEY + '"\\'), hostname="node-1")).decode().splitlines()
    assert json.loads(lines[0].removeprefix("instance-id: ")) == ID
    assert json.loads(lines[1].removeprefix("local-hostname: ")) == "node-1"
    assert lines[2] == "public-keys:"
    assert [json.loads(line.removeprefix("  - ")) for line in lines[3:]] == [KEY, KEY + '"\\']


@pytest.mark.parametrize(
    "context",
    [
        Context(hostname="-x"),
        Context(hostname="a b"),
        Context(hostname="x\ny"),
        Context(hostname="x" * 64),
        Context(ssh_keys=(KEY + "\nssh-rsa AAAA",)),
        Context(ssh_keys=(KEY + " é",)),
        Context(ssh_keys=("nonsense",)),
        Context(ssh_keys=(KEY,) * 17),
        Context(user_data=b"x" * 65537),
    ],
)
def test_what_could_not_be_delivered_as_it_is_is_refused(context: Context) -> None:
    with pytest.raises(Invalid):
        context_disk(ID, context)


def test_events_become_the_states_of_the_contract() -> None:
    stopped = libvirt.VIR_DOMAIN_EVENT_STOPPED
    assert observed.from_event(libvirt.VIR_DOMAIN_EVENT_STARTED, 0) == observed.Observation(VmState.ACTIVE)
    assert observed.from_event(stopped, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN).state is VmState.STOPPED  # type: ignore[union-attr]
    assert observed.from_event(stopped, libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED).state is VmState.HIBERNATED  # type: ignore[union-attr]
    died = observed.from_event(stopped, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED)
    assert died is not None
    assert (died.state, died.fault) == (VmState.ERROR, observed.PROCESS_DIED)
    paused = observed.from_event(libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR)
    assert paused is not None
    assert paused.state is VmState.SUSPENDED
    assert "disk" in (paused.fault or "")
    for silent in (libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED):
        assert observed.from_event(silent, 0) is None


def test_states_become_the_states_of_the_contract() -> None:
    assert observed.from_state(libvirt.VIR_DOMAIN_RUNNING, 1).state is VmState.ACTIVE
    assert observed.from_state(libvirt.VIR_DOMAIN_PAUSED, 1).state is VmState.SUSPENDED
    assert observed.from_state(libvirt.VIR_DOMAIN_SHUTDOWN, 1).state is VmState.STOPPING
    assert observed.from_state(libvirt.VIR_DOMAIN_SHUTOFF, 1).state is VmState.STOPPED
    saved = observed.from_state(libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED)
    assert saved.state is VmState.HIBERNATED
    assert observed.from_state(libvirt.VIR_DOMAIN_NOSTATE, 0).state is VmState.UNKNOWN


class Refused(libvirt.libvirtError):
    """An error as libvirt's Python binding makes it: code, domain, message, level and five more."""

    def __init__(self, code: int, message: str) -> None:
        self.err = (code, 10, message, 2, "", "", "", 0, 0)


def test_libvirts_words_reach_the_client_without_the_hosts_paths() -> None:
    error = translate(Refused(libvirt.VIR_ERR_OPERATION_INVALID, "cannot open /srv/secret/disk:\nbusy"))
    assert error.code == "conflict"
    assert "busy" in error.message
    assert "/srv" not in error.message
    assert "\n" not in error.message


def test_the_system_user_that_libvirt_wants_of_root_is_named_with_the_remedy() -> None:
    error = translate(Refused(libvirt.VIR_ERR_INVALID_ARG, "invalid argument: Failed to parse user 'libvirt-qemu'"))
    assert error.code == "engine_down"
    assert "useradd --system --user-group --no-create-home libvirt-qemu" in error.message


def test_a_console_keeps_its_end_and_stays_bounded(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    assert console.tail(log, 100) == b""
    with log.open("ab") as guest:  # as QEMU holds it open, in append mode
        written = b""
        for number in range(2000):
            line = f"line {number}\n".encode()
            guest.write(line)
            guest.flush()
            written += line
            console.trim(log, 16384)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2 * 16384
    assert console.tail(log, 8192) == written[-8192:]
    assert console.tail(log, 10) == written[-10:]
    assert console.tail(log, 0) == b""


def test_a_port_is_kept_while_it_is_free() -> None:
    import socket

    port = ports.choose()
    assert ports.choose(port) == port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert not ports.is_free(port)
        assert ports.choose(port) != port


def a_record(**changes: object) -> Record:
    values: dict[str, object] = {
        "id": ID,
        "title": "t",
        "image_sha512": "ab" * 64,
        "cores": 1,
        "memory_mib": 128,
        "disk_gib": 1.5,
        "owner_digest": "",
        "vo": "",
        "mac": "52:54:00:00:00:01",
        "ssh_port": 0,
        "whole": True,
        "state": VmState.STOPPED,
        "since": NOW,
        "booted": NOW - timedelta(hours=1),
        "counters": VmCounters(id=ID, boot="b", at=NOW, cpu_seconds=1.5),
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]


def test_a_record_comes_back_as_it_was_saved_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    records = Records(tmp_path / "machines")
    records.open()
    records.save(a_record())
    assert records.load(ID) == a_record()
    assert records.ids() == {ID}
    assert (records.folder(ID) / "record.json").stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in records.folder(ID).iterdir()] == ["record.json"]
    assert records.remove(ID)
    assert not records.remove(ID)
    assert records.ids() == frozenset()


def test_a_broken_record_is_a_leftover_and_a_bad_identifier_is_no_folder(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.folder(ID).mkdir()
    assert records.load(ID) is None
    (records.folder(ID) / "record.json").write_bytes(b'{"id": 1')
    assert records.load(ID) is None
    (tmp_path / "lost+found").mkdir()
    assert records.ids() == {ID}
    with pytest.raises(ValueError, match="no UUID"):
        records.folder("../..")


def test_a_long_root_is_reached_by_a_short_name_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert short_path(Path("/srv/engine")) == Path("/srv/engine")
    deep = tmp_path / ("d" * 60) / "engine"
    deep.mkdir(parents=True)
    link = short_path(deep)
    assert link.resolve() == deep
    assert short_path(deep) == link
    forget_short_path(deep)
    forget_short_path(deep)
    assert not link.is_symlink()
    link.symlink_to("/etc")
    with pytest.raises(Unavailable, match="in the way"):
        short_path(deep)


def test_processes_are_known_by_their_machine_and_their_start(tmp_path: Path) -> None:
    pid_file = tmp_path / "x.pid"
    assert processes.find(pid_file, ID) is None
    pid_file.write_text(str(os.getpid()))
    assert processes.find(pid_file, ID) is None  # this process is no machine
    used = processes.cpu_seconds(os.getpid())
    assert used is not None
    assert used > 0
    assert processes.cpu_seconds(2**22 + 1) is None


async def _verdict(tmp_path: Path, wanted: str, image: Path | None) -> acceleration.Verdict:
    return await acceleration.judge(wanted, image, Path("/nonexistent"), "v", tmp_path / "acceleration.json")


def test_acceleration_can_be_forced_and_is_emulation_where_it_cannot_be_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    assert asyncio.run(_verdict(tmp_path, "kvm", None)).acceleration == "kvm"
    assert asyncio.run(_verdict(tmp_path, "tcg", None)).acceleration == "tcg"
    monkeypatch.setattr(acceleration, "_lacking", lambda: "")
    assert "no probe image" in asyncio.run(_verdict(tmp_path, "auto", None)).reason
    monkeypatch.setattr(acceleration, "_lacking", lambda: "no vmx, no svm")
    assert asyncio.run(_verdict(tmp_path, "auto", None)) == acceleration.Verdict(
        acceleration="tcg", reason="no vmx, no svm"
    )


@pytest.mark.parametrize(
    ("says", "verdict"), [("echo SKYFED-GUEST STARTS", "kvm"), ("echo SeaBIOS; exec sleep 60", "tcg")]
)
def test_kvm_is_used_only_where_a_guest_has_said_its_first_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, verdict: str
) -> None:
    import asyncio

    monkeypatch.setattr(acceleration, "_lacking", lambda: "")
    monkeypatch.setattr(acceleration, "PROBE_SECONDS", 0.5)
    emulator = tmp_path / "qemu"
    emulator.write_text(f"#!/bin/sh\nexec 2>&1\necho run >> {tmp_path}/runs\n{says}\n")
    emulator.chmod(0o755)
    image = tmp_path / "guest.qcow2"
    image.write_bytes(uuid.uuid4().bytes)
    for _ in range(2):
        found = asyncio.run(acceleration.judge("auto", image, emulator, "7.2", tmp_path / "verdict.json"))
        assert found.acceleration == verdict
    assert (tmp_path / "runs").read_text() == "run\n"  # remembered
    asyncio.run(acceleration.judge("auto", image, emulator, "8.0", tmp_path / "verdict.json"))
    assert (tmp_path / "runs").read_text() == "run\nrun\n"  # another QEMU is tried anew


def test_a_probe_that_a_killed_host_left_is_ended_before_libvirt_opens(tmp_path: Path) -> None:
    folder = tmp_path / "lib" / "qemu" / "qmp-ABC123"
    stale = tmp_path / "lib" / "qemu" / "qmp-OLD000"
    for one in (folder, stale):
        one.mkdir(parents=True)
    sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with subprocess.Popen([*sleeper, str(folder)]) as probe, subprocess.Popen(sleeper) as other:
        try:
            (folder / "qmp.pid").write_text(f"{probe.pid}\n")
            (stale / "qmp.pid").write_text(f"{other.pid}\n")  # a number that belongs to somebody else by now
            adoption.clear_ended(tmp_path)
            assert probe.wait(10) == -signal.SIGKILL
            assert other.poll() is None
            assert list((tmp_path / "lib" / "qemu").iterdir()) == []
        finally:
            probe.kill()
            other.kill()
