"""Which FQANs a member gets, in which order. Groups always, roles only when asked for; what is asked for comes first.

The order is what sites map by; it was recorded from a real attribute authority, which see in the tests.
"""

from collections.abc import Iterable

import msgspec

from skyfed.identity.fqan import Fqan
from skyfed.voms.model import (
    NOT_FIRST,
    OTHER,
    SUBSET,
    AcRequest,
    Command,
    Membership,
    Notice,
    unsatisfied,
)


class Selection(msgspec.Struct, frozen=True):
    """The FQANs to issue, and what the user must be told."""

    fqans: tuple[Fqan, ...]
    notices: tuple[Notice, ...] = ()


def held(member: Membership) -> tuple[Fqan, ...]:
    """All that a member has, sorted, each group followed by its roles; a member of a group is one of its parents."""
    groups = {f"/{member.vo}"}
    for path in member.groups:
        names = path.strip("/").split("/")
        groups |= {"/" + "/".join(names[:depth]) for depth in range(1, len(names) + 1)}
    roles = {Fqan.parse(role) for role in member.roles}
    return tuple(sorted({*(Fqan(group) for group in groups), *(role for role in roles if role.group in groups)}))


def select(member: Membership, request: AcRequest, already: tuple[Fqan, ...] = ()) -> Selection:
    """What `request` gets. `already`: FQANs in the proxy that asks; a new certificate may not hold more than those.

    Raises AuthorityFault when something asked for is not held.
    """
    mine = held(member)
    commands = request.commands or (Command("group", f"/{member.vo}"),)
    first = [fqan for command in commands for fqan in _asked(command, member.vo, mine)]
    wanted = [*first, *_beside(commands, mine)]
    issued = _ordered(dict.fromkeys(wanted), request.order)
    notices = list(_not_first(issued, commands, request.order))
    if already:
        fewer = [fqan for fqan in issued if fqan in already]
        if not fewer:
            raise unsatisfied(member.vo, commands[0].text)
        if len(fewer) < len(issued):
            text = f"{member.vo}: your certificate already contains attributes, only a subset of them can be issued."
            notices.append(Notice(SUBSET, text))
        issued = fewer
    if request.unknown_parameters:
        notices.append(Notice(OTHER, "Unknown parameters in the request were ignored!"))
    return Selection(tuple(issued), tuple(notices))


def _asked(command: Command, vo: str, mine: tuple[Fqan, ...]) -> Iterable[Fqan]:
    """What goes to the front because it was asked for by name. Raises AuthorityFault when it is not held."""
    if command.kind in {"group", "role"}:
        fqan = Fqan(command.group, command.role)
        if fqan not in mine:
            raise unsatisfied(vo, command.text)
        return (fqan,)
    if command.kind == "role_everywhere" and not any(fqan.role == command.role for fqan in mine):
        raise unsatisfied(vo, command.text)
    return ()


def _beside(commands: tuple[Command, ...], mine: tuple[Fqan, ...]) -> list[Fqan]:
    """All groups, and the roles of the commands that name no group, in the order of `mine`."""
    everything = any(command.kind in {"all", "list"} for command in commands)
    anywhere = {command.role for command in commands if command.kind == "role_everywhere"}
    return [fqan for fqan in mine if not fqan.role or everything or fqan.role in anywhere]


def _ordered(wanted: Iterable[Fqan], order: tuple[Fqan, ...]) -> list[Fqan]:
    """Those that `order` lists first; the others stay as they are."""
    places = {fqan: place for place, fqan in reversed(list(enumerate(order)))}
    return sorted(wanted, key=lambda fqan: places.get(fqan, len(places)))


def _not_first(issued: list[Fqan], commands: tuple[Command, ...], order: tuple[Fqan, ...]) -> Iterable[Notice]:
    asked_elsewhere = commands[0].kind == "role_everywhere" and issued[0].role != commands[0].role
    if asked_elsewhere or (order and issued[0] != order[0]):
        yield Notice(NOT_FIRST, f"FQAN: {issued[0].short} is not the first selected!\n")
