"""What a Principal may do, by the roles that its attribute certificates prove."""

from typing import Annotated, Literal

import msgspec

from skyfed.core.errors import Forbidden
from skyfed.core.settings import setting
from skyfed.identity.fqan import Fqan, matches
from skyfed.identity.principal import Principal

# read: look at what is one's own VO's; create: start machines, make storage; change: act on one's own;
# administer: act on what others of the VO own.
Action = Literal["read", "create", "change", "administer"]
_EVERY_MEMBER: tuple[Action, ...] = ("read", "create", "change")
# A limited proxy stands for a job that runs somewhere: it may not start further machines (Globus limited policy).
LIMITED_MAY: frozenset[Action] = frozenset({"read"})


class Permit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """FQANs that fit `fqan` (a glob) may do `actions`."""

    fqan: Annotated[str, setting("FQAN or glob, e.g. /demo.skyfed/* or */Role=VMManagement")]
    actions: Annotated[tuple[Action, ...], setting("what its holders may do")]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may do what. By default members manage what is theirs, and holders of `VMManagement` everything of their VO."""

    permits: Annotated[
        tuple[Permit, ...], setting("FQAN globs and the actions they permit; all that fit are joined")
    ] = (
        Permit("/*", _EVERY_MEMBER),
        Permit("/*/Role=VMManagement", ("administer",)),
    )

    def actions(self, principal: Principal, vo: str) -> frozenset[Action]:
        """What `principal` may do with things of `vo`, its limited proxies considered."""
        fqans = [Fqan.parse(text) for membership in principal.vos if membership.vo == vo for text in membership.fqans]
        found = {
            action
            for permit in self.permits
            if any(matches(permit.fqan, fqan) for fqan in fqans)
            for action in permit.actions
        }
        return frozenset(found & LIMITED_MAY if principal.limited else found)

    def require(self, principal: Principal, vo: str, action: Action) -> None:
        """Nothing, or Forbidden with code `limited_proxy`, `not_a_member` or `not_permitted`."""
        if vo not in principal.vo_names:
            raise Forbidden(f"'{principal.subject}' has not proved membership of VO {vo}", code="not_a_member")
        if action in self.actions(principal, vo):
            return
        if principal.limited and action not in LIMITED_MAY:
            raise Forbidden(
                "a limited proxy may only look; make a full one with 'skyfed proxy init'", code="limited_proxy"
            )
        raise Forbidden(f"the FQANs of '{principal.subject}' in {vo} do not permit to {action}", code="not_permitted")
