"""Databases of the accounting service."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyfed.accounting import tables
from skyfed.core.sql import Database


def open_database(url: str) -> Database:
    database = Database(url, name="accounting", metadata=tables.metadata, migrations="skyfed.accounting.migrations")
    database.open()
    return database


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Database]]:
    """Opens databases by URL (default: a new SQLite file) and closes them after the test."""
    made: list[Database] = []

    def make(url: str = "") -> Database:
        made.append(open_database(url or f"sqlite:///{tmp_path}/{len(made)}.db"))
        return made[-1]

    yield make
    for database in made:
        database.close()


@pytest.fixture
def db(opened: Callable[..., Database]) -> Database:
    return opened()
