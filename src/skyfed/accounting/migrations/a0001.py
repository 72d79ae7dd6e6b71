"""The accounting tables."""

import sqlalchemy as sa
from alembic import op

revision = "a0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "accounting_dirty",
        sa.Column(
            "group_key", sa.String(length=32), nullable=False, comment="summary to be made anew in this transaction"
        ),
        sa.PrimaryKeyConstraint("group_key"),
    )
    op.create_table(
        "accounting_message",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column(
            "empaid",
            sa.String(length=255),
            nullable=False,
            comment="the sender's name for the message; 'noid' without one",
        ),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="of the message as received, hexadecimal"),
        sa.Column(
            "signer",
            sa.String(length=1024),
            nullable=False,
            comment="DN, slash form; '' where no signature could be read",
        ),
        sa.Column("peer", sa.String(length=1024), nullable=False, comment="DN of the TLS client that brought it"),
        sa.Column("verdict", sa.String(length=16), nullable=False, comment="accepted | rejected"),
        sa.Column("code", sa.String(length=64), nullable=False, comment="stable reason of a rejection"),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False, comment="in the message"),
        sa.Column("stored", sa.Integer(), nullable=False, comment="new or changed; the others were known already"),
        sa.Column("remarks", sa.Text(), nullable=False, comment="quality report, JSON"),
        sa.Column("sites", sa.Text(), nullable=False, comment="SiteNames in the message, JSON"),
        sa.Column(
            "body", sa.LargeBinary(), nullable=True, comment="verified text of a rejected message, for a later reload"
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("accounting_message_sha256", "accounting_message", ["sha256"], unique=False)
    op.create_index("accounting_message_verdict", "accounting_message", ["verdict", "id"], unique=False)
    op.create_table(
        "accounting_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due", sa.Float(), nullable=False, comment="epoch seconds of the next try"),
        sa.Column("dead", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("accounting_outbox_key", "accounting_outbox", ["dead", "key", "id"], unique=False)
    op.create_table(
        "accounting_person",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True, comment="GlobalUserName; NULL once forgotten"),
        sa.Column("pseudonym", sa.String(length=64), nullable=False, comment="random: reveals nothing"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("pseudonym"),
    )
    op.create_table(
        "accounting_state",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "accounting_machine",
        sa.Column("vm_id", sa.String(length=64), nullable=False),
        sa.Column(
            "person_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, comment="its owner"
        ),
        sa.Column(
            "fold", sa.LargeBinary(), nullable=False, comment="`extract.Machine` up to the cursor, JSON, owner left out"
        ),
        sa.Column("ended", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["accounting_person.id"],
        ),
        sa.PrimaryKeyConstraint("vm_id"),
    )
    op.create_index(op.f("ix_accounting_machine_ended"), "accounting_machine", ["ended"], unique=False)
    op.create_table(
        "accounting_record",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column(
            "message_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="that brought it",
        ),
        sa.Column(
            "superseded_by",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="NULL: the current record of its key",
        ),
        sa.Column(
            "digest",
            sa.String(length=32),
            nullable=False,
            comment="of the record as received: tells a repeat from a change",
        ),
        sa.Column("group_key", sa.String(length=32), nullable=False, comment="digest of the summary's key"),
        sa.Column(
            "measurement_time", sa.BigInteger(), nullable=False, comment="0 where month is 0: the record does not tell"
        ),
        sa.Column("measurement_month", sa.Integer(), nullable=False),
        sa.Column("measurement_year", sa.Integer(), nullable=False),
        sa.Column("record_create_time", sa.BigInteger(), nullable=True),
        sa.Column("vm_uuid", sa.String(length=255), nullable=False),
        sa.Column("site_name", sa.String(length=255), nullable=False),
        sa.Column("cloud_compute_service", sa.String(length=255), nullable=False),
        sa.Column("machine_name", sa.String(length=255), nullable=True),
        sa.Column("local_user_id", sa.String(length=255), nullable=True),
        sa.Column("local_group_id", sa.String(length=255), nullable=True),
        sa.Column("person_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("fqan", sa.String(length=255), nullable=True),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("vo_group", sa.String(length=255), nullable=False),
        sa.Column("vo_role", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=255), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=True),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
        sa.Column("suspend_duration", sa.BigInteger(), nullable=True),
        sa.Column("wall_duration", sa.BigInteger(), nullable=True),
        sa.Column("cpu_duration", sa.BigInteger(), nullable=True),
        sa.Column("cpu_count_milli", sa.BigInteger(), nullable=False),
        sa.Column("network_type", sa.String(length=255), nullable=True),
        sa.Column("network_inbound", sa.BigInteger(), nullable=True),
        sa.Column("network_outbound", sa.BigInteger(), nullable=True),
        sa.Column("public_ip_count", sa.BigInteger(), nullable=True),
        sa.Column("memory", sa.BigInteger(), nullable=True),
        sa.Column("disk", sa.BigInteger(), nullable=True),
        sa.Column("benchmark_type", sa.String(length=50), nullable=False),
        sa.Column("benchmark_milli", sa.BigInteger(), nullable=False),
        sa.Column("storage_record_id", sa.String(length=255), nullable=True),
        sa.Column("image_id", sa.String(length=255), nullable=False),
        sa.Column("cloud_type", sa.String(length=255), nullable=True),
        sa.ForeignKeyConstraint(
            ["message_id"],
            ["accounting_message.id"],
        ),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["accounting_person.id"],
        ),
        sa.ForeignKeyConstraint(
            ["superseded_by"],
            ["accounting_message.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "accounting_record_current",
        "accounting_record",
        ["vm_uuid", "measurement_year", "measurement_month"],
        unique=True,
        sqlite_where=sa.text("superseded_by IS NULL"),
        postgresql_where=sa.text("superseded_by IS NULL"),
    )
    op.create_index("accounting_record_person", "accounting_record", ["person_id"], unique=False)
    op.create_index("accounting_record_site", "accounting_record", ["site_name", "measurement_time"], unique=False)
    op.create_index("accounting_record_time", "accounting_record", ["measurement_time"], unique=False)
    op.create_index("accounting_record_vm", "accounting_record", ["vm_uuid", "measurement_time"], unique=False)
    op.create_table(
        "accounting_summary",
        sa.Column("group_key", sa.String(length=32), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.Column("site_name", sa.String(length=255), nullable=False),
        sa.Column("cloud_compute_service", sa.String(length=255), nullable=False),
        sa.Column("month", sa.Integer(), nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("vo_group", sa.String(length=255), nullable=False),
        sa.Column("vo_role", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=255), nullable=False),
        sa.Column("cloud_type", sa.String(length=255), nullable=True),
        sa.Column("image_id", sa.String(length=255), nullable=False),
        sa.Column("earliest_start_time", sa.BigInteger(), nullable=True),
        sa.Column("latest_start_time", sa.BigInteger(), nullable=True),
        sa.Column("wall_duration", sa.BigInteger(), nullable=True),
        sa.Column("cpu_duration", sa.BigInteger(), nullable=True),
        sa.Column("cpu_count_milli", sa.BigInteger(), nullable=False),
        sa.Column("network_inbound", sa.BigInteger(), nullable=True),
        sa.Column("network_outbound", sa.BigInteger(), nullable=True),
        sa.Column("memory", sa.BigInteger(), nullable=True),
        sa.Column("disk", sa.BigInteger(), nullable=True),
        sa.Column("benchmark_type", sa.String(length=50), nullable=False),
        sa.Column("benchmark_milli", sa.BigInteger(), nullable=False),
        sa.Column("number_of_vms", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["accounting_person.id"],
        ),
        sa.PrimaryKeyConstraint("group_key"),
    )
    op.create_index("accounting_summary_month", "accounting_summary", ["year", "month", "site_name"], unique=False)
    op.create_index("accounting_summary_person", "accounting_summary", ["person_id"], unique=False)
    op.create_table(
        "accounting_usage",
        sa.Column("record_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("vm_uuid", sa.String(length=255), nullable=False),
        sa.Column("group_key", sa.String(length=32), nullable=False),
        sa.Column("wall_duration", sa.BigInteger(), nullable=True, comment="more than in the machine's record before"),
        sa.Column("cpu_duration", sa.BigInteger(), nullable=True),
        sa.Column("network_inbound", sa.BigInteger(), nullable=True),
        sa.Column("network_outbound", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["record_id"],
            ["accounting_record.id"],
        ),
        sa.PrimaryKeyConstraint("record_id"),
    )
    op.create_index(op.f("ix_accounting_usage_group_key"), "accounting_usage", ["group_key"], unique=False)
    op.create_index(op.f("ix_accounting_usage_vm_uuid"), "accounting_usage", ["vm_uuid"], unique=False)
