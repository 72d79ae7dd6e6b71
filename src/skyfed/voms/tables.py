"""Tables of the VO service. Times are epoch seconds. Persons' names stand in `voms_person` and `voms_certificate` only, so
that a person can be erased while the records of what was issued stay."""

import sqlalchemy as sa

metadata = sa.MetaData()


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


vo = sa.Table(
    "voms_vo",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    _text("description"),
    sa.Column("max_ac_seconds", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

group = sa.Table(
    "voms_group",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("vo_id", sa.ForeignKey("voms_vo.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("path", sa.String(512), nullable=False, unique=True, comment="/vo for the root, /vo/a/b below"),
    _text("description"),
)

role = sa.Table(
    "voms_role",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("vo_id", sa.ForeignKey("voms_vo.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.UniqueConstraint("vo_id", "name"),
)

person = sa.Table(
    "voms_person",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    _text("name"),
    _text("email"),
)

certificate = sa.Table(
    "voms_certificate",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("person_id", sa.ForeignKey("voms_person.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("subject", sa.String(4096), nullable=False, comment="one-line form, normalised"),
    sa.Column("issuer", sa.String(4096), nullable=False, comment="one-line form, normalised"),
    sa.UniqueConstraint("subject", "issuer"),
)

member = sa.Table(
    "voms_member",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("vo_id", sa.ForeignKey("voms_vo.id", ondelete="CASCADE"), nullable=False),
    sa.Column("person_id", sa.ForeignKey("voms_person.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("suspended", sa.Boolean, nullable=False, server_default=sa.false()),
    _text("reason"),
    sa.Column("until", sa.BigInteger, nullable=True, comment="null: for good"),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("vo_id", "person_id"),
)

group_member = sa.Table(
    "voms_group_member",
    metadata,
    sa.Column("member_id", sa.ForeignKey("voms_member.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("group_id", sa.ForeignKey("voms_group.id", ondelete="CASCADE"), primary_key=True),
)

assignment = sa.Table(
    "voms_assignment",
    metadata,
    sa.Column("member_id", sa.ForeignKey("voms_member.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("group_id", sa.ForeignKey("voms_group.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("role_id", sa.ForeignKey("voms_role.id", ondelete="CASCADE"), primary_key=True),
)

ban = sa.Table(
    "voms_ban",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False, comment="dn, issuer, fqan or fingerprint"),
    sa.Column("pattern", sa.String(4096), nullable=False),
    _text("reason"),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("kind", "pattern"),
)

issued = sa.Table(
    "voms_issued",
    metadata,
    sa.Column("serial", sa.String(40), primary_key=True, comment="of the attribute certificate, hexadecimal"),
    sa.Column("vo", sa.String(255), nullable=False),
    sa.Column("member_id", sa.Integer, nullable=False, index=True, comment="no foreign key: outlives the member"),
    sa.Column("holder_serial", sa.String(64), nullable=False, comment="of the certificate it was issued to"),
    sa.Column("fqans", sa.Text, nullable=False, comment="one a line"),
    sa.Column("targets", sa.Text, nullable=False, comment="one a line"),
    sa.Column("not_before", sa.BigInteger, nullable=False),
    sa.Column("not_after", sa.BigInteger, nullable=False),
    sa.Column("peer", sa.String(64), nullable=False),
)

event = sa.Table(
    "voms_event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("vo", sa.String(255), nullable=False, server_default=""),
    sa.Column("member_id", sa.Integer, nullable=True),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
)
