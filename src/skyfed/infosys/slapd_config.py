"""slapd.conf of a managed server (infosys digest 3). No I/O but looking where Debian put the schemas."""

import os
from pathlib import Path

import msgspec

from skyfed.core.errors import Unavailable

GLUE_SUFFIX = "o=glue"
SMALL_SUFFIXES = ("o=grid", "o=infosys")
"""GLUE 1.3's tree, empty but valid (lcg-infosites asks for it), and the statistics of the server itself."""
SMALL_BYTES = 16 << 20
_SCHEMAS = ("core.schema", "Glue-MDS.schema", "GLUE20.schema")
_OWN_SCHEMA = Path(__file__).with_name("infosys.schema")

# What people ask for: every key that joins entries, and the words they search by.
_EQUAL = (
    "GLUE2GroupID",
    "GLUE2DomainID",
    "GLUE2LocationID",
    "GLUE2ContactID",
    "GLUE2ServiceID",
    "GLUE2EndpointID",
    "GLUE2ShareID",
    "GLUE2ManagerID",
    "GLUE2ResourceID",
    "GLUE2PolicyID",
    "GLUE2ApplicationEnvironmentID",
    "GLUE2StorageServiceCapacityID",
    "GLUE2ServiceType",
    "GLUE2EndpointInterfaceName",
    "GLUE2EndpointURL",
    "GLUE2PolicyRule",
    "GLUE2EntityOtherInfo",
    "GLUE2ServiceAdminDomainForeignKey",
    "GLUE2EndpointServiceForeignKey",
    "GLUE2ShareServiceForeignKey",
    "GLUE2ManagerServiceForeignKey",
    "GLUE2ResourceManagerForeignKey",
    "GLUE2AccessPolicyEndpointForeignKey",
    "GLUE2MappingPolicyShareForeignKey",
    "GLUE2ApplicationEnvironmentComputingManagerForeignKey",
)
_SUBSTRING = ("GLUE2ApplicationEnvironmentRepository", "GLUE2ApplicationEnvironmentAppName", "GLUE2EntityName")


class SlapdConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A managed slapd. `directory` is its own; `socket` is where it takes changes (ldapi)."""

    directory: Path
    socket: Path
    host: str
    port: int
    max_bytes: int = 1 << 30
    """Most that its database may take on disk; the file grows as needed."""
    schemas: Path = Path("/etc/ldap/schema")
    modules: Path = Path("/usr/lib/ldap")
    threads: int = 16
    idle_seconds: int = 120
    time_limit_seconds: int = 2400


def writer_dn(uid: int, gid: int) -> str:
    """The name that slapd gives a local process of that user on its socket (SASL EXTERNAL)."""
    return f"gidNumber={gid}+uidNumber={uid},cn=peercred,cn=external,cn=auth"


def render(config: SlapdConfig, database: Path) -> str:
    """slapd.conf for the database in `database`. Raises Unavailable naming a missing schema and its Debian package."""
    lines = [f"include {_quoted(path)}" for path in _schema_files(config.schemas)]
    if (config.modules / "back_mdb.so").exists():
        lines += [f"modulepath {_quoted(config.modules)}", "moduleload back_mdb"]
    lines += [
        "allow bind_v2",  # old clients bind so
        f"pidfile {_quoted(config.directory / 'slapd.pid')}",
        f"idletimeout {config.idle_seconds}",
        "sizelimit unlimited",
        f"timelimit {config.time_limit_seconds}",
        f"threads {config.threads}",
        "tool-threads 2",
        *_database(GLUE_SUFFIX, database, config.max_bytes),
        "index objectClass eq,pres",
        *(f"index {name} eq" for name in _EQUAL),
        *(f"index {name} eq,sub" for name in _SUBSTRING),
        *(line for suffix in SMALL_SUFFIXES for line in _database(suffix, small_database(config, suffix), SMALL_BYTES)),
    ]
    return "\n".join(lines) + "\n"


def small_database(config: SlapdConfig, suffix: str) -> Path:
    """Where the database of one of `SMALL_SUFFIXES` lies; it is kept when that of `o=glue` is made anew."""
    return config.directory / suffix.partition("=")[2]


def _database(suffix: str, directory: Path, max_bytes: int) -> list[str]:
    return [
        "database mdb",
        f'suffix "{suffix}"',
        f'rootdn "{writer_dn(os.getuid(), os.getgid())}"',
        f"directory {_quoted(directory)}",
        f"maxsize {max_bytes}",
        # The tree can be made again at any time, so no write waits for the disk.
        "dbnosync",
        "access to * by * read",
    ]


def _schema_files(directory: Path) -> list[Path]:
    files = [*(directory / name for name in _SCHEMAS), _OWN_SCHEMA]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise Unavailable(
            f"slapd needs {', '.join(missing)}; install the Debian packages slapd and glue-schema, "
            "or say where they are with the setting schema_directory",
            code="no_schema",
        )
    return files


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
