"""The registry on PostgreSQL behaves as on SQLite."""

import pytest

from registry.conftest import declaration
from skyfed.core.clock import FixedClock
from skyfed.core.sql import Database
from skyfed.registry import pi
from skyfed.registry.model import CertificationStatus
from skyfed.registry.service import Registry
from skyfed.registry.tables import metadata
from support.postgres import Postgres, postgres

pytestmark = pytest.mark.peer


__all__ = ["postgres"]


def test_sites_are_applied_changed_and_remembered(postgres: Postgres, clock: FixedClock) -> None:
    database = Database(
        postgres.database(), name="registry", metadata=metadata, migrations="skyfed.registry.migrations"
    )
    database.open()
    try:
        assert database.drift() == []
        registry = Registry(database, clock, scopes={"FedCloud": ""}, options=pi.Options(portal="p"))
        registry.open()
        registry.apply(declaration(), changed_by="alice", source="a")
        assert registry.apply(declaration(), changed_by="alice", source="a") == ()
        then = clock.now()
        clock.advance(60)
        registry.set_certification("ALPHA", CertificationStatus.CLOSED, reason="moved", changed_by="bob")
        sites, services = registry.as_of(then)
        assert (sites[0].certification_status, len(services)) == ("Certified", 2)
        again = Registry(database, clock, scopes={}, options=pi.Options(portal="p"))
        again.open()
        assert again.topology() == registry.topology()
    finally:
        database.close()
