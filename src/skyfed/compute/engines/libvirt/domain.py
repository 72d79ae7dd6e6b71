"""libvirt domain documents of our machines (compute digest 4.3). Text in, text out; no libvirt needed."""

import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from skyfed.core.text import one_line

NAMESPACE = "urn:skyfed:machine:1"
"""Of our element in a domain's metadata: what carries it is ours."""
GUEST_ADDRESS = "10.0.2.15"
GATEWAY = "10.0.2.2"
SSH_PORT = 22
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
# Free on every machine we define: libvirt hands out slots from 2 upwards and a machine has a handful of devices.
_NIC_SLOT = "0x10"

ET.register_namespace("skyfed", NAMESPACE)
ET.register_namespace("qemu", _QEMU)


@dataclass(frozen=True)
class Domain:
    """All that a domain document depends on. Paths are absolute."""

    id: str
    title: str
    cores: int
    memory_mib: int
    acceleration: str
    """`kvm` or `tcg`."""
    emulator: Path
    root_disk: Path
    base: Path
    context_disk: Path
    serial_log: Path
    mac: str
    ssh_port: int
    """On this host's loopback, forwarded to the guest's port 22."""
    outbound: bool
    tcg_cache_mib: int
    image_sha512: str
    owner_digest: str
    vo: str


def name(id: str) -> str:
    """The domain's name for a machine's UUID."""
    return f"vm-{id}"


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its one normal form: nothing else becomes part of a path or a document."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def document(domain: Domain) -> str:
    """The domain document."""
    root = ET.Element("domain", type="kvm" if domain.acceleration == "kvm" else "qemu")
    _text(root, "name", name(domain.id))
    _text(root, "uuid", domain.id)
    _text(root, "title", one_line(domain.title, 80) or name(domain.id))
    ET.SubElement(
        ET.SubElement(root, "metadata"),
        f"{{{NAMESPACE}}}machine",
        image=domain.image_sha512,
        owner=domain.owner_digest,
        vo=domain.vo,
    )
    _text(root, "memory", str(domain.memory_mib), unit="MiB")
    _text(root, "vcpu", str(domain.cores))
    system = ET.SubElement(root, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="pc")
    ET.SubElement(system, "boot", dev="hd")
    _processor(root, domain)
    ET.SubElement(root, "clock", offset="utc")
    _text(root, "on_poweroff", "destroy")
    _text(root, "on_reboot", "restart")
    _text(root, "on_crash", "destroy")
    _devices(root, domain)
    _user_network(root, domain)
    return ET.tostring(root, encoding="unicode")


def _processor(root: ET.Element, domain: Domain) -> None:
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if domain.acceleration == "kvm":
        ET.SubElement(root, "cpu", mode="host-passthrough")
        return
    _text(ET.SubElement(features, "tcg"), "tb-cache", str(domain.tcg_cache_mib), unit="MiB")
    # All that emulation has: today's distributions do not start on the oldest x86-64 that is the default.
    ET.SubElement(root, "cpu", mode="maximum")


def _devices(root: ET.Element, domain: Domain) -> None:
    devices = ET.SubElement(root, "devices")
    _text(devices, "emulator", str(domain.emulator))
    _root_disk(devices, domain)
    _context_disk(devices, domain)
    ET.SubElement(devices, "controller", type="usb", model="none")
    for kind, target in (("serial", {"port": "0"}), ("console", {"type": "serial", "port": "0"})):
        port = ET.SubElement(devices, kind, type="file")
        # append: the log goes on over boots, and can be cut while QEMU writes
        ET.SubElement(port, "source", path=str(domain.serial_log), append="on")
        ET.SubElement(port, "target", target)
    balloon = ET.SubElement(devices, "memballoon", model="virtio")
    ET.SubElement(balloon, "stats", period="10")
    _text(ET.SubElement(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")


def _root_disk(devices: ET.Element, domain: Domain) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", cache="writeback", discard="unmap")
    ET.SubElement(disk, "source", file=str(domain.root_disk))
    # The whole chain is given, so that QEMU reads neither a format nor a path out of a disk the guest could write.
    backing = ET.SubElement(disk, "backingStore", type="file")
    ET.SubElement(backing, "format", type="qcow2")
    ET.SubElement(backing, "source", file=str(domain.base))
    ET.SubElement(backing, "backingStore")
    ET.SubElement(disk, "target", dev="vda", bus="virtio")
    # At most 20 characters: the guest finds it as /dev/disk/by-id/virtio-root-…
    _text(disk, "serial", f"root-{domain.id}"[:20])


def _context_disk(devices: ET.Element, domain: Domain) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="raw")
    ET.SubElement(disk, "source", file=str(domain.context_disk))
    # the last letter: volumes take vdb and on
    ET.SubElement(disk, "target", dev="vdz", bus="virtio")
    ET.SubElement(disk, "readonly")


def _user_network(root: ET.Element, domain: Domain) -> None:
    """libvirt 9 forwards ports with passt only; QEMU's own user network does it without another program."""
    backend = f"user,id=nic0,hostfwd=tcp:127.0.0.1:{domain.ssh_port}-:{SSH_PORT}"
    if not domain.outbound:
        backend += ",restrict=on"
    # Without an id of its own: libvirt, told of a device it did not define, would log an error at each boot.
    device = f"virtio-net-pci,netdev=nic0,mac={domain.mac},bus=pci.0,addr={_NIC_SLOT},romfile="
    line = ET.SubElement(root, f"{{{_QEMU}}}commandline")
    for value in ("-netdev", backend, "-device", device):
        ET.SubElement(line, f"{{{_QEMU}}}arg", value=value)


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
