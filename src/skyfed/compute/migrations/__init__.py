"""Alembic revisions of the compute tables."""
