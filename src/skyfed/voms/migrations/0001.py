"""VOs, members, what was issued."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "voms_ban",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="dn, issuer, fqan or fingerprint"),
        sa.Column("pattern", sa.String(length=4096), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kind", "pattern"),
    )
    op.create_table(
        "voms_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("vo", sa.String(length=255), server_default="", nullable=False),
        sa.Column("member_id", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "voms_issued",
        sa.Column("serial", sa.String(length=40), nullable=False, comment="of the attribute certificate, hexadecimal"),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("member_id", sa.Integer(), nullable=False, comment="no foreign key: outlives the member"),
        sa.Column("holder_serial", sa.String(length=64), nullable=False, comment="of the certificate it was issued to"),
        sa.Column("fqans", sa.Text(), nullable=False, comment="one a line"),
        sa.Column("targets", sa.Text(), nullable=False, comment="one a line"),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("serial"),
    )
    op.create_index(op.f("ix_voms_issued_member_id"), "voms_issued", ["member_id"], unique=False)
    op.create_table(
        "voms_person",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("email", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "voms_vo",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("max_ac_seconds", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "voms_certificate",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(length=4096), nullable=False, comment="one-line form, normalised"),
        sa.Column("issuer", sa.String(length=4096), nullable=False, comment="one-line form, normalised"),
        sa.ForeignKeyConstraint(["person_id"], ["voms_person.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("subject", "issuer"),
    )
    op.create_index(op.f("ix_voms_certificate_person_id"), "voms_certificate", ["person_id"], unique=False)
    op.create_table(
        "voms_group",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("vo_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False, comment="/vo for the root, /vo/a/b below"),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["vo_id"], ["voms_vo.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("path"),
    )
    op.create_index(op.f("ix_voms_group_vo_id"), "voms_group", ["vo_id"], unique=False)
    op.create_table(
        "voms_member",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("vo_id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("suspended", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True, comment="null: for good"),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["voms_person.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["vo_id"], ["voms_vo.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("vo_id", "person_id"),
    )
    op.create_index(op.f("ix_voms_member_person_id"), "voms_member", ["person_id"], unique=False)
    op.create_table(
        "voms_role",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("vo_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(["vo_id"], ["voms_vo.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("vo_id", "name"),
    )
    op.create_table(
        "voms_assignment",
        sa.Column("member_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("role_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["voms_group.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["member_id"], ["voms_member.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["role_id"], ["voms_role.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("member_id", "group_id", "role_id"),
    )
    op.create_table(
        "voms_group_member",
        sa.Column("member_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["voms_group.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["member_id"], ["voms_member.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("member_id", "group_id"),
    )
