"""Numbers and times as people read them."""

from datetime import datetime

from skyfed.core import text

DASH = "–"


def age(seconds: float | None) -> str:
    """`12 s`, `3 min`, `2 h`, `5 d`; a dash where there is none."""
    if seconds is None:
        return DASH
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def count(value: int | None) -> str:
    """`12 345`, with a narrow no-break space; a dash for what nobody told."""
    return DASH if value is None else f"{value:,}".replace(",", "\u202f")


def duration(hours: float | None) -> str:
    """In the unit that fits; a dash for what nobody told."""
    return DASH if hours is None else text.duration(hours * 3600)


def memory(megabytes: int) -> str:
    """`512 MB`, `4 GB`."""
    return f"{megabytes} MB" if megabytes < 1024 else f"{megabytes / 1024:g} GB"


def disk(gigabytes: float | None) -> str:
    """`10 GB`; `as image` where the flavour adds none of its own; a dash where it is not published."""
    if gigabytes is None:
        return DASH
    return f"{gigabytes:g} GB" if gigabytes else "as image"


def clock(moment: datetime | None) -> str:
    """`14:05:09 UTC`."""
    return DASH if moment is None else f"{moment:%H:%M:%S} UTC"


def percent(value: float, of: float) -> str:
    """How wide a bar is: `value` as a percentage of `of`."""
    return f"{max(0.0, min(100.0, 100 * value / of)):.1f}" if of > 0 else "0"


_SERVICES = {
    "eu.egi.cloud.vm-management.occi": "Virtual machines (OCCI)",
    "eu.egi.cloud.information.bdii": "Information system",
    "eu.egi.cloud.accounting": "Accounting",
    "eu.egi.cloud.storage-management.cdmi": "Storage (CDMI)",
    "eu.egi.cloud.vm-metadata.vmcatcher": "Image subscription",
    "eu.egi.cloud.vm-metadata.appdb-vmcaster": "Image list",
    "org.openstack.nova": "Virtual machines (OpenStack)",
    "Site-BDII": "Information system",
    "Top-BDII": "Information system, top level",
    "VOMS": "Membership (VOMS)",
}


def service(type_name: str) -> str:
    """What a service type is for; the type itself where we have no words."""
    return _SERVICES.get(type_name, type_name)


FILTERS = {
    "age": age,
    "count": count,
    "duration": duration,
    "memory": memory,
    "disk": disk,
    "clock": clock,
    "percent": percent,
    "service": service,
}
