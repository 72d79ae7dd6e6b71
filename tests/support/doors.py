"""Every HTTPS door of a federation, assembled as its nodes assemble them, with all routes behind it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from skyfed.core.clock import SystemClock
from skyfed.node import process
from skyfed.node.config import Node
from skyfed.node.services import assemble, kind_of
from skyfed.web.application import Application
from skyfed.web.runtime import Assembly

# What front ends tell applications about a TLS peer: here nobody stands before us, so whoever sends one lies.
CLAIMS: Mapping[str, str] = MappingProxyType(
    {
        "SSL_CLIENT_S_DN": "/DC=skyfed/DC=demo/OU=people/CN=alice",
        "SSL-Client-Verify": "SUCCESS",
        "GRST_CRED_0": "X509USER 1700000000 4000000000 0 /DC=skyfed/DC=demo/OU=people/CN=alice",
        "GRST_CRED_AURI_0": "dn:/DC=skyfed/DC=demo/OU=people/CN=alice",
        "VOMS_FQANS": "/demo.skyfed/Role=VMManagement",
        "X-SSL-Client-S-DN": "/DC=skyfed/DC=demo/OU=people/CN=alice",
        "X-Client-Cert": "MIIB",
        "X-VOMS-VO": "demo.skyfed",
        "X-Remote-User": "alice",
        "X-Forwarded-User": "alice",
        "X-Auth-Token": "alice",
        "Client-Cert": ":MIIB:",
        "Authorization": "Basic YWxpY2U6YWxpY2U=",
    }
)

# OCCI is one catch-all over its own dispatcher: what it dispatches on, and what it does not know.
_OCCI_PATHS = (
    "/", "/-/", "/.well-known/org/ogf/occi/-/", "/compute/", "/compute/x", "/compute/x?action=stop", "/network/",
    "/storage/", "/networkinterface/", "/mixin/os_tpl/", "/absent",
)  # fmt: skip
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


@dataclass(frozen=True)
class Door:
    """One service with an HTTPS listener: `targets` are (method, path) of everything it serves."""

    node: str
    service: str
    url: str
    assembly: Assembly
    targets: tuple[tuple[str, str], ...]


def doors(directory: Path) -> tuple[Door, ...]:
    """The doors of the node in `directory`. Nothing is started, opened or bound."""
    node = Node.load(directory)
    around = process.surroundings(node, SystemClock())
    found, compute = [], None
    for _, service in node.placed():
        if service == "engine":
            continue  # the engine host holds a lock on the engine's root, and has no listener
        runtime = process._runtime(node, service, around, compute)
        assembly = assemble(node, service, runtime)
        compute = compute or assembly.offers
        if kind_of(service).listens == "https" and runtime.listener is not None:
            assert assembly.app is not None
            targets = tuple(_targets(assembly.app))
            found.append(Door(node.name, service, runtime.listener.public_url, assembly, targets))
    return tuple(found)


def _targets(app: ASGIApp) -> Iterator[tuple[str, str]]:
    if isinstance(app, Starlette | Application):
        yield from _walked(app.routes)
    else:
        yield from ((method, path) for path in _OCCI_PATHS for method in _METHODS)


def _walked(routes: list[BaseRoute], under: str = "") -> Iterator[tuple[str, str]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from _walked(list(route.routes), under + route.path)
            continue
        assert isinstance(route, Route), f"a route that nobody judges: {route}"
        for method in sorted(route.methods or _METHODS):
            yield method, under + route.path
