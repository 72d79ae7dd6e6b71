"""What a caller sees of the site's compute service through OCCI, and what may be done with it.

No state of its own: machines, images and flavours are the compute service's; rendered models are kept in memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from skyfed.compute.model import Action, Owner, Vm, VmRequest, target
from skyfed.compute.service import ComputeService
from skyfed.core.errors import Conflict, Invalid, NotFound, NotImplementedHere
from skyfed.core.text import shown
from skyfed.identity.mapping import Mapping as ProjectMapping
from skyfed.identity.policy import Action as Right
from skyfed.identity.policy import Policy
from skyfed.identity.principal import Principal
from skyfed.occi import answers, entities
from skyfed.occi import infrastructure as infra
from skyfed.occi.answers import Found
from skyfed.occi.catalogue import Catalogue, checked
from skyfed.occi.creation import Templates, wanted
from skyfed.occi.entities import NETWORK_ID, NETWORK_PATH, Version
from skyfed.occi.model import (
    ACTION,
    ID,
    NO_ATTRIBUTES,
    Link,
    Message,
    Names,
    Resource,
    Value,
    os_tpl_id,
    resource_tpl_id,
)
from skyfed.occi.negotiation import Form

_ARCHITECTURES: Mapping[str, str] = {"x86_64": "x64", "amd64": "x64", "i386": "x86", "i686": "x86"}
_STANDARD_ACTIONS: Final = frozenset({"suspend", "save"})
_MAX_RENDERED: Final = 64


class Caller(msgspec.Struct, frozen=True):
    """Who calls, and as which VO and project."""

    principal: Principal
    owner: Owner


class Filter(msgspec.Struct, frozen=True):
    """What entities must have to be listed: all these categories, and these values."""

    categories: tuple[str, ...] = ()
    attributes: Mapping[str, Value] = NO_ATTRIBUTES


class Invocation(msgspec.Struct, frozen=True):
    """An action that was asked for, and the method to do it by."""

    action: Action
    method: str = ""
    """Empty: the compute service's default."""


class View(msgspec.Struct, frozen=True):
    """The model of one VO, and which image and flavour stand behind its templates."""

    version: tuple[int, frozenset[Action]]
    catalogue: Catalogue
    images: Mapping[str, str]
    """Type identifier of an os_tpl → term of the image."""
    flavours: Mapping[str, str]


class OcciService:
    """OCCI's view of `compute`. `mapping` says which credentials use which project, `policy` what they may do."""

    def __init__(
        self,
        compute: ComputeService,
        *,
        mapping: ProjectMapping,
        policy: Policy,
        names: Names,
        defaults: Templates,
    ) -> None:
        self.names = names
        self._compute = compute
        self._mapping = mapping
        self._policy = policy
        self._defaults = defaults
        self._views: dict[str, View] = {}
        self._rendered: dict[tuple[object, ...], tuple[bytes, dict[str, str]]] = {}
        self._architectures: tuple[int, Mapping[str, str]] = (-1, {})

    def caller(self, principal: Principal) -> Caller:
        """Who calls. Raises Forbidden: no VO, or none that is accepted here (the message names both)."""
        grant = self._mapping.grant(principal)
        self._policy.require(principal, grant.vo, "read")
        others = tuple(fqan for fqan in principal.fqans if fqan != grant.fqan)
        owner = Owner(
            subject=principal.subject,
            issuer=principal.issuer,
            vo=grant.vo,
            fqans=(grant.fqan, *others),
            project=grant.project,
        )
        return Caller(principal, owner)

    # -- the model ----------------------------------------------------------------------------------------------

    def catalogue(self, caller: Caller) -> Catalogue:
        """The categories that the caller may use."""
        return self._view(caller).catalogue

    def rendered_model(self, caller: Caller, form: Form, category: str) -> tuple[bytes, dict[str, str]]:
        """The query interface's answer (body, headers with ETag); `category`: only it and what descends from it.

        Every run of rOCCI-cli asks for it twice, so the whole model is rendered once per VO, form and version."""
        view = self._view(caller)
        if category:
            return answers.model(form, view.catalogue.related(category))
        key = (caller.owner.vo, view.version, form)
        if key not in self._rendered:
            while len(self._rendered) >= _MAX_RENDERED:
                self._rendered.pop(next(iter(self._rendered)))
            self._rendered[key] = answers.model(form, view.catalogue.categories)
        return self._rendered[key]

    def _view(self, caller: Caller) -> View:
        version = (self._compute.catalogue_changes.version, self._actions())
        held = self._views.get(caller.owner.vo)
        if held is None or held.version != version:
            held = self._views[caller.owner.vo] = self._made(caller.owner.vo, version)
        return held

    def _made(self, vo: str, version: tuple[int, frozenset[Action]]) -> View:
        offer = self._compute.catalogue(vo)
        images = {os_tpl_id(self.names, one.os_tpl_term): one for one in offer.images}
        flavours = {resource_tpl_id(self.names, one.term): one for one in offer.flavours}
        fixed = infra.categories(self.names.prefix, version[1])
        made = [entities.image_category(one, self.names) for one in images.values()]
        made += [entities.flavour_category(one, self.names) for one in flavours.values()]
        return View(
            version,
            Catalogue((*fixed, *made)),
            {type_id: one.os_tpl_term for type_id, one in images.items()},
            {type_id: one.term for type_id, one in flavours.items()},
        )

    def _actions(self) -> frozenset[Action]:
        """What the engine can do; until it has said so, everything."""
        capabilities = self._compute.capabilities
        return frozenset(Action) if capabilities is None else capabilities.actions

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, caller: Caller, kind: str, id: str, version: Version | None) -> Found:
        """One entity. Raises NotFound: unknown, or somebody else's."""
        if kind == infra.COMPUTE:
            return self._found(self._compute.get(id, caller.owner), version)
        if kind == infra.NETWORK and id == NETWORK_ID:
            return self._network()
        if kind == infra.NETWORKINTERFACE:
            vm_id = id.rpartition("_")[0]
            link = next((one for one in self._links(self._compute.get(vm_id, caller.owner)) if _id(one) == id), None)
            if link is not None:
                return Found(link, link.location)
        raise NotFound(f"there is no {kind.rpartition('#')[2]} {shown(id)}", code="no_such_entity")

    def list(self, caller: Caller, category: str, wanted: Filter, version: Version | None) -> Sequence[Found]:
        """The entities of a kind or mixin ("": of all), oldest first, that have what the filter wants."""
        needed = (category, *wanted.categories) if category else wanted.categories
        families = [self.catalogue(caller).family(type_id) for type_id in needed]
        return tuple(
            one
            for one in self._everything(caller, category, version)
            if all(_has(one, family) for family in families) and _holds(one, wanted.attributes)
        )

    def own(self, caller: Caller, wanted: Filter) -> tuple[str, ...]:
        """Identifiers of the caller's own machines that have what the filter wants: what an operation on a whole
        collection is about. Those of others in the VO, though they can be seen, are left alone."""
        mine = {vm.id for vm in self._compute.list(caller.owner) if vm.owner.subject == caller.owner.subject}
        found = self.list(caller, infra.COMPUTE, wanted, None)
        return tuple(id for one in found if (id := _id(one.entity)) in mine)

    def _everything(self, caller: Caller, category: str, version: Version | None) -> Iterable[Found]:
        """All entities; only those of the kind where `category` is one that has entities: most requests are of these."""
        machines = self._compute.list(caller.owner)
        only = category if category in (infra.COMPUTE, infra.NETWORK, infra.NETWORKINTERFACE) else ""
        if only in ("", infra.COMPUTE):
            yield from (self._found(vm, version) for vm in machines)
        if only in ("", infra.NETWORK):
            yield self._network()
        if only in ("", infra.NETWORKINTERFACE):
            yield from (Found(link, link.location) for vm in machines for link in self._links(vm))

    def _found(self, vm: Vm, version: Version | None) -> Found:
        actions = self._actions()
        resource = entities.compute(vm, self.names, version, actions, self._architecture(vm.image_id))
        return Found(resource, f"{self.names.prefix}/compute/{vm.id}")

    def _links(self, vm: Vm) -> tuple[Link, ...]:
        return tuple(entities.interface(vm, nic, self.names) for nic in vm.nics)

    def _network(self) -> Found:
        return Found(entities.network(), self.names.prefix + NETWORK_PATH)

    def _architecture(self, image_id: str) -> str:
        version = self._compute.catalogue_changes.version
        if self._architectures[0] != version:
            found = {image.id: _ARCHITECTURES.get(image.arch, "") for image in self._compute.images()}
            self._architectures = (version, found)
        return self._architectures[1].get(image_id, "")

    # -- changing -----------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, message: Message, version: Version | None) -> Found:
        """Make a machine; with a client-chosen UUID a retry gives the same one.

        Raises Forbidden (limited proxy, policy, quota), Invalid, Conflict, TooLarge, Unavailable; then nothing is made.
        """
        self._policy.require(caller.principal, caller.owner.vo, "create")
        view = self._view(caller)
        asked = wanted(message, view.catalogue, self._defaults, self.names.prefix)
        request = VmRequest(
            os_tpl=view.images[asked.os_tpl.type_id],
            flavour=view.flavours[asked.resource_tpl.type_id],
            title=asked.title,
            hostname=asked.context.hostname,
            context=asked.context,
            token=asked.token,
        )
        return self._found(await self._compute.create(request, caller.owner), version)

    def invocation(self, caller: Caller, term: str, message: Message) -> Invocation:
        """The action asked for by `?action=` and the content, which must agree. An empty content is fine: the kind has
        one action of that name.

        Raises Invalid, NotImplementedHere (an action of the standard that is not offered)."""
        named = message.of_class(ACTION)
        if len(named) != len(message.categories) or len(named) > 1:
            raise Invalid("the content of an action is one category of class action", code="action")
        type_id = named[0].type_id if named else infra.COMPUTE_ACTION + term
        if named and named[0].term.lower() != term.lower():
            raise Invalid(
                f"the URL asks for the action {shown(term)}, the content for {shown(named[0].term)}; make them the same",
                code="action_mismatch",
            )
        if type_id.lower() in {infra.COMPUTE_ACTION + one for one in _STANDARD_ACTIONS}:
            raise NotImplementedHere(f"the action {shown(term)} is not offered here", code="action_not_offered")
        category = self.catalogue(caller).get(type_id, ACTION)
        attributes = checked(message.attributes, (category,))
        return Invocation(Action(category.term), str(attributes.get("method", "")))

    async def act(
        self, caller: Caller, ids: Sequence[str], asked: Invocation, version: Version | None
    ) -> tuple[Found, ...]:
        """Do the action on every one of `ids`. Raises NotFound, Forbidden, Conflict (the state does not allow it: with
        several, nothing is done unless all do)."""
        machines = [self._compute.get(id, caller.owner) for id in ids]
        owners = [self._acting(caller, vm) for vm in machines]
        if len(machines) > 1:
            for vm in machines:
                _offers(vm, asked.action)
        return tuple(
            [
                self._found(await self._compute.act(vm.id, asked.action, owner, method=asked.method), version)
                for vm, owner in zip(machines, owners, strict=True)
            ]
        )

    async def delete(self, caller: Caller, id: str) -> str:
        """Delete the machine; its path. Gone for the caller at once. Raises NotFound, Forbidden."""
        vm = self._compute.get(id, caller.owner)
        await self._compute.delete(id, self._acting(caller, vm))
        return f"{self.names.prefix}/compute/{id}"

    def _acting(self, caller: Caller, vm: Vm) -> Owner | None:
        """As whom to act on the machine: its owner, or (None) the VO's administrator. Raises Forbidden."""
        own = vm.owner.subject == caller.owner.subject
        right: Right = "change" if own else "administer"
        self._policy.require(caller.principal, caller.owner.vo, right)
        return caller.owner if own else None


def _id(entity: Resource | Link) -> str:
    return str(entity.attributes[ID])


def _has(found: Found, family: frozenset[str]) -> bool:
    """Whether the entity's kind or one of its mixins is of the family."""
    return any(one.lower() in family for one in (found.entity.kind, *found.entity.mixins))


def _holds(found: Found, attributes: Mapping[str, Value]) -> bool:
    """Text senders may have quoted a number: values are compared as they are written."""
    return all(str(found.entity.attributes.get(name)) == str(value) for name, value in attributes.items())


def _offers(vm: Vm, action: Action) -> None:
    """Raises Conflict unless the machine offers the action, or is already what it leads to."""
    if action not in vm.actions and (action is Action.RESTART or vm.observed is not target(action)):
        raise Conflict(
            f"cannot {action} all: machine {vm.id} is {vm.observed}; an action on a collection needs every member to offer it",
            code="illegal_transition",
        )
