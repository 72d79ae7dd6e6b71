"""What readers see, in memory: no read touches the database or the engine (compute digest 12.11, 13).

Fed by whoever wrote, after the write is durable, on the one event loop of the service.
"""

from collections.abc import Callable, Iterator
from datetime import datetime

from skyfed.compute.lifecycle import Record
from skyfed.compute.model import DesiredState, Image, ImageState, Owner, Sizes, Vm, VmState
from skyfed.compute.notify import Changes
from skyfed.core.errors import NotFound
from skyfed.core.text import shown


class Projection:
    """All live machines and all images. `vms`, `catalogue` and `usage` tell when something changed."""

    def __init__(self) -> None:
        self.vms = Changes()
        self.catalogue = Changes()
        self.usage = Changes()
        self._records: dict[str, Record] = {}
        self._images: dict[str, Image] = {}
        self._absent: frozenset[str] = frozenset()
        self._expired: frozenset[str] = frozenset()
        self._on_record: list[Callable[[Record], None]] = []

    # -- machines --------------------------------------------------------------------------------------------

    def on_record(self, callback: Callable[[Record], None]) -> None:
        """Call back with every record that comes in, on the event loop."""
        self._on_record.append(callback)

    def put(self, record: Record) -> None:
        """Take a record that is durable now. One that is older than what is here came late, and is
        dropped."""
        held = self._records.get(record.vm.id)
        if held is not None and held.vm.version >= record.vm.version:
            return
        if record.vm.observed is VmState.DELETED:
            self._records.pop(record.vm.id, None)
        else:
            self._records[record.vm.id] = record
        if held is None or _visible(held) != _visible(record):
            self.vms.bump()
        for callback in self._on_record:
            callback(record)

    def record(self, vm_id: str) -> Record | None:
        """A machine that the engine still has to deal with, also one whose owner has deleted it."""
        return self._records.get(vm_id)

    def records(self) -> tuple[Record, ...]:
        """All of them."""
        return tuple(self._records.values())

    def vm(self, vm_id: str, viewer: Owner | None) -> Vm:
        """One machine. Raises NotFound (`no_such_vm`): unknown, deleted, or not `viewer`'s to see."""
        record = self._records.get(vm_id)
        if record is None or not _sees(viewer, record.vm):
            raise NotFound(f"there is no virtual machine {shown(vm_id)}", code="no_such_vm")
        return record.vm

    def of(self, viewer: Owner | None) -> tuple[Vm, ...]:
        """The machines that `viewer` may see, oldest first; None sees all."""
        seen = (record.vm for record in self._records.values() if _sees(viewer, record.vm))
        return tuple(sorted(seen, key=lambda vm: (vm.created, vm.id)))

    def used(self) -> dict[str, Sizes]:
        """What each virtual organisation holds; "" for all together."""
        sums: dict[str, Sizes] = {"": Sizes()}
        for record in self._records.values():
            one = sizes(record.vm)
            for key in ("", record.vm.owner.vo):
                sums[key] = sums.get(key, Sizes()).plus(one)
        return sums

    # -- images ----------------------------------------------------------------------------------------------

    def put_image(self, image: Image) -> None:
        """Take an image that is durable now."""
        if self._images.get(image.id) != image:
            self._images[image.id] = image
            self.catalogue.bump()

    def arrived(self, image: Image) -> None:
        """Take an image that the engine has just been given."""
        if image.sha512 in self._absent:
            self._absent -= {image.sha512}
            self.catalogue.bump()
        self.put_image(image)

    def images(self) -> tuple[Image, ...]:
        """All of them, retired ones too."""
        return tuple(self._images.values())

    def image(self, image_id: str) -> Image | None:
        return self._images.get(image_id)

    def offered(self, now: datetime) -> Iterator[Image]:
        """Those that can be started now: available, not expired, and there in the engine."""
        for image in self._images.values():
            fresh = image.expires is None or image.expires > now
            if image.state is ImageState.AVAILABLE and fresh and image.sha512 not in self._absent:
                yield image

    def held_by_engine(self, present: frozenset[str], now: datetime) -> None:
        """Take note of which images the engine has and which have expired; tell if that changes what is
        offered."""
        available = [image for image in self._images.values() if image.state is ImageState.AVAILABLE]
        absent = frozenset(image.sha512 for image in available) - present
        expired = frozenset(image.id for image in available if image.expires and image.expires <= now)
        if (absent, expired) != (self._absent, self._expired):
            self._absent, self._expired = absent, expired
            self.catalogue.bump()

    @property
    def absent(self) -> frozenset[str]:
        """SHA-512 of available images that the engine does not have: they need to be imported again."""
        return self._absent


def sizes(vm: Vm) -> Sizes:
    """What one machine counts for."""
    return Sizes(vms=1, cores=vm.flavour.cores, memory_mib=vm.flavour.memory_mib, disk_gib=vm.flavour.disk_gib)


def _sees(viewer: Owner | None, vm: Vm) -> bool:
    """Members of a virtual organisation (and, where both have one, of the same project) see each other's
    machines. Nobody sees deleted ones."""
    if vm.desired is DesiredState.DELETED:
        return False
    if viewer is None:
        return True
    if viewer.vo != vm.owner.vo:
        return False
    return viewer.project is None or vm.owner.project is None or viewer.project == vm.owner.project


def _visible(record: Record) -> tuple[object, ...]:
    vm = record.vm
    return (vm.desired, vm.observed, vm.fault, vm.endpoints, vm.nics, vm.disks, vm.title)
