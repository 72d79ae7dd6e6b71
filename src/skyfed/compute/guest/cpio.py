"""The cpio "newc" format, which Linux takes as its first file system (Documentation/driver-api/early-userspace).

Written here since it makes device nodes and root-owned files without being root, and the same bytes each time.
"""

import stat
from dataclasses import dataclass, field

_TRAILER = "TRAILER!!!"


@dataclass
class Archive:
    """Files are kept by path and written in the order of their paths, parents first."""

    _entries: dict[str, tuple[int, bytes, tuple[int, int]]] = field(default_factory=dict)

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A folder, and those above it."""
        parent = path.rpartition("/")[0]
        if parent and parent not in self._entries:
            self.folder(parent)
        self._entries[path] = (stat.S_IFDIR | mode, b"", (0, 0))

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file."""
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """A character device node."""
        self._add(path, stat.S_IFCHR | mode, b"", (major, minor))

    def _add(self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        parent = path.rpartition("/")[0]
        if parent and parent not in self._entries:
            self.folder(parent)
        self._entries[path] = (mode, content, device)

    def __bytes__(self) -> bytes:
        out = bytearray()
        for inode, path in enumerate(sorted(self._entries), start=1):
            mode, content, device = self._entries[path]
            out += _record(inode, path, mode, content, device)
        out += _record(0, _TRAILER, 0, b"", (0, 0))
        return bytes(out)


def _record(inode: int, path: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # magic, then 13 numbers of eight hexadecimal digits: ino mode uid gid nlink mtime filesize devmajor devminor
    # rdevmajor rdevminor namesize check
    numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
