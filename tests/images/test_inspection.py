"""What image files are found to be, hostile ones above all."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.conftest import qcow2
from skyfed.core.errors import Invalid
from skyfed.images.inspection import Inspection, InspectionLimits, inspect
from support.peers import need

LIMITS = InspectionLimits(formats=("raw", "qcow2", "vmdk", "vdi", "vhd", "iso"), max_virtual_bytes=1 << 33)


def look(tmp_path: Path, content: bytes, limits: InspectionLimits = LIMITS) -> Inspection:
    path = tmp_path / "image"
    path.write_bytes(content)
    return inspect(path, limits)


def refused(tmp_path: Path, content: bytes, limits: InspectionLimits = LIMITS) -> str:
    with pytest.raises(Invalid) as caught:
        look(tmp_path, content, limits)
    return caught.value.code


def test_a_sound_qcow2_is_accepted(tmp_path: Path) -> None:
    assert look(tmp_path, qcow2(1 << 26)) == Inspection("qcow2", 1 << 26, 65536)


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["qcow2", "raw", "vmdk", "vdi"])
def test_what_qemu_makes_is_accepted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    subprocess.run([str(need("qemu-img")), "create", "-q", "-f", kind, str(path), "16M"], check=True)
    assert (inspect(path, LIMITS).format, inspect(path, LIMITS).virtual_size) == (kind, 16 << 20)


@pytest.mark.peer
@pytest.mark.parametrize(
    "option", ["compat=0.10", "lazy_refcounts=on", "cluster_size=4k", "extended_l2=on,cluster_size=64k"]
)
def test_qcow2_variants_of_qemu(tmp_path: Path, option: str) -> None:
    path = tmp_path / "disk"
    subprocess.run([str(need("qemu-img")), "create", "-q", "-f", "qcow2", "-o", option, str(path), "16M"], check=True)
    if option.startswith("extended_l2"):  # a feature bit that the inspection library does not know yet
        with pytest.raises(Invalid, match="features"):
            inspect(path, LIMITS)
    else:
        assert inspect(path, LIMITS).virtual_size == 16 << 20


@pytest.mark.peer
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-b", "/etc/passwd", "-F", "raw"], "backing file"),
        (["-o", "data_file=secret.raw"], "data"),
        (["-o", "encryption=on", "--object", "secret,id=s,data=x", "-o", "encrypt.key-secret=s"], "encrypted"),
    ],
)
def test_what_qemu_makes_with_a_trap_in_it_is_refused(tmp_path: Path, arguments: list[str], why: str) -> None:
    path = tmp_path / "evil"
    objects = arguments[2:4] if "--object" in arguments else []
    options = [a for a in arguments if a not in objects]
    command = [str(need("qemu-img")), "create", "-q", "-u", *objects, "-f", "qcow2", *options, str(path), "16M"]
    if "-b" not in arguments:
        command.remove("-u")
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    with pytest.raises(Invalid, match=why):
        inspect(path, LIMITS)


@pytest.mark.peer
def test_an_internal_snapshot_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "snap"
    qemu = str(need("qemu-img"))
    subprocess.run([qemu, "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    subprocess.run([qemu, "snapshot", "-c", "one", str(path)], check=True)
    with pytest.raises(Invalid, match="snapshots"):
        inspect(path, LIMITS)


@pytest.mark.parametrize(
    "change",
    [
        {"backing_offset": 0x200, "backing_size": 11},
        {"incompatible": 1 << 2},
        {"incompatible": 1 << 1},
        {"incompatible": 1 << 40},
        {"snapshots": 1},
        {"crypt": 1},
        {"crypt": 2},
        {"cluster_bits": 40},
        {"cluster_bits": 0},
        {"l1": 0xFFFFFFFF},
        {"refcount_clusters": 0xFFFFFFFF},
        {"version": 9},
    ],
    ids=str,
)
def test_a_qcow2_with_a_trap_in_its_header_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    assert refused(tmp_path, qcow2(**change)) == "format_unsafe"


@pytest.mark.parametrize("kind", [0xE2792ACA, 0x44415441])
def test_a_qcow2_whose_extension_names_another_file_is_refused(tmp_path: Path, kind: int) -> None:
    content = bytearray(qcow2())
    content[104 : 104 + 16] = struct.pack(">II8s", kind, 5, b"raw")
    assert refused(tmp_path, bytes(content)) == "format_unsafe"


def test_an_endless_chain_of_extensions_is_refused(tmp_path: Path) -> None:
    content = bytearray(qcow2())
    content[104:112] = struct.pack(">II", 0x12345678, 0xFFFFFFF0)
    assert refused(tmp_path, bytes(content)) == "format_unsafe"


@pytest.mark.parametrize("size", [100 << 40, (1 << 64) - 1, (1 << 33) + 1, 0])
def test_a_declared_disk_over_the_ceiling_is_refused(tmp_path: Path, size: int) -> None:
    assert refused(tmp_path, qcow2(size)) == "virtual_size"


def test_a_text_vmdk_that_names_a_host_file_is_refused(tmp_path: Path) -> None:
    text = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 1 FLAT "/etc/passwd" 0\n'
    assert refused(tmp_path, text.encode().ljust(2048, b"\n")) == "format_unsafe"
    assert refused(tmp_path, text.encode()) == "format_unsafe"


@pytest.mark.parametrize(
    "magic",
    [b"QFI\xfb", b"KDMV", b"QED\0", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"vhdxfile", b"conectix", b"LUKS\xba\xbe"],
)
def test_raw_that_begins_like_another_format_is_refused(tmp_path: Path, magic: bytes) -> None:
    assert refused(tmp_path, magic + b"\1" * 100) in ("format_unsafe", "format_refused")


def test_an_ova_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, bytes(257) + b"ustar\x0000" + bytes(10000)) == "format_unsafe"


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, b"") == "image_empty"


def test_a_format_that_the_site_does_not_take_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, qcow2(), InspectionLimits(formats=("raw",))) == "format_refused"


def test_a_raw_disk_is_as_large_as_its_file(tmp_path: Path) -> None:
    assert look(tmp_path, b"\0" * 4096) == Inspection("raw", 4096, 4096)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 103), value=st.integers(0, 255))
def test_a_flipped_header_byte_is_judged_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    content = bytearray(qcow2())
    content[position] = value
    folder = tmp_path_factory.mktemp("flip")
    try:
        found = look(folder, bytes(content))
    except Invalid:
        return
    finally:
        shutil.rmtree(folder)
    assert found.format in ("qcow2", "raw")
    assert found.virtual_size <= LIMITS.max_virtual_bytes
