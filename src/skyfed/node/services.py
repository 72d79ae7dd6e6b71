"""Which services there are, and how each is wired: the one table that names every area."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from skyfed.core.errors import Invalid
from skyfed.core.settings import convert
from skyfed.node.config import Node
from skyfed.web.runtime import Assembly, Runtime


@dataclass(frozen=True, slots=True)
class ServiceKind:
    """A service's assembly module, and whether it has an HTTPS listener, a stream listener of its own, or none."""

    module: str
    listens: str  # https | stream | none


KINDS = {
    "voms": ServiceKind("skyfed.voms.assembly", "stream"),
    "registry": ServiceKind("skyfed.registry.assembly", "https"),
    "images": ServiceKind("skyfed.images.assembly", "https"),
    "infosys": ServiceKind("skyfed.infosys.assembly", "none"),
    "accounting": ServiceKind("skyfed.accounting.assembly", "https"),
    "portal": ServiceKind("skyfed.portal.assembly", "https"),
    "compute": ServiceKind("skyfed.node.compute", "none"),
    "occi": ServiceKind("skyfed.occi.assembly", "https"),
    "engine": ServiceKind("skyfed.node.engine", "none"),
}


def kind_of(service: str) -> ServiceKind:
    """The kind of `service`. Raises Invalid naming those that exist."""
    if service not in KINDS:
        raise Invalid(f"there is no service '{service}' (there are: {', '.join(sorted(KINDS))})", code="settings_value")
    return KINDS[service]


def settings_of(node: Node, service: str) -> msgspec.Struct:
    """The typed settings of `service` on `node`. Raises Invalid naming file, key and what would be right."""
    module = importlib.import_module(kind_of(service).module)
    source = f"{node.directory / 'node.toml'}: services.{service}.settings"
    settings: msgspec.Struct = convert(node.service(service).settings, module.Settings, source=source)
    return settings


def assemble(node: Node, service: str, runtime: Runtime) -> Assembly:
    """The wired service."""
    module = importlib.import_module(kind_of(service).module)
    build: Callable[[msgspec.Struct, Runtime], Assembly] = module.assemble
    return build(settings_of(node, service), runtime)
