"""A registry on a database of its own."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from skyfed.core.clock import FixedClock
from skyfed.core.sql import Database
from skyfed.registry import pi
from skyfed.registry.service import Registry
from skyfed.registry.tables import metadata


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 11, 23, 4, 30, tzinfo=UTC))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    db = Database(
        f"sqlite:///{tmp_path / 'registry.db'}",
        name="registry",
        metadata=metadata,
        migrations="skyfed.registry.migrations",
    )
    db.open()
    yield db
    db.close()


@pytest.fixture
def registry(database: Database, clock: FixedClock) -> Registry:
    found = Registry(
        database, clock, scopes={"FedCloud": "", "Local": ""}, options=pi.Options(portal="https://localhost/portal")
    )
    found.open()
    return found


def declaration(**site: Any) -> dict[str, Any]:
    """A site with an OCCI service and an accounting sender."""
    return {
        "site": {
            "name": "ALPHA",
            "description": "A cloud for everybody",
            "ngi": "NGI_NL",
            "country": "NL",
            "email": "support@alpha.example.org",
            "giis_url": "ldap://bdii.alpha.example.org:2170/GLUE2DomainID=ALPHA,o=glue",
            "certification_status": "Certified",
            "scopes": ["EGI", "FedCloud"],
        }
        | site,
        "service": [
            {
                "hostname": "cloud.alpha.example.org",
                "type": "eu.egi.cloud.vm-management.occi",
                "url": "https://cloud.alpha.example.org:11443/",
                "production": True,
                "monitored": True,
                "extensions": {"InfoMonitored": "yes"},
                "endpoint": [{"name": "OCCI 1.2", "url": "https://cloud.alpha.example.org:11443/"}],
            },
            {
                "hostname": "acc.alpha.example.org",
                "type": "eu.egi.cloud.accounting",
                "host_dn": "/DC=org/DC=example/CN=acc.alpha.example.org",
                "production": True,
                "monitored": True,
            },
        ],
    }
