"""A tiny area with tables and a generated Alembic revision, for tests of what stands on core.sql."""

import sys
import uuid
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table

from skyfed.core.outbox import Outbox
from skyfed.core.sql import write_revision


class ToyArea:
    """`metadata` with a table `toy_note(id, text unique)` and an outbox; `migrations` is an importable package."""

    def __init__(self, folder: Path) -> None:
        self.metadata = MetaData()
        self.notes = Table(
            "toy_note",
            self.metadata,
            Column("id", Integer, primary_key=True),
            Column("text", String(100), nullable=False, unique=True),
        )
        self.outbox = Outbox.table(self.metadata, "toy")
        self.migrations = f"toy_migrations_{uuid.uuid4().hex}"
        package = folder / self.migrations
        package.mkdir()
        (package / "__init__.py").write_text("")
        sys.path.insert(0, str(folder))
        write_revision(self.migrations, self.metadata, name="toy", message="Start", revision="0001_start")
