"""Tables of the registry. Times are epoch seconds; state rows are the truth, `registry_history` keeps earlier ones."""

import sqlalchemy as sa

metadata = sa.MetaData()

sequence = sa.Table(
    "registry_sequence",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    comment="last id given out per kind; `owned` is shared by NGIs and sites, `change` counts changes",
)

scope = sa.Table(
    "registry_scope",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("reserved", sa.Boolean, nullable=False, server_default=sa.false()),
)

service_type = sa.Table(
    "registry_service_type",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("monitoring_exception", sa.Boolean, nullable=False, server_default=sa.false()),
)

ngi = sa.Table(
    "registry_ngi",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("email", sa.String(255), nullable=False, server_default=""),
)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


site = sa.Table(
    "registry_site",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("primary_key", sa.String(32), nullable=False, unique=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("ngi_id", sa.ForeignKey("registry_ngi.id"), nullable=False, index=True),
    _text("official_name"),
    _text("description"),
    _text("home_url"),
    _text("email"),
    _text("telephone"),
    _text("alarm_email"),
    _text("giis_url"),
    _text("tier"),
    _text("subgrid"),
    _text("country"),
    _text("country_code"),
    _text("infrastructure"),
    _text("certification_status"),
    _text("timezone"),
    sa.Column("latitude", sa.Float(53)),
    sa.Column("longitude", sa.Float(53)),
    _text("csirt_email"),
    _text("csirt_telephone"),
    _text("helpdesk_email"),
    _text("emergency_email"),
    _text("emergency_telephone"),
    _flag("notify"),
    _text("domain"),
    _text("ip_range"),
    _text("ipv6_range"),
)

service = sa.Table(
    "registry_service",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("site_id", sa.ForeignKey("registry_site.id"), nullable=False, index=True),
    sa.Column("type_id", sa.ForeignKey("registry_service_type.id"), nullable=False, index=True),
    _text("hostname"),
    _text("description"),
    _text("url"),
    _text("host_dn"),
    _text("host_ip"),
    _text("host_ipv6"),
    _text("host_os"),
    _text("host_arch"),
    _text("email"),
    _flag("production"),
    _flag("beta"),
    _flag("monitored"),
    _flag("notify"),
)

endpoint = sa.Table(
    "registry_endpoint",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("service_id", sa.ForeignKey("registry_service.id"), nullable=False, index=True),
    _text("name"),
    _text("url"),
    _text("interface_name"),
    _text("description"),
    _text("email"),
    _flag("monitored"),
    sa.UniqueConstraint("service_id", "name", name="registry_endpoint_name"),
)

property_ = sa.Table(
    "registry_property",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True, comment="site, service or endpoint"),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("parent_id", sa.BigInteger, nullable=False),
    _text("key"),
    _text("value"),
    sa.UniqueConstraint("kind", "parent_id", "key", name="registry_property_key"),
)

scoped = sa.Table(
    "registry_scoped",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True, comment="ngi, site or service"),
    sa.Column("parent_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("scope_id", sa.ForeignKey("registry_scope.id"), primary_key=True),
)

certification_log = sa.Table(
    "registry_certification_log",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("site_id", sa.BigInteger, nullable=False, index=True),
    _text("old_status"),
    _text("new_status"),
    _text("changed_by"),
    _text("reason"),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
)

history = sa.Table(
    "registry_history",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True, comment="site or service"),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("valid_from", sa.BigInteger, nullable=False),
    sa.Column("valid_to", sa.BigInteger, comment="null: valid now"),
    _text("changed_by"),
    sa.Column("document", sa.LargeBinary, nullable=False, comment="the model value as JSON"),
    sa.Index("registry_history_interval", "valid_from", "valid_to"),
)
