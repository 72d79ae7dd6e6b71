"""Which QEMU processes are a federation's: also those that know their files by the short link to a long engine root."""

import os
from pathlib import Path

from skyfed.federation import guests


def entry(folder: Path, *arguments: str) -> Path:
    folder.mkdir()
    (folder / "cmdline").write_bytes(b"\0".join(os.fsencode(a) for a in arguments))
    return folder


def test_a_qemu_is_known_by_its_files_wherever_a_link_leads(tmp_path: Path) -> None:
    root = tmp_path / "nodes" / "alpha" / "data" / "engine"
    root.mkdir(parents=True)
    link = tmp_path / "skyfed-0123456789abcdef"
    link.symlink_to(root)
    roots = (os.fsencode(tmp_path / "nodes" / "alpha") + b"/",)
    by_path = entry(
        tmp_path / "1", "/usr/bin/qemu-system-x86_64", "-blockdev", f'{{"filename":"{root}/machines/x/root.qcow2"}}'
    )
    by_link = entry(
        tmp_path / "2", "/usr/bin/qemu-system-x86_64", "-qmp", f"unix:{link}/lib/qemu/qmp-1/qmp.monitor,server=on"
    )
    foreign = entry(tmp_path / "3", "/usr/bin/qemu-system-x86_64", "-drive", "file=/srv/other.qcow2")
    no_qemu = entry(tmp_path / "4", "/usr/bin/less", f"{root}/machines/x/serial.log")
    found = [guests._is_guest(one, roots) for one in (by_path, by_link, foreign, no_qemu)]
    assert found == [True, True, False, False]
