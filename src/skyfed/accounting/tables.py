"""SQL tables of the accounting repository and of a site's sender. Instants are epoch seconds.

Repository: `record` is an append-only journal of what was received; `usage` (what each record adds to the one before)
and `summary` are projections of it, rebuilt for the machines a message touches. Names of persons stand in `person`
only, so that one can be forgotten while records and summaries stay. Sender: `machine` holds the folded usage of each
machine (its owner in `person` too), `outbox` the messages on their way; both change together with the cursor in `state`.

Numbers with three decimals are whole thousandths (`…_milli`): keys must compare equal on every database.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from skyfed.core.outbox import Outbox

metadata = MetaData()

# SQLite numbers rows by itself only in a column of exactly this type.
_ID = BigInteger().with_variant(Integer, "sqlite")

person = Table(
    "accounting_person",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("name", String(255), unique=True, comment="GlobalUserName; NULL once forgotten"),
    Column("pseudonym", String(64), nullable=False, unique=True, comment="random: reveals nothing"),
)

message = Table(
    "accounting_message",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("received", BigInteger, nullable=False),
    Column("empaid", String(255), nullable=False, comment="the sender's name for the message; 'noid' without one"),
    Column("sha256", String(64), nullable=False, comment="of the message as received, hexadecimal"),
    Column("signer", String(1024), nullable=False, comment="DN, slash form; '' where no signature could be read"),
    Column("peer", String(1024), nullable=False, comment="DN of the TLS client that brought it"),
    Column("verdict", String(16), nullable=False, comment="accepted | rejected"),
    Column("code", String(64), nullable=False, comment="stable reason of a rejection"),
    Column("error", Text, nullable=False),
    Column("records", Integer, nullable=False, comment="in the message"),
    Column("stored", Integer, nullable=False, comment="new or changed; the others were known already"),
    Column("remarks", Text, nullable=False, comment="quality report, JSON"),
    Column("sites", Text, nullable=False, comment="SiteNames in the message, JSON"),
    Column("body", LargeBinary, comment="verified text of a rejected message, for a later reload"),
    Index("accounting_message_sha256", "sha256"),
    Index("accounting_message_verdict", "verdict", "id"),
    sqlite_autoincrement=True,
)

_CURRENT = text("superseded_by IS NULL")

record = Table(
    "accounting_record",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("message_id", ForeignKey("accounting_message.id"), nullable=False, comment="that brought it"),
    Column("superseded_by", ForeignKey("accounting_message.id"), comment="NULL: the current record of its key"),
    Column("digest", String(32), nullable=False, comment="of the record as received: tells a repeat from a change"),
    Column("group_key", String(32), nullable=False, comment="digest of the summary's key"),
    Column("measurement_time", BigInteger, nullable=False, comment="0 where month is 0: the record does not tell"),
    Column("measurement_month", Integer, nullable=False),
    Column("measurement_year", Integer, nullable=False),
    Column("record_create_time", BigInteger),
    Column("vm_uuid", String(255), nullable=False),
    Column("site_name", String(255), nullable=False),
    Column("cloud_compute_service", String(255), nullable=False),
    Column("machine_name", String(255)),
    Column("local_user_id", String(255)),
    Column("local_group_id", String(255)),
    Column("person_id", ForeignKey("accounting_person.id"), nullable=False),
    Column("fqan", String(255)),
    Column("vo", String(255), nullable=False),
    Column("vo_group", String(255), nullable=False),
    Column("vo_role", String(255), nullable=False),
    Column("status", String(255), nullable=False),
    Column("start_time", BigInteger),
    Column("end_time", BigInteger),
    Column("suspend_duration", BigInteger),
    Column("wall_duration", BigInteger),
    Column("cpu_duration", BigInteger),
    Column("cpu_count_milli", BigInteger, nullable=False),
    Column("network_type", String(255)),
    Column("network_inbound", BigInteger),
    Column("network_outbound", BigInteger),
    Column("public_ip_count", BigInteger),
    Column("memory", BigInteger),
    Column("disk", BigInteger),
    Column("benchmark_type", String(50), nullable=False),
    Column("benchmark_milli", BigInteger, nullable=False),
    Column("storage_record_id", String(255)),
    Column("image_id", String(255), nullable=False),
    Column("cloud_type", String(255)),
    Index(
        "accounting_record_current",
        "vm_uuid",
        "measurement_year",
        "measurement_month",
        unique=True,
        sqlite_where=_CURRENT,
        postgresql_where=_CURRENT,
    ),
    Index("accounting_record_vm", "vm_uuid", "measurement_time"),
    Index("accounting_record_time", "measurement_time"),
    Index("accounting_record_person", "person_id"),
    Index("accounting_record_site", "site_name", "measurement_time"),
)

usage = Table(
    "accounting_usage",
    metadata,
    Column("record_id", ForeignKey("accounting_record.id"), primary_key=True),
    Column("vm_uuid", String(255), nullable=False, index=True),
    Column("group_key", String(32), nullable=False, index=True),
    Column("wall_duration", BigInteger, comment="more than in the machine's record before"),
    Column("cpu_duration", BigInteger),
    Column("network_inbound", BigInteger),
    Column("network_outbound", BigInteger),
)

summary = Table(
    "accounting_summary",
    metadata,
    Column("group_key", String(32), primary_key=True),
    Column("update_time", BigInteger, nullable=False),
    Column("site_name", String(255), nullable=False),
    Column("cloud_compute_service", String(255), nullable=False),
    Column("month", Integer, nullable=False),
    Column("year", Integer, nullable=False),
    Column("person_id", ForeignKey("accounting_person.id"), nullable=False),
    Column("vo", String(255), nullable=False),
    Column("vo_group", String(255), nullable=False),
    Column("vo_role", String(255), nullable=False),
    Column("status", String(255), nullable=False),
    Column("cloud_type", String(255)),
    Column("image_id", String(255), nullable=False),
    Column("earliest_start_time", BigInteger),
    Column("latest_start_time", BigInteger),
    Column("wall_duration", BigInteger),
    Column("cpu_duration", BigInteger),
    Column("cpu_count_milli", BigInteger, nullable=False),
    Column("network_inbound", BigInteger),
    Column("network_outbound", BigInteger),
    Column("memory", BigInteger),
    Column("disk", BigInteger),
    Column("benchmark_type", String(50), nullable=False),
    Column("benchmark_milli", BigInteger, nullable=False),
    Column("number_of_vms", Integer, nullable=False),
    Index("accounting_summary_month", "year", "month", "site_name"),
    Index("accounting_summary_person", "person_id"),
)

dirty = Table(
    "accounting_dirty",
    metadata,
    Column("group_key", String(32), primary_key=True, comment="summary to be made anew in this transaction"),
)

state = Table(
    "accounting_state",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

machine = Table(
    "accounting_machine",
    metadata,
    Column("vm_id", String(64), primary_key=True),
    Column("person_id", ForeignKey("accounting_person.id"), nullable=False, comment="its owner"),
    Column("fold", LargeBinary, nullable=False, comment="`extract.Machine` up to the cursor, JSON, owner left out"),
    Column("ended", Integer, nullable=False, index=True),
)

outbox = Outbox.table(metadata, "accounting")
