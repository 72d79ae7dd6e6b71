"""GLUE 2.0 as LDAP renders it: class chains, naming attributes, vocabulary (infosys digest 4). No I/O."""

from collections.abc import Iterable

from skyfed.infosys.model import Entry
from skyfed.infosys.names import Dn

ENTITY = "GLUE2Entity"

# class → its superclass; those that are missing stand alone.
_PARENTS = {
    "Location": "Entity",
    "Contact": "Entity",
    "Domain": "Entity",
    "AdminDomain": "Domain",
    "UserDomain": "Domain",
    "Service": "Entity",
    "ComputingService": "Service",
    "StorageService": "Service",
    "Endpoint": "Entity",
    "ComputingEndpoint": "Endpoint",
    "StorageEndpoint": "Endpoint",
    "Share": "Entity",
    "ComputingShare": "Share",
    "StorageShare": "Share",
    "Manager": "Entity",
    "ComputingManager": "Manager",
    "StorageManager": "Manager",
    "Resource": "Entity",
    "ExecutionEnvironment": "Resource",
    "DataStore": "Resource",
    "Activity": "Entity",
    "ComputingActivity": "Activity",
    "Policy": "Entity",
    "AccessPolicy": "Policy",
    "MappingPolicy": "Policy",
    "Benchmark": "Entity",
    "ApplicationEnvironment": "Entity",
    "ApplicationHandle": "Entity",
    "ToStorageService": "Entity",
    "ToComputingService": "Entity",
    "StorageServiceCapacity": "Entity",
    "StorageShareCapacity": "Entity",
    "StorageAccessProtocol": "Entity",
}
_SPELLING = {f"glue2{name}".lower(): f"GLUE2{name}" for name in [*_PARENTS, "Entity", "Group", "Extension"]}

OCCI_INTERFACES = ("OCCI", "eu.egi.cloud.vm-management.occi", "org.ogf.occi")
"""Names under which sites publish one and the same interface (digest 5, quirk 4)."""

VO_OF_IMAGE = "VO="
"""EntityOtherInfo of an image: a VO that may start it. The profile has no attribute for it."""

# What a client must not take for granted when the last news of a site is old (digest 7, 8).
STATES = (
    "GLUE2EndpointHealthState",
    "GLUE2EndpointServingState",
    "GLUE2ServiceStatusInfo",
    "GLUE2ComputingShareServingState",
    "GLUE2StorageShareServingState",
    "GLUE2ApplicationEnvironmentState",
    "GLUE2ComputingActivityState",
)
HEALTH_INFO = "GLUE2EndpointHealthStateInfo"


def chain(name: str) -> tuple[str, ...]:
    """`ComputingService` → GLUE2Entity, GLUE2Service, GLUE2ComputingService."""
    parent = _PARENTS.get(name)
    return (*(chain(parent) if parent else ()), f"GLUE2{name}")


def completed_classes(classes: Iterable[str]) -> tuple[str, ...]:
    """Object classes with all superclasses of GLUE2 ones, in schema case: clients filter on them (digest 4)."""
    found: dict[str, None] = {}
    for given in classes:
        known = _SPELLING.get(given.lower())
        if known is None:
            found[given] = None
            continue
        for name in chain(known.removeprefix("GLUE2")):
            found[name] = None
    return tuple(found)


def entry(
    parent: Dn, cls: str, naming: tuple[str, str], attributes: dict[str, str | int | Iterable[str] | None]
) -> Entry:
    """An entry of the GLUE2 class `cls` named by `naming` (both without the prefix) below `parent`.

    Attribute names come without the prefix GLUE2; None and empty values are left out."""
    name, value = f"GLUE2{naming[0]}", naming[1]
    rows: list[tuple[str, tuple[str, ...]]] = [("objectClass", chain(cls)), (name, (value,))]
    for attribute, given in attributes.items():
        values = _values(given)
        if values:
            rows.append((f"GLUE2{attribute}", values))
    return Entry(Dn.of(name, value, parent), rows)


def _values(given: str | int | Iterable[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, int):
        return (str(given),)
    values = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    return tuple(v for v in (_clean(value) for value in values) if v)


def _clean(value: str) -> str:
    """Without characters that no directory string may hold, and never empty: LDAP refuses both."""
    return "".join(c if c.isprintable() or c == "\t" else " " for c in value).strip()


def group(parent: Dn, name: str) -> Entry:
    """A GLUE2Group."""
    return Entry(Dn.of("GLUE2GroupID", name, parent), [("objectClass", ("GLUE2Group",)), ("GLUE2GroupID", (name,))])
