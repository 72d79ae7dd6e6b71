"""Sites, services, their history."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "registry_certification_log",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("site_id", sa.BigInteger(), nullable=False),
        sa.Column("old_status", sa.Text(), server_default="", nullable=False),
        sa.Column("new_status", sa.Text(), server_default="", nullable=False),
        sa.Column("changed_by", sa.Text(), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        op.f("ix_registry_certification_log_site_id"), "registry_certification_log", ["site_id"], unique=False
    )
    op.create_table(
        "registry_history",
        sa.Column("kind", sa.String(length=16), nullable=False, comment="site or service"),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("valid_to", sa.BigInteger(), nullable=True, comment="null: valid now"),
        sa.Column("changed_by", sa.Text(), server_default="", nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False, comment="the model value as JSON"),
        sa.PrimaryKeyConstraint("kind", "id", "version"),
    )
    op.create_index("registry_history_interval", "registry_history", ["valid_from", "valid_to"], unique=False)
    op.create_table(
        "registry_ngi",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("email", sa.String(length=255), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "registry_property",
        sa.Column("kind", sa.String(length=16), nullable=False, comment="site, service or endpoint"),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("parent_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), server_default="", nullable=False),
        sa.Column("value", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("kind", "id"),
        sa.UniqueConstraint("kind", "parent_id", "key", name="registry_property_key"),
    )
    op.create_table(
        "registry_scope",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("reserved", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "registry_sequence",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        comment="last id given out per kind; `owned` is shared by NGIs and sites, `change` counts changes",
    )
    op.create_table(
        "registry_service_type",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("monitoring_exception", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "registry_scoped",
        sa.Column("kind", sa.String(length=16), nullable=False, comment="ngi, site or service"),
        sa.Column("parent_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("scope_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["scope_id"],
            ["registry_scope.id"],
        ),
        sa.PrimaryKeyConstraint("kind", "parent_id", "scope_id"),
    )
    op.create_table(
        "registry_site",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("primary_key", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("ngi_id", sa.BigInteger(), nullable=False),
        sa.Column("official_name", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("home_url", sa.Text(), server_default="", nullable=False),
        sa.Column("email", sa.Text(), server_default="", nullable=False),
        sa.Column("telephone", sa.Text(), server_default="", nullable=False),
        sa.Column("alarm_email", sa.Text(), server_default="", nullable=False),
        sa.Column("giis_url", sa.Text(), server_default="", nullable=False),
        sa.Column("tier", sa.Text(), server_default="", nullable=False),
        sa.Column("subgrid", sa.Text(), server_default="", nullable=False),
        sa.Column("country", sa.Text(), server_default="", nullable=False),
        sa.Column("country_code", sa.Text(), server_default="", nullable=False),
        sa.Column("infrastructure", sa.Text(), server_default="", nullable=False),
        sa.Column("certification_status", sa.Text(), server_default="", nullable=False),
        sa.Column("timezone", sa.Text(), server_default="", nullable=False),
        sa.Column("latitude", sa.Float(precision=53), nullable=True),
        sa.Column("longitude", sa.Float(precision=53), nullable=True),
        sa.Column("csirt_email", sa.Text(), server_default="", nullable=False),
        sa.Column("csirt_telephone", sa.Text(), server_default="", nullable=False),
        sa.Column("helpdesk_email", sa.Text(), server_default="", nullable=False),
        sa.Column("emergency_email", sa.Text(), server_default="", nullable=False),
        sa.Column("emergency_telephone", sa.Text(), server_default="", nullable=False),
        sa.Column("notify", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("domain", sa.Text(), server_default="", nullable=False),
        sa.Column("ip_range", sa.Text(), server_default="", nullable=False),
        sa.Column("ipv6_range", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["ngi_id"],
            ["registry_ngi.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("primary_key"),
    )
    op.create_index(op.f("ix_registry_site_ngi_id"), "registry_site", ["ngi_id"], unique=False)
    op.create_table(
        "registry_service",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("site_id", sa.BigInteger(), nullable=False),
        sa.Column("type_id", sa.BigInteger(), nullable=False),
        sa.Column("hostname", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("url", sa.Text(), server_default="", nullable=False),
        sa.Column("host_dn", sa.Text(), server_default="", nullable=False),
        sa.Column("host_ip", sa.Text(), server_default="", nullable=False),
        sa.Column("host_ipv6", sa.Text(), server_default="", nullable=False),
        sa.Column("host_os", sa.Text(), server_default="", nullable=False),
        sa.Column("host_arch", sa.Text(), server_default="", nullable=False),
        sa.Column("email", sa.Text(), server_default="", nullable=False),
        sa.Column("production", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("beta", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("monitored", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("notify", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(
            ["site_id"],
            ["registry_site.id"],
        ),
        sa.ForeignKeyConstraint(
            ["type_id"],
            ["registry_service_type.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_registry_service_site_id"), "registry_service", ["site_id"], unique=False)
    op.create_index(op.f("ix_registry_service_type_id"), "registry_service", ["type_id"], unique=False)
    op.create_table(
        "registry_endpoint",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("service_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("url", sa.Text(), server_default="", nullable=False),
        sa.Column("interface_name", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("email", sa.Text(), server_default="", nullable=False),
        sa.Column("monitored", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"],
            ["registry_service.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("service_id", "name", name="registry_endpoint_name"),
    )
    op.create_index(op.f("ix_registry_endpoint_service_id"), "registry_endpoint", ["service_id"], unique=False)
