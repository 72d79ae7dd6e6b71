"""Virtual organisations as values: who is in which group, what a user asks of the attribute authority, what it answers."""

import re
from datetime import datetime
from typing import Literal

import msgspec

from skyfed.core.errors import Invalid
from skyfed.core.text import shown
from skyfed.identity.fqan import Fqan

# The longest life of an attribute certificate unless the VO says otherwise; all clients expect a day.
DEFAULT_AC_SECONDS = 86_400
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,255}", re.ASCII)


class Vo(msgspec.Struct, frozen=True):
    """A virtual organisation; its root group is `/name`."""

    name: str
    description: str = ""
    max_ac_seconds: int = DEFAULT_AC_SECONDS


class Membership(msgspec.Struct, frozen=True):
    """A member of a VO: the person by certificate, groups by path, roles by FQAN. `reason` says why it is suspended."""

    vo: str
    subject: str
    issuer: str
    name: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    suspended: bool = False
    reason: str = ""
    until: datetime | None = None


# -- what is asked ----------------------------------------------------------------------------------------------

CommandKind = Literal["group", "role", "role_everywhere", "all", "list"]


class Command(msgspec.Struct, frozen=True):
    """One wish: a group, a role in a group, a role wherever it is held, everything, or the list of everything."""

    kind: CommandKind
    group: str = ""
    role: str = ""

    @property
    def text(self) -> str:
        """As the socket protocol writes it, and as refusals name it: `G/vo`, `B/vo:role`, `Rrole`, `A`, `N`."""
        if self.kind == "group":
            return f"G{self.group}"
        if self.kind == "role":
            return f"B{self.group}:{self.role}"
        return {"role_everywhere": f"R{self.role}", "all": "A", "list": "N"}[self.kind]


class AcRequest(msgspec.Struct, frozen=True):
    """A request for an attribute certificate. `lifetime` in seconds, 0 = as long as possible. No commands: the groups."""

    commands: tuple[Command, ...] = ()
    order: tuple[Fqan, ...] = ()
    targets: tuple[str, ...] = ()
    lifetime: int = 0
    unknown_parameters: bool = False

    @property
    def vos(self) -> tuple[str, ...]:
        """The VOs that the commands name, each once."""
        groups = (command.group for command in self.commands if command.group)
        return tuple(dict.fromkeys(group.split("/", 2)[1] for group in groups))


def command_for(fqan: str) -> Command:
    """The command that asks for what a user wrote: `/vo/group`, `/vo/Role=r`, `/Role=r`, `all`.

    Raises Invalid (`fqan`).
    """
    if fqan == "all":
        return Command("all")
    if fqan.startswith("/Role="):
        role = fqan.removeprefix("/Role=")
        return Command("role_everywhere", role=checked_name(role, "role"))
    parsed = Fqan.parse(fqan)
    return Command("role", parsed.group, parsed.role) if parsed.role else Command("group", parsed.group)


def checked_name(name: str, what: str) -> str:
    """`name`, when a VO, group or role may be called so. Raises Invalid (`name`)."""
    if not _NAME.fullmatch(name) or name in {".", ".."} or name == "NULL":
        message = f"{shown(name)} is no name of a {what}; right are letters, digits, '_', '.', '-'"
        raise Invalid(message, code="name")
    return name


# -- what is answered -------------------------------------------------------------------------------------------


class Notice(msgspec.Struct, frozen=True):
    """A warning beside an attribute certificate; `number` as in the socket protocol."""

    number: int
    text: str


class Answer(msgspec.Struct, frozen=True):
    """An attribute certificate (DER), or the list of FQANs that was asked for, and warnings."""

    ac: bytes = b""
    listing: tuple[str, ...] | None = None
    notices: tuple[Notice, ...] = ()


NOT_FIRST, SHORTENED, SUBSET, OTHER = 1, 2, 3, 4


class AuthorityFault(Exception):
    """The attribute authority's refusal, with its words for all protocols. `code` is REST's, `number` the socket's."""

    def __init__(self, code: str, number: int, status: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.number = number
        self.status = status
        self.text = text


def no_such_user(vo: str) -> AuthorityFault:
    """The text is what the C++ client looks for before it tries another protocol."""
    return AuthorityFault("NoSuchUser", 1001, 403, f"{vo}: User unknown to this VO.")


def suspended_user(reason: str) -> AuthorityFault:
    return AuthorityFault(
        "SuspendedUser", 1004, 403, f"User is currently suspended!\nSuspension reason: {reason or 'not stated'}"
    )


def unsatisfied(vo: str, command: str) -> AuthorityFault:
    return AuthorityFault("BadRequest", 1001, 400, f"{vo}: Unable to satisfy {command} request!")


def uninterpretable(command: str) -> AuthorityFault:
    return AuthorityFault("BadRequest", 1005, 400, f"Unable to interpret command: {command}")


def unauthenticated(reason: str) -> AuthorityFault:
    return AuthorityFault("UnauthenticatedClient", 1006, 403, f"The credential is refused: {reason}")


def internal_error() -> AuthorityFault:
    return AuthorityFault("InternalError", 1006, 500, "Internal error; the server's log says more.")
