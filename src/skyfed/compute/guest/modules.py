"""Kernel modules and the order they load in, read from the modules themselves.

Debian packages bring no modules.dep (depmod makes it at installation), but each module names what it needs in its
`.modinfo` section: `depends=a,b`.
"""

import lzma
import re
from dataclasses import dataclass
from pathlib import Path

from skyfed.core.errors import NotFound

_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")


@dataclass(frozen=True)
class Module:
    """A kernel module, uncompressed."""

    name: str
    content: bytes


def in_order(tree: Path, wanted: tuple[str, ...]) -> tuple[Module, ...]:
    """`wanted` and all they need, each after what it needs. Modules that the kernel has built in are left out."""
    files = {_name(file): file for file in sorted(tree.rglob("*.ko*"))}
    builtin = {_name(Path(line)) for line in _lines(tree, "modules.builtin")}
    ordered: dict[str, Module] = {}

    def add(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in files:
            raise NotFound(f"the kernel package has no module '{name}'", code="no_kernel_module")
        content = _content(files[name])
        for needed in _needs(content):
            add(needed)
        ordered[name] = Module(name, content)

    for name in wanted:
        add(name.replace("-", "_"))
    return tuple(ordered.values())


def _lines(tree: Path, name: str) -> list[str]:
    return [line for file in tree.rglob(name) for line in file.read_text().splitlines()]


def _name(file: Path) -> str:
    """The kernel takes `-` and `_` in a module's name for the same."""
    return file.name.partition(".ko")[0].replace("-", "_")


def _content(file: Path) -> bytes:
    data = file.read_bytes()
    return lzma.decompress(data) if file.suffix == ".xz" else data


def _needs(content: bytes) -> list[str]:
    found = _DEPENDS.search(content)
    names = found.group(1).decode("ascii") if found else ""
    return [name.replace("-", "_") for name in names.split(",") if name]
