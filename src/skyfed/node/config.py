"""A node is one TOML file: who it is, what it trusts, which processes it has and which services each of them runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from skyfed.core.errors import Invalid, NotFound
from skyfed.core.settings import convert, read_toml, setting
from skyfed.core.text import shown
from skyfed.identity.judge import JudgeSettings
from skyfed.pki.trust import TrustSettings

FILE_NAME = "node.toml"
ASIDE = ".before-"
"""In the name of what a restore kept aside: DIRECTORY.before-TIME is a node no more."""


class Trust(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this node trusts."""

    certificates: Annotated[Path, setting("IGTF directory of trust anchors: CA certificates, CRLs, signing policies.")]
    vomsdir: Annotated[Path, setting("Directory of LSC files: which attribute authority may speak for which VO.")]
    bans: Annotated[
        Path, setting("File of banned DNs and FQANs, one pattern a line; effective within a second of a change.")
    ] = Path("bans.txt")
    rules: TrustSettings = TrustSettings()
    judge: JudgeSettings = JudgeSettings()


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The node's own credential: TLS servers, signed usage records, signed image lists, attribute certificates."""

    cert: Annotated[Path, setting("Host certificate, PEM, followed by intermediate CAs if there are any.")] = Path(
        "host/hostcert.pem"
    )
    key: Annotated[Path, setting("Its private key, PEM, mode 0600.")] = Path("host/hostkey.pem")


class Front(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS-terminating proxies before this node. They connect by TLS with a certificate of their own."""

    subjects: Annotated[
        tuple[str, ...],
        setting(
            "Subjects, as /DC=org/CN=name, of proxies that may pass on their clients' certificates in the fields Client-Cert and"
            " Client-Cert-Chain (RFC 9440); from all others these are stripped. Empty: there is none."
        ),
    ] = ()


class Outbound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where this node may connect to."""

    allow: Annotated[
        tuple[str, ...],
        setting("Private networks (CIDR) that URLs from outside, such as image locations, may point into."),
    ] = ()


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logs go to `log/<process>.log`, one JSON object a line."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], setting("The least level that is written.")] = "INFO"


class Listen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a service is reached."""

    host: Annotated[str, setting("Address to bind.")] = "127.0.0.1"
    port: Annotated[int, setting("Port to bind.")]
    public_url: Annotated[str, setting("The URL under which clients find it, as it is published; no final slash.")]


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One service: where it listens, and its own settings (typed by its area)."""

    listen: Listen | None = None
    settings: dict[str, Any] = {}


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this node is."""

    name: Annotated[str, setting("The node's name on this machine and in logs.")]
    role: Annotated[Literal["federation", "site"], setting("Central services, or a resource provider's site.")]
    site: Annotated[str, setting("The site's name in the registry; empty on a federation node.")] = ""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. Relative paths are relative to the node's directory."""

    node: Identity
    trust: Trust
    host: Host = Host()
    front: Front = Front()
    outbound: Outbound = Outbound()
    log: Log = Log()
    processes: Annotated[
        dict[str, tuple[str, ...]],
        setting("Process name = the services it runs. One process a service, or several in one."),
    ]
    services: dict[str, ServiceConfig]


class Node:
    """A node's directory with its configuration: `node.toml`, `host/`, `data/`, `run/`, `log/`."""

    def __init__(self, directory: Path, config: NodeConfig) -> None:
        self.directory = directory
        self.config = config

    @classmethod
    def load(cls, directory: Path) -> "Node":
        """The node in `directory`. Raises Invalid naming file, key and what would be right."""
        directory = directory.resolve()
        path = directory / FILE_NAME
        config = convert(read_toml(path), NodeConfig, source=str(path))
        node = cls(directory, config)
        node._check(path)
        return node

    @property
    def name(self) -> str:
        """The node's name."""
        return self.config.node.name

    @property
    def run(self) -> Path:
        """The directory of unix sockets, pid and state files; mode 0700."""
        return self.directory / "run"

    @property
    def log(self) -> Path:
        """The directory of logs."""
        return self.directory / "log"

    def path(self, relative: Path) -> Path:
        """`relative` seen from the node's directory; absolute paths stay."""
        return self.directory / relative

    def data(self, service: str) -> Path:
        """The directory that belongs to `service` alone."""
        return self.directory / "data" / service

    def service(self, name: str) -> ServiceConfig:
        """The configuration of `name`. Raises NotFound when this node does not run it."""
        if name not in self.config.services:
            raise NotFound(f"node {self.name} has no service '{name}' (it has: {', '.join(self.config.services)})")
        return self.config.services[name]

    def placed(self) -> Iterator[tuple[str, str]]:
        """(process, service) for every service of the node."""
        for process, services in self.config.processes.items():
            for service in services:
                yield process, service

    def _check(self, path: Path) -> None:
        placed = [service for _, service in self.placed()]
        _refuse(path, "processes", {s for s in placed if placed.count(s) > 1}, "stand in more than one process")
        _refuse(path, "processes", set(placed) - set(self.config.services), "have no [services.NAME] table")
        _refuse(path, "services", set(self.config.services) - set(placed), "stand in no process")
        if self.config.node.role == "site" and not self.config.node.site:
            raise Invalid(f"{path}: node.site: a site needs its registry name", code="settings_value")


def _refuse(path: Path, key: str, names: set[str], why: str) -> None:
    if names:
        raise Invalid(f"{path}: {key}: {', '.join(map(shown, sorted(names)))} {why}", code="settings_value")


def to_toml(tables: Mapping[str, Any]) -> str:
    """`tables` as TOML text; paths become strings."""
    import tomli_w

    return tomli_w.dumps(msgspec.to_builtins(tables, enc_hook=_plain))


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"TOML cannot hold {type(value)}")
