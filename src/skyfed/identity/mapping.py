"""From what a Principal's credential proves to the projects it may use: the `voms.json` of Keystone-VOMS, with globs.

```json
{"demo.skyfed": {"project": "demo"}, "/ops/Role=admin": {"projects": ["ops", "demo"]}, "/bio/*": {"tenant": "bio"}}
```
A key is a VO name, an FQAN in either spelling, or an FQAN glob. All FQANs of all VOs are considered.
"""

from pathlib import Path
from typing import Self

import msgspec

from skyfed.core.errors import Forbidden, Invalid
from skyfed.core.text import shown
from skyfed.identity.fqan import Fqan, matches
from skyfed.identity.principal import Principal
from skyfed.pki.files import read_bounded

MAX_MAPPING_BYTES = 1 << 20


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key maps to; `tenant` and `project` are older words for one of `projects`."""

    tenant: str = ""
    project: str = ""
    projects: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """The projects, whichever word was used."""
        return tuple(name for name in (self.tenant, self.project, *self.projects) if name)


class Grant(msgspec.Struct, frozen=True):
    """A project, and by which FQAN of which VO it may be used; `rule` is the mapping's key."""

    project: str
    vo: str
    fqan: str
    rule: str


class Mapping(msgspec.Struct, frozen=True):
    """Ordered rules. Precedence: the credential's FQANs in the order issued; for each an exact key, then the globs in file
    order; after all FQANs the keys that are VO names."""

    rules: tuple[tuple[str, Target], ...]

    @classmethod
    def parse(cls, data: bytes, *, source: str) -> Self:
        """Read JSON. Raises Invalid (`mapping`) naming the key that is wrong."""
        try:
            rules = msgspec.json.decode(data, type=dict[str, Target])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(
                f'{source}: {error}; right is {{"VO or FQAN": {{"project": "name"}}}}', code="mapping"
            ) from error
        for key, target in rules.items():
            if not key or not target.all:
                raise Invalid(f"{source}: the key {shown(key)} maps to no project", code="mapping")
        return cls(tuple(rules.items()))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file at `path`. Raises Invalid (`mapping`, `unreadable`)."""
        return cls.parse(read_bounded(path, MAX_MAPPING_BYTES), source=str(path))

    def grants(self, principal: Principal) -> tuple[Grant, ...]:
        """Every project this Principal may use, each once, by precedence."""
        found: dict[str, Grant] = {}
        for grant in (*self._by_fqan(principal), *self._by_vo(principal)):
            found.setdefault(grant.project, grant)
        return tuple(found.values())

    def grant(self, principal: Principal, wanted: str = "") -> Grant:
        """The project to use: `wanted`, else the first by precedence.

        Raises Forbidden: `no_vo` (the credential proves no membership), `vo_not_accepted`, `project_not_granted`.
        """
        grants = self.grants(principal)
        if not grants:
            raise self._refusal(principal)
        chosen = next((grant for grant in grants if not wanted or grant.project == wanted), None)
        if chosen is None:
            offered = ", ".join(grant.project for grant in grants)
            message = f"project {shown(wanted)} is not open to you; yours are: {offered}"
            raise Forbidden(message, code="project_not_granted")
        return chosen

    def _by_fqan(self, principal: Principal) -> list[Grant]:
        found = []
        for text in principal.fqans:
            fqan = Fqan.parse(text)
            fitting = [(key, target) for key, target in self.rules if key.startswith("/") and matches(key, fqan)]
            # Python's sort is stable: globs stay in file order.
            fitting.sort(key=lambda rule: _is_glob(rule[0]))
            found += [Grant(name, fqan.vo, text, key) for key, target in fitting for name in target.all]
        return found

    def _by_vo(self, principal: Principal) -> list[Grant]:
        targets = dict(self.rules)
        return [
            Grant(name, membership.vo, membership.fqans[0], membership.vo)
            for membership in principal.vos
            if membership.vo in targets
            for name in targets[membership.vo].all
        ]

    def _refusal(self, principal: Principal) -> Forbidden:
        accepted = ", ".join(key for key, _ in self.rules) or "none"
        if not principal.vos:
            message = f"the credential proves no membership of a VO; accepted here: {accepted}"
            return Forbidden(message, code="no_vo")
        held = ", ".join(principal.vo_names)
        return Forbidden(f"VO {held} is not accepted here; accepted: {accepted}", code="vo_not_accepted")


def _is_glob(key: str) -> bool:
    return any(character in key for character in "*?[")
