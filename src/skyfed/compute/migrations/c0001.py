"""Persons, images, machines and usage."""

import sqlalchemy as sa
from alembic import op

revision = "c0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "compute_image",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("os_tpl_term", sa.String(length=128), nullable=False),
        sa.Column("mpuri", sa.Text(), nullable=True),
        sa.Column("dc_identifier", sa.String(length=255), nullable=True),
        sa.Column("list_identifier", sa.String(length=255), nullable=True),
        sa.Column("endorser", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("os_type", sa.String(length=255), nullable=False),
        sa.Column("os_name", sa.String(length=255), nullable=False),
        sa.Column("os_version", sa.String(length=255), nullable=False),
        sa.Column("arch", sa.String(length=64), nullable=False),
        sa.Column("disk_format", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("virtual_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha512", sa.String(length=128), nullable=False),
        sa.Column("vos", sa.Text(), nullable=False, comment="JSON array"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("imported_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("compute_image_source", "compute_image", ["list_identifier", "dc_identifier"], unique=False)
    op.create_index("compute_image_term", "compute_image", ["os_tpl_term"], unique=False)
    op.create_table(
        "compute_person",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("subject", sa.String(length=1024), nullable=False),
        sa.Column("issuer", sa.String(length=1024), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("subject", "issuer", name="compute_person_name"),
    )
    op.create_table(
        "compute_usage",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("vm_id", sa.String(length=36), nullable=False),
        sa.Column("when_us", sa.BigInteger(), nullable=False),
        sa.Column("elapsed", sa.Float(), nullable=False),
        sa.Column("old", sa.String(length=16), nullable=True),
        sa.Column("new", sa.String(length=16), nullable=False),
        sa.Column("site", sa.String(length=255), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("person", sa.String(length=36), nullable=False),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("fqans", sa.Text(), nullable=False),
        sa.Column("project", sa.String(length=255), nullable=True),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("image_identifier", sa.Text(), nullable=False),
        sa.Column("flavour", sa.String(length=255), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("disk_gib", sa.Float(), nullable=False),
        sa.Column("benchmark_type", sa.String(length=50), nullable=True),
        sa.Column("benchmark_value", sa.Float(), nullable=True),
        sa.Column("cpu_seconds", sa.Float(), nullable=True),
        sa.Column("net_in_bytes", sa.BigInteger(), nullable=True),
        sa.Column("net_out_bytes", sa.BigInteger(), nullable=True),
        sa.Column("public_ips", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["person"],
            ["compute_person.id"],
        ),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("compute_usage_vm", "compute_usage", ["vm_id", "seq"], unique=False)
    op.create_table(
        "compute_vm",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("token", sa.String(length=255), nullable=True),
        sa.Column("person", sa.String(length=36), nullable=False),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("fqans", sa.Text(), nullable=False, comment="JSON array"),
        sa.Column("project", sa.String(length=255), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("image_term", sa.String(length=128), nullable=False),
        sa.Column("image_identifier", sa.Text(), nullable=False),
        sa.Column("image_sha512", sa.String(length=128), nullable=False),
        sa.Column("flavour", sa.Text(), nullable=False, comment="JSON, as it was when the machine was created"),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("disk_gib", sa.Float(), nullable=False),
        sa.Column("desired", sa.String(length=16), nullable=False),
        sa.Column("observed", sa.String(length=16), nullable=False),
        sa.Column(
            "method", sa.String(length=16), nullable=False, comment="of the stop or restart asked for; empty: none is"
        ),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("launched_us", sa.BigInteger(), nullable=True),
        sa.Column("terminated_us", sa.BigInteger(), nullable=True),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.Column("stamp_us", sa.BigInteger(), nullable=False, comment="of its newest usage event"),
        sa.Column(
            "ahead", sa.Float(), nullable=False, comment="seconds its dates are ahead of a clock that was set back"
        ),
        sa.Column("places", sa.Text(), nullable=False, comment="JSON: endpoints, nics, disks"),
        sa.Column(
            "context", sa.LargeBinary(), nullable=True, comment="msgpack; forgotten with the machine: it holds secrets"
        ),
        sa.Column("context_digest", sa.String(length=64), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False, comment="JSON: counters of earlier boots and of this one"),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["person"],
            ["compute_person.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("vo", "person", "token", name="compute_vm_token"),
    )
    op.create_index("compute_vm_live", "compute_vm", ["observed", "vo"], unique=False)
