"""Tables of the image service, publisher and subscriber. Times are epoch seconds; documents are JSON as it came or
went."""

import sqlalchemy as sa

metadata = sa.MetaData()

# -- publisher --------------------------------------------------------------------------------------------------

published_list = sa.Table(
    "images_list",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("identifier", sa.String(100), nullable=False, unique=True),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("endorser", sa.Text, nullable=False),
    sa.Column("settings", sa.Text, nullable=False, comment="digest of what was configured when it was signed"),
    sa.Column("message", sa.LargeBinary, nullable=False, comment="the signed list, byte for byte as served"),
)

published_image = sa.Table(
    "images_entry",
    metadata,
    sa.Column("list", sa.ForeignKey("images_list.name"), primary_key=True),
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False, comment="how many versions there have been"),
    sa.Column("sha512", sa.ForeignKey("images_file.sha512"), nullable=False),
    sa.Column("document", sa.Text, nullable=False, comment="the hv:image object"),
)

file = sa.Table(
    "images_file",
    metadata,
    sa.Column("sha512", sa.String(128), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("virtual_size", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False, comment="when it was last referred to"),
)

# -- subscriber -------------------------------------------------------------------------------------------------

subscription = sa.Table(
    "images_subscription",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("checked", sa.BigInteger),
    sa.Column("accepted", sa.BigInteger),
    sa.Column("etag", sa.Text, nullable=False),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("digest", sa.String(128), nullable=False, comment="SHA-512 of the message"),
    sa.Column("reused", sa.Boolean, nullable=False),
    sa.Column("message", sa.LargeBinary, comment="the last accepted list; null before the first"),
)

image = sa.Table(
    "images_image",
    metadata,
    sa.Column("subscription", sa.String(100), primary_key=True),
    sa.Column("identifier", sa.String(100), primary_key=True),
    sa.Column("list_identifier", sa.String(100), nullable=False),
    sa.Column("endorser", sa.Text, nullable=False),
    sa.Column("vos", sa.Text, nullable=False, comment="JSON array"),
    sa.Column("document", sa.Text, nullable=False, comment="the hv:image object"),
    sa.Column("sha512", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_try", sa.BigInteger),
    sa.Column("pooled_id", sa.String(64)),
    sa.Column("pooled_sha512", sa.String(128)),
    sa.Column("changed", sa.BigInteger, nullable=False),
)

# -- both -------------------------------------------------------------------------------------------------------

event = sa.Table(
    "images_event",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.Text, nullable=False, comment="list or subscription, with the image where there is one"),
    sa.Column("detail", sa.Text, nullable=False),
)
